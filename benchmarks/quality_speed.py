# SPDX-License-Identifier: Apache-2.0
"""Quality against latency of the demo model, for each limit on image tokens.

    python benchmarks/quality_speed.py [--tokens 32 48 64 96 128 192 256] [--camera 640x480] [--scenes 200]
                                       [--seed 0] [--out benchmarks/results]

Every limit (`image.max_tokens`) gets the same new hard scenes of the demo world, rendered at the size of
that camera, with image plans as in the node. Each scene is inferred at every limit before the next one, so
that a machine that slows down affects all limits alike. The latency is that of one detection answer, without
captions and drafts.

Writes quality_speed.json and quality_speed.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
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
from lfm_perception.provenance import sha256
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Answer
from lfm_perception.settings import Settings

COLOURS = {"f1": "#3b6ea5", "mean_iou": "#4c8c4a", "f1_at_75": "#c0651d"}
LEGEND = {"f1": "F1 at IoU 0.5", "mean_iou": "mean IoU", "f1_at_75": "F1 at IoU 0.75"}


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
        "machine": {"cores": f"{os.cpu_count()} x {_processor()}", "system": platform.platform()},
        "versions": {name: version(name) for name in ("lfm_perception", "llama-cpp-python", "numpy")},
        "model": {path.name: sha256(path) for path in model_files(settings)},
        "camera": arguments.camera,
        "scenes": arguments.scenes,
        "seed": arguments.seed,
        "points": measured,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quality_speed.json").write_text(json.dumps(report, indent=2) + "\n")
    title = f"The demo model on {arguments.scenes} hard scenes, camera {arguments.camera}"
    (arguments.out / "quality_speed.svg").write_text(plot(measured, title))
    _show(measured)
    print(f"written to {arguments.out}/quality_speed.json and quality_speed.svg")


def plot(points: Sequence[dict[str, Any]], title: str) -> str:
    """Quality over latency, as SVG. The number above each latency is the limit on image tokens."""
    wide, high, left, right, top, bottom = 720, 400, 50, 20, 70, 50
    longest = max(point["frame_ms"] for point in points)
    step = next(s for s in (5, 10, 20, 25, 50, 100, 200, 250, 500, 10_000) if longest / s <= 8)
    most = step * (longest // step + 1)

    def x(ms: float) -> float:
        return round(left + (wide - left - right) * ms / most, 1)

    def y(share: float) -> float:
        return round(high - bottom - (high - top - bottom) * share, 1)

    def text(at: tuple[float, float], content: str, more: str = 'text-anchor="middle"') -> str:
        return f'<text x="{at[0]}" y="{at[1]}" {more}>{content}</text>'

    lines = [text((left, 20), title, 'font-weight="bold"')]
    for tenth in range(0, 11, 2):
        lines.append(f'<path d="M{left} {y(tenth / 10)}H{wide - right}" stroke="#ddd"/>')
        lines.append(text((left - 8, y(tenth / 10) + 4), f"{tenth / 10:g}", 'text-anchor="end"'))
    lines += [text((x(ms), high - bottom + 18), f"{ms}") for ms in range(0, int(most) + 1, step)]
    lines.append(text((wide / 2, high - 10), "median latency of one answer, ms; above: image.max_tokens"))
    last = -math.inf
    for point in points:
        lines.append(f'<path d="M{x(point["frame_ms"])} {top - 6}V{high - bottom}" stroke="#eee"/>')
        near = x(point["frame_ms"]) - last < 24  # its number would lie on the one before
        lines.append(text((x(point["frame_ms"]), top + 6 if near else top - 10), str(point["max_tokens"])))
        last = -math.inf if near else x(point["frame_ms"])
    for index, (name, colour) in enumerate(COLOURS.items()):
        places = [(x(point["frame_ms"]), y(point[name])) for point in points]
        way = "L".join(f"{at[0]} {at[1]}" for at in places)
        lines.append(f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{at[0]}" cy="{at[1]}" r="4" fill="{colour}"/>' for at in places]
        legend = left + 140 * index
        lines.append(f'<circle cx="{legend + 5}" cy="36" r="4" fill="{colour}"/>')
        lines.append(text((legend + 14, 40), LEGEND[name], ""))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" '
        f'font-size="12"><rect width="{wide}" height="{high}" fill="white"/>{"".join(lines)}</svg>\n'
    )


def _show(points: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    names = ("max_tokens", "image", "f1", "f1_at_75", "mean_iou", "frame_ms", "encode_ms", "decode_ms")
    for name in names:
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(*(str(point[name]) for name in names))
    Console().print(table)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())


if __name__ == "__main__":
    main()
