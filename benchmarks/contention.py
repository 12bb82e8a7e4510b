# SPDX-License-Identifier: Apache-2.0
"""Latency of inference while other processes compete for the cores.

    python benchmarks/contention.py [--frames 12] [--burners N] [--size 256x256] [--isolation process]
                                    [--out FILE]

The true-shape model (`true_shape.py`) infers frames one after the other, up to 87 tokens each: on an idle
machine, then with a busy process on every core (or `--burners` of them), then idle again. Prints medians,
and the ratio of the busy to the idle median; the busy frames include those before the engine has adapted its
threads. Exits 1 when the ratio exceeds 3.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import true_shape

from lfm_perception.backends import open_vlm
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import FramePlan, detect
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

ANSWER_TOKENS = 87
MAX_RATIO = 3.0


def burn() -> None:
    while True:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--burners", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--isolation", default="process", choices=("process", "thread"))
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    model, mmproj = true_shape.files()
    settings = Settings().with_values(
        {"model.path": str(model), "mmproj.path": str(mmproj), "engine.isolation": options.isolation}
    )
    question = detect(settings.dialect, settings.detect.labels, closed=True)
    plan = FramePlan(ImagePlan(width, height), ANSWER_TOKENS)
    rng = np.random.default_rng(0)

    with closing(open_vlm(settings)) as vlm:

        def seconds(count: int) -> list[float]:
            times = []
            for _ in range(count):
                frame = Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), time.time_ns())
                began = time.perf_counter()
                vlm.describe(frame, question, plan)
                times.append(time.perf_counter() - began)
            return times

        seconds(3)
        idle = seconds(options.frames)
        burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(options.burners)]
        for burner in burners:
            burner.start()
        busy = seconds(options.frames)
        for burner in burners:
            burner.kill()
            burner.join()
        after = seconds(options.frames)
    parts = {"idle": idle, "busy": busy, "idle again": after}
    ratio = float(np.median(busy) / np.median(idle))
    for name, times in parts.items():
        print(f"{name:12}{1e3 * np.median(times):8.0f} ms median, {1e3 * max(times):.0f} ms at most")
    cores = len(os.sched_getaffinity(0))
    print(f"{options.burners} busy processes on {cores} cores: {ratio:.2f} times the latency")
    if options.out:
        record = {
            "size": options.size,
            "isolation": options.isolation,
            "burners": options.burners,
            "cores": cores,
            "ratio": round(ratio, 3),
            "ms": {name: [round(1e3 * each, 1) for each in times] for name, times in parts.items()},
        }
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    return int(ratio > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
