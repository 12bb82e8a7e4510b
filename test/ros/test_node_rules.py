# SPDX-License-Identifier: Apache-2.0
"""Rules of the node: events, markers, actions and live reload, on real DDS with the demo model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import test_replay
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from robot import IN_THREAD, PATIENCE_S, Camera, Robot, robot
from rosbags.rosbag2 import StoragePlugin
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import ImageMarker, MarkerArray

from lfm_perception.ros import rules as ros_rules
from lfm_perception.ros.replay import ReplayOptions, replay
from lfm_perception.rules import Known, RuleFile, read_rules
from lfm_perception.rules.events import SCHEMA

FLOOR = "zones: {floor: [[0, 0], [1, 0], [1, 1], [0, 1]]}\n"
ACTING = (
    FLOOR
    + """
lines: {door: [[0.5, 0], [0.5, 1]]}
rules:
  occupied:
    when: {count: {inside: floor}, more_than: 0}
    message: somebody is there
    actions:
      publish_bool: floor/occupied
      publish_text: floor/said
      call_trigger: floor/log
      call_set_bool: floor/lamp
      snapshot: true
  own: {when: {count: {}, more_than: 0}, actions: {publish_text: tracks, call_trigger: perception/reset}}
  wrong: {when: {inside: nowhere}}
  other: {when: {count: {}, more_than: 0}, actions: {publish_text: floor/occupied}}
"""
)
QUIET = FLOOR + "rules: {occupied: {when: {count: {inside: floor}, more_than: 1000}}}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


@pytest.fixture(scope="module")
def acting(folder: Path) -> Iterator[Robot]:
    """A node with the rules of `ACTING`, and the services that they call."""
    (folder / "rules.yaml").write_text(ACTING, encoding="utf-8")
    parameters = {
        "rules.file": str(folder / "rules.yaml"),
        "rules.actions": True,
        "rules.snapshots": str(folder / "snapshots"),
        **IN_THREAD,
    }
    with robot(parameters) as started, pytest.MonkeyPatch.context() as patches:
        patches.setattr(ros_rules, "FILE_PERIOD_S", 0.0)  # no frame comes before the next look

        def called(name: str, response: Any, request: Any) -> Any:
            started._hear(name, getattr(request, "data", True))
            response.success = True
            return response

        for kind, name in ((Trigger, "floor/log"), (SetBool, "floor/lamp")):
            started.user.create_service(
                kind, name, lambda request, response, name=name: called(name, response, request)
            )
        for topic, message in (
            ("events", String),
            ("floor/said", String),
            ("floor/occupied", Bool),
            ("markers", MarkerArray),
            ("image_markers", ImageMarker),
        ):
            started.listen(topic, message)
        yield started.bring_up()


def events(running: Robot) -> list[Any]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = [json.loads(message.data) for message in running.heard["events"]]
    for event in found:
        jsonschema.validate(event, schema)
    return found


def states(running: Robot) -> list[tuple[str, str]]:
    return [(event["rule"], event["state"]) for event in events(running)]


def test_an_event_is_published_with_its_frames_stamp_and_its_actions_are_done(
    acting: Robot, folder: Path
) -> None:
    camera = Camera()
    first, second = camera.next(), camera.next(5)
    acting.show(first)
    acting.show(second)
    acting.wait(lambda: ("occupied", "begin") in states(acting), "the event")
    event = next(each for each in events(acting) if each["rule"] == "occupied")
    stamp = event["stamp"]
    assert stamp["sec"] * 10**9 + stamp["nanosec"] in (first.stamp_ns, second.stamp_ns)
    assert (event["frame_id"], event["message"]) == ("front_optical", "somebody is there")
    assert event["values"]["count"] == len(event["tracks"]) > 0
    acting.wait(lambda: [each.data for each in acting.heard["floor/said"]] == ["somebody is there"], "words")
    acting.wait(lambda: [each.data for each in acting.heard["floor/occupied"]][-1:] == [True], "the bool")
    acting.wait(lambda: acting.heard["floor/log"] == [True], "the call of the service")
    acting.wait(lambda: acting.heard["floor/lamp"] == [True], "the call with a bool")
    saved = acting.wait(lambda: [*folder.glob("snapshots/lfm_event_occupied-*.jpg")], "the image")
    assert saved[0].read_bytes().startswith(b"\xff\xd8")


def test_zones_lines_and_counts_are_drawn(acting: Robot) -> None:
    camera = Camera()
    for _ in range(3):
        acting.show(camera.next(2))
    texts = {marker.text for message in acting.heard["markers"] for marker in message.markers}
    assert "door: 0 left, 0 right" in texts
    assert any(text.startswith("floor: ") for text in texts)
    lines = acting.heard["image_markers"][-1]
    assert len(lines.points) == 2 * len(lines.outline_colors)


def test_what_is_wrong_with_a_rule_or_an_action_is_in_the_diagnostics(acting: Robot) -> None:
    status = acting.wait(lambda: acting.diagnosis("rules"), "the diagnostics of the rules")
    assert status.level == DiagnosticStatus.WARN
    assert "2 cannot be used; the first: line 15, column 26, rule 'wrong': there is no zone" in status.message
    assert acting.counted("rules", "rules") == 2, "nor can the text on a topic of another type"
    assert acting.counted("camera", "tracker resets") == 0, "the node called its own service"


def test_a_changed_file_is_read_again_and_its_old_events_end(acting: Robot, folder: Path) -> None:
    path, camera = folder / "rules.yaml", Camera()
    acting.show(camera.next())
    acting.show(camera.next(3))
    acting.wait(lambda: [state for rule, state in states(acting) if rule == "occupied"][-1] == "begin", "it")
    path.write_text(QUIET, encoding="utf-8")
    acting.show(camera.next(3))
    acting.wait(
        lambda: [state for rule, state in states(acting) if rule == "occupied"][-1] == "end", "its end"
    )
    acting.wait(lambda: acting.heard["floor/lamp"][-1] is False, "the call as it ends")
    acting.wait(lambda: acting.diagnosis("rules").level == DiagnosticStatus.OK, "rules without a problem")
    path.write_text("rules: [", encoding="utf-8")
    acting.show(camera.next(3))
    acting.wait(lambda: "1 rules from before stay" in acting.diagnosis("rules").message, "the broken file")
    path.unlink()
    acting.show(camera.next(3))
    acting.wait(lambda: "no such file" in acting.diagnosis("rules").message, "the missing file")
    lamp = acting.user.resolve_topic_name("lamp")
    path.write_text(
        f"rules: {{one: {{when: {{label: box}}, actions: {{publish_bool: lamp}}}}, "
        f"two: {{when: {{label: cone}}, actions: {{publish_bool: {lamp}}}}}}}",
        encoding="utf-8",
    )
    acting.show(camera.next(3))
    acting.wait(lambda: f"{lamp!r} belongs to rule 'one'" in acting.diagnosis("rules").message, "one topic")
    path.write_text(ACTING, encoding="utf-8")
    acting.show(camera.next(3))
    acting.wait(lambda: acting.counted("rules", "rules") == 2, "the file that is back")


def test_events_go_on_while_other_labels_are_asked_for(acting: Robot) -> None:
    camera = Camera()

    def occupied() -> list[str]:
        return [state for rule, state in states(acting) if rule == "occupied"]

    acting.show(camera.next())
    acting.show(camera.next(3))
    acting.wait(lambda: occupied()[-1] == "begin", "it")
    before = occupied()
    labels = ["forklift", "person", "pallet", "box", "cone", "ladder"]
    assert acting.set(**{"detect.labels": labels}).successful, "it has the file read again"
    acting.show(camera.next(3))
    acting.show(camera.next(3))
    assert occupied() == before
    assert acting.set(**{"detect.labels": labels[:-1]}).successful


def test_no_frame_and_no_parameter_waits_while_a_rule_file_is_read(
    acting: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, camera = threading.Event(), threading.Event(), Camera()
    released = list[bool]()

    def slowly(path: Path, known: Known | None) -> RuleFile:
        reading.set()
        released.append(go_on.wait(PATIENCE_S))
        return read_rules(path, known)

    monkeypatch.setattr(ros_rules, "read_rules", slowly)
    try:
        assert acting.set(**{"rules.max_rate": 4.0}).successful, "it has the file read again"
        assert reading.wait(PATIENCE_S)
        acting.show(camera.next())
        assert acting.set(**{"rules.max_rate": 5.0}).successful
        acting.show(camera.next(3))
    finally:
        go_on.set()
    acting.wait(lambda: released, "the reader")
    assert all(released), "something waited for the reader"


def test_rules_come_and_go_with_the_parameter_and_the_topic_with_them(acting: Robot, folder: Path) -> None:
    camera = Camera()
    topic = acting.user.resolve_topic_name("events")
    acting.show(camera.next())
    acting.show(camera.next(3))
    acting.wait(lambda: [state for rule, state in states(acting) if rule == "occupied"][-1] == "begin", "it")
    assert acting.change(Transition.TRANSITION_DEACTIVATE)
    acting.wait(
        lambda: [state for rule, state in states(acting) if rule == "occupied"][-1] == "end", "its end"
    )
    assert acting.change(Transition.TRANSITION_ACTIVATE)
    assert acting.set(**{"rules.file": ""}).successful
    acting.wait(lambda: not acting.user.get_publishers_info_by_topic(topic), "the end of the topic")
    assert acting.set(**{"rules.file": str(folder / "rules.yaml")}).successful
    acting.wait(lambda: acting.user.get_publishers_info_by_topic(topic), "the topic")
    refused = acting.set(**{"rules.actions": False})
    assert not refused.successful


def test_a_replay_of_a_bag_records_the_events(tmp_path: Path) -> None:
    bag = test_replay.recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=True)
    (tmp_path / "rules.yaml").write_text("rules: {any: {when: {count: {}, more_than: 0}}}", encoding="utf-8")
    settings = test_replay.SETTINGS.with_values({"rules.file": str(tmp_path / "rules.yaml")})
    replay(ReplayOptions(bag), settings, tmp_path / "out")
    ((_, raw),) = test_replay.messages(tmp_path / "out" / "perception_bag", "/events")
    assert b'"rule": "any", "state": "begin"' in raw


def test_without_rules_nothing_of_them_is_imported(imported_by_default: list[str]) -> None:
    names = ("lfm_perception.rules", "lfm_perception.ros.rule")
    assert [each for each in imported_by_default if each.startswith(names)] == []
