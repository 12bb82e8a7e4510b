# SPDX-License-Identifier: Apache-2.0
"""The sequences made for rules: events on their true tracks are those that the ways of the bodies lead to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest

from lfm_perception.demo.bodies import Body, has_helmet, outline_of
from lfm_perception.demo.world import World
from lfm_perception.evaluation.demo_sequence import DemoSequence
from lfm_perception.evaluation.rule_scenes import (
    KINDS,
    VISIBLE,
    asking,
    bodies_of,
    rules_of,
    true_scene,
    true_tracks,
)
from lfm_perception.evaluation.tracking import PROTOCOLS
from lfm_perception.perception import open_perception
from lfm_perception.rules import RuleEngine, parse_rules
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds

FPS, SECONDS, SEED, SIZE, NEAR_S = 30, 24, 3, (160, 120), 0.25
Event = tuple[str, str, float]


def begins(happens: Sequence[bool], wait_s: float = 0.3, gap_s: float = 0.5) -> Iterator[float]:
    """Seconds at which what has held for `wait_s` begins; shorter gaps than `gap_s` do not end it."""
    since = last = None
    for index, now in enumerate(happens):
        if now:
            since = index if last is None or index - last > gap_s * FPS else since
            last = index
        if now and since is not None and index - since == round(wait_s * FPS):
            yield index / FPS


def led_to(kind: str, bodies: Sequence[Body]) -> Iterator[Event]:
    """The events, by plain arithmetic on the ways of the person and the forklift."""
    world, times = World(SEED, pan=0.0), [index / FPS for index in range(SECONDS * FPS)]
    movers = [body for body in bodies if body.label in ("person", "forklift")]
    ways = [[body.at(at).x for at in times] for body in movers]
    in_zone = [[0.2 < x < 0.5 for x in way] for way in ways]
    for body, way, inside in zip(movers, ways, in_zone, strict=True):
        label = body.label
        if kind == "walks":
            yield from (("inside", label, at) for at in begins(inside))
            sides = [x < 0.55 for x in way]
            turns = [index for index in range(1, len(way)) if sides[index] != sides[index - 1]]
            yield from (("crosses", label, index / FPS) for index in turns)
        if kind == "doors":
            there = [0.0 < x < 1.0 for x in way]
            yield from (("comes", label, at) for at in begins(there, 0.5))
            first = there.index(True)
            gone = [not each for each in there[first:]]
            yield from (("goes", label, at + first / FPS) for at in begins(gone, 1.0))
        if kind == "answers":
            there = [0.0 < x < 1.0 for x in way]
            if label == "forklift":
                yield from (("forklift there", "", at) for at in begins(there, 0.5))
                yield from (("forklift gone", "", at) for at in begins([not each for each in there], 0.5))
            elif not has_helmet(body):
                yield from (("bare head", label, at) for at in begins(there, 1.0))
    if kind == "walks":
        yield from (("loiters", "person", at) for at in begins(in_zone[0], 2.0))
    if kind == "meetings":
        feet = [outline_of(body, world.stage, 640, 480)[3] / 640 for body in movers]
        apart = [math.hypot(a - b, feet[0] - feet[1]) for a, b in zip(*ways, strict=True)]
        yield from (("close", "person", at) for at in begins([each < 0.2 for each in apart]))
        yield from (("counts", "", at) for at in begins([all(each) for each in zip(*in_zone, strict=True)]))


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_events_on_the_true_tracks_of_a_sequence_are_those_that_its_ways_lead_to(kind: str) -> None:
    bodies = bodies_of(kind, SEED)
    demo = DemoSequence(SEED, SECONDS, 0.0, *SIZE, bodies=bodies)
    file, found = parse_rules(rules_of(kind)), list[Event]()
    engine, of_objects = RuleEngine(file), {rule.name: rule.of_objects for rule in file.rules}
    frames = true_tracks(demo, SEED, bodies)
    for index, tracks in enumerate(frames):
        scene = true_scene(index, FPS, tracks, bodies)
        for event in engine.update(from_seconds(index / FPS), tracks, scene=scene):
            if event.state != "end":
                label = event.tracks[0].label if of_objects[event.rule] else ""
                found.append((event.rule, label, index / FPS))
    expected = sorted(each for each in led_to(kind, bodies) if each[2] > 1.0)
    told = sorted(each for each in found if each[2] > 1.0 and each[0] not in ("fast", "speeds up"))
    assert [each[:2] for each in told] == [each[:2] for each in expected]
    assert all(abs(a[2] - b[2]) < NEAR_S for a, b in zip(told, expected, strict=True)), (told, expected)
    assert len(expected) > 1


def test_answers_about_a_frame_arrive_as_late_as_its_detections() -> None:
    demo = DemoSequence(SEED, 0.7, 0.0, bodies=bodies_of("answers", SEED))
    with open_perception(asking(Settings())) as perception:
        scenes = [scene for _, scene in demo.perceive(PROTOCOLS["sparse-late"], perception, SEED)]
    about = [scene and round(scene.stamp_ns * FPS / 1e9) for scene in scenes]
    assert about == [None] * 6 + [0] * 6 + [6] * 6 + [12] * 3
    assert all(scene.alerts[0].stamp_ns == scene.stamp_ns for scene in scenes if scene)


def test_an_object_is_there_for_the_truth_while_half_of_its_body_can_be_seen() -> None:
    bodies = bodies_of("doors", SEED)
    demo = DemoSequence(SEED, 6.0, 0.0, *SIZE, bodies=bodies)
    frames, person = true_tracks(demo, SEED, bodies), bodies[0]
    there = [any(each.track_id % 100 == 1 for each in tracks) for tracks in frames]
    sliver = [index for index in range(len(frames)) if 0 < demo.visible_shares(index).get(0, 0.0) < VISIBLE]
    assert sliver
    assert not any(there[index] for index in sliver)
    assert there.index(True) == pytest.approx(
        next(index for index in range(len(frames)) if person.at(index / FPS).x > 0.0), abs=2
    )
