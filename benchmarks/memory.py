# SPDX-License-Identifier: Apache-2.0
"""Memory growth and budget violations over many frames of the demo world, inferred as in the node.

    python benchmarks/memory.py [--frames 2000] [--json FILE]

Every 5 frames the settings change: token budget, image size, labels, dialect, open or closed vocabulary.
Every frame is checked: image and answer tokens within `budget.tokens`, a valid JSON answer with complete
objects, and as many image tokens as planned. Prints the resident set size (RSS) after every tenth of the run
and its growth after the first 500 frames (a tenth of a shorter run). Exits 1 after a violation, or when the
RSS grew by 2% or more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import World
from lfm_perception.perception import Perception
from lfm_perception.scene import Scene
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

ALLOWED_GROWTH = 0.02
CHANGE_EVERY = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    settled = min(500, arguments.frames // 10)
    resident, violations, totals = list[int](), Counter[str](), Counter[str]()
    rng = random.Random(0)
    settings = _settings(rng)
    started = time.perf_counter()
    with LlamaVlm(settings) as vlm:
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        for index, snapshot in enumerate(islice(World(seed=0), arguments.frames)):
            if index % CHANGE_EVERY == 0:
                settings = _settings(rng)
                perception.reconfigure(settings)
            perception.update_ego_motion(snapshot.frame)
            scene = perception.infer(snapshot.frame)
            violations.update(_violations(scene, settings, perception))
            totals.update(frames=1, objects=len(scene.detections), captions=scene.caption_usage is not None)
            totals.update(truncated=scene.truncated)
            resident.append(_resident_bytes())
            if (index + 1) % max(1, arguments.frames // 10) == 0:
                print(f"{index + 1:>6} frames  {resident[-1] / 2**20:8.1f} MiB", flush=True)
    growth = resident[-1] / resident[settled] - 1.0
    report = {
        **totals,
        "violations": dict(violations),
        "settled_after": settled,
        "settled_mib": resident[settled] / 2**20,
        "last_mib": resident[-1] / 2**20,
        "growth": growth,
        "seconds": time.perf_counter() - started,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(", ".join(f"{count} {name}" for name, count in totals.items()))
    print(f"violations: {dict(violations) or 'none'}")
    print(f"growth after the first {settled} frames: {100 * growth:+.2f}%")
    return int(bool(violations) or growth >= ALLOWED_GROWTH)


def _settings(rng: random.Random) -> Settings:
    image_tokens = rng.choice((64, 128, 256))
    return Settings().with_values(
        {
            "budget.tokens": image_tokens + rng.choice((24, 60, 120, 300)),
            "image.max_tokens": image_tokens,
            "detect.labels": list(LABELS[: rng.randint(1, len(LABELS))]),
            "detect.closed": rng.random() < 0.5,
            "detect.dialect": rng.choice(("bbox", "bbox_2d")),
            "caption.period": 0.3,
        }
    )


def _violations(scene: Scene, settings: Settings, perception: Perception) -> list[str]:
    """The violations in one scene, as text."""
    caption_tokens = scene.caption_usage.answer_tokens if scene.caption_usage else 0
    spent = scene.usage.image_tokens + scene.usage.answer_tokens + caption_tokens
    plan = perception.plan
    violations = []
    if spent > settings.budget.tokens:
        violations.append("token budget")
    if plan is None or scene.usage.image_tokens != plan.image.tokens:
        violations.append("planned image tokens")
    try:
        complete = all({"label"} < set(entry) for entry in json.loads(scene.text))
    except (ValueError, TypeError):
        complete = False
    return violations if complete else [*violations, "valid JSON of complete objects"]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
