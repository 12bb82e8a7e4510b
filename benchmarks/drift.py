# SPDX-License-Identifier: Apache-2.0
"""Drift on the demo world: false alarms while nothing changes, and when each change is found and named.

The demo model infers one frame per second of a world's time. The baseline is its first 15 minutes; the next
30 minutes are of the same world, and must not drift. Then the camera or the world changes, in four ways.
There is a world for each seed; those of `SEEDS` are held out: limits were set by others. Samples are kept in
the folder, so that a run that was ended goes on. Nothing is timed.

    .venv/bin/python benchmarks/drift.py out/drift_samples --out benchmarks/results/drift.json
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lfm_perception.demo.world import World
from lfm_perception.drift import QUANTITIES, BaselineRecorder, DriftMonitor, Meter, Samples
from lfm_perception.drift.baseline import BLOCK_S
from lfm_perception.evaluation.reports import provenance
from lfm_perception.media.staging import write_json
from lfm_perception.perception import Perception, open_perception
from lfm_perception.scene import Frame, Image
from lfm_perception.settings import Settings

SEEDS, WINDOW_S = (21, 22, 23), 120.0
SETTINGS = {"caption.enabled": False, "image.max_tokens": 64, "engine.n_threads": 1}
BASELINE_S, SAME_S, CHANGED_S = 900, 1800, 180

Change = Callable[[Image, random.Random], Image]


def darker(image: Image, rng: random.Random) -> Image:
    """Half of the light."""
    return np.asarray(image * 0.5, np.uint8)


def blurred(image: Image, rng: random.Random) -> Image:
    """A lens out of focus."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 3.0), np.uint8)


def shaking(image: Image, rng: random.Random) -> Image:
    """A loose camera: shifts of up to 3% of the width, of whole pixels, so that nothing is blurred."""
    x, y = (float(round(rng.uniform(-0.03, 0.03) * image.shape[1])) for _ in range(2))
    moved = np.array([[1.0, 0.0, x], [0.0, 1.0, y]])
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.warpAffine(image, moved, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def unchanged(image: Image, rng: random.Random) -> Image:
    return image


CHANGES: dict[str, tuple[Change, str]] = {
    "darker": (darker, "brightness"),
    "blurred": (blurred, "sharpness"),
    "other labels": (unchanged, "labels"),
    "shaking": (shaking, "motion"),
}
"""Each change with the quantity that is to be named."""


def world(seed: int, name: str) -> World:
    """The world at one frame per second; among other labels, all that moves has become a cone."""
    made = World(seed, fps=1.0)
    if name == "other labels":
        made.bodies = tuple(
            replace(body, label="cone", aspect=0.7) if body.label in ("person", "forklift") else body
            for body in made.bodies
        )
    return made


def inferred(
    perception: Perception, seed: int, name: str, begin: int, end: int
) -> Iterator[tuple[float, Samples]]:
    change = CHANGES[name][0] if name in CHANGES else unchanged
    seen, meter, rng = world(seed, name), Meter(), random.Random(f"{seed} {name} {begin}")
    for index in range(begin, end):
        frame = seen.snapshot(index).frame
        frame = Frame(change(frame.image, rng), frame.stamp_ns, frame.frame_id)
        yield float(index), meter.measure(perception.infer(frame), frame)


def kept(folder: Path, seed: int, name: str, begin: int, end: int) -> list[tuple[float, Samples]]:
    """The samples of these seconds: those in the folder, and what is still missing."""
    file = folder / f"{seed} {name}.jsonl"
    if not file.exists() or len(file.read_text().splitlines()) < end - begin:
        done = len(file.read_text().splitlines()) if file.exists() else 0
        chosen = Settings().with_values(SETTINGS)
        with open_perception(chosen) as perception, file.open("a") as out:
            for at_s, samples in inferred(perception, seed, name, begin + done, end):
                out.write(json.dumps([at_s, dict(samples)]) + "\n")
                out.flush()
    return [(at_s, samples) for at_s, samples in map(json.loads, file.read_text().splitlines())]


def measured(folder: Path, seed: int) -> dict[str, Any]:
    """Windows, false alarms and what was found of each change, in the world of a seed."""
    recorder = BaselineRecorder()
    for at_s, samples in kept(folder, seed, "baseline", 0, BASELINE_S):
        recorder.add(at_s, samples)
    baseline = recorder.baseline((), f"the demo world (seed {seed})")
    warn_psi, end = Settings().drift.warn_psi, BASELINE_S + SAME_S
    same = kept(folder, seed, "same", BASELINE_S, end)
    watch, ends = DriftMonitor(baseline, (), WINDOW_S, warn_psi), []
    for at_s, samples in same:
        if watch.add(at_s, samples) and watch.state[0].psi is not None:
            ends.append(watch.state)
    by_name = {name: [each for state in ends for each in state if each.name == name] for name in QUANTITIES}
    found = {
        "windows": len(ends),
        "false_alarms": {name: sum(each.drifted for each in states) for name, states in by_name.items()},
        "worst_psi": {
            name: round(max(each.psi or 0.0 for each in states), 3) for name, states in by_name.items()
        },
        "limits": {each.name: round(each.limit, 3) for each in ends[-1]},
    }
    before = [(at_s, samples) for at_s, samples in same if at_s >= end - WINDOW_S - BLOCK_S]
    changes = {}
    for name, (_, expected) in CHANGES.items():
        watch, first_s = DriftMonitor(baseline, (), WINDOW_S, warn_psi), dict[str, float]()
        for at_s, samples in before + kept(folder, seed, name, end, end + CHANGED_S):
            if watch.add(at_s, samples):
                for each in watch.state:
                    if each.drifted:
                        first_s.setdefault(each.name, at_s - end)
        last = sorted((each for each in watch.state if each.psi), key=lambda each: -(each.psi or 0.0))
        psi = {each.name: round(each.psi or 0.0, 3) for each in last}
        changes[name] = {"expected": expected, "first_s": first_s, "psi": psi}
    return {"seed": seed, "same": found, "changes": changes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    worlds = []
    for seed in options.seeds:
        worlds.append(measured(options.folder, seed))
        print(json.dumps(worlds[-1], indent=1), flush=True)
    figures = {"kind": "drift", "window_s": WINDOW_S, "rate_hz": 1.0, "worlds": worlds}
    write_json(options.out, {**figures, **provenance(Settings().with_values(SETTINGS))})


if __name__ == "__main__":
    main()
