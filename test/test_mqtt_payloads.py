# SPDX-License-Identifier: Apache-2.0
"""What is sent: events as they came, or shortened by rule; summaries. All are valid by their schemas."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from rule_scenes import track

from lfm_perception.errors import PerceptionError
from lfm_perception.mqtt.outbox import MAX_PAYLOAD
from lfm_perception.mqtt.payloads import SCHEMA, Activity, event_payload
from lfm_perception.rules.events import MAX_BYTES, Event, event_text, event_to_json
from lfm_perception.rules.events import SCHEMA as EVENT_SCHEMA
from lfm_perception.scene import Scene, Usage
from lfm_perception.stamps import from_seconds

EVENT = Event("loiters-1", "loiters", "begin", from_seconds(3.0), from_seconds(2.0), "a person")
WIDE = "🏗"
"""A character of four bytes."""


def checked(payload: bytes | str, schema: Any = EVENT_SCHEMA) -> Any:
    record = json.loads(payload)
    jsonschema.validate(record, json.loads(schema.read_text(encoding="utf-8")))
    assert len(payload if isinstance(payload, bytes) else payload.encode()) <= 2000
    return record


def published(event: Event, frame_id: str = "camera") -> str:
    """The event without any limit of its length, as others may publish it."""
    return json.dumps(event_to_json(event, frame_id), ensure_ascii=False)


def test_an_event_is_sent_as_it_is_published() -> None:
    event = replace(EVENT, tracks=(track(7, 0.5),), values={"count": 3.0, "near": "box"})
    answered = replace(event, state="answer", answer={"question": "who?", "value": "a", "probability": 0.5})
    for each in (event, answered, replace(answered, answer={"question": "who?", "refused": "no time"})):
        text = event_text(event_to_json(each, "camera"))
        assert checked(event_payload(text)) == json.loads(text)
    assert MAX_PAYLOAD == MAX_BYTES == 2000


def test_a_long_event_keeps_its_rule_and_id_and_says_what_is_left_out() -> None:
    crowd = replace(EVENT, tracks=tuple(track(number, 0.5) for number in range(100)))
    sent = checked(event_payload(published(crowd)))
    assert sent["tracks_left_out"] == 100 - len(sent["tracks"]) > 0
    assert sent["tracks"][0]["track_id"] == 0
    again = checked(event_payload(json.dumps({**sent, "message": "x" * 1500})))
    assert again["tracks_left_out"] + len(again["tracks"]) == 100
    worst = replace(
        EVENT, event_id=WIDE * 64 + "-123456789-12", rule=WIDE * 64, message=WIDE * 200,
        tracks=crowd.tracks,
        answer={"question": WIDE * 300, "value": WIDE * 300},
        values={f"{index}{WIDE * 20}": WIDE * 60 for index in range(32)},
    )  # fmt: skip
    for text in (event_text(event_to_json(worst, WIDE * 200)), event_payload(published(worst, WIDE * 200))):
        sent = checked(text)
        assert (sent["event_id"], sent["rule"]) == (worst.event_id, worst.rule)
        assert sent["tracks_left_out"] == 100
        assert sent["message"].startswith(WIDE * 29)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"state": "now"},
        {"more": 1},
        {"rule": "x" * 131},
        {"event_id": "x" * 131},
        {"duration_s": -1},
        {"suppressed": True},
        {"values": {"a": [1]}},
        {"values": {"a": None}},
        {"stamp": {"sec": 1}},
        {"tracks": [1]},
        {"answer": {"value": "x"}},
        {"answer": {"question": "x", "probability": 2}},
        {"answer": {"question": "x", "more": "y"}},
        {"tracks": [{"track_id": 1, "label": "x", "confidence": 2.0, "bbox": [0, 0, 1, 1]}]},
        {"tracks": [{"track_id": 1, "label": "x", "confidence": 0.5, "bbox": [0, 0, 1]}]},
    ],
)
def test_what_is_no_event_is_refused_in_a_sentence(change: dict[str, Any]) -> None:
    record = event_to_json(EVENT, "camera")
    event_payload(json.dumps(record))
    with pytest.raises(PerceptionError, match="not an event: "):
        event_payload(json.dumps({**record, **change}))
    for text in ("", "[]", "{}", "null", "[" * 10_000, json.dumps({**record, "rule": None})):
        with pytest.raises(PerceptionError, match=r"not an event|not valid JSON"):
            event_payload(text)


def scene(*labels: str, first: int = 0) -> Scene:
    tracks = tuple(track(first + n, 0.5)._replace(label=label) for n, label in enumerate(labels))
    return Scene(0, "camera", 64, 48, (), tracks, None, False, {}, Usage())


QUEUE = {"waiting": 0, "dropped": 0, "rejected": 0}


def test_an_event_that_cannot_be_shortened_enough_is_refused() -> None:
    name = "\x01" * 130  # six bytes each in JSON
    event = replace(EVENT, event_id=name, rule=name, message=WIDE * 40, answer={"question": WIDE * 40})
    with pytest.raises(PerceptionError, match="bytes cannot be shortened to 2000"):
        event_payload(published(event, frame_id=WIDE * 40))
    with pytest.raises(PerceptionError, match="an event has at most 100000 characters, not "):
        event_payload(published(replace(EVENT, tracks=(track(1, 0.5),) * 5000)))


def test_labels_and_rules_without_end_are_counted_up_to_a_number() -> None:
    activity = Activity("/perception")
    for index in range(1100):
        activity.add_scene(scene(f"label {index}"))
        activity.add_event(event_payload(published(replace(EVENT, rule=f"rule {index}"))))
    assert (len(activity._seen), len(activity._events)) == (1000, 1000)


def test_a_summary_counts_tracks_and_events_since_the_one_before_and_names_problems() -> None:
    activity = Activity("/perception")
    first = checked(activity.summary(from_seconds(100.0), QUEUE), SCHEMA)
    assert (first["period_s"], first["health"], first["scenes"]) == (0.0, "stale", 0)
    activity.add_scene(scene("person", "person", "box"))
    activity.add_scene(scene("person", first=1))
    for state in ("begin", "end", "moment"):
        activity.add_event(event_payload(published(replace(EVENT, state=state))))
    activity.set_health({"camera": (0, "30 Hz"), "model": (1, "slow"), "node": (2, "is hot")})
    found = checked(activity.summary(from_seconds(160.0), {**QUEUE, "waiting": 3}), SCHEMA)
    assert found["stamp"] == {"sec": 160, "nanosec": 0}
    assert (found["period_s"], found["scenes"], found["queue"]["waiting"]) == (60.0, 2, 3)
    assert found["tracks_now"] == {"person": 1}
    assert found["tracks_seen"] == {"person": 2, "box": 1}
    assert found["events"] == {"loiters": 2}
    assert found["health"] == "error"
    problems = [(each["part"], each["level"]) for each in found["problems"]]
    assert problems == [("node", "error"), ("model", "warn")]
    last = checked(activity.summary(from_seconds(161.0), QUEUE), SCHEMA)
    assert (last["tracks_seen"], last["events"], last["tracks_now"]) == ({}, {}, {"person": 1})


def test_a_summary_of_everything_at_once_fits_with_what_matters_most() -> None:
    activity = Activity(WIDE * 300)
    activity.summary(1, QUEUE)
    for index in range(500):
        activity.add_scene(scene(*[f"{WIDE * 50} {index}"] * (2 if index == 400 else 1)))
    activity.set_health({f"{WIDE * 99}{part}": (2, WIDE * 300) for part in range(20)})
    found = checked(activity.summary(10**9, QUEUE), SCHEMA)
    assert found["left_out"] > 500
    assert found["health"] == "error"
