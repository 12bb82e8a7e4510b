# SPDX-License-Identifier: Apache-2.0
"""Latencies of a run: their distribution with its uncertainty, and the section that shows them on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.media.charts import PERCENTILES, Span, histogram, stacked, timeline
from lfm_perception.media.page import Section
from lfm_perception.scene import Usage

STAGES = ("encode", "prefill", "decode")
STANDARD_ERROR = "standard_error"
"""Key of the standard errors of the figures beside it."""

MIN_SAMPLES = 10
"""Number of values below which no standard error is given."""

MAX_DETAILED = 2
"""Number of questions up to which a page lists the stages of each."""

TIMELINE_ROWS = 12
"""Maximum number of inferences on a timeline."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered frame: moments of capture and answer in seconds, and the cost of the answers."""

    captured_s: float
    answered_s: float
    usage: Usage
    caption_usage: Usage | None


def distribution(values: Sequence[float], digits: int = 6) -> dict[str, Any]:
    """Mean, percentiles and maximum, with the standard errors that they have, ready for `json.dumps`.

    Successive inferences resemble each other, so that n values with the correlation r between neighbours
    count as n (1 - r) / (1 + r). The error of a percentile is the distance to those whose ranks lie a
    standard error away; there is none where fewer than one value is expected beyond it.
    """
    sample = np.asarray(values, dtype=np.float64)
    ranks = {f"p{percentile}": percentile / 100 for percentile in PERCENTILES}
    found: dict[str, Any] = {"mean": float(sample.mean()), "max": float(sample.max())}
    found |= {name: float(np.quantile(sample, rank)) for name, rank in ranks.items()}
    found = {name: round(value, digits) for name, value in found.items()}
    if len(sample) < MIN_SAMPLES:
        return found
    count = len(sample) * _independent_share(sample)
    errors = {"mean": float(sample.std() / np.sqrt(count))}
    for name, rank in ranks.items():
        if len(sample) * (1.0 - rank) >= 1.0:
            step = np.sqrt(rank * (1.0 - rank) / count)
            low, value, high = np.quantile(sample, np.clip((rank - step, rank, rank + step), 0.0, 1.0))
            errors[name] = float(max(value - low, high - value))
    return {**found, STANDARD_ERROR: {name: round(error, digits) for name, error in errors.items()}}


def _independent_share(sample: NDArray[np.float64]) -> float:
    """The share of the values that tell something new, from the correlation of neighbours."""
    centred = sample - sample.mean()
    power = float((centred**2).sum())
    correlation = float((centred[1:] * centred[:-1]).sum()) / power if power > 0.0 else 0.0
    correlation = min(max(correlation, 0.0), 0.9)
    return (1.0 - correlation) / (1.0 + correlation)


def stage_times(usages: Mapping[str, Sequence[Usage]]) -> dict[str, list[float]]:
    """Seconds by question and stage, joined by a dot; `usages` by question."""
    return {
        f"{question}.{stage}": [getattr(usage, f"{stage}_s") for usage in asked]
        for question, asked in usages.items()
        for stage in STAGES
        if asked
    }


def latency_section(inference_s: Sequence[float], usages: Mapping[str, Sequence[Usage]]) -> Section:
    """The latency of the inferences and of their stages.

    Args:
        inference_s: seconds of each inference, image to result.
        usages: cost of the answers by name of the question, or of the variant of it.
    """
    asked = {name: each for name, each in usages.items() if each}
    if len(asked) <= MAX_DETAILED:
        times = {"inference": inference_s, **stage_times(asked)}
    else:
        times = {name: [usage.total_s for usage in each] for name, each in asked.items()}
    found = {name: distribution(seconds) for name, seconds in times.items()}
    heads = ("mean", *(f"p{percentile}" for percentile in PERCENTILES), "max")
    parts = {
        stage: [1e3 * fmean(getattr(usage, f"{stage}_s") for usage in each) for each in asked.values()]
        for stage in STAGES
    }
    return Section(
        "Latency",
        notes=["Milliseconds from the image to the result of an inference, and of each question or stage."],
        heads=("ms", *heads),
        rows=[(name, *(_ms(each[head]) for head in heads)) for name, each in found.items()],
        charts=[
            histogram(
                "Latency of an inference", [1e3 * each for each in inference_s], "latency (ms)", "inferences"
            ),
            stacked("Mean time by stage", parts, list(asked), "mean time (ms)"),
        ],
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{0 if seconds >= 0.1 else 1}f}"


def timeline_section(answered: Sequence[Answered]) -> Section:
    """From capture to answer: the last frames, each with its waiting time and the stages of its inference.

    The bag does not tell how the time outside the stages is divided; it is drawn before them.
    """
    last = answered[-TIMELINE_ROWS:]
    begin_s = last[0].captured_s if last else 0.0
    rows: dict[str, list[Span]] = {}
    for number, each in enumerate(last, len(answered) - len(last) + 1):
        spent = {stage: getattr(each.usage, f"{stage}_s") for stage in STAGES}
        spent["caption"] = each.caption_usage.total_s if each.caption_usage else 0.0
        waiting_s = max(each.answered_s - each.captured_s - sum(spent.values()), 0.0)
        start_s = each.captured_s - begin_s
        spans = []
        for part, seconds in {"waiting and transport": waiting_s, **spent}.items():
            spans.append(Span(start_s, seconds, part))
            start_s += seconds
        rows[f"{number}"] = spans
    chart = timeline("Capture to answer, the last frames", rows, ("time (s)", "inferred frame"))
    return Section(
        "From capture to answer",
        notes=[
            "A bar begins at the capture of a frame and ends at the arrival of its answer. Time outside the "
            "stages of the model is drawn first."
        ],
        charts=[chart],
    )
