# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of events of the rules on sequences of the demo world, through the tracker.

    python benchmarks/rule_events.py --json benchmarks/results/rule_events.json
    python benchmarks/rule_events.py --kinds doors --seeds 11 --pan 0.06     # one sequence, to look into

The sequences and the truth are those of `evaluation/rule_scenes.py`: `clear` sequences are made for their
rules, with events that happen beyond doubt and ones that nearly happen; in `crowded` ones the seven objects
of the demo world hide each other a good part of the time. The true events are those of the same rules on the
true boxes, which `test/test_rule_world.py` compares with events found without the engine. An event is found
if one of its rule begins within 0.5 s, for an object of the same label; every other one is invented. Every
6th frame is inferred and its answer arrives 6 frames late. Detections are simulated with the noise of a model
(`evaluation/tracking.py`), or those of the demo model.

Rules about answers are measured with the demo model alone, through `Perception`, which asks it standing
questions and attributes of tracks, about the inferred frames and as late: their own time is not counted.

The seeds of `SEEDS` are held out: rules, scenes and settings are developed on others. Meetings have seeds of
their own, as the `end_after` of `close` was raised after a run over meetings of the others.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lfm_perception.backends import open_vlm
from lfm_perception.evaluation.demo_sequence import DemoSequence
from lfm_perception.evaluation.rule_scenes import (
    KINDS,
    asking,
    bodies_of,
    rules_of,
    true_scene,
    true_tracks,
)
from lfm_perception.evaluation.tracking import PROTOCOLS
from lfm_perception.perception import Perception
from lfm_perception.provenance import versions
from lfm_perception.rules import RuleEngine, parse_rules
from lfm_perception.scene import Scene, Track
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.tracking import open_tracker
from lfm_perception.vlm import Vlm

SETTLED_S = 2.0
"""Events before are not counted: the tracker has had few answers."""

TOLERANCE_S, FPS, ASPECT = 0.5, 30.0, 0.75

SEEDS = {
    "walks": range(301, 325),
    "doors": range(301, 313),
    "meetings": range(325, 349),
    "answers": range(301, 313),
    "crowded": range(301, 303),
}
"""Seeds of the sequences of each kind: more where few events happen, fewer where objects hide each other."""

SWING = 0.06
"""How far the camera swings in the sequences of odd seeds, image widths."""

DETECTIONS = ("simulated", "demo model")

Found = tuple[str, str, float]
"""Rule, label of the object (empty for the scene), second."""

Seen = tuple[Sequence[Track], Scene | None]
"""What the rules get at a frame: the tracks, and the newest scene where there are answers."""


def begun(kind: str, frames: Iterable[Seen]) -> list[Found]:
    """The events that begin, and the moments."""
    file = parse_rules(rules_of(kind))
    assert not file.problems, file.problems
    engine = RuleEngine(file, max_rate=1000.0)
    of_objects = {rule.name: rule.of_objects for rule in file.rules}
    return [
        (event.rule, event.tracks[0].label if of_objects[event.rule] else "", index / FPS)
        for index, (tracks, scene) in enumerate(frames)
        for event in engine.update(from_seconds(index / FPS), tracks, ASPECT, scene)
        if event.state != "end"
    ]


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


def measured(
    kind: str, sequences: Sequence[tuple[int, float]], seconds: float, settings: Settings, vlm: Vlm
) -> list[dict[str, Any]]:
    """A row for each rule and each kind of detections, over the sequences of a kind."""
    names = ("true", "found", "invented")
    counts = {each: {name: Counter[str]() for name in names} for each in DETECTIONS}
    for seed, pan in sequences:
        bodies = bodies_of(kind, seed)
        demo = DemoSequence(seed, seconds, pan, bodies=bodies)
        exact = [
            (tracks, true_scene(index, FPS, tracks, bodies))
            for index, tracks in enumerate(true_tracks(demo, seed, bodies))
        ]
        true = begun(kind, exact)
        for each, frames in seen(kind, demo, seed, settings, vlm):
            found = begun(kind, frames)
            for name, count in compared(true, found).items():
                counts[each][name] += count
            print(f"{kind}, sequence {seed}, {each}: {len(true)} true, {len(found)} found", flush=True)
    scene = "crowded" if kind == "crowded" else "clear"
    return [row for each, count in counts.items() for row in _rows(scene, each, **count)]


def seen(
    kind: str, demo: DemoSequence, seed: int, settings: Settings, vlm: Vlm
) -> Iterator[tuple[str, Iterable[Seen]]]:
    """What the rules get at each frame of a sequence, with each kind of detections."""
    late = PROTOCOLS["sparse-late"]
    if kind == "answers":
        perception = Perception(asking(settings), vlm, open_tracker(settings.tracker))
        yield "demo model", demo.perceive(late, perception, seed)
        return
    for each, detector in zip(DETECTIONS, (None, demo.detector(vlm, settings)), strict=True):
        yield each, ((tracks, None) for tracks in demo.run(late, settings, seed, detector).tracks)


def _rows(
    scene: str, detections: str, true: Counter[str], found: Counter[str], invented: Counter[str]
) -> list[dict[str, Any]]:
    rows = [(rule, true[rule], found[rule], invented[rule]) for rule in sorted(true | found | invented)]
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


def sequences(kind: str, seeds: Sequence[int] | None, pan: float) -> list[tuple[int, float]]:
    """Seeds and swings of a kind's sequences: the held-out ones, or those of other seeds."""
    return [(seed, pan) for seed in seeds] if seeds else [(seed, SWING * (seed % 2)) for seed in SEEDS[kind]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=28.0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="*", type=int, help="sequences of these seeds")
    parser.add_argument("--pan", type=float, default=0.0, help="how far the camera swings in them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    of_kind = {kind: sequences(kind, options.seeds, options.pan) for kind in options.kinds}
    settings = Settings()
    with closing(open_vlm(settings, print)) as vlm:
        rows = [
            row
            for kind in options.kinds
            for row in measured(kind, of_kind[kind], options.seconds, settings, vlm)
        ]
    for row in rows:
        print(*row.values(), sep="\t")
    if options.json:
        inputs = {"sequences": of_kind, "seconds": options.seconds, "tolerance_s": TOLERANCE_S}
        report = {"inputs": inputs, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
