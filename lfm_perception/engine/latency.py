# SPDX-License-Identifier: Apache-2.0
"""Latency model of batches on this machine, and tuning of the number of threads.

`LatencyModel` is measured once, when the model is loaded. `ThreadTuner` observes every batch: while other
programs occupy cores, fewer threads are faster, because threads wait for each other.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from lfm_perception.engine.cores import CoreMonitor
from lfm_perception.engine.kv_cache import BLOCK_TOKENS, MAX_EXACT_OUTPUTS, KvCache

_MEASURED_SIZES = (1, 2, 3, 4, 8, 12, 15, 16, 32, 48)
"""Batch sizes, in tokens, that are measured for the fit."""

_SETTLING_BATCHES = 6
"""Number of batches after a change of threads before the change is kept or undone."""

_SLOWDOWN = 1.7
"""Slowdown against the baseline from which fewer threads are tried."""

_BACKOFF_S = (2.0, 64.0)
"""Seconds before more threads are tried again: initial and maximum; every failed attempt doubles them."""


class LatencyModel:
    """Batch cost, linear in the blocks of tokens that llama.cpp computes, fitted by least squares."""

    def __init__(self, kv_cache: KvCache) -> None:
        seconds = np.array([_measure(kv_cache, size) for size in _MEASURED_SIZES])
        features = np.array([_features(size) for size in _MEASURED_SIZES])
        weights = np.linalg.lstsq(features / seconds[:, None], np.ones(len(_MEASURED_SIZES)), rcond=None)[0]
        self._weights: list[float] = np.maximum(weights, 0.0).tolist()
        self.batch_cost = cache(self._batch_cost)
        """Seconds of a batch by its number of tokens, with logits after one of them, on an idle machine."""
        several_s = _measure(kv_cache, BLOCK_TOKENS, MAX_EXACT_OUTPUTS)
        one_s = seconds[_MEASURED_SIZES.index(BLOCK_TOKENS)]
        self.output_cost = float(max(0.0, several_s - one_s)) / (MAX_EXACT_OUTPUTS - 1)
        """Seconds of the logits after one more token of a batch. On a CPU, llama.cpp multiplies by the
        whole output matrix for each of them: with 65,536 tokens in Q6_K, a quarter of the cost of a token."""

    def _batch_cost(self, tokens: int) -> float:
        return sum(weight * count for weight, count in zip(self._weights, _features(tokens), strict=True))


def _features(tokens: int) -> tuple[int, int, int, int]:
    """One batch, its blocks of 16, of 4 and its single tokens: how llama.cpp divides a batch."""
    blocks, rest = divmod(tokens, BLOCK_TOKENS)
    return 1, blocks, *divmod(rest, 4)


def _measure(kv_cache: KvCache, size: int, outputs: int = 1) -> float:
    """Seconds of the fastest of three batches of `size` tokens with `outputs` logits. Empties the cache."""
    times = []
    for _ in range(3):
        began_s = time.perf_counter()
        kv_cache.decode(0, range(size), range(size - outputs, size))
        times.append(time.perf_counter() - began_s)
        kv_cache.clear()
    return min(times)


class ThreadTuner:
    """Sets the threads of a KV cache, at most `threads`, by the slowdown of its batches against `latency`."""

    def __init__(self, kv_cache: KvCache, latency: LatencyModel, threads: int) -> None:
        self._kv_cache, self._latency = kv_cache, latency
        self._max_threads = self.threads = threads
        self._baseline: dict[int, float] = {}  # lowest slowdown by number of threads
        self._slowdown: dict[int, float] = {}  # moving average by number of threads
        self._previous: int | None = None  # threads before a change that may still be undone
        self._batches = 0
        self._backoff_s = _BACKOFF_S[0]
        self._monitor, self._changed_s = CoreMonitor(), time.monotonic()
        kv_cache.on_batch = self._observe

    def _observe(self, tokens: int, seconds: float) -> None:
        slowdown = seconds / self._latency.batch_cost(tokens)
        average = self._slowdown.get(self.threads, slowdown)
        average = self._slowdown[self.threads] = average + (slowdown - average) / _SETTLING_BATCHES
        self._batches += 1
        if self._batches < _SETTLING_BATCHES:
            return
        previous, self._previous = self._previous, None
        baseline = min(average, 1.001 * self._baseline.get(self.threads, average))
        self._baseline[self.threads] = baseline
        if previous is not None and average > self._slowdown[previous]:
            if previous < self.threads:
                self._backoff_s = min(2.0 * self._backoff_s, _BACKOFF_S[1])
            self._set(previous)
        elif average > _SLOWDOWN * baseline and self.threads > 1:
            self._try(max(1, min(self.threads - 1, self._monitor.free_cores())))
        elif self.threads < self._max_threads and time.monotonic() - self._changed_s > self._backoff_s:
            if self._monitor.free_cores() > self.threads:
                self._try(self.threads + 1)
            else:
                self._monitor, self._changed_s = CoreMonitor(), time.monotonic()

    def _try(self, threads: int) -> None:
        self._previous = self.threads
        self._set(threads)

    def _set(self, threads: int) -> None:
        self.threads = threads
        self._slowdown.pop(threads, None)
        self._batches = 0
        self._kv_cache.set_threads(threads)
        self._monitor, self._changed_s = CoreMonitor(), time.monotonic()
