# SPDX-License-Identifier: Apache-2.0
"""Savings and misses of the motion gate, on sequences that are static first and move afterwards.

    python benchmarks/motion_gate.py [--sequences 2] [--motion-threshold 0.05 0.1] [--max-interval 1.0]
                                     [--out FILE]

For 10 s a camera shows one image of the demo world, with a light that varies by 12% and sensor noise; then
the objects in it move for 10 s. Of 10 frames per second the demo model infers those that
`inference.motion_threshold` lets pass, and all of them where it is 0. `inferred`: share of the frames.
`compute`: seconds of the model and the gate in the static part, relative to no gate. `tracked`: share of the
moving objects (faster than 0.03 image sides per second) that a track matches, over all frames, inferred or
not.
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

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import Snapshot, World
from lfm_perception.evaluation.detection import match
from lfm_perception.perception import Perception
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.tracking import open_tracker
from lfm_perception.vlm import Vlm

STATIC_S = MOVING_S = 10.0
EVERY = 3
"""Rendered frames, at 30 Hz, per camera frame."""

FPS = 30.0
LIGHT_AMPLITUDE, NOISE_STD = 0.12, 4.0
"""Relative amplitude of the light, and standard deviation of the sensor noise in gray levels of 255."""

FIRST_SEED = 300
MIN_SPEED = 0.03
"""Image sides per second from which on an object counts as moving."""


def static_frame(still: Snapshot, index: int, seed: int) -> Frame:
    """The same image again, with varying light and sensor noise."""
    seconds = index / FPS
    light = 1.0 + LIGHT_AMPLITUDE * math.sin(0.7 * seconds)
    noise = np.random.default_rng([seed, index]).normal(0.0, NOISE_STD, still.frame.image.shape)
    image = (still.frame.image * light + noise).clip(0, 255).astype(np.uint8)
    return Frame(image, from_seconds(seconds))


@dataclass(slots=True)
class Part:
    """Frames, inferred frames, compute in seconds, moving objects, and those that were tracked."""

    frames: int = 0
    inferred: int = 0
    seconds: float = 0.0
    moving: int = 0
    tracked: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """All sequences with one threshold."""

    motion_threshold: float
    static: Part
    moving: Part


def run(vlm: Vlm, motion_threshold: float, max_interval: float, sequences: int) -> Row:
    settings = Settings().with_values(
        {
            "inference.motion_threshold": motion_threshold,
            "inference.max_interval": max_interval,
            "caption.enabled": False,
        }
    )
    row = Row(motion_threshold, Part(), Part())
    for seed in range(FIRST_SEED, FIRST_SEED + sequences):
        world = World(seed, 640, 480, pan=0.0)
        static_frames = round(STATIC_S * FPS)
        still = world.snapshot(0)
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        for index in range(0, static_frames + round(MOVING_S * FPS), EVERY):
            static = index < static_frames
            part = row.static if static else row.moving
            snapshot = still if static else world.snapshot(index - static_frames)
            stamp_ns = from_seconds(index / FPS)
            frame = static_frame(still, index, seed) if static else Frame(snapshot.frame.image, stamp_ns)
            began = time.perf_counter()
            passed = perception.should_infer(frame)
            if passed:
                perception.infer(frame)
            part.seconds += time.perf_counter() - began
            part.frames, part.inferred = part.frames + 1, part.inferred + passed
            velocities = world.velocities(max(index - static_frames, 0))
            moving = [o for o in snapshot.objects if np.hypot(*velocities[o.object_id]) > MIN_SPEED]
            part.moving += len(moving)
            part.tracked += len(match(perception.tracks(frame.stamp_ns), moving))
    return row


def table(rows: list[Row]) -> Table:
    shown = Table(box=None, pad_edge=False)
    for head in (
        "inference.motion_threshold",
        "inferred, static",
        "compute, static",
        "inferred, moving",
        "tracked",
    ):
        shown.add_column(head, justify="right")
    for row in rows:
        shown.add_row(
            f"{row.motion_threshold:g}",
            f"{row.static.inferred / row.static.frames:.1%}",
            f"{row.static.seconds / rows[0].static.seconds:.1%}",
            f"{row.moving.inferred / row.moving.frames:.1%}",
            f"{row.moving.tracked / row.moving.moving:.1%}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--motion-threshold", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--max-interval", type=float, default=1.0, help="inference.max_interval, seconds")
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    options = parser.parse_args()
    with LlamaVlm(Settings()) as vlm:
        rows = [
            run(vlm, threshold, options.max_interval, options.sequences)
            for threshold in [0.0, *options.motion_threshold]
        ]
    Console().print(table(rows))
    if options.out:
        record = {
            "sequences": options.sequences,
            "inference.max_interval": options.max_interval,
            "rows": [asdict(row) for row in rows],
        }
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
