# SPDX-License-Identifier: Apache-2.0
"""Scenes of the demo world with known events: on exact tracks all are found, and none is invented.

What is true is found here without the engine: frame by frame and object by object, with OpenCV's point in
polygon and plain arithmetic on the ground truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
import pytest
from rule_scenes import happened

from lfm_perception.demo.world import TrueObject, World
from lfm_perception.rules import parse_rules
from lfm_perception.scene import AlertStatus, AttributeValue, Scene, Track, Usage
from lfm_perception.stamps import from_seconds

FPS, SECONDS, WIDTH, HEIGHT = 10.0, 24.0, 320, 240
LEFT = ((0.05, 0.3), (0.45, 0.35), (0.5, 1.0), (0.0, 1.0))
FRONT = ((0.0, 0.65), (1.0, 0.6), (1.0, 1.0), (0.0, 1.0))
RULES = f"""
zones: {{left: {[*map(list, LEFT)]}, front: {[*map(list, FRONT)]}}}
lines: {{middle: [[0.5, 1], [0.5, 0.1]]}}
rules:
  inside: {{when: {{label: [person, forklift], inside: left}}}}
  loiters: {{when: {{label: person, inside: left}}, for: 2}}
  to left: {{when: {{crosses: {{line: middle, to: left}}}}}}
  to right: {{when: {{crosses: {{line: middle, to: right}}}}}}
  crowded: {{when: {{count: {{inside: front}}, more_than: 3}}}}
  close: {{when: {{label: person, near: {{label: forklift, within: 0.25}}}}}}
  fast: {{when: {{label: [person, forklift], speed: {{above: 0.1}}}}}}
  small: {{when: {{label: person, size: {{below: 0.15}}}}}}
  alone: {{when: {{all: [{{label: person}}, {{not: {{inside: left}}}}, {{not: {{inside: front}}}}]}}}}
  comes: {{when: {{label: person, appears: 0}}}}
  goes: {{when: {{label: person, disappears: 0.5}}}}
  forklift there: {{when: {{alert: forklift}}}}
  no forklift: {{when: {{not: {{alert: forklift}}}}}}
  bare head: {{when: {{label: person, attributes: {{helmet: "no"}}}}}}
"""
MOMENTS = ("to left", "to right", "comes", "goes")

Frame = Mapping[int, TrueObject]
Event = tuple[str, str, float, int]
SEEDS = ((11, 0.0), (12, 0.12))
"""Seeds, and how far the camera swings."""


def true_frames(seed: int, pan: float) -> list[Frame]:
    world = World(seed, WIDTH, HEIGHT, fps=FPS, pan=pan)
    return [
        {each.object_id + 1: each for each in world.snapshot(index).objects}
        for index in range(round(SECONDS * FPS))
    ]


def foot(each: TrueObject) -> tuple[float, float]:
    return (each.box.x1 + each.box.x2) / 2, each.box.y2


def inside(each: TrueObject, zone: Sequence[tuple[float, float]]) -> bool:
    x, y = foot(each)
    below = min(y, 0.999999)  # what stands on the image's edge is inside
    return cv2.pointPolygonTest(np.array(zone, np.float32), (x, below), False) > 0


def distance(first: TrueObject, second: TrueObject) -> float:
    (ax, ay), (bx, by) = foot(first), foot(second)
    return math.hypot(ax - bx, (ay - by) * HEIGHT / WIDTH)


def states(frame: Frame) -> Iterator[tuple[str, int]]:
    """What is true in a frame: rule, and track or 0."""
    if sum(inside(each, FRONT) for each in frame.values()) > 3:
        yield "crowded", 0
    labels = {each.label for each in frame.values()}
    yield ("forklift there" if "forklift" in labels else "no forklift"), 0
    for number, each in frame.items():
        others = [other for key, other in frame.items() if key != number and other.label == "forklift"]
        in_left, person = inside(each, LEFT), each.label == "person"
        true = {
            "inside": each.label in ("person", "forklift") and in_left,
            "loiters": person and in_left,
            "close": person and any(distance(each, other) < 0.25 for other in others),
            "fast": each.label in ("person", "forklift")
            and math.hypot(each.velocity.x, each.velocity.y * HEIGHT / WIDTH) > 0.1,
            "small": person and math.sqrt(each.box.area) < 0.15,
            "alone": person and not in_left and not inside(each, FRONT),
            "bare head": each.helmet is False,
        }
        yield from ((rule, number) for rule, value in true.items() if value)


def lasting(frames: Sequence[Frame]) -> Iterator[Event]:
    """Begins and ends, from what is true in each frame."""
    since: dict[tuple[str, int], int] = {}
    for index, frame in enumerate([*frames, None]):
        true = set(states(frame)) if frame is not None else set(since)
        for key in sorted(true - since.keys()):
            since[key] = index
        for rule, number in sorted(since.keys() - true):
            began = since.pop((rule, number))
            if index - began > _wait(rule):
                yield rule, "end", index / FPS, number
        for (rule, number), began in since.items():
            if index - began == _wait(rule) and frame is not None:
                yield rule, "begin", index / FPS, number


def _wait(rule: str) -> int:
    """Frames until an event of a rule begins."""
    return round(2 * FPS) if rule == "loiters" else 0


def moments(frames: Sequence[Frame]) -> Iterator[Event]:
    """Crossings of the line x = 0.5, persons that come for the first time, and those that go."""
    last: dict[int, int] = {}
    sides: dict[int, bool] = {}
    for index, frame in enumerate(frames):
        for number, each in frame.items():
            x = foot(each)[0]
            left = x < 0.5 if x != 0.5 else sides.get(number, True)  # on the line: not across yet
            if sides.get(number, left) != left:
                yield ("to left" if left else "to right"), "moment", index / FPS, number
            if each.label == "person" and number not in last:
                yield "comes", "moment", index / FPS, number
            last[number], sides[number] = index, left
        for number, seen in last.items():
            if index - seen == round(0.5 * FPS) and frames[seen][number].label == "person":
                yield "goes", "moment", index / FPS, number


def tracks(frame: Frame) -> list[Track]:
    return [
        Track(number, each.label, each.box, 1.0, each.velocity, 1.0, 0.0) for number, each in frame.items()
    ]


def answers(index: int, frame: Frame) -> Scene:
    """The true answers about a frame: is there a forklift, and which persons wear a helmet."""
    stamp_ns = from_seconds(1 + index / FPS)
    there = any(each.label == "forklift" for each in frame.values())
    alert = AlertStatus("forklift", {"yes": float(there), "no": float(not there)}, there, there, stamp_ns)
    helmets = {number: each.helmet for number, each in frame.items() if each.helmet is not None}
    return Scene(
        *(stamp_ns, "camera", WIDTH, HEIGHT, (), (), None, False, {}, Usage()),
        alerts=(alert,),
        attributes={
            number: {"helmet": AttributeValue("yes" if worn else "no", 1.0, stamp_ns)}
            for number, worn in helmets.items()
        },
    )


@pytest.fixture(scope="module", params=SEEDS, ids=["standing camera", "swinging camera"])
def frames(request: pytest.FixtureRequest) -> list[Frame]:
    return true_frames(*request.param)


@pytest.mark.parametrize("find", [lasting, moments])
def test_all_events_of_exact_tracks_are_found_and_none_is_invented(
    frames: list[Frame], find: Callable[[Sequence[Frame]], Iterator[Event]]
) -> None:
    file = parse_rules(RULES)
    assert not file.problems
    # the first of the tracks of a count is not the scene's
    counts = {rule.name for rule in file.rules if not rule.of_objects}
    scenes = [answers(index, frame) for index, frame in enumerate(frames)]
    found = [
        (rule, state, at, 0 if rule in counts else number)
        for rule, state, at, number in happened(file, map(tracks, frames), scenes)
        if (rule in MOMENTS) == (find is moments)
    ]
    true = sorted(find(frames))
    assert len(true) > (5 if find is moments else 20)
    assert sorted(found) == true
