# SPDX-License-Identifier: Apache-2.0
"""Standing questions of the node: topics that come and go with the questions, decisions and alerts."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot import Camera, Robot
from std_msgs.msg import Bool
from vision_msgs.msg import Classification

THERE = {"name": "there", "question": "Is there a box?", "period": 0, "threshold": 0.001, "hysteresis": 0}
BOTH = json.dumps({**THERE, "answer": "yes"}), json.dumps({**THERE, "name": "not_there", "answer": "no"})

FATES = "answered", "failed"


def alerts(running: Robot, name: str) -> list[bool]:
    heard: list[bool] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    running.user.create_subscription(Bool, f"alerts/{name}", lambda each: heard.append(each.data), latched)
    return heard


def test_standing_questions_come_live_are_answered_and_go(running: Robot) -> None:
    camera = Camera()
    assert running.set(**{"questions.standing": list(BOTH), "questions.duty_cycle": 1.0}).successful
    running.listen("decisions/there", Classification)
    on = alerts(running, "there")
    running.wait(lambda: on == [False], "the alert before any answer")
    answered, failed = (running.counted("model", f"standing questions {key}") for key in FATES)
    frame = camera.next()
    found = running.show(frame)
    (answer,) = running.wait(lambda: running.heard["decisions/there"], "the decision")
    assert answer.header == found.header
    assert {result.class_id for result in answer.results} == {"yes", "no"}
    assert answer.results[0].score >= answer.results[1].score
    assert sum(result.score for result in answer.results) == pytest.approx(1.0)
    running.wait(lambda: on == [False, True], "the alert")
    scene = running.scene(frame.stamp_ns)
    assert [status["name"] for status in scene["alerts"]] == ["there", "not_there"]
    running.wait(lambda: running.counted("model", "standing questions answered") == answered + 2, "the count")
    assert running.counted("model", "standing questions failed") == failed
    assert running.change(Transition.TRANSITION_DEACTIVATE)
    assert running.change(Transition.TRANSITION_ACTIVATE)
    assert running.set(**{"questions.standing": []}).successful
    topic = running.user.resolve_topic_name("decisions/there")
    running.wait(lambda: not running.user.get_publishers_info_by_topic(topic), "the end of the topic")


def test_the_diagnostics_name_a_question_for_which_the_budgets_have_no_room(running: Robot) -> None:
    camera = Camera()
    changes = {"questions.standing": [BOTH[0]], "questions.duty_cycle": 1.0, "budget.latency": 0.005}
    assert running.set(**changes).successful

    def warned() -> bool:
        running.show(camera.next())
        status = running.diagnosis("model")
        return (
            status.level == DiagnosticStatus.WARN and "leave no room for questions: there" in status.message
        )

    running.wait(warned, "the warning")
    assert running.set(**{**changes, "budget.latency": 0.0}).successful
    running.show(camera.next())
    running.wait(
        lambda: running.diagnosis("model").level == DiagnosticStatus.OK, "a status without a warning"
    )
    assert running.set(**{"questions.standing": []}).successful


def test_a_standing_question_that_cannot_be_asked_is_refused(running: Robot) -> None:
    result = running.set(**{"questions.standing": ["{name: door}"]})
    assert not result.successful
    assert "the text under 'question'" in result.reason
    assert not running.get("questions.standing")
