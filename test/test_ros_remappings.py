# SPDX-License-Identifier: Apache-2.0
"""Which remappings the node warns of."""

from __future__ import annotations

import pytest

from lfm_perception.ros.remappings import remapping_problems

NODE = "/cam1/perception"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("dbg_image:=x", "this topic is now called debug_image"),
        ("/cam1/raw_answer:=x", "this topic is now called model_output"),
        ("perception:detection:=x", f"{NODE} has no topic or service detection: did you mean 'detections'?"),
        ("~/enabled:=x", f"{NODE} has no topic or service ~/enabled: did you mean '~/enable'?"),
        ("camera/image:=x", f"{NODE} has no topic or service camera/image: known are detections, "),
        ("/image_raw:=x", "no topic or service /image_raw: did you mean 'image_raw'?"),
        ("/cam2/image_raw:=x", "no topic or service /cam2/image_raw: did you mean 'image_raw'?"),
        ("enable:=x", "no topic or service enable: did you mean '~/enable'?"),
        ("~/tracks:=x", "no topic or service ~/tracks: did you mean 'tracks'?"),
        ("diagnostics:=x", "no topic or service diagnostics: did you mean '/diagnostics'?"),
        ("/decisions/door:=x", "no topic or service /decisions/door: known are"),
    ],
)
def test_a_remapping_of_a_name_that_the_node_does_not_have_is_told(rule: str, said: str) -> None:
    arguments = ["node", "--ros-args", "-r", rule, "--remap", rule, "-r", "image_raw:=/camera"]
    (problem,) = remapping_problems(arguments, NODE, of_rules=False)
    assert problem.startswith(f"the remapping {rule} has no effect: ")
    assert said in problem
    acting = remapping_problems(arguments, NODE, of_rules=True)
    assert acting == ([problem] if "now called" in said else []), "an action may publish on this topic"


@pytest.mark.parametrize(
    "rule",
    [
        *("__ns:=/cam1", "__node:=eyes", "perception:__name:=eyes", "/cam1/image_raw/compressed:=/c"),
        *("~/enable:=/on", "perception/enable:=/on", "/cam1/perception/enable:=/on", "/diagnostics:=/d"),
        *("decisions/door:=/d", "alerts/door:=/d", "events:=/e", "input_depth:=/camera/depth"),
        *("~/change_state:=/c", "perception/describe_parameters:=/d", "/clock:=/sim/clock"),
        *("driver:image:=x", "driver:dbg_image:=x"),
        *("rostopic://~/x:=y", "/tf_[12]:=y", ":=", ""),
    ],
)
def test_a_remapping_that_has_an_effect_or_is_not_for_the_node_is_not_told(rule: str) -> None:
    assert remapping_problems(["node", "--ros-args", "-r", rule], NODE, of_rules=False) == []
    assert remapping_problems(["node", "-r", "dbg_image:=x"], NODE, of_rules=False) == []


def test_all_names_of_a_real_node_can_be_remapped() -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from lfm_perception.ros.node import PerceptionNode

    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = PerceptionNode(context=context, namespace="/cam1")
    own = node.get_name(), node.get_namespace()
    names = [
        name
        for found in (node.get_publisher_names_and_types_by_node, node.get_service_names_and_types_by_node)
        for name, _ in found(*own)
    ]
    node.release()
    node.destroy_node()
    rclpy.try_shutdown(context=context)
    rules = [part for name in names for part in ("-r", f"{name}:=/other")]
    assert {"/cam1/tracks", "/rosout", f"{NODE}/enable", f"{NODE}/change_state"} <= set(names)
    assert remapping_problems(["node", "--ros-args", *rules], NODE, of_rules=False) == []
