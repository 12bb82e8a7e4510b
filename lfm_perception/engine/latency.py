"""How long a run of tokens takes on this machine, and with how many threads.

Measured once when the model is loaded, and followed from then on: when other programs take the cores, a
run with fewer threads is faster than one whose threads wait for each other.
"""

from __future__ import annotations

import time

import numpy as np

from lfm_perception.engine.cores import CoreWatch
from lfm_perception.engine.kv_cache import KvCache
from lfm_perception.engine.speculative import BLOCK

_SIZES = (1, 2, 3, 4, 8, 12, 15, 16, 32, 48)
"""Runs that are measured at first."""

_SETTLED = 6
"""Runs after a change before it is judged."""

_DEGRADED = 1.7
"""Times the usual duration of a run from which on fewer threads are tried."""

_PATIENCE_S = (2.0, 64.0)
"""Time before more threads are tried again: at first, and at most, as it doubles with every failure."""


class LatencyModel:
    """The cost of a run, and the threads that keep it low. `threads` is where it starts and the most."""

    def __init__(self, context: KvCache, threads: int) -> None:
        self._context = context
        self._most = self.threads = threads
        seconds = np.array([self._measured(size) for size in _SIZES])
        terms = np.array([_terms(size) for size in _SIZES])
        prices = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(_SIZES)))[0]
        self._prices: list[float] = np.maximum(prices, 0.0).tolist()
        context.forget()
        context.on_run = self._observe
        self._usual: dict[int, float] = {}
        self._now: dict[int, float] = {}
        self._before: int | None = None
        self._runs = 0
        self._patience_s = _PATIENCE_S[0]
        self._watch, self._changed_s = CoreWatch(), time.monotonic()

    def cost(self, tokens: int) -> float:
        """Seconds of a run of so many tokens on a quiet machine."""
        return sum(price * count for price, count in zip(self._prices, _terms(tokens), strict=True))

    def _measured(self, size: int) -> float:
        times = []
        for _ in range(3):
            self._context.forget()
            began = time.perf_counter()
            self._context.answer(0, range(size), [size - 1])
            times.append(time.perf_counter() - began)
        return min(times)

    def _observe(self, tokens: int, seconds: float) -> None:
        slow = seconds / self.cost(tokens)
        now = self._now.get(self.threads, slow)
        now = self._now[self.threads] = now + (slow - now) / _SETTLED
        self._runs += 1
        if self._runs < _SETTLED:
            return
        before, self._before = self._before, None
        usual = self._usual[self.threads] = min(now, 1.001 * self._usual.get(self.threads, now))
        if before is not None and now > self._now[before]:
            if before < self.threads:
                self._patience_s = min(2.0 * self._patience_s, _PATIENCE_S[1])
            self._use(before)
        elif now > _DEGRADED * usual and self.threads > 1:
            self._before = self.threads
            self._use(max(1, min(self.threads - 1, self._watch.free())))
        elif self.threads < self._most and time.monotonic() - self._changed_s > self._patience_s:
            if self._watch.free() > self.threads:
                self._before = self.threads
                self._use(self.threads + 1)
            else:
                self._watch, self._changed_s = CoreWatch(), time.monotonic()

    def _use(self, threads: int) -> None:
        self.threads = threads
        self._now.pop(threads, None)
        self._runs = 0
        self._context.use_threads(threads)
        self._watch, self._changed_s = CoreWatch(), time.monotonic()


def _terms(tokens: int) -> tuple[int, int, int, int]:
    """Of what the cost of a run is made: llama.cpp computes tokens in blocks, fours and singly."""
    blocks, rest = divmod(tokens, BLOCK)
    return 1, blocks, *divmod(rest, 4)
