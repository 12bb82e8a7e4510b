# SPDX-License-Identifier: Apache-2.0
"""Quality against latency of the demo model, for each limit on image tokens.

    python benchmarks/quality_speed.py [--tokens 32 48 64 96 128 192 256] [--camera 640x480] [--scenes 200]
                                       [--seed 0] [--out benchmarks/results]

Every limit (`image.max_tokens`) gets the same new hard scenes of the demo world, rendered at the size of
that camera, with image plans as in the node. Each scene is inferred at every limit before the next one, so
that a machine that slows down affects all limits alike. The latency is that of one detection answer, without
captions and drafts.

Writes quality_speed.json, from which benchmarks/charts.py draws quality_speed.svg.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from lfm_perception.backends.llama import model_files
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.bodies import HARD, LABELS
from lfm_perception.demo.world import Snapshot, still
from lfm_perception.evaluation.detection import evaluate
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.provenance import machine, sha256
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Answer
from lfm_perception.settings import Settings


@dataclass
class Point:
    """One limit on image tokens, and its answers, with the latency of each in `seconds`."""

    max_tokens: int
    plan: ImagePlan
    answers: list[tuple[Snapshot, Answer]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def measures(self) -> dict[str, Any]:
        report = evaluate([(answer.detections, snapshot.objects) for snapshot, answer in self.answers])
        usages = [answer.usage for _, answer in self.answers]
        stages = ("encode_s", "prefill_s", "decode_s")
        medians = {stage: statistics.median(getattr(usage, stage) for usage in usages) for stage in stages}
        return {
            "max_tokens": self.max_tokens,
            "image": f"{self.plan.width}x{self.plan.height}",
            "image_tokens": self.plan.tokens,
            "precision": round(report.at_50.precision, 4),
            "recall": round(report.at_50.recall, 4),
            "f1": round(report.at_50.f1, 4),
            "f1_at_75": round(report.at_75.f1, 4),
            "mean_iou": round(report.mean_iou, 4),
            "frame_ms": round(1000 * statistics.median(self.seconds), 1),
            **{stage.replace("_s", "_ms"): round(1000 * medians[stage], 1) for stage in stages},
            "answer_tokens": statistics.median(usage.answer_tokens for usage in usages),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=[32, 48, 64, 96, 128, 192, 256])
    parser.add_argument("--camera", default="640x480")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    width, height = map(int, arguments.camera.split("x"))
    points = [
        Point(most, plan_image(width, height, ImageLimits(min(32, most), most))) for most in arguments.tokens
    ]
    settings = Settings()
    question, limit = detect(BBOX, LABELS), settings.detect.max_tokens
    with LlamaVlm(settings) as vlm:
        for index in track(range(arguments.scenes), "inferring", console=Console(stderr=True)):
            rng = random.Random(f"quality and speed {arguments.seed} {index}")
            snapshot = still(rng, width, height, HARD)
            for point in points:
                began = time.perf_counter()
                answer = vlm.describe(snapshot.frame, question, FramePlan(point.plan, limit))
                point.seconds.append(time.perf_counter() - began)
                point.answers.append((snapshot, answer))
    measured = [point.measures() for point in points]
    report = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("lfm_perception", "llama-cpp-python", "numpy")},
        "model": {path.name: sha256(path) for path in model_files(settings)},
        "camera": arguments.camera,
        "scenes": arguments.scenes,
        "seed": arguments.seed,
        "points": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quality_speed.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(measured)
    print(f"written to {arguments.out}/quality_speed.json")


def _show(points: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    names = ("max_tokens", "image", "f1", "f1_at_75", "mean_iou", "frame_ms", "encode_ms", "decode_ms")
    for name in names:
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(*(str(point[name]) for name in names))
    Console().print(table)


if __name__ == "__main__":
    main()
