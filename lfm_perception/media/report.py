# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: rates, latencies, tokens and counts, as `summary.json`, as rows for terminal and page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lfm_perception.errors import shown
from lfm_perception.media.latency import STAGES, distribution, stage_times
from lfm_perception.scene import Scene, Usage
from lfm_perception.stamps import to_seconds

MAX_SILENT = 10
"""Maximum number of rules without an event that are listed."""


class Report:
    """Gathers the figures of one run. The clock runs from `start`, else from construction, to `summary`."""

    def __init__(self) -> None:
        self.frames = 0
        self.inferred_frames = 0
        self._source_ns = self._last_ns = 0
        self._inference_s: list[float] = []
        self._usages: dict[str, list[Usage]] = {"detect": [], "caption": []}
        self._detections: Counter[str] = Counter()
        self._track_labels: dict[int, str] = {}
        self._rejects: Counter[str] = Counter()
        self._truncated = self._over_budget = 0
        self.start()

    def start(self) -> None:
        """Begin to count the time: the model is loaded."""
        self._started = time.perf_counter()

    def add_frame(self, stamp_ns: int) -> None:
        """Count a frame of the source."""
        self._source_ns += max(stamp_ns - self._last_ns, 0) if self.frames else 0
        self._last_ns = stamp_ns
        self.frames += 1

    def add_scene(self, scene: Scene, inference_s: float) -> None:
        """Count an inferred frame, which took `inference_s` seconds from image to tracks."""
        self.inferred_frames += 1
        self._inference_s.append(inference_s)
        self._usages["detect"].append(scene.usage)
        if scene.caption_usage is not None:
            self._usages["caption"].append(scene.caption_usage)
        self._detections.update(detection.label for detection in scene.detections)
        self._track_labels.update({track.track_id: track.label for track in scene.tracks})
        self._rejects.update(scene.rejects)
        self._truncated += scene.truncated
        self._over_budget += scene.over_latency_budget

    def summary(self) -> dict[str, Any]:
        """The figures, ready for `json.dumps`. Times are seconds, rates count from the first frame."""
        wall_s = time.perf_counter() - self._started
        times = {"inference": self._inference_s, **stage_times(self._usages)}
        tokens = {
            f"{question}.{part}": [getattr(usage, f"{part}_tokens") for usage in usages]
            for question, usages in self._usages.items()
            for part in ("image", "text", "answer")
            if usages
        }
        return {
            "frames": self.frames,
            "scenes": self.inferred_frames,
            "source_s": round(to_seconds(self._source_ns), 3),
            "wall_s": round(wall_s, 3),
            "frames_hz": round(self.frames / wall_s, 2),
            "inferences_hz": round(self.inferred_frames / wall_s, 2),
            "latency_s": {stage: distribution(values) for stage, values in times.items() if values},
            "tokens": {part: distribution(values, 1) for part, values in tokens.items()},
            "draft_acceptance_rate": {
                question: round(sum(usage.accepted_decisions for usage in usages) / drafted, 3)
                for question, usages in self._usages.items()
                if (drafted := sum(usage.drafted_decisions for usage in usages))
            },
            "captions": len(self._usages["caption"]),
            "truncated": self._truncated,
            "over_latency_budget": self._over_budget,
            "rejects": dict(self._rejects.most_common()),
            "detections_by_label": dict(self._detections.most_common()),
            "tracks_by_label": dict(Counter(self._track_labels.values()).most_common()),
        }


def rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main figures of a summary, each with its name, for the terminal and the page."""
    latency, tokens = summary["latency_s"], summary["tokens"]
    frames, took = summary["frames"], f"in {summary['wall_s']:.1f} s"
    found = [("pictures", f"{frames} {took}")]
    if not summary.get("pictures"):
        found = [("frames", f"{frames} ({summary['source_s']:g} s) {took}, {summary['scenes']} inferred")]
    if summary.get("declared_rate_hz"):
        declared = f"though {summary['declared_rate_hz']:g} declared"
        found.append(("rate", f"{summary['rate_hz']:g} Hz by the stamps, {declared}"))
    if summary.get("frames_rejected"):
        found.append(("frames rejected", counted(summary["frames_rejected"])))
    inference = latency["inference"]
    found += [
        (
            "inference latency",
            ", ".join(f"{name} {1e3 * inference[name]:.0f} ms" for name in ("p50", "p95", "max")),
        ),
        (
            "stages",
            ", ".join(f"{each} {1e3 * latency[f'detect.{each}']['p50']:.0f} ms" for each in STAGES)
            + " (p50)",
        ),
        (
            "tokens",
            ", ".join(f"{each} {tokens[f'detect.{each}']['p50']:.0f}" for each in ("image", "answer"))
            + " (p50)",
        ),
        ("detections", counted(summary["detections_by_label"]) or "none"),
    ]
    if not summary.get("pictures"):
        found.append(("tracks", counted(summary["tracks_by_label"]) or "none"))
    if (events := summary.get("events_by_rule")) is not None:
        found.append(("events", counted_events(events)))
    if opinions := summary.get("second_opinion"):
        refused = opinions["refused_camera"]
        why = "" if refused is None else f"; camera {shown(refused)} is not in second_opinion.cameras"
        why += "".join(f"; {count} dropped: {reason}" for reason, count in opinions["dropped"].items())
        why += "".join(
            f"; {count} track{'s' if count > 1 else ''} not asked about: {reason}"
            for reason, count in opinions["not_shown"].items()
        )
        found.append(("second opinions", f"{opinions['answered']} of {opinions['asked']} crops{why}"))
    if summary["rejects"]:
        found.append(("objects rejected", counted(summary["rejects"])))
    if summary["truncated"]:
        found.append(("answers truncated", f"{summary['truncated']} reached their limit of tokens or time"))
    if summary["over_latency_budget"]:
        found.append(("over latency budget", f"{summary['over_latency_budget']} frames (budget.latency)"))
    return found


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name as text: `2 person, 1 box`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def counted_events(begun: Mapping[str, int]) -> str:
    """Counts of events by rule as text, with the rules that had none: `2 loitering; none of crowded`."""
    happened = {rule: count for rule, count in begun.items() if count}
    silent = [rule for rule, count in begun.items() if not count]
    more = f" and {len(silent) - MAX_SILENT} more" if len(silent) > MAX_SILENT else ""
    rest = f"; none of {', '.join(silent[:MAX_SILENT])}{more}" if happened and silent else ""
    return (counted(happened) or "none") + rest
