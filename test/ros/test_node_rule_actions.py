# SPDX-License-Identifier: Apache-2.0
"""Questions, parameters and recordings as actions of rules, on real DDS with the demo model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from robot import IN_THREAD, Camera, Robot, robot
from std_msgs.msg import String

from lfm_perception.media.sources import open_source
from lfm_perception.rules.events import SCHEMA

RULES = """
zones: {floor: [[0, 0], [1, 0], [1, 1], [0, 1]]}
rules:
  occupied:
    when: {count: {inside: floor}, more_than: 0}
    actions:
      ask: {question: "How many people are there?", type: number}
      clip: true
      set_parameter: {node: user, name: lamp, value: [lit, now], end: [dark]}
  new:
    when: {appears: 0}
    actions:
      ask: {question: "Is it a person?", type: yes_no}
      set_parameter: {name: caption.period, value: 3.5}
  refused: {when: {appears: 0}, actions: {set_parameter: {name: image.max_tokens, value: a lot}}}
  own: {when: {appears: 0}, actions: {set_parameter: {name: rules.file, value: ""}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


@pytest.fixture(scope="module")
def acting(folder: Path) -> Iterator[Robot]:
    """A node with `RULES`, and a node beside it with the parameter `lamp`."""
    (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    parameters = {
        "rules.file": str(folder / "rules.yaml"),
        "rules.actions": True,
        "rules.clips": str(folder / "clips"),
        "rules.clip_after": 1.0,
        **IN_THREAD,
    }
    with robot(parameters) as started:
        started.user.declare_parameter("lamp", ["dark"])

        def changed(parameters: Any) -> SetParametersResult:
            for parameter in parameters:
                started._hear(parameter.name, parameter.value)
            return SetParametersResult(successful=True)

        started.user.add_on_set_parameters_callback(changed)
        started.listen("events", String)
        yield started.bring_up()


def events(running: Robot, state: str) -> list[Any]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = [json.loads(message.data) for message in running.heard["events"]]
    for event in found:
        jsonschema.validate(event, schema)
    return [event for event in found if event["state"] == state]


def test_rules_ask_about_the_frame_or_the_track_and_answers_have_the_events_id(acting: Robot) -> None:
    camera = Camera()
    acting.show(camera.next())

    def answered() -> bool:
        if {"occupied", "new"} <= {event["rule"] for event in events(acting, "answer")}:
            return True
        acting.send_frame(camera.next(1))
        return False

    acting.wait(answered, "the answers")
    begun = {event["event_id"]: event for event in events(acting, "begin") + events(acting, "moment")}
    for event in events(acting, "answer"):
        assert event["event_id"] in begun
        assert event["begin"] == begun[event["event_id"]]["begin"]
    answers = {event["rule"]: event for event in events(acting, "answer")}
    assert answers["occupied"]["answer"]["question"] == "How many people are there?"
    assert answers["occupied"]["answer"]["value"].isdigit()
    assert answers["occupied"]["answer"]["probability"] > 0.0
    assert answers["new"]["answer"]["value"] in ("yes", "no")
    assert acting.heard["answer"] == [], "nobody asked on input_query"
    asking = sum(event["rule"] in answers for event in begun.values())

    def counted() -> int:
        return sum(acting.counted("rules", f"questions {name}") for name in ("asked", "left out"))

    acting.wait(lambda: counted() == asking, "the number of questions")


def test_rules_set_parameters_of_other_nodes_and_of_their_own(acting: Robot) -> None:
    camera = Camera()
    acting.show(camera.next())
    acting.show(camera.next(3))
    acting.wait(lambda: acting.heard["lamp"][:1] == [["lit", "now"]], "the parameter of another node")
    acting.wait(lambda: acting.get("caption.period") == 3.5, "the node's own parameter")
    assert acting.get("rules.file") != "", "a rule changed the rules"
    assert acting.get("image.max_tokens") == 64, "a wrong value was accepted"
    acting.wait(lambda: acting.diagnosis("rules").level == DiagnosticStatus.OK, "a status without a warning")


def test_the_seconds_around_an_event_are_recorded_with_the_event(acting: Robot, folder: Path) -> None:
    camera = Camera()
    acting.show(camera.next())

    def recorded() -> list[Path]:
        acting.send_frame(camera.next(2))
        return [*folder.glob("clips/lfm_event_occupied-*/metadata.yaml")]

    bag = acting.wait(recorded, "the recording")[0].parent
    begun = {event["event_id"]: event for event in events(acting, "begin")}
    stamp = begun[bag.name.removeprefix("lfm_event_")]["stamp"]
    event_ns = stamp["sec"] * 10**9 + stamp["nanosec"]
    with open_source(str(bag)) as source:
        frames = list(source.frames)
    assert frames[0].stamp_ns <= event_ns <= frames[-1].stamp_ns
    assert event_ns - 5e9 <= frames[0].stamp_ns
    assert frames[-1].stamp_ns <= event_ns + 2e9
    assert (frames[0].frame_id, frames[0].width, frames[0].height) == ("front_optical", 640, 480)
    acting.wait(lambda: acting.counted("rules", "clips") > 0, "the count")
    assert acting.counted("rules", "clips lost") == 0
