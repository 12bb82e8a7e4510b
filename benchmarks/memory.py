"""Is memory flat? Looks at many frames of the demo world and watches the resident set.

    python benchmarks/memory.py [--frames 2000] [--json FILE]

Every frame is detected and, every tenth, described, in changing sizes, label sets and dialects, open and
closed. Prints the resident set every tenth of the way and its growth after the first 200 frames (a tenth
of a shorter run). Exits 1 when it grew by 2% or more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

from lfm_perception.demo.world import LABELS, World
from lfm_perception.planning.image_plan import ImageLimits, plan_image
from lfm_perception.settings import Settings
from lfm_perception.vlm import FramePlan
from lfm_perception.vlm.llama import LlamaVlm
from lfm_perception.vlm.prompts import BBOX, BBOX_2D, CAPTION, ask, detect

ALLOWED_GROWTH = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    settled = min(200, arguments.frames // 10)
    plans = [plan_image(640, 480, ImageLimits(32, most)) for most in (64, 128, 256)]
    resident = []
    started = time.perf_counter()
    with LlamaVlm(Settings()) as vlm:
        for index, snapshot in enumerate(islice(World(seed=0), arguments.frames)):
            image = plans[index // 3 % len(plans)]
            labels = LABELS[: 1 + index % len(LABELS)]
            question = detect((BBOX, BBOX_2D)[index % 2], labels, closed=index % 4 < 2)
            vlm.describe(snapshot.frame, question, FramePlan(image, 256))
            if index % 10 == 0:
                vlm.describe(snapshot.frame, ask(CAPTION), FramePlan(image, 64))
            resident.append(_resident_bytes())
            if (index + 1) % max(1, arguments.frames // 10) == 0:
                print(f"{index + 1:>6} frames  {resident[-1] / 2**20:8.1f} MiB", flush=True)
    growth = resident[-1] / resident[settled] - 1.0
    report = {
        "frames": len(resident),
        "settled_after": settled,
        "settled_mib": resident[settled] / 2**20,
        "last_mib": resident[-1] / 2**20,
        "growth": growth,
        "seconds": time.perf_counter() - started,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"growth after the first {settled} frames: {100 * growth:+.2f}%")
    return int(growth >= ALLOWED_GROWTH)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
