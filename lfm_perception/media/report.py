# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: rates, latencies, tokens and counts, as `summary.json` and as a table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from lfm_perception.scene import Scene, Usage
from lfm_perception.stamps import to_seconds

PERCENTILES = (50, 90, 99)


class Report:
    """Gathers the figures of one run. The clock runs from construction to `summary`."""

    def __init__(self) -> None:
        self.frames = 0
        self.inferred_frames = 0
        self._started = time.perf_counter()
        self._source_ns = self._last_ns = 0
        self._times: dict[str, list[float]] = {}
        self._tokens: dict[str, list[int]] = {}
        self._detections: Counter[str] = Counter()
        self._track_labels: dict[int, str] = {}
        self._rejects: Counter[str] = Counter()
        self._truncated = self._over_budget = 0
        self._captions = 0

    def add_frame(self, stamp_ns: int) -> None:
        """Count a frame of the source."""
        self._source_ns += max(stamp_ns - self._last_ns, 0) if self.frames else 0
        self._last_ns = stamp_ns
        self.frames += 1

    def add_scene(self, scene: Scene, inference_s: float) -> None:
        """Count an inferred frame, which took `inference_s` seconds from image to tracks."""
        self.inferred_frames += 1
        self._times.setdefault("inference", []).append(inference_s)
        self._add_usage("detect", scene.usage)
        if scene.caption_usage is not None:
            self._captions += 1
            self._add_usage("caption", scene.caption_usage)
        self._detections.update(detection.label for detection in scene.detections)
        self._track_labels.update({track.track_id: track.label for track in scene.tracks})
        self._rejects.update(scene.rejects)
        self._truncated += scene.truncated
        self._over_budget += scene.over_latency_budget

    def _add_usage(self, question: str, usage: Usage) -> None:
        seconds = {"encode": usage.encode_s, "prefill": usage.prefill_s, "decode": usage.decode_s}
        for stage, value in seconds.items():
            self._times.setdefault(f"{question}.{stage}", []).append(value)
        counts = {"image": usage.image_tokens, "text": usage.text_tokens, "answer": usage.answer_tokens}
        for part, count in counts.items():
            self._tokens.setdefault(f"{question}.{part}", []).append(count)

    def summary(self) -> dict[str, Any]:
        """The figures, ready for `json.dumps`. Times are milliseconds, rates per second of the run."""
        wall_s = time.perf_counter() - self._started
        return {
            "frames": self.frames,
            "scenes": self.inferred_frames,
            "source_s": round(to_seconds(self._source_ns), 3),
            "wall_s": round(wall_s, 3),
            "frames_per_s": round(self.frames / wall_s, 2),
            "inferences_per_s": round(self.inferred_frames / wall_s, 2),
            "latency_ms": {stage: _distribution(values, 1e3, 2) for stage, values in self._times.items()},
            "tokens": {part: _distribution(values, 1.0, 1) for part, values in self._tokens.items()},
            "captions": self._captions,
            "truncated": self._truncated,
            "over_latency_budget": self._over_budget,
            "rejects": dict(self._rejects.most_common()),
            "detections_by_label": dict(self._detections.most_common()),
            "tracks_by_label": dict(Counter(self._track_labels.values()).most_common()),
        }


def _distribution(values: Sequence[float], scale: float, digits: int) -> dict[str, float]:
    scaled = np.asarray(values, dtype=np.float64) * scale
    figures = {"mean": scaled.mean(), "max": scaled.max()}
    figures |= {f"p{p}": np.percentile(scaled, p) for p in PERCENTILES}
    return {name: round(float(value), digits) for name, value in figures.items()}


def table(summary: dict[str, Any]) -> Table:
    """The summary for the terminal."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column()
    frames, inferred = summary["frames"], summary["scenes"]
    if summary.get("pictures"):
        shown.add_row("images", f"{frames} in {summary['wall_s']:.1f} s")
    else:
        length = f"{frames} ({summary['source_s']:g} s)"
        shown.add_row("frames", f"{length} in {summary['wall_s']:.1f} s, {inferred} inferred")
    if summary.get("declared_rate_hz"):
        shown.add_row(
            "rate",
            f"{summary['rate_hz']:g} Hz by the stamps, though {summary['declared_rate_hz']:g} declared",
        )
    if summary.get("frames_rejected"):
        shown.add_row("not used", f"frames: {counted(summary['frames_rejected'])}")
    latency = summary["latency_ms"]["inference"]
    shown.add_row(
        "inference",
        f"{latency['p50']:.0f} ms median, {latency['p90']:.0f} ms p90, {latency['max']:.0f} ms max",
    )
    stages = {
        name: summary["latency_ms"][f"detect.{name}"]["p50"] for name in ("encode", "prefill", "decode")
    }
    shown.add_row("stages", ", ".join(f"{name} {value:.0f}" for name, value in stages.items()) + " ms median")
    tokens = summary["tokens"]
    shown.add_row(
        "tokens",
        f"{tokens['detect.image']['p50']:.0f} image + {tokens['detect.answer']['p50']:.0f} answer, median",
    )
    shown.add_row("detections", counted(summary["detections_by_label"]) or "none")
    if not summary.get("pictures"):
        shown.add_row("tracks", counted(summary["tracks_by_label"]) or "none")
    if summary["rejects"]:
        shown.add_row("rejects", counted(summary["rejects"]))
    if summary["truncated"]:
        shown.add_row("truncated", f"{summary['truncated']} answers reached their token limit")
    if summary["over_latency_budget"]:
        shown.add_row(
            "over budget",
            f"{summary['over_latency_budget']} frames could not be answered within budget.latency",
        )
    return shown


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name as text: `2 person, 1 box`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())
