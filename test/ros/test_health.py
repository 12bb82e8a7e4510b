# SPDX-License-Identifier: Apache-2.0
"""The health check that docker makes: a node is well when its diagnostics come without an error."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from robot import IN_THREAD, robot  # isort: split - chooses how messages travel
from std_msgs.msg import String

from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.health import problems
from lfm_perception.ros.processes import wait_for
from lfm_perception.text import MAX_SENTENCE


def test_a_node_is_well_until_its_camera_is_silent() -> None:
    with robot({"node.camera_timeout": 2.0, **IN_THREAD}) as started:
        name = started.node.get_fully_qualified_name()
        assert problems(name) == [f"{name.lstrip('/')}: node: is not configured"]
        assert started.change(Transition.TRANSITION_CONFIGURE)
        assert problems(name, 30.0) == []
        assert started.change(Transition.TRANSITION_ACTIVATE)
        while not (found := problems(name, 30.0)):
            pass
        assert found[0].startswith(f"{name.lstrip('/')}: camera: no usable image on ")


def test_a_message_that_is_no_text_costs_only_itself() -> None:
    """Any node may publish bytes that are no UTF-8, and a callback may fail on what they say."""
    heard: list[str] = []

    def on_text(message: String) -> None:
        heard.append(str(int(message.data)))

    with spinning_node("talker") as talker, spinning_node("listener") as listener:
        publisher = talker.create_publisher(String, "texts", 10)
        listener.create_subscription(String, "texts", on_text, 10)
        wait_for(publisher.get_subscription_count, 20.0, "the listener")
        publisher.publish(b"\0\1\0\0\2\0\0\0\xff\0")
        publisher.publish(String(data="no number"))
        publisher.publish(String(data="7"))
        wait_for(lambda: heard, 20.0, "the last message")
    assert heard == ["7"]


def test_errors_of_a_node_are_shown_printable_whoever_sends_them() -> None:
    status = DiagnosticStatus(name="robot: node", level=DiagnosticStatus.ERROR, message="\x1b[2J" + "x" * 999)
    with spinning_node("talker") as talker:
        publisher = talker.create_publisher(DiagnosticArray, "/diagnostics", 10)
        talker.create_timer(0.1, lambda: publisher.publish(DiagnosticArray(status=[status])))
        (found,) = set(problems("robot", 20.0))
    assert found.startswith("robot: node: \ufffd[2Jxx")
    assert len(found) <= MAX_SENTENCE
