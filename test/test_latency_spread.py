# SPDX-License-Identifier: Apache-2.0
"""The uncertainty of latencies, and better or worse only beyond it."""

from __future__ import annotations

import numpy as np
import pytest

from lfm_perception.evaluation.compare import Report, pairs
from lfm_perception.media.latency import STANDARD_ERROR, distribution


def test_standard_errors_are_those_of_repeated_runs() -> None:
    rng = np.random.default_rng(0)
    runs = [distribution(rng.normal(0.5, 0.1, 400).tolist()) for _ in range(60)]
    for name in ("mean", "p50", "p95"):
        across = float(np.std([run[name] for run in runs]))
        given = float(np.mean([run[STANDARD_ERROR][name] for run in runs]))
        assert given == pytest.approx(across, rel=0.35), name


def test_correlated_latencies_are_less_certain() -> None:
    rng = np.random.default_rng(0)
    independent = rng.normal(0.5, 0.1, 400)
    drifting = 0.5 + np.cumsum(rng.normal(0.0, 0.01, 400))
    drifting *= independent.std() / drifting.std()
    errors = [distribution(each.tolist())[STANDARD_ERROR]["mean"] for each in (independent, drifting)]
    assert errors[1] > 2.0 * errors[0]


def test_figures_that_few_values_cannot_tell_have_no_error() -> None:
    assert STANDARD_ERROR not in distribution([0.1] * 9)
    assert set(distribution([0.1, 0.2] * 10)[STANDARD_ERROR]) == {"mean", "p50", "p95"}
    assert set(distribution([0.1, 0.2] * 50)[STANDARD_ERROR]) == {"mean", "p50", "p95", "p99"}


def verdicts(first_s: float, second_s: float, error_s: float | None) -> dict[str, str]:
    def report(p50_s: float) -> Report:
        figures = {
            "latency_s.inference.p50": p50_s,
            "latency_s.inference.max": 2.0 * p50_s,
            "start_s.model": p50_s,
        }
        if error_s is not None:
            figures[f"latency_s.inference.{STANDARD_ERROR}.p50"] = error_s
        return Report("x", "bench", figures, {})

    return {pair.path: pair.verdict for pair in pairs(report(first_s), report(second_s))}


def test_a_latency_is_better_or_worse_only_beyond_its_spread() -> None:
    path = "latency_s.inference.p50"
    assert verdicts(0.50, 0.52, 0.01)[path] == ""
    assert verdicts(0.50, 0.54, 0.01)[path] == "worse"
    assert verdicts(0.54, 0.50, 0.01)[path] == "better"
    assert set(verdicts(0.50, 5.0, None).values()) == {""}  # measured once: nothing is known of the spread
    assert verdicts(0.50, 5.0, 0.01)["start_s.model"] == ""
    assert list(verdicts(0.5, 0.5, 0.01)) == [path, "latency_s.inference.max", "start_s.model"]
