# SPDX-License-Identifier: Apache-2.0
"""What is declared for ROS and needs no ROS to be tested: topics and launch arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from lfm_perception.errors import PerceptionError
from lfm_perception.ros.launch_arguments import (
    DEMO_ARGUMENTS,
    REPLAY_ARGUMENTS,
    check_rviz,
    ignored_arguments,
    is_settings_file,
    parameter_file,
    parameter_file_problem,
    parameter_overrides,
    perception_arguments,
    remappings,
    replay_command,
)
from lfm_perception.ros.topics import PERCEPTION, perception_subscriptions

ROOT = Path(__file__).parents[1]


def test_one_image_topic_is_subscribed_to_with_the_reliability_of_the_setting() -> None:
    for transport, name in (("raw", "image_raw"), ("compressed", "image_raw/compressed")):
        image, query = perception_subscriptions(transport, "reliable")
        assert (image.name, image.qos.reliability, image.qos.depth) == (name, "reliable", 1)
        assert query.name == "input_query"


def test_a_recording_holds_all_topics_that_are_always_published() -> None:
    assert [topic.name for topic in PERCEPTION.recorded()] == [
        *("detections", "tracks", "scene", "model_output", "caption", "answer", "/diagnostics")
    ]


# --- launch arguments ---------------------------------------------------------------------------------

CONFIG = ROOT / "config"
PLAYED = {"bag": "b", "out": "o", "namespace": "/cam1/", "pace": "0", "loops": "1", "topic": ""}
EMPTY = dict.fromkeys(("model", "mmproj", "input_depth_topic", "image_transport", "image_reliability"), "")


def test_the_launch_page_names_every_argument() -> None:
    page = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    for argument in (*perception_arguments(CONFIG), *DEMO_ARGUMENTS, *REPLAY_ARGUMENTS):
        assert f"`{argument.name}`" in page, argument.name


def test_rviz_is_looked_up_before_anything_starts() -> None:
    check_rviz({"use_rviz": "false"}, {"rclpy"})
    check_rviz({"use_rviz": "True"}, {"rclpy", "rviz2"})
    with pytest.raises(PerceptionError, match="needs the package rviz2, which is not installed"):
        check_rviz({"use_rviz": "true"}, {"rclpy"})


def test_a_parameter_file_is_a_path_or_the_name_of_an_installed_one(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("/**: {ros__parameters: {}}")
    assert parameter_file(str(own), CONFIG) == str(own)
    assert parameter_file("cpu", CONFIG) == str(CONFIG / "cpu.yaml")
    with pytest.raises(PerceptionError, match=r"'orin_nano' cannot be read \(.*\) and is none of agx_"):
        parameter_file("orin_nano", CONFIG)


def test_empty_arguments_set_no_parameter() -> None:
    assert parameter_overrides(EMPTY) == {}
    assert parameter_overrides({**EMPTY, "image_transport": "compressed"}) == {
        "node.image_transport": "compressed"
    }


def test_a_depth_topic_turns_depth_on() -> None:
    assert parameter_overrides({**EMPTY, "input_depth_topic": "/front/depth"}) == {"node.depth": True}


def test_a_model_is_used_with_the_only_vision_tower_beside_it(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    with pytest.raises(PerceptionError, match=r"model .*model\.gguf cannot be read \(no such file"):
        parameter_overrides({**EMPTY, "model": str(model)})
    model.touch()
    with pytest.raises(PerceptionError, match=r"holds 0 files mmproj\*\.gguf: name one with mmproj:="):
        parameter_overrides({**EMPTY, "model": str(model)})
    mmproj = tmp_path / "mmproj-F16.gguf"
    mmproj.touch()
    expected = {"model.path": str(model), "mmproj.path": str(mmproj)}
    assert parameter_overrides({**EMPTY, "model": str(model)}) == expected
    with pytest.raises(PerceptionError, match=r"mmproj '/a\.gguf' was given without model"):
        parameter_overrides({**EMPTY, "mmproj": "/a.gguf"})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("a" * 300, "file name too long"),  # at which `Path.is_file` raises, as at a folder of another user
        ("a\0b", "not a valid path"),
        ("~nobody-of-this-name/a", "no such file or directory"),
        ("", "is a directory"),
    ],
)
def test_a_path_that_cannot_be_examined_is_one_sentence(given: str, reason: str, tmp_path: Path) -> None:
    path = str(tmp_path / given) if not given.startswith("~") else given
    with pytest.raises(PerceptionError, match=rf"^params_file .* \({reason}\) and is none of agx_orin"):
        parameter_file(path, CONFIG)
    with pytest.raises(PerceptionError, match=rf"^model .* \({reason}\): give the path of a GGUF file"):
        parameter_overrides({**EMPTY, "model": path})
    with pytest.raises(PerceptionError, match=rf"^mmproj .* \({reason}\): give the path of a GGUF file"):
        parameter_overrides({**EMPTY, "model": str(CONFIG / "cpu.yaml"), "mmproj": path})


def test_a_tilde_in_an_argument_is_the_home_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell replaces it after `bag:=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("/**: {ros__parameters: {}}")
    assert parameter_file("~/mine.yaml", CONFIG) == str(tmp_path / "mine.yaml")
    given = {**EMPTY, "model": "~/mine.yaml", "mmproj": "~/mine.yaml"}
    assert set(parameter_overrides(given).values()) == {str(tmp_path / "mine.yaml")}
    command = replay_command({**PLAYED, "bag": "~/b", "out": "~/o"})
    assert command[:4] == ["replay", str(tmp_path / "b"), "--out", str(tmp_path / "o")]


def test_the_camera_topic_is_remapped_with_its_compressed_topic() -> None:
    expected = [("image_raw", "/front/image"), ("image_raw/compressed", "/front/image/compressed")]
    assert remappings("none", "/front/image") == remappings("none", "/front/image/compressed") == expected
    assert remappings("none", "") == []
    assert remappings("none", "", "/front/depth") == [("input_depth", "/front/depth")]
    assert dict(remappings("nanoowl", ""))["image_raw/compressed"] == "input_image/compressed"


def test_a_bag_is_played_to_the_node_in_its_namespace() -> None:
    assert replay_command(PLAYED)[:6] == ["replay", "b", "--out", "o", "--node", "/cam1/perception"]
    assert "--topic" not in replay_command(PLAYED)
    assert "/perception" in replay_command({**PLAYED, "namespace": ""})


@pytest.mark.parametrize(
    ("content", "node", "said"),
    [
        ("perception: {ros__parameters: {}}", "/perception", None),
        ("perception: {ros__parameters: {}}", "/cam1/perception", "no entry for /cam1/perception"),
        ("/cam1/perception: {ros__parameters: {}}", "/cam1/perception", None),
        ("cam1: {perception: {ros__parameters: {}}}", "/cam1/perception", None),
        ("/**: {ros__parameters: {}}", "/a/b/perception", None),
        ("/**/perception: {ros__parameters: {}}", "/a/b/perception", None),
        ("/*/perception: {ros__parameters: {}}", "/a/b/perception", "no entry for /a/b/perception"),
        ("42", "/perception", "neither a settings file nor a parameter file of ROS"),
        ("a: [", "/perception", "not valid YAML"),
    ],
)
def test_a_parameter_file_that_is_not_for_the_node_is_told(
    tmp_path: Path, content: str, node: str, said: str | None
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    problem = parameter_file_problem(file, node)
    assert problem is None if said is None else said in str(problem)
    if said is not None:
        with pytest.raises(PerceptionError, match=said):
            parameter_file(str(file), CONFIG, node.rpartition("/")[0])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("detect: {labels: [person]}", True),
        ("# as ros__parameters: in a parameter file\ndetect: {labels: [person]}", True),
        ("/**: {ros__parameters: {}}", False),
        ("/**:\n  'ros__parameters' :\n    detect.labels: [", False),
        ("? ros__parameters\n: {}", False),
        ("[1]", False),
    ],
)
def test_a_settings_file_is_told_from_a_parameter_file(tmp_path: Path, content: str, expected: bool) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert is_settings_file(file) is expected


def test_a_settings_file_is_launched_as_the_parameter_for_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("detect: {labels: [hammer]}")
    assert parameter_file(str(file), CONFIG) == {"settings_file": str(file)}


def test_arguments_that_ros_ignores_are_told() -> None:
    assert ignored_arguments(["node", "--ros-args", "-p", "node.autostart:=true"]) is None
    assert ignored_arguments(["node"]) is None
    said = ignored_arguments(["node", "-p", "node.autostart:=true"])
    assert said == "'-p node.autostart:=true' is ignored: write --ros-args before the arguments of ROS"
    assert ignored_arguments(["node", "--ros-args", "--log-level", "info"]) is None
    said = ignored_arguments(["node", "--params-file", "mine.yaml"])
    assert said == "'--params-file mine.yaml' is ignored: write --ros-args before the arguments of ROS"
