"""What the gate saves while nothing moves, and whether it misses what does: films that stand, then live on.

    python benchmarks/motion_gate.py [--films 2] [--difference 0.05 0.1] [--longest 1.0] [--out FILE]

For 10 s a camera shows one picture of the demo world, under light that swings by 12% and with the noise of a
sensor; then the bodies in it walk for 10 s. Of 10 frames a second the demo model looks at those that
`inference.motion_threshold` lets pass, at all of them where it is 0. `looks`: share of the frames inferred.
`compute`: seconds of the model and the gate in the standing part, of those without a gate. `found`: share of
the bodies in motion (faster than 0.03 image sides per second) that a track lies on, over all frames, those
that were not looked at included.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lfm_perception.backends.llama import LlamaVlm
from lfm_perception.demo.world import Snapshot, World
from lfm_perception.evaluation.detection import match
from lfm_perception.perception import Perception
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker
from lfm_perception.vlm import Vlm

STANDS_S = WALKS_S = 10.0
EVERY = 3
"""Film frames, at 30 Hz, from one camera frame to the next."""

FPS = 30.0
LIGHT, GRAIN = 0.12, 4.0
"""Swing of the light, and standard deviation of the noise in grey levels of 255."""

FIRST_SEED = 300
MOVES = 0.03


def standing(still: Snapshot, index: int, seed: int) -> Frame:
    """One picture again, as a sensor sees it under a light that swings."""
    seconds = index / FPS
    light = 1.0 + LIGHT * math.sin(0.7 * seconds)
    grain = np.random.default_rng([seed, index]).normal(0.0, GRAIN, still.frame.image.shape)
    image = (still.frame.image * light + grain).clip(0, 255).astype(np.uint8)
    return Frame(image, round(seconds * 1e9))


@dataclass(slots=True)
class Part:
    """Frames, those looked at, seconds spent, bodies in motion and those found."""

    frames: int = 0
    looks: int = 0
    seconds: float = 0.0
    moving: int = 0
    found: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """All films under one setting."""

    difference: float
    standing: Part
    walking: Part


def watch(vlm: Vlm, difference: float, longest: float, films: int) -> Row:
    settings = Settings().with_values(
        {
            "inference.motion_threshold": difference,
            "inference.max_interval": longest,
            "caption.enabled": False,
        }
    )
    row = Row(difference, Part(), Part())
    for seed in range(FIRST_SEED, FIRST_SEED + films):
        world = World(seed, 640, 480, pan=0.0)
        begins = round(STANDS_S * FPS)
        still = world.snapshot(0)
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        for index in range(0, begins + round(WALKS_S * FPS), EVERY):
            stands = index < begins
            part = row.standing if stands else row.walking
            snapshot = still if stands else world.snapshot(index - begins)
            stamp_ns = round(index / FPS * 1e9)
            frame = standing(still, index, seed) if stands else Frame(snapshot.frame.image, stamp_ns)
            began = time.perf_counter()
            looks = perception.should_infer(frame)
            if looks:
                perception.infer(frame)
            part.seconds += time.perf_counter() - began
            part.frames, part.looks = part.frames + 1, part.looks + looks
            velocities = world.velocities(max(index - begins, 0))
            moving = [o for o in snapshot.objects if np.hypot(*velocities[o.object_id]) > MOVES]
            part.moving += len(moving)
            part.found += len(match(perception.tracks(frame.stamp_ns), moving))
    return row


def table(rows: list[Row]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for head in (
        "inference.motion_threshold",
        "looks standing",
        "compute standing",
        "looks walking",
        "found",
    ):
        shown.add_column(head, justify="right")
    for row in rows:
        shown.add_row(
            f"{row.difference:g}",
            f"{row.standing.looks / row.standing.frames:.1%}",
            f"{row.standing.seconds / rows[0].standing.seconds:.1%}",
            f"{row.walking.looks / row.walking.frames:.1%}",
            f"{row.walking.found / row.walking.moving:.1%}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--films", type=int, default=2)
    parser.add_argument("--difference", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--longest", type=float, default=1.0, help="inference.max_interval, seconds")
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    options = parser.parse_args()
    with LlamaVlm(Settings()) as vlm:
        rows = [
            watch(vlm, difference, options.longest, options.films)
            for difference in [0.0, *options.difference]
        ]
    Console().print(table(rows))
    if options.out:
        record = {
            "films": options.films,
            "inference.max_interval": options.longest,
            "rows": [asdict(row) for row in rows],
        }
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
