# SPDX-License-Identifier: Apache-2.0
"""Sequences of the demo world for rules: events that happen beyond doubt, and ones that nearly happen.

What is true is defined by what can be seen: an object is there while at least `VISIBLE` of its body lies
inside the image and is not hidden by others. One that was out of sight for at most `OUT_OF_SIGHT_S` is the
same as before, as for the rules.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from lfm_perception.demo import FRAME_ID
from lfm_perception.demo.bodies import Body, has_helmet, random_body
from lfm_perception.demo.world import World
from lfm_perception.evaluation.demo_sequence import DemoSequence
from lfm_perception.scene import AlertStatus, AttributeValue, Scene, Track, Usage
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds

VISIBLE = 0.5
"""Share of a body that must be visible for its object to be there: half of it."""

OUT_OF_SIGHT_S = 1.0
"""An object that was out of sight for longer is another one."""

LIFE = 100
"""Added to the id of a true track when its object is another one."""

AWAY = 0.3
"""How far outside the image a body waits, image widths: no part of it is visible."""

WALK, CREEP, STRIDE, DRIVE, RUN = (0.09, 0.13), (0.09, 0.11), (0.15, 0.2), (0.24, 0.34), (0.3, 0.45)
"""Speeds, image widths per second."""

ACCELERATION, RAMP_POINTS = 0.4, 8
"""Image widths per second squared, and the number of pieces in which a way speeds up."""

PLACES = """
zones:
  left: [[0.2, 0.3], [0.5, 0.3], [0.5, 1], [0.2, 1]]
lines:
  middle: [[0.55, 1], [0.55, 0.1]]
rules:
"""

RULES = {
    "walks": """
  inside: {when: {label: [person, forklift], inside: left}, for: 0.3, end_after: 0.5}
  loiters: {when: {label: person, inside: left}, for: 2, end_after: 0.5}
  crosses: {when: {label: [person, forklift], crosses: middle}}
  fast: {when: {inside: left, speed: {above: 0.15, hysteresis: 0.03}}, for: 0.3, end_after: 0.5}
  speeds up: {when: {label: forklift, speed: {above: 0.15, hysteresis: 0.03}}, for: 0.3, end_after: 0.5}
""",
    "doors": """
  comes: {when: {label: [person, forklift], appears: 0.5}}
  goes: {when: {label: [person, forklift], disappears: 1}}
""",
    "meetings": """
  close:
    when: {label: person, near: {label: forklift, within: 0.2, hysteresis: 0.03}}
    for: 0.3
    end_after: 3  # who stands before the forklift is not always seen
  counts: {when: {count: {inside: left}, more_than: 1}, for: 0.3, end_after: 0.5}
""",
    "answers": """
  forklift there: {when: {alert: forklift}, for: 0.5, end_after: 0.5}
  forklift gone: {when: {not: {alert: forklift}}, for: 0.5, end_after: 0.5}
  bare head: {when: {label: person, attributes: {helmet: "no"}}, for: 1, end_after: 0.5}
""",
}
"""The rules that each kind of sequence is made for."""

STANDING = (
    '{name: forklift, question: "Is there a forklift?", period: 0.1, threshold: 0.6, hysteresis: 0.2}',
)
ATTRIBUTES = ('{name: helmet, values: ["yes", "no"], labels: [person], period: 0.1}',)
"""What the rules of "answers" ask."""


@dataclass(frozen=True, slots=True)
class Walker(Body):
    """A body that follows its `way`: pairs of second and x, straight between them."""

    way: tuple[tuple[float, float], ...] = ()

    def at(self, seconds: float) -> Body:
        times, places = zip(*self.way, strict=True)
        return replace(self, x=float(np.interp(seconds, times, places)))


class _Way:
    """A way under construction, from a place at second 0."""

    def __init__(self, x: float) -> None:
        self.points = [(0.0, x)]

    def wait(self, seconds: float) -> _Way:
        at, x = self.points[-1]
        self.points.append((at + seconds, x))
        return self

    def go(self, x: float, speed: float) -> _Way:
        """Speed up, go at `speed`, and slow down to stop at `x`."""
        at, before = self.points[-1]
        far = abs(x - before)
        speed = min(speed, math.sqrt(ACCELERATION * far))
        ramp_s = speed / ACCELERATION
        whole_s = ramp_s + far / speed
        for share in np.linspace(0.0, 1.0, RAMP_POINTS + 1)[1:]:
            self._add(at + share * ramp_s, before, x, share**2 * speed * ramp_s / 2.0 / far)
        for share in np.linspace(1.0, 0.0, RAMP_POINTS + 1):
            self._add(at + whole_s - share * ramp_s, before, x, 1.0 - share**2 * speed * ramp_s / 2.0 / far)
        return self

    def _add(self, at: float, before: float, after: float, share: float) -> None:
        self.points.append((at, before + share * (after - before)))


def _walker(rng: random.Random, label: str, depth: float, way: _Way) -> Walker:
    body = random_body(rng, label, moving=False)
    known = {each.name: getattr(body, each.name) for each in fields(body)}
    known |= {"depth": depth + rng.uniform(-0.03, 0.03), "scale": rng.uniform(0.8, 1.0)}
    return Walker(**known, way=tuple(way.points))


def _walks(rng: random.Random) -> tuple[Body, ...]:
    """A person enters the zone and stays there, or only passes, and crosses the line, or turns back before
    it; then a forklift drives through the zone and back, or creeps into it. Each stands while the other one
    moves."""
    stays, turns_at = rng.random() < 0.6, rng.choice((0.42, 0.64))
    person = _Way(0.09).wait(rng.uniform(2.5, 3.0)).go(rng.uniform(0.33, 0.37), rng.uniform(*WALK))
    person.wait(rng.uniform(2.0, 3.0) if stays else 0.0)
    person.go(turns_at, rng.uniform(*WALK)).go(0.09, rng.uniform(*WALK))
    forklift = _Way(0.83).wait(person.points[-1][0] + rng.uniform(0.5, 1.0))
    if rng.random() < 0.6:
        forklift.go(-AWAY, rng.uniform(*DRIVE)).wait(1.0).go(0.83, rng.uniform(*DRIVE))
    else:
        forklift.go(rng.uniform(0.32, 0.38), rng.uniform(*CREEP))
    return _walker(rng, "person", 0.85, person), _walker(rng, "forklift", 0.4, forklift)


def _doors(rng: random.Random) -> tuple[Body, ...]:
    """A person and a forklift come and go at the edges of the image, and stay away for longer than a tracker
    recognizes them; before that another person runs past behind the forklift, hidden for less than a second,
    and out; a box and a cone stand there all the time."""
    left, right = -AWAY, 1.0 + AWAY
    person = _Way(left).wait(rng.uniform(2.0, 3.0)).go(rng.uniform(0.4, 0.46), rng.uniform(*RUN))
    person.wait(rng.uniform(2.0, 3.0)).go(rng.choice((left, right)), rng.uniform(*RUN))
    person.wait(rng.uniform(5.0, 6.0))
    person.go(rng.uniform(0.4, 0.46), rng.uniform(*RUN)).wait(rng.uniform(2.0, 3.0))
    person.go(left, rng.uniform(*RUN))
    forklift = _Way(0.66).wait(rng.uniform(7.5, 8.5)).go(right, rng.uniform(*RUN))
    forklift.wait(rng.uniform(5.0, 6.0)).go(0.66, rng.uniform(*RUN))
    passing = _Way(0.25).wait(rng.uniform(2.5, 3.0)).go(right, RUN[1])
    return (
        _walker(rng, "person", 0.9, person),
        _walker(rng, "forklift", 0.55, forklift),
        _walker(rng, "person", 0.25, passing),
        _walker(rng, "box", 0.95, _Way(0.12)),
        _walker(rng, "cone", 0.8, _Way(0.6)),
    )


def _meetings(rng: random.Random) -> tuple[Body, ...]:
    """A person walks up to a forklift and away again, and once stops at a distance; the forklift stands in
    the zone, or beside it: then they are close, but not two in the zone."""
    place, away = rng.choice(((0.3, 0.7), (0.72, 0.32)))
    side = 1.0 if away > place else -1.0
    person, stops = _Way(away).wait(rng.uniform(2.5, 3.0)), [0.08, 0.08, 0.28]
    rng.shuffle(stops)
    for stop in stops:
        person.go(place + side * stop, rng.uniform(*WALK)).wait(rng.uniform(1.5, 2.0))
        person.go(away, rng.uniform(*WALK)).wait(rng.uniform(1.0, 1.5))
    return (
        _walker(rng, "person", 0.7, person),
        _walker(rng, "forklift", 0.55, _Way(place)),
        _walker(rng, "cone", 0.5, _Way(0.94)),
    )


def _answers(rng: random.Random) -> tuple[Body, ...]:
    """Three persons come, stand and go, one after the other, two of them without a helmet; a forklift comes,
    stands and goes all the while, away from them. A box stands where the forklift does."""
    away, start_s, persons = -AWAY / 2.0, rng.uniform(2.0, 2.5), list[Walker]()
    for helmet in rng.sample((False, False, True), 3):
        way = _Way(away).wait(start_s).go(rng.uniform(0.2, 0.26), rng.uniform(*STRIDE))
        way.wait(rng.uniform(2.0, 2.5)).go(away, rng.uniform(*STRIDE))
        persons.append(_person(rng, helmet, way))
        start_s = way.points[-1][0] + rng.uniform(2.0, 2.5)
    outside, inside = 1.0 + AWAY, 0.72
    forklift = _Way(outside).wait(rng.uniform(0.0, 2.0))
    for _ in range(2):
        forklift.go(inside, rng.uniform(*RUN)).wait(rng.uniform(2.0, 3.0))
        forklift.go(outside, rng.uniform(*RUN)).wait(rng.uniform(1.0, 2.0))
    forklift.go(inside, rng.uniform(*RUN))
    return *persons, _walker(rng, "forklift", 0.5, forklift), _walker(rng, "box", 0.9, _Way(0.62))


def _person(rng: random.Random, helmet: bool, way: _Way) -> Walker:
    """A person with or without a helmet, near enough for it to be seen."""
    while has_helmet(person := _walker(rng, "person", 0.95, way)) is not helmet:
        pass
    return person


_MAKERS = {"walks": _walks, "doors": _doors, "meetings": _meetings, "answers": _answers}

KINDS = (*_MAKERS, "crowded")
"""The kinds of sequences: those made for some rules, and the demo world's own, for all rules but those of
"answers"."""


def bodies_of(kind: str, seed: int) -> tuple[Body, ...]:
    """The bodies of a sequence."""
    return World(seed).bodies if kind == "crowded" else _MAKERS[kind](random.Random(f"{kind} {seed}"))


def rules_of(kind: str) -> str:
    """The rule file for a kind of sequences."""
    chosen = [each for each in RULES if each != "answers"] if kind == "crowded" else [kind]
    return PLACES + "".join(RULES[each] for each in chosen)


def asking(settings: Settings) -> Settings:
    """Settings in which the questions of the rules of "answers" are asked, as often as they are due.

    How much of the time they take is not limited: the events would depend on the speed of the machine.
    """
    return replace(
        settings,
        detect=replace(settings.detect, attributes=ATTRIBUTES),
        questions=replace(settings.questions, standing=STANDING, duty_cycle=1.0),
        caption=replace(settings.caption, enabled=False),
    )


def true_scene(index: int, fps: float, tracks: Sequence[Track], bodies: Sequence[Body]) -> Scene:
    """The true answers about frame `index`, given its true tracks."""
    stamp_ns = from_seconds(index / fps)
    there = any(each.label == "forklift" for each in tracks)
    probabilities = {"yes": float(there), "no": float(not there)}
    alert = AlertStatus("forklift", probabilities, probabilities["yes"], there, stamp_ns)
    attributes = {
        each.track_id: {"helmet": AttributeValue("yes" if has_helmet(body) else "no", 1.0, stamp_ns)}
        for each in tracks
        if (body := bodies[_number(each)]).label == "person"
    }
    return Scene(
        *(stamp_ns, FRAME_ID, 0, 0, (), tuple(tracks), None, False, {}, Usage()),
        alerts=(alert,),
        attributes=attributes,
    )


def true_tracks(demo: DemoSequence, seed: int, bodies: Sequence[Body]) -> list[list[Track]]:
    """The true boxes of the objects that are there, with their own velocities: those of a standing camera."""
    standing, fps = World(seed, pan=0.0), demo.sequence.fps
    standing.bodies = tuple(bodies)
    last, lives, first = dict[int, int](), Counter[int](), dict[tuple[int, int], int]()
    frames = list[list[Track]]()
    for index, objects in enumerate(demo.sequence.frames):
        own, shares, shown = standing.velocities(index), demo.visible_shares(index), list[Track]()
        for each in objects:
            if shares[each.identity] < VISIBLE:
                continue
            number = each.identity
            lives[number] += index - last.get(number, index) > OUT_OF_SIGHT_S * fps
            last[number] = index
            age = index - first.setdefault((number, lives[number]), index)
            track_id = number + 1 + LIFE * lives[number]
            shown.append(Track(track_id, each.label, each.box, 1.0, own[number], age / fps, 0.0))
        frames.append(shown)
    return frames


def _number(track: Track) -> int:
    """The number of the body of a true track."""
    return (track.track_id - 1) % LIFE
