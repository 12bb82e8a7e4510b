# SPDX-License-Identifier: Apache-2.0
"""Random rules over random tracks give the events of a plain evaluation, rule by rule and track by track."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

import pytest
from rule_scenes import PLACES, RATE_HZ, happened, track

from lfm_perception.rules import RuleFile, parse_rules
from lfm_perception.rules.schema import (
    Combined,
    Condition,
    Count,
    Objects,
    Point,
    Range,
    Rule,
    Zone,
    leaves,
)
from lfm_perception.scene import Track

Shown = Mapping[int, Track]
Event = tuple[str, str, float, int]
LABELS = ("person", "box", "cone")


def segment_distance(p: Point, a: Point, b: Point) -> float:
    (px, py), (ax, ay), (bx, by) = p, a, b
    length = (bx - ax) ** 2 + (by - ay) ** 2
    share = min(max(((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / length, 0.0), 1.0)
    return math.hypot(px - ax - share * (bx - ax), py - ay - share * (by - ay))


def depth_in(zone: Zone, p: Point) -> float:
    """Distance to the nearest edge of the zone, positive inside; the image's edges are none."""
    corners, inside, nearest = zone.points, False, math.inf
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (a[1] > p[1]) != (b[1] > p[1]) and p[0] < a[0] + (p[1] - a[1]) * (b[0] - a[0]) / (b[1] - a[1]):
            inside = not inside
        if not any(a[axis] == b[axis] and a[axis] in (0.0, 1.0) for axis in (0, 1)):
            nearest = min(nearest, segment_distance(p, a, b))
    return nearest if inside else -nearest


def foot(each: Track) -> Point:
    return (each.box.x1 + each.box.x2) / 2, min(each.box.y2, 1 - 1e-9)


class Plain:
    """The rules of a file, evaluated with loops and dictionaries. No moments, no uncertain tracks."""

    def __init__(self, file: RuleFile) -> None:
        self.file, self.zones = file, {zone.name: zone for zone in file.zones}
        self.were: dict[tuple[Objects, int], bool] = {}
        self.counts: dict[Count, bool] = {}
        self.since: dict[tuple[str, int], float] = {}
        self.last: dict[tuple[str, int], float] = {}
        self.begun: set[tuple[str, int]] = set()

    def within(self, value: float, limits: Range, before: bool) -> bool:
        slack = limits.hysteresis * before
        return limits.above - slack < value < limits.below + slack

    def fits(self, objects: Objects, each: Track, shown: Shown) -> bool:
        before = self.were.get((objects, each.track_id), False)
        quantities = {
            "score": each.score,
            "speed": math.hypot(each.velocity.x, each.velocity.y * 0.75),
            "size": math.sqrt(each.box.area),
        }
        depths = {name: depth_in(zone, foot(each)) for name, zone in self.zones.items()}
        near = objects.near
        apart = [
            math.hypot(foot(each)[0] - foot(other)[0], (foot(each)[1] - foot(other)[1]) * 0.75)
            for number, other in shown.items()
            if near and number != each.track_id and self.fits(near.objects, other, shown)
        ]
        return (
            (not objects.labels or each.label in objects.labels)
            and all(self.within(quantities[name], limits, before) for name, limits in objects.ranges)
            and (not objects.inside or any(depths[name] > 0 for name in objects.inside))
            and all(depths[name] < 0 for name in objects.outside)
            and (
                near is None
                or self.within(
                    min(apart, default=9.0), Range(below=near.within, hysteresis=near.hysteresis), before
                )
            )
        )

    def holds(self, condition: Condition, number: int) -> bool:
        if isinstance(condition, Count):
            return self.counts[condition]
        if isinstance(condition, Objects):
            return bool(number) and self.were[condition, number]
        assert isinstance(condition, Combined)
        parts = [self.holds(part, number) for part in condition.parts]
        return {"all": all(parts), "any": any(parts), "not": not parts[0]}[condition.kind]

    def update(self, now: float, shown: Shown) -> Iterator[tuple[str, str, int]]:
        found = [leaf for rule in self.file.rules for leaf in leaves(rule.when)]
        about = {leaf.objects if isinstance(leaf, Count) else leaf for leaf in found}
        self.were |= {
            (objects, number): self.fits(objects, each, shown)
            for objects in about
            if isinstance(objects, Objects)
            for number, each in shown.items()
        }
        for leaf in found:
            if isinstance(leaf, Count):
                count = sum(self.were[leaf.objects, number] for number in shown)
                self.counts[leaf] = self.within(count, leaf.range, self.counts.get(leaf, False))
        for rule in self.file.rules:
            for number in [1, 2, 3, 4, 5, 6] if rule.of_objects else [0]:
                true = (not number or number in shown) and self.holds(rule.when, number)
                yield from self.followed(rule, number, true, now)

    def followed(self, rule: Rule, number: int, true: bool, now: float) -> Iterator[tuple[str, str, int]]:
        key = rule.name, number
        if true:
            self.since.setdefault(key, now)
            self.last[key] = now
            if key not in self.begun and now - self.since[key] >= rule.for_s - 1e-6:
                self.begun.add(key)
                yield rule.name, "begin", number
        elif key in self.since and now - self.last[key] >= rule.end_after_s - 1e-6:
            del self.since[key]
            if key in self.begun:
                self.begun.remove(key)
                yield rule.name, "end", number


def random_objects(rng: random.Random) -> str:
    parts = {
        "label": rng.choice((*LABELS, "[person, box]")),
        "inside": rng.choice(("dock", "pit", "[dock, pit]")),
        "outside": rng.choice(("dock", "pit")),
        "speed": "{above: 0.1, hysteresis: 0.05}",
        "size": "{below: 0.141}",
        "score": "{above: 0.4, below: 0.8, hysteresis: 0.1}",
        "near": f"{{label: {rng.choice(LABELS)}, within: 0.3, hysteresis: {rng.choice((0, 0.05))}}}",
    }
    chosen = {*rng.sample(sorted(parts), rng.randint(1, 3))}
    chosen -= {"outside"} if "inside" in chosen else set()
    return "{" + ", ".join(f"{key}: {parts[key]}" for key in sorted(chosen)) + "}"


def random_condition(rng: random.Random, depth: int = 0) -> str:
    kind = rng.choice(("objects", "count", "all", "any", "not")) if depth < 3 else "objects"
    if kind == "objects":
        return random_objects(rng)
    if kind == "count":
        limits = f"more_than: {(least := rng.randint(0, 2))}, hysteresis: {rng.randint(0, min(least, 1))}"
        return f"{{count: {random_objects(rng)}, {limits}}}"
    if kind == "not":
        return f"{{not: {random_condition(rng, depth + 1)}}}"
    return f"{{{kind}: [{random_condition(rng, depth + 1)}, {random_condition(rng, depth + 1)}]}}"


def random_frames(rng: random.Random) -> list[list[Track]]:
    """Six tracks that wander; all are there first, and each is missing at times."""
    places = {number: [rng.random(), rng.uniform(0.3, 1.0)] for number in range(1, 7)}
    labels, frames = {number: rng.choice(LABELS) for number in places}, list[list[Track]]()
    for index in range(60):
        for place in places.values():
            place[0] = min(max(place[0] + rng.uniform(-0.1, 0.1), 0.0), 1.0)
            place[1] = min(max(place[1] + rng.uniform(-0.1, 0.1), 0.25), 1.0)
        frames.append([
            track(number, place[0], place[1], labels[number], score=rng.random(),
                  vx=rng.uniform(0, 0.2), vy=rng.uniform(0, 0.1))
            for number, place in places.items()
            if index == 0 or rng.random() < 0.85
        ])  # fmt: skip
    return frames


def plain_events(file: RuleFile, frames: Sequence[Sequence[Track]]) -> list[Event]:
    plain = Plain(file)
    return [
        (rule, state, round(index / RATE_HZ, 3), number)
        for index, tracks in enumerate(frames)
        for rule, state, number in plain.update(index / RATE_HZ, {each.track_id: each for each in tracks})
    ]


@pytest.mark.parametrize("seed", range(4))
def test_random_rules_give_the_events_of_a_plain_evaluation(seed: int) -> None:
    rng = random.Random(seed)
    lines = [
        f"  r{index}: {{when: {random_condition(rng)}, for: {for_s}, end_after: {end_after_s}}}\n"
        for index, (for_s, end_after_s, _) in enumerate(itertools.product((0, 0.2), (0, 0.3), range(7)))
    ]
    file, frames = parse_rules(PLACES + "".join(lines)), random_frames(rng)
    scenes = {rule.name for rule in file.rules if not rule.of_objects}
    found = [(*each[:3], 0 if each[0] in scenes else each[3]) for each in happened(file, frames)]
    expected = plain_events(file, frames)
    assert len(expected) > 200
    assert sorted(found) == sorted(expected)
