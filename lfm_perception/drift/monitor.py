# SPDX-License-Identifier: Apache-2.0
"""Compares a sliding window with a baseline by the population-stability index."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.drift.baseline import BLOCK_S, Baseline, Bins, Counts, Distribution
from lfm_perception.drift.quantities import QUANTITIES, Samples
from lfm_perception.errors import PerceptionError
from lfm_perception.text import safe_line

STABLE_PSI = 0.1
"""Population-stability index below which a quantity counts as unchanged; from 0.25 on it counts as changed
(Siddiqi, Credit Risk Scorecards, 2006)."""

USUAL_FACTOR = 1.5
"""A quantity drifts only if its index also exceeds the largest one of the baseline's own windows this many
times."""

MIN_SAMPLES = 100
"""Minimum number of samples of a quantity in a window. By chance alone, n samples in 10 bins have an index of
9 / n on average (Yurdakul and Naranjo, Statistical properties of the population stability index, 2020)."""

MIN_WINDOWS = 3
"""Minimum length of a baseline, in windows."""

CONFIRMATIONS = 2
"""Consecutive blocks that must agree before a quantity drifts, or is back."""

SMOOTHING = 0.5
"""Samples that are added to each bin, so that an empty one gives a finite index."""


def stability_index(expected: Counts, found: Counts) -> float:
    """The population-stability index of two histograms with the same bins: the sum of (q - p) ln(q / p).

    It is the symmetric Kullback-Leibler divergence of their shares p and q, 0 for equal ones.
    """
    return float(_indices(expected, found))


def _indices(expected: Counts, found: Counts) -> NDArray[np.float64]:
    """The indices of histograms, shape (..., bins)."""
    p, q = (
        (counts + SMOOTHING) / (counts + SMOOTHING).sum(axis=-1, keepdims=True)
        for counts in (expected, found)
    )
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class QuantityDrift:
    """How far a quantity is from its baseline.

    `psi` is None before the first whole window, and with less than `MIN_SAMPLES` samples in it. `limit` is
    the index above which it drifts. `expected` and `found` are the counts of baseline and window.
    """

    name: str
    psi: float | None
    limit: float
    samples: int
    drifted: bool
    bins: Bins
    expected: Counts
    found: Counts


@dataclass(slots=True)
class _Watched:
    """A quantity that is watched, with its limits, and how many blocks in a row contradict `drifted`."""

    distribution: Distribution
    expected: Counts
    limit: float
    clear: float
    drifted: bool = False
    contradicted: int = 0


class DriftMonitor:
    """Watches the quantities of a baseline over a sliding window of whole blocks.

    A quantity drifts once its index exceeds its limit at the ends of `CONFIRMATIONS` blocks in a row: the
    limit is `warn_psi`, or `USUAL_FACTOR` times the largest index of the baseline's own windows where that is
    more. It is back once the index is as often below `STABLE_PSI`, or below that of the baseline's own
    windows. `add` belongs to one thread; `state` may be read by any.

    Args:
        labels: those that are asked for now.
        window_s: length of the window in seconds, rounded to whole blocks.

    Raises:
        PerceptionError: the baseline is too short, or for other labels.
    """

    def __init__(self, baseline: Baseline, labels: tuple[str, ...], window_s: float, warn_psi: float) -> None:
        self._blocks = max(round(window_s / BLOCK_S), 1)
        if baseline.seconds < MIN_WINDOWS * self._blocks * BLOCK_S:
            raise PerceptionError(
                f"the baseline covers {baseline.seconds:.0f} s, but drift.window {window_s:g} needs "
                f"{MIN_WINDOWS * self._blocks * BLOCK_S:.0f} s: record a longer one, or set a shorter window"
            )
        if set(baseline.labels) != set(labels):
            there, now = (safe_line(", ".join(each) or "none", 60) for each in (baseline.labels, labels))
            raise PerceptionError(
                f"the baseline is for the labels {there}, but detect.labels are {now}: record one for these"
            )
        self._watched = {
            name: _watched(each, self._blocks, warn_psi) for name, each in baseline.quantities.items()
        }
        self._window: deque[Mapping[str, Counts]] = deque(maxlen=self._blocks)
        self._block = self._empty()
        self._begin_s: float | None = None
        self.state: tuple[QuantityDrift, ...] = ()
        """The quantities at the end of the last block; empty before the first."""

    def _empty(self) -> dict[str, Counts]:
        return {
            name: np.zeros(each.distribution.bins.count, np.int64) for name, each in self._watched.items()
        }

    def add(self, stamp_s: float, samples: Samples) -> bool:
        """Add the samples of a frame. Returns whether a block ended before it, with a new `state`."""
        ended = False
        if self._begin_s is None:
            self._begin_s = stamp_s
        elif not 0.0 <= stamp_s - self._begin_s < BLOCK_S:
            ended = True
            self._end_block()
            # time without frames leaves the window too; after a clock that was set back, blocks just go on
            missed = int(min(max(stamp_s - self._begin_s, 0.0) // BLOCK_S, self._blocks + 1)) - 1
            self._window.extend(self._empty() for _ in range(missed))
            self._begin_s = stamp_s
        for name, watched in self._watched.items():
            self._block[name] += watched.distribution.bins.counts(samples.get(name, ()))
        return ended

    def _end_block(self) -> None:
        self._window.append(self._block)
        self._block = self._empty()
        self.state = tuple(
            self._judge(name, self._watched[name]) for name in QUANTITIES if name in self._watched
        )

    def _judge(self, name: str, watched: _Watched) -> QuantityDrift:
        found: Counts = np.sum([block[name] for block in self._window], axis=0)
        samples = int(found.sum())
        enough = len(self._window) == self._blocks and samples >= MIN_SAMPLES
        psi = stability_index(watched.expected, found) if enough else None
        if psi is not None:
            other = psi < watched.clear if watched.drifted else psi > watched.limit
            watched.contradicted = watched.contradicted + 1 if other else 0
            if watched.contradicted == CONFIRMATIONS:
                watched.drifted, watched.contradicted = not watched.drifted, 0
        bins = watched.distribution.bins
        return QuantityDrift(
            name, psi, watched.limit, samples, watched.drifted, bins, watched.expected, found
        )


def _watched(distribution: Distribution, blocks: int, warn_psi: float) -> _Watched:
    """A quantity with its limits, from the windows of its own baseline, each against all other blocks."""
    sums = np.concatenate([np.zeros_like(distribution.counts[:1]), np.cumsum(distribution.counts, axis=0)])
    windows, expected = sums[blocks:] - sums[:-blocks], sums[-1]
    windows = windows[windows.sum(axis=1) >= MIN_SAMPLES]
    usual = float(_indices(expected - windows, windows).max(initial=0.0))
    return _Watched(distribution, expected, max(warn_psi, USUAL_FACTOR * usual), max(STABLE_PSI, usual))


def drift_sentence(state: Sequence[QuantityDrift], window_s: float) -> str:
    """Which quantities have drifted, the farthest first, and what to do; empty where none has."""
    drifted = sorted(
        (each for each in state if each.drifted), key=lambda each: -(each.psi or 0.0) / each.limit
    )
    if not drifted:
        return ""
    named = ", ".join(f"{each.name} (PSI {each.psi or 0.0:.2f}, limit {each.limit:.2f})" for each in drifted)
    remedy = QUANTITIES[drifted[0].name].remedy
    return f"drift over {window_s:g} s in {named}: {remedy}, or record a new baseline"
