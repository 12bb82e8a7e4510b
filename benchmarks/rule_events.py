# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of events of the rules on films of the demo world, through the tracker.

    python benchmarks/rule_events.py --json benchmarks/results/rule_events.json

The true events are those of the same rules on the true boxes, which `test/test_rule_world.py` compares with
events found without the engine. An event is found if one of its rule begins within 0.5 s, for an object of
the same label; every other one is invented. Every 6th frame is inferred and its answer arrives 6 frames late.
Detections are simulated with the noise of a model (`evaluation/tracking.py`), or those of the demo model.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfm_perception.backends import open_vlm
from lfm_perception.demo.bodies import Body, random_body
from lfm_perception.demo.world import World
from lfm_perception.evaluation.demo_sequence import DemoSequence
from lfm_perception.evaluation.tracking import PROTOCOLS, Detector
from lfm_perception.provenance import versions
from lfm_perception.rules import RuleEngine, parse_rules
from lfm_perception.scene import Track
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.vlm import Vlm

RULES = """
zones:
  left: [[0.2, 0.3], [0.5, 0.3], [0.5, 1], [0.2, 1]]
lines:
  middle: [[0.55, 1], [0.55, 0.1]]
rules:
  inside: {when: {label: [person, forklift], inside: left}, for: 0.3, end_after: 0.5}
  loiters: {when: {label: person, inside: left}, for: 2, end_after: 0.5}
  crosses: {when: {label: [person, forklift], crosses: middle}}
  counts: {when: {count: {inside: left}, more_than: 1}, for: 0.3, end_after: 0.5}
  close:
    when: {label: person, near: {label: forklift, within: 0.2, hysteresis: 0.03}}
    for: 0.3
    end_after: 0.5
  fast: {when: {inside: left, speed: {above: 0.15, hysteresis: 0.03}}, for: 0.3, end_after: 0.5}
  comes: {when: {label: [person, forklift], appears: 0.5}}
  goes: {when: {label: [person, forklift], disappears: 1}}
"""

SETTLED_S = 2.0
"""Events before are not counted: the tracker has had few answers."""

TOLERANCE_S, FPS, ASPECT = 0.5, 30.0, 0.75
FILMS = ((201, 0.0), (202, 0.0), (203, 0.0), (204, 0.06), (205, 0.06), (206, 0.06))
"""Seeds, and how far the camera swings, in image widths."""

SCENES = {"apart": 6, "crowded": 3}
"""Films of each kind of scene: three objects that go to and fro, each in its own lane; and the seven of the
demo world, which hide each other a good part of the time."""

LANES = (("forklift", 0.4, 0.2), ("person", 0.65, 0.08), ("person", 0.95, 0.11))
"""The objects of a scene whose objects are apart: label, depth, and speed in image widths per second."""

OUT_OF_SIGHT_S = 1.0
"""An object that was out of sight for longer is another one."""

DETECTIONS = ("simulated", "demo model")

Found = tuple[str, str, float]
"""Rule, label of the object (empty for the scene), second."""


def begun(frames: Sequence[Sequence[Track]]) -> list[Found]:
    """The events that begin, and the moments."""
    file = parse_rules(RULES)
    assert not file.problems, file.problems
    engine, of_objects = (
        RuleEngine(file, max_rate=1000.0),
        {rule.name: rule.of_objects for rule in file.rules},
    )
    return [
        (event.rule, event.tracks[0].label if of_objects[event.rule] else "", index / FPS)
        for index, tracks in enumerate(frames)
        for event in engine.update(from_seconds(1.0 + index / FPS), tracks, ASPECT)
        if event.state != "end"
    ]


def bodies_of(scene: str, seed: int) -> tuple[Body, ...]:
    if scene == "crowded":
        return World(seed).bodies
    rng = random.Random(f"rules {seed}")
    bodies = ((random_body(rng, label, moving=True), depth, speed) for label, depth, speed in LANES)
    return tuple(
        replace(body, depth=depth, speed=math.copysign(speed, body.speed), sway=0.0)
        for body, depth, speed in bodies
    )


def true_tracks(film: DemoSequence, seed: int, bodies: Sequence[Body]) -> list[list[Track]]:
    """The true boxes, with the velocities of the objects themselves: those under a camera that stands."""
    standing, frames = World(seed, pan=0.0), []
    standing.bodies = tuple(bodies)
    last, lives, first = dict[int, int](), Counter[int](), dict[tuple[int, int], int]()
    for index, objects in enumerate(film.sequence.frames):
        own = standing.velocities(index)
        for each in objects:
            lives[each.identity] += index - last.get(each.identity, index) > OUT_OF_SIGHT_S * FPS
            last[each.identity] = index
            first.setdefault((each.identity, lives[each.identity]), index)
        frames.append([
            Track(each.identity + 1 + 100 * lives[each.identity], each.label, each.box, 1.0,
                  own[each.identity], (index - first[each.identity, lives[each.identity]]) / FPS,
                  0.0)
            for each in objects
        ])  # fmt: skip
    return frames


def compared(true: Sequence[Found], found: Sequence[Found]) -> dict[str, Counter[str]]:
    """Numbers of true events, of those found within the tolerance, and of invented ones, by rule."""
    pairs = sorted(
        (abs(expected[2] - other[2]), i, j)
        for i, expected in enumerate(true)
        for j, other in enumerate(found)
        if expected[:2] == other[:2] and abs(expected[2] - other[2]) <= TOLERANCE_S
    )
    used_true, used_found = set[int](), set[int]()
    for _, i, j in pairs:
        if i not in used_true and j not in used_found:
            used_true.add(i)
            used_found.add(j)
    settled = [i for i, each in enumerate(true) if each[2] >= SETTLED_S]
    others = [each for j, each in enumerate(found) if j not in used_found]
    return {
        "true": Counter(true[i][0] for i in settled),
        "found": Counter(true[i][0] for i in settled if i in used_true),
        "invented": Counter(each[0] for each in others if each[2] >= SETTLED_S),
    }


def measured(scene: str, films: int, seconds: float, settings: Settings, vlm: Vlm) -> list[dict[str, Any]]:
    """A row for each rule and each kind of detections, over the films of a kind of scene."""
    names = ("true", "found", "invented")
    counts = {kind: {name: Counter[str]() for name in names} for kind in DETECTIONS}
    for seed, pan in FILMS[:films]:
        bodies = bodies_of(scene, seed)
        film = DemoSequence(seed, seconds, pan, bodies=bodies)
        true = begun(true_tracks(film, seed, bodies))
        detectors: dict[str, Detector | None] = {
            "simulated": None,
            "demo model": film.detector(vlm, settings),
        }
        for kind, detector in detectors.items():
            found = begun(film.run(PROTOCOLS["sparse-late"], settings, seed, detector).tracks)
            for name, count in compared(true, found).items():
                counts[kind][name] += count
            print(f"{scene}, film {seed}, {kind}: {len(true)} true, {len(found)} found", flush=True)
    return [row for kind, count in counts.items() for row in _rows(scene, kind, **count)]


def _rows(
    scene: str, detections: str, true: Counter[str], found: Counter[str], invented: Counter[str]
) -> list[dict[str, Any]]:
    rows = [(rule, true[rule], found[rule], invented[rule]) for rule in sorted(true | found | invented)]
    rows.append(("all", true.total(), found.total(), invented.total()))
    return [
        {
            "scene": scene,
            "detections": detections,
            "rule": rule,
            "true": expected,
            "found": common,
            "invented": others,
            "precision": round(common / max(common + others, 1), 3),
            "recall": round(common / max(expected, 1), 3),
        }
        for rule, expected, common, others in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = Settings()
    with closing(open_vlm(settings, print)) as vlm:
        rows = [
            row
            for scene in options.scenes
            for row in measured(scene, SCENES[scene], options.seconds, settings, vlm)
        ]
    for row in rows:
        print(*row.values(), sep="\t")
    if options.json:
        inputs = {"films": FILMS, "scenes": SCENES, "seconds": options.seconds, "tolerance_s": TOLERANCE_S}
        report = {"inputs": inputs, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
