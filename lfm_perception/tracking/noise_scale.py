# SPDX-License-Identifier: Apache-2.0
"""Adaptive measurement noise: a factor for each track, from the autocorrelation of its innovations.

The innovations of a filter with the right gain are white. Where each resembles the one before, the filter
lags behind good measurements: their noise is less than assumed. Where they alternate, it is more (Mehra,
1970).

Real changes of a box from frame to frame, such as a person's width at each step, are as white as noise. But
noise is the same share of width and height: the axis with the smaller innovations bounds it, and the excess
of the other axis is real (`residual_share`). It does not predict the next frame, so the filters smooth it;
only the box that is published for the inferred frame itself includes it.
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
"""Weight of the earlier innovations in smoothed values, with each new one."""

PRIOR = 0.005
"""Squared normalized innovations that the prior adds for an autocorrelation of 0."""

SIDE_MARGIN = 1.3
"""Largest ratio of the mean squares along the two axes that noise alone explains."""

FIRST_SIDE_POWER, MIN_SIDE_POWER = 0.1, 1e-4
"""Mean square of the sides' innovations: initial value of the first tracks, and minimum."""

MAX_SQUARED_ERROR = 9.0
"""Ratio to the usual mean square of the sides' innovations above which a box may be another object's."""


@dataclass(frozen=True, slots=True, eq=False)
class NoiseScale:
    """Factors of N tracks on the standard deviation of their measurements, as an immutable value.

    `log_scale`: logarithms of the factors. `last`: last innovations in standard deviations, shape (N, 4).
    `power`, `correlation`: smoothed squares, and products of two innovations in a row, shape (N,).
    `side_power`: smoothed squared innovations of the sides, in measurement variances. `residual_share`: share
    of the last residual that is a real change of the box, 0 without a detection in the last frame. Both are
    along x and y, shape (N, 2).
    """

    log_scale: Array
    last: Array
    power: Array
    correlation: Array
    side_power: Array
    residual_share: Array

    @classmethod
    def empty(cls) -> NoiseScale:
        """Factors of no tracks."""
        none, axes = np.empty(0), np.empty((0, 2))
        return cls(none, np.empty((0, 4)), none, none, axes, axes)

    def __getitem__(self, rows: Rows) -> NoiseScale:
        return NoiseScale(*(part[rows] for part in self._parts))

    @property
    def _parts(self) -> tuple[Array, ...]:
        return (
            self.log_scale,
            self.last,
            self.power,
            self.correlation,
            self.side_power,
            self.residual_share,
        )

    def spawn(self, count: int) -> NoiseScale:
        """These factors, followed by those of new tracks, which begin with the mean, or with 1."""
        some = len(self.log_scale) > 0
        log_scale = self.log_scale.mean() if some else 0.0
        side_power = self.side_power.mean(axis=0) if some else FIRST_SIDE_POWER
        new = (log_scale, 0.0, 0.0, 0.0, side_power, 0.0)
        return NoiseScale(
            *(
                np.concatenate([part, np.broadcast_to(value, (count, *part.shape[1:]))])
                for part, value in zip(self._parts, new, strict=True)
            )
        )

    def variance_scale(self, rows: NDArray[np.intp]) -> Array:
        """Factors on the variances of the tracks `rows`, shape (M, 1)."""
        scale: Array = np.exp(2.0 * self.log_scale[rows])[:, None]
        return scale

    def update(self, rows: NDArray[np.intp], innovation: Array, side_error: Array) -> NoiseScale:
        """Takes the next innovations of the tracks `rows`.

        `innovation`: in standard deviations, shape (M, 4). `side_error`: see `WholeObjects.side_errors`.
        """
        power = FORGETTING * self.power[rows] + (innovation**2).mean(axis=1)
        correlation = FORGETTING * self.correlation[rows] + (innovation * self.last[rows]).mean(axis=1)
        lag = correlation / (power + PRIOR) - LAG
        log_scale = self.log_scale[rows] - lag * np.abs(lag)
        log_scale = log_scale.clip(math.log(MIN_SCALE), math.log(MAX_SCALE))
        earlier = self.side_power[rows]
        limit = MAX_SQUARED_ERROR * earlier
        expected = (side_error <= limit).all(axis=1, keepdims=True)
        noise = SIDE_MARGIN * earlier.min(axis=1, keepdims=True)
        share = np.maximum(1.0 - noise / earlier, 0.0) * expected
        change = np.nan_to_num(np.minimum(side_error, limit) - earlier)
        side_power = np.maximum(earlier + (1.0 - FORGETTING) * change, MIN_SIDE_POWER)
        parts = [part.copy() for part in self._parts]
        parts[-1][:] = 0.0
        updated = (log_scale, innovation, power, correlation, side_power, share)
        for part, values in zip(parts, updated, strict=True):
            part[rows] = values
        return NoiseScale(*parts)
