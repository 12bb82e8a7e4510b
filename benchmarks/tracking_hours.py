# SPDX-License-Identifier: Apache-2.0
"""Does the tracker's memory stay flat? Hours of a camera at 30 Hz, simulated as fast as they go by.

    python benchmarks/tracking_hours.py [--hours 10] [--out benchmarks/results/tracking_hours.json]

Objects come, walk and go before a camera that swings; detections arrive four times a second, a quarter of a
second late, with jitter, false negatives, false positives and unknown labels. At every frame the tracker gets
the camera's motion and predicts the tracks. Prints the resident set every tenth of the way, and its growth
after the first hundredth. Exits 1 when it grew by 1% or more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.ego_motion_history import Affine, identity_affine

ALLOWED_GROWTH = 0.01
FPS = 30.0
EVERY, LATE = 8, 8
"""Camera frames between inferred frames, and latency of the detections in camera frames."""

BEGUN_S = 1.7e9
"""A wall clock, whose numbers are large."""

OBJECTS = 8
LIFE_S = 20.0


def pan(seconds: float) -> float:
    """Where the camera points, in image widths."""
    return 0.4 * math.sin(0.45 * seconds)


def answer(seconds: float, rng: random.Random) -> list[Detection]:
    """Simulated detections of the scene at that moment."""
    detections = []
    for index in range(OBJECTS):
        life, lived_s = divmod(seconds + index * LIFE_S / OBJECTS, LIFE_S)
        who = random.Random(f"{index} {life}")
        wide, high = who.uniform(0.05, 0.2), who.uniform(0.1, 0.4)
        x = who.uniform(0.2, 0.8) + who.uniform(-0.1, 0.1) * (lived_s - LIFE_S / 2.0) - pan(seconds)
        y = who.uniform(0.3, 0.9)
        x1, y1, x2, y2 = (
            min(max(side + rng.gauss(0.0, 0.01), 0.0), 1.0)
            for side in (x - wide / 2.0, y - high / 2.0, x + wide / 2.0, y + high / 2.0)
        )
        chance = rng.random()
        label = f"thing {rng.random()}" if chance < 0.05 else ("person", "box")[index % 2]
        if chance < 0.9 and x1 < x2 and y1 < y2:
            detections.append(Detection(label, Box(x1, y1, x2, y2), rng.random()))
    if rng.random() < 0.1:
        x, y = rng.uniform(0.0, 0.8), rng.uniform(0.0, 0.8)
        detections.append(Detection("false positive", Box(x, y, x + 0.2, y + 0.2), rng.random()))
    return detections


def step(before_s: float, now_s: float) -> Affine:
    """Motion of the image between two moments."""
    view = identity_affine()
    view[0, 2] = pan(before_s) - pan(now_s)
    return view


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    frames = round(options.hours * 3600.0 * FPS)
    tracker, rng, rejects = open_tracker(TrackerSettings()), random.Random(1), Counter[str]()
    resident: list[int] = []
    published = 0
    started = time.perf_counter()
    for frame in range(frames):
        now_s = frame / FPS
        tracker.add_ego_motion(step(now_s - 1.0 / FPS, now_s), BEGUN_S + now_s)
        if frame % EVERY == 0 and frame >= LATE:
            inferred_s = (frame - LATE) / FPS
            rejects.update(tracker.update(answer(inferred_s, rng), BEGUN_S + inferred_s))
        published += len(tracker.predict(BEGUN_S + now_s))
        if (frame + 1) % (frames // 100) == 0:
            resident.append(_resident_bytes())
            if len(resident) % 10 == 0:
                print(f"{now_s / 3600:6.2f} h  {resident[-1] / 2**20:8.2f} MiB", flush=True)
    growth = resident[-1] / resident[0] - 1.0
    report = {
        "hours": options.hours,
        "camera_frames": frames,
        "inferred_frames": len(range(LATE, frames, EVERY)),
        "settled_mib": resident[0] / 2**20,
        "last_mib": resident[-1] / 2**20,
        "growth": growth,
        "published_tracks_mean": published / frames,
        "rejects": dict(rejects),
        "seconds": time.perf_counter() - started,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return int(growth >= ALLOWED_GROWTH)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
