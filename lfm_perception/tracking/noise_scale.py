# SPDX-License-Identifier: Apache-2.0
"""Measurement noise that fits: a factor for each track, from the autocorrelation of its innovations.

The innovations of a filter with the right gain are white. Where each resembles the one before, the filter
lags behind good measurements: their noise is less than assumed. Where they alternate, it is more (Mehra,
1970).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.tracking.kalman import Array, Rows

MIN_SCALE, MAX_SCALE = 0.03, 1.0
"""Limits of the factor on the standard deviation of a measurement."""

LAG = 0.1
"""Autocorrelation above which the filter lags; that of few innovations is often a little above 0."""

FORGETTING = 0.8
"""Weight of the earlier innovations in the autocorrelation, with each new one."""

PRIOR = 0.005
"""Squared normalized innovations that the prior adds for an autocorrelation of 0."""


@dataclass(frozen=True, slots=True, eq=False)
class NoiseScale:
    """Factors of N tracks on the standard deviation of their measurements, as an immutable value.

    `log_scale`: logarithms of the factors. `last`: last innovations in standard deviations, shape (N, 4).
    `power`, `correlation`: smoothed squares, and products of two innovations in a row, shape (N,).
    """

    log_scale: Array
    last: Array
    power: Array
    correlation: Array

    @classmethod
    def empty(cls) -> NoiseScale:
        """Factors of no tracks."""
        return cls(np.empty(0), np.empty((0, 4)), np.empty(0), np.empty(0))

    def __getitem__(self, rows: Rows) -> NoiseScale:
        return NoiseScale(self.log_scale[rows], self.last[rows], self.power[rows], self.correlation[rows])

    def spawn(self, count: int) -> NoiseScale:
        """These factors, followed by those of new tracks, which begin with the mean, or with 1."""
        mean = self.log_scale.mean() if len(self.log_scale) else 0.0
        return NoiseScale(
            np.append(self.log_scale, np.full(count, mean)),
            np.concatenate([self.last, np.zeros((count, 4))]),
            np.append(self.power, np.zeros(count)),
            np.append(self.correlation, np.zeros(count)),
        )

    def variance_scale(self, rows: NDArray[np.intp]) -> Array:
        """Factors on the variances of the tracks `rows`, shape (M, 1)."""
        scale: Array = np.exp(2.0 * self.log_scale[rows])[:, None]
        return scale

    def update(self, rows: NDArray[np.intp], innovation: Array) -> NoiseScale:
        """Takes the next innovations of the tracks `rows`, in standard deviations, shape (M, 4)."""
        power = FORGETTING * self.power[rows] + (innovation**2).mean(axis=1)
        correlation = FORGETTING * self.correlation[rows] + (innovation * self.last[rows]).mean(axis=1)
        lag = correlation / (power + PRIOR) - LAG
        log_scale = self.log_scale[rows] - lag * np.abs(lag)
        parts = [part.copy() for part in (self.log_scale, self.last, self.power, self.correlation)]
        updated = (log_scale.clip(math.log(MIN_SCALE), math.log(MAX_SCALE)), innovation, power, correlation)
        for part, values in zip(parts, updated, strict=True):
            part[rows] = values
        return NoiseScale(*parts)
