# SPDX-License-Identifier: Apache-2.0
"""Rule by rule: which events begin and end when, on tracks that are known exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from rule_scenes import events, happened, rules, track

from lfm_perception.rules import RuleEngine, parse_rules
from lfm_perception.rules.drawing import MAX_EVENTS
from lfm_perception.rules.events import MAX_BYTES, SCHEMA, event_text, event_to_json
from lfm_perception.rules.places import Anchors, Zones
from lfm_perception.rules.schema import Zone
from lfm_perception.scene import AlertStatus, AttributeValue, Scene, Track, Usage, Velocity


def walk(frames: int, *steps: Callable[[float], Track | None]) -> list[list[Track]]:
    """Frames in each of which every walker gives its track at that second, None where it is not seen."""
    seen = [[step(index / 10.0) for step in steps] for index in range(frames)]
    return [[each for each in tracks if each] for tracks in seen]


def test_an_object_in_a_zone_is_an_event_of_its_own() -> None:
    file = rules("  in: {when: {label: person, inside: dock}}\n")
    frames = walk(
        30,
        lambda t: track(1, 0.3 + 0.2 * t) if t < 2.05 else None,  # on the edge at 1 s
        lambda t: track(2, 0.6, foot=0.4 + 0.1 * t) if t < 2.0 else None,
        lambda t: track(3, 0.7, label="box"),
    )
    assert happened(file, frames) == [("in", "begin", 1.1, 1), ("in", "begin", 1.1, 2), ("in", "end", 2.0, 2),
                                      ("in", "end", 2.1, 1)]  # fmt: skip


def test_loitering_is_being_in_a_zone_for_some_time_and_short_gaps_do_not_count() -> None:
    file = rules("  loiters: {when: {inside: dock}, for: 1, end_after: 0.3}\n")
    there = [[track(1, 0.7)]] * 8
    gap = [[track(1, 0.2)]] * 2
    away: list[list[Track]] = [[]] * 5
    frames = [*there, *gap, *there, *away]
    assert happened(file, frames) == [("loiters", "begin", 1.0, 1), ("loiters", "end", 2.0, 1)]
    assert happened(file, [*there, *away, *there]) == []


def test_a_zone_that_ends_at_the_images_edge_holds_feet_on_that_edge() -> None:
    file = rules("  in: {when: {inside: dock}}\n  out: {when: {outside: dock}}\n")
    assert happened(file, [[track(1, 0.7, foot=1.0, std=0.02), track(2, 0.98, std=0.02)]]) == [
        ("in", "begin", 0.0, 1), ("in", "begin", 0.0, 2)]  # fmt: skip


def test_the_anchor_is_the_foot_or_the_centre() -> None:
    text = "zones: {upper: {points: [[0, 0], [1, 0], [1, 0.72], [0, 0.72]], anchor: %s}}\n"
    for anchor, found in (("foot", 0), ("centre", 1)):
        file = parse_rules(text % anchor + "rules: {in: {when: {inside: upper}}}\n")
        assert len(happened(file, [[track(1, 0.5, foot=0.8)]])) == found


@pytest.mark.parametrize("std", [0.0, 0.02])
def test_a_foot_within_its_standard_deviation_of_an_edge_does_not_flap(std: float) -> None:
    file = rules("  in: {when: {inside: dock}}\n  over: {when: {crosses: door}}\n")
    noise = np.random.default_rng(1).uniform(-0.018, 0.018, 200)
    frames = [[track(1, 0.5 + each, std=std)] for each in noise]
    frames = [[track(1, 0.4, std=std)], *frames, [track(1, 0.6, std=std)]]
    found = happened(file, frames)
    assert (found == [("in", "begin", 20.1, 1), ("over", "moment", 20.1, 1)]) == (std > 0.0)


@pytest.mark.parametrize(
    ("to", "expected"),
    [("right", ["right"]), ("left", ["left"]), ("both", ["right", "left"])],
)
def test_a_line_is_crossed_in_a_direction_between_its_ends(to: str, expected: Sequence[str]) -> None:
    file = rules(f"  over: {{when: {{label: person, crosses: {{line: door, to: {to}}}}}}}\n")
    to_and_fro = walk(60, lambda t: track(1, 0.5 + 0.2 * math.cos(t - math.pi)))
    above = walk(60, lambda t: track(2, 0.5 + 0.2 * math.cos(t), foot=0.45))
    engine = RuleEngine(file)
    found = [
        event.values["to"]
        for index, (first, second) in enumerate(zip(to_and_fro, above, strict=True))
        for event in events(engine, 1 + index / 10, [*first, *second])
    ]
    assert found == expected
    assert engine.drawing().shapes[-1].text == "door: 1 left, 1 right"


def test_events_are_drawn_while_they_are_active_and_moments_for_a_second() -> None:
    engine = RuleEngine(
        rules("""
  in: {when: {label: person, inside: dock}, message: somebody is at the dock}
  over: {when: {crosses: door}}
""")
    )
    drawn = []
    for at, x in ((0.0, 0.4), (0.5, 0.6), (1.4, 0.6), (1.6, 0.6), (1.7, 0.4)):
        events(engine, 1 + at, [track(1, x)])
        drawing = engine.drawing()
        drawn.append((drawing.events, [shape.active for shape in drawing.shapes]))
    inside, over = "somebody is at the dock: person #1", "over: person #1"
    assert drawn == [
        ((), [False] * 3),
        ((inside, over), [True, False, True]),
        ((inside, over), [True, False, True]),
        ((inside,), [True, False, False]),
        ((over,), [False, False, True]),
    ]


def test_the_newest_events_are_listed_before_those_that_last() -> None:
    places = "\n".join(f"  in{index}: {{when: {{label: person, inside: dock}}}}" for index in range(5))
    engine = RuleEngine(rules(f"\n{places}\n  over: {{when: {{crosses: door}}}}\n"))
    for at, x in ((0.0, 0.4), (0.5, 0.6), (2.0, 0.6), (2.5, 0.4)):
        events(engine, 1 + at, [track(1, x), track(2, 0.6)])
    drawing = engine.drawing()
    assert len(drawing.events) == MAX_EVENTS
    assert drawing.events[0] == "over: person #1"
    assert len(drawing.events) + drawing.more == 1 + len(engine.active_events) > 5


def test_counts_are_more_fewer_or_exactly_and_have_hysteresis() -> None:
    text = """
  crowd: {when: {count: {label: person, inside: dock}, more_than: 2, hysteresis: 1}, for: 0.2}
  two: {when: {count: {label: person}, exactly: 2}}
  alone: {when: {count: {label: person}, fewer_than: 2}}
"""
    inside = [0.55, 0.65, 0.75, 0.85]
    counts = [0, 2, 3, 2, 3, 3, 3, 2, 1, 1]
    frames = [[track(i + 1, x) for i, x in enumerate(inside[:count])] for count in counts]
    found = happened(rules(text), frames)
    assert [each[1:3] for each in found if each[0] == "crowd"] == [("begin", 0.4), ("end", 0.8)]
    assert [each[1:3] for each in found if each[0] == "two"] == [
        ("begin", 0.1), ("end", 0.2), ("begin", 0.3), ("end", 0.4), ("begin", 0.7), ("end", 0.8)]  # fmt: skip
    assert [each[1:3] for each in found if each[0] == "alone"] == [
        ("begin", 0.0), ("end", 0.1), ("begin", 0.8)]  # fmt: skip


def test_no_tracks_at_all_are_counted_as_none() -> None:
    file = rules("  empty: {when: {count: {label: person}, exactly: 0}, for: 0.5}\n")
    assert happened(file, [[]] * 10) == [("empty", "begin", 0.5, 0)]


def test_speed_is_the_objects_own_and_has_hysteresis() -> None:
    file = rules("  fast: {when: {speed: {above: 0.2, hysteresis: 0.05}}}\n")
    speeds = [0.1, 0.19, 0.21, 0.17, 0.21, 0.14, 0.19]
    frames = [[track(1, 0.5, vx=speed)] for speed in speeds]
    assert happened(file, frames) == [("fast", "begin", 0.2, 1), ("fast", "end", 0.5, 1)]
    panned = track(1, 0.5, vx=0.5, camera_velocity=Velocity(0.5, 0.0))
    assert happened(file, [[panned]]) == []
    assert happened(file, [[track(1, 0.5, vy=0.25)]], aspect=0.75) == []


def test_score_and_size_are_ranges() -> None:
    file = rules("  big: {when: {size: {above: 0.1, below: 0.2}, score: {above: 0.5}}}\n")
    seen = [track(1, 0.5, score=0.6), track(2, 0.5, score=0.4), track(3, 0.05, foot=0.05)]
    assert happened(file, [seen]) == [("big", "begin", 0.0, 1)]


def test_one_near_another_is_an_event_of_both() -> None:
    file = rules("  close: {when: {label: person, near: {label: forklift, within: 0.2, hysteresis: 0.05}}}\n")
    frames = walk(
        30,
        lambda t: track(1, 0.2),
        lambda t: track(2, 0.8 - 0.2 * t if t < 2.5 else 0.3 + 0.3 * (t - 2.5), label="forklift"),
        lambda t: track(3, 0.25),
    )
    assert happened(file, frames) == [
        ("close", "begin", 1.8, 3), ("close", "begin", 2.1, 1)]  # fmt: skip
    engine = RuleEngine(file)
    (event,) = events(engine, 1.0, [track(1, 0.5), track(2, 0.6, label="forklift"), track(3, 0.9)])
    assert [each.track_id for each in event.tracks] == [1, 2]
    assert event.values["distance"] == pytest.approx(0.1)
    assert not events(RuleEngine(file), 1.0, [track(1, 0.5), track(3, 0.5)])  # two persons


def test_an_event_tells_what_is_true_of_its_object_and_nothing_of_the_other_conditions() -> None:
    when = "{any: [{crosses: door}, {crosses: {line: door, to: left}}, "
    when += "{crosses: door, inside: pit}, {crosses: door, attributes: {hat: red}}, "
    when += "{crosses: door, near: {label: box, within: 0.1}}]}"
    engine = RuleEngine(rules(f"  it: {{when: {when}}}\n  away: {{when: {{not: {{inside: dock}}}}}}\n"))
    box = track(2, 0.9, label="box")
    (event,) = events(engine, 1.0, [track(1, 0.4), box])
    assert (event.rule, event.values) == ("away", {})
    _, event = events(engine, 1.1, [track(1, 0.7), box])
    assert event.values == {"crosses": "door", "to": "right"}
    assert [each.track_id for each in event.tracks] == [1]


def test_what_is_gone_is_near_nothing() -> None:
    engine = RuleEngine(rules("  close: {when: {label: person, near: {label: box, within: 0.2}}}\n"))
    box, gone = (track(number, x, label="box") for number, x in ((3, 0.65), (2, 0.5)))
    assert not events(engine, 1.0, [track(1, 0.2), gone, box])
    assert not events(engine, 1.1, [track(1, 0.2), box])
    (event,) = events(engine, 1.2, [track(1, 0.52), box])
    assert [each.track_id for each in event.tracks] == [1, 3]
    assert event.values["distance"] == pytest.approx(0.13)


def test_objects_appear_once_and_disappear_once_they_are_gone_for_good() -> None:
    text = "  new: {when: {label: person, appears: 0.2}}\n  gone: {when: {inside: dock, disappears: 0.5}}\n"
    there = [[track(1, 0.7)]]
    none: list[list[Track]] = [[]]
    frames = [*there * 6, *none * 3, *there * 4, *none * 10, *there * 4]
    assert happened(rules(text), frames) == [("new", "moment", 0.2, 1), ("gone", "moment", 1.7, 1)]
    away = [*there * 6, *[[track(1, 0.2)]] * 3, *none * 10]
    assert happened(rules(text), away) == [("new", "moment", 0.2, 1)]


def test_attributes_and_alerts_are_conditions() -> None:
    text = """
  bare: {when: {label: person, attributes: {helmet: no}}}
  spilled: {when: {all: [{label: person}, {alert: spill}]}}
"""
    engine = RuleEngine(rules(text))
    both = [track(1, 0.3), track(2, 0.6)]
    known = {1: {"helmet": AttributeValue("no", 0.9, 0)}, 2: {"helmet": AttributeValue("no", 0.4, 0)}}
    scene = Scene(0, "", 640, 480, (), (), None, False, {}, Usage(), attributes=known)
    found = events(engine, 1.0, both, scene=scene)
    assert [(event.rule, event.tracks[0].track_id, event.values) for event in found] == [
        ("bare", 1, {"helmet": "no"})]  # fmt: skip
    spill = AlertStatus("spill", {"yes": 0.9, "no": 0.1}, 0.9, True, 0)
    dry = AlertStatus("dry", {"yes": 0.1, "no": 0.9}, 0.1, False, 0)
    found = events(engine, 1.1, both, scene=replace(scene, alerts=(dry, spill)))
    assert [(event.rule, event.tracks[0].track_id) for event in found] == [("spilled", 1), ("spilled", 2)]
    assert found[0].values == {"alert": "spill"}
    when = "{any: [{alert: spill}, {alert: dry}, {rule: other}]}"
    either = RuleEngine(rules(f"  either: {{when: {when}}}\n  other: {{when: {{label: x}}}}\n"))
    (event,) = events(either, 1.0, both, scene=replace(scene, alerts=(dry, spill)))
    assert event.values == {"alert": "spill"}


def test_a_file_may_have_no_condition_about_objects_or_no_rule_at_all() -> None:
    spill = AlertStatus("spill", {"yes": 0.9, "no": 0.1}, 0.9, True, 0)
    scene = Scene(0, "", 640, 480, (), (), None, False, {}, Usage(), alerts=(spill,))
    engine = RuleEngine(rules("  spilled: {when: {alert: spill}}\n"))
    assert [event.event_id for event in events(engine, 1.0, [track(1, 0.6)], scene=scene)] == [
        "spilled-1000000000"
    ]
    assert events(RuleEngine(parse_rules("rules: {}")), 1.0, [track(1, 0.6)]) == []


def test_all_any_not_and_other_rules_combine() -> None:
    text = """
  busy: {when: {count: {label: forklift}, more_than: 0}}
  one_or_other:
    when:
      all:
        - {label: person}
        - any: [{inside: dock}, {inside: pit}, {speed: {above: 1}}]
        - not: {count: {label: box}, more_than: 0}
        - {rule: busy}
"""
    file = rules(text)
    person, pit = track(1, 0.7), track(2, 0.2, foot=0.1)
    forklift, box = track(3, 0.1, label="forklift"), track(4, 0.9, label="box")
    frames = [[person, pit], [person, pit, forklift], [person, pit, forklift], [person, pit, box, forklift]]
    assert [each for each in happened(file, frames) if each[0] != "busy"] == [
        ("one_or_other", "begin", 0.2, 1), ("one_or_other", "begin", 0.2, 2),
        ("one_or_other", "end", 0.3, 1), ("one_or_other", "end", 0.3, 2),
    ]  # fmt: skip


def test_events_are_json_by_the_schema_of_at_most_2_kb() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    file = rules("  crowd: {when: {count: {}, more_than: 2}, message: 'zu viele Leute ☂'}\n")
    engine = RuleEngine(file)
    crowd = [track(i, 0.02 * i, label="ü" * 200) for i in range(1, 40)]
    begin, *_ = events(engine, 12.5, crowd)
    end, *_ = events(engine, 13.0, [])
    texts = [event_text(event_to_json(each, "camera")) for each in (begin, end)]
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
        assert len(text.encode()) <= MAX_BYTES
    first, last = map(json.loads, texts)
    assert first["event_id"] == last["event_id"] == "crowd-12500000000"
    assert (first["state"], last["state"], last["duration_s"]) == ("begin", "end", 0.5)
    assert first["stamp"] == last["begin"] == {"sec": 12, "nanosec": 500_000_000}
    assert first["values"] == {"count": 39}
    assert first["tracks_left_out"] == 20 - len(first["tracks"]) > 0


def test_distances_to_zones_are_those_of_the_polygon() -> None:
    l_shape = Zone("l", ((0.1, 0.1), (0.5, 0.1), (0.5, 0.3), (0.3, 0.3), (0.3, 0.9), (0.1, 0.9)))
    places = np.array([(0.2, 0.5), (0.4, 0.4), (0.4, 0.2), (0.45, 0.1), (0.7, 0.2)])
    boxes = np.array([places[:, 0], places[:, 1] - 0.1, places[:, 0], places[:, 1]])
    near, distances, _ = Zones([l_shape]).distances(Anchors(boxes, np.zeros((4, 5))))
    assert near.tolist() == [0, 1, 2, 3], "the last one is beyond the bounding box"
    assert distances.tolist() == pytest.approx([0.1, -0.1, 0.1, 0.0])
