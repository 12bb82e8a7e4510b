# SPDX-License-Identifier: Apache-2.0
"""CPU time of resizing a camera frame to its planned size, beside OpenCV's INTER_AREA and Pillow.

    python benchmarks/resize.py --json benchmarks/results/resize.json

All run in one process on one thread, in turns, and the least CPU time of each is taken, so that their ratios
hold on a busy machine, which spoils caches and so medians. The frame is the photograph that comes with
matplotlib, enlarged. Differences are in gray levels, from Pillow's bilinear result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image as PillowImage

from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.planning.resize import resize
from lfm_perception.provenance import versions
from lfm_perception.scene import Image

IN_A_ROW = 10
"""Frames that a method resizes before the next one's turn."""

FRAMES = ((640, 480), (1280, 720), (1920, 1080))


def area(image: Image, plan: ImagePlan) -> Image:
    size = (plan.width, plan.height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def pillow(image: Image, plan: ImagePlan) -> Image:
    size = (plan.width, plan.height)
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.BILINEAR))


def bicubic(image: Image, plan: ImagePlan) -> Image:
    return resize(image, ImagePlan(plan.width, plan.height, resample="bicubic"))


METHODS: dict[str, Callable[[Image, ImagePlan], Image]] = {
    "INTER_AREA": area, "Pillow bilinear": pillow, "bilinear": resize, "bicubic": bicubic
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    photograph = np.asarray(PillowImage.open(path))
    rows = []
    for width, height in FRAMES:
        frame = np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
        plan = plan_image(width, height, ImageLimits())
        expected = pillow(frame, plan).astype(int)
        times: dict[str, list[float]] = {name: [] for name in METHODS}
        for turn in range(arguments.repeats * len(METHODS)):
            name = list(METHODS)[turn // IN_A_ROW % len(METHODS)]
            began_s = time.process_time()
            METHODS[name](frame, plan)
            times[name].append(1000 * (time.process_time() - began_s))
        for name, method in METHODS.items():
            off = np.abs(method(frame, plan) - expected)
            row = {
                "frame": f"{width}x{height}",
                "to": f"{plan.width}x{plan.height}",
                "method": name,
                "least_ms": round(min(times[name]), 2),
                "median_ms": round(statistics.median(times[name]), 2),
                "ratio": round(min(times[name]) / min(times["INTER_AREA"]), 2),
                "mean_difference": round(float(off.mean()), 3),
                "largest_difference": int(off.max()),
            }
            rows.append(row)
            print(*row.values(), sep="\t")
    if arguments.json:
        arguments.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
