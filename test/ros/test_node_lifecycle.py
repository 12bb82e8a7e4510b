# SPDX-License-Identifier: Apache-2.0
"""The lifecycle of the node: each transition does its part and leaves nothing behind."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from robot import IN_THREAD, Camera, robot  # isort: split - chooses how messages travel


def test_each_transition_does_its_part_and_leaves_nothing_behind() -> None:
    def ours() -> Counter[str]:
        names = ("perception", "model watch", "overlay", "ego motion")
        return Counter(thread.name for thread in threading.enumerate() if thread.name in names)

    with robot() as started:
        threads = ours()
        assert started.state() == "unconfigured"
        for _ in range(2):
            assert started.change(Transition.TRANSITION_CONFIGURE)
            assert started.user.count_subscribers("image_raw") == 0
            worker = started.wait(lambda: started.counted("model", "worker PID"))
            assert Path(f"/proc/{worker}").exists()
            assert started.change(Transition.TRANSITION_ACTIVATE)
            assert started.show(Camera().next()).detections
            assert started.change(Transition.TRANSITION_DEACTIVATE)
            started.wait(lambda: started.user.count_subscribers("image_raw") == 0)
            assert started.change(Transition.TRANSITION_CLEANUP)
            assert not Path(f"/proc/{worker}").exists()
            started.heard.clear()
        assert ours() == threads
        assert started.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)


@pytest.mark.parametrize(("autostart", "state"), [(True, "active"), (False, "unconfigured")])
def test_the_node_comes_up_by_itself_if_it_is_told_to(autostart: bool, state: str) -> None:
    with robot({"node.autostart": autostart, **IN_THREAD}) as started:
        started.node.bring_up()
        assert started.state() == state


def test_while_a_model_is_loaded_the_node_answers() -> None:
    with robot() as started:
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        future = started.ask(ChangeState, f"{started.name}/change_state", request)
        assert started.wait(lambda: started.state() == "configuring", "configuring")
        assert started.get("image.max_tokens") == 64
        assert not future.done()
        assert started.wait(future.result).success


@pytest.mark.parametrize(
    ("parameters", "sentence", "remedy"),
    [
        ({"model.path": "/nowhere.gguf", "mmproj.path": "/nowhere.gguf"}, "/nowhere.gguf",
         {"model__path": "", "mmproj__path": ""}),
        ({"detect.lables": ["person"]}, "did you mean 'detect.labels'?", None),
        ({"detect.min_score": 7.0}, "detect.min_score must be a number from 0 to 1, got 7.0",
         {"detect__min_score": 0.5}),
        ({"image.max_tokens": "many"}, "image.max_tokens must be a whole number from 1 to 1024",
         {"image__max_tokens": 64}),
        ({"detect.labels": [float("nan")]}, "detect.labels must be a list of texts",
         {"detect__labels": ["person"]}),
        ({"image.min_tokens": 128}, "image.min_tokens 128 is above image.max_tokens 64",
         {"image__min_tokens": 32}),
    ],
    ids=["model", "typo", "range", "type", "nan", "contradiction"],
)  # fmt: skip
def test_what_is_wrong_is_said_and_can_be_repaired(
    parameters: dict[str, object],
    sentence: str,
    remedy: dict[str, object] | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with robot({**parameters, **IN_THREAD}) as started:
        assert not started.change(Transition.TRANSITION_CONFIGURE)
        assert sentence in capfd.readouterr().err
        assert started.state() == "unconfigured"
        if remedy is not None:
            for name, value in remedy.items():
                assert started.set(**{name: value}).successful
            assert started.change(Transition.TRANSITION_CONFIGURE)


def test_two_robots_share_a_network_in_their_namespaces() -> None:
    with robot(IN_THREAD) as left, robot(IN_THREAD) as right:
        assert left.name != right.name
        left.bring_up()
        right.bring_up()
        camera = Camera()
        frames = camera.next(), camera.next()
        left.show(frames[0])
        right.show(frames[1])
        for each, own, other in ((left, *frames), (right, *frames[::-1])):
            assert each.newest("detections", own.stamp_ns) is not None
            assert each.newest("detections", other.stamp_ns) is None
