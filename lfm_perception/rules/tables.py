# SPDX-License-Identifier: Apache-2.0
"""Operations on truth tables: rows of conditions, columns of tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.rules.places import Bools, Floats, T
from lfm_perception.rules.schema import Range

Rows = NDArray[np.intp]


class Ranges:
    """Open ranges with hysteresis, of the values of these rows.

    A value that is uncertain by a margin is in a range once it is that far inside, and stays so until it is
    as far outside, or by the hysteresis where that is more. The margin is at most half as wide as the range,
    or as what is below it, so that every range can be entered and left.
    """

    def __init__(self, ranges: Sequence[tuple[int, Range]]) -> None:
        self.rows = np.array([row for row, _ in ranges], dtype=np.intp)
        bounds = np.array([(r.above, r.below, r.hysteresis) for _, r in ranges], dtype=np.float64)
        low, high, self._hysteresis = bounds.reshape(-1, 3).T[:, :, None]
        self._low, self._high = low, high
        self._or_unknown = np.array([[r.or_unknown] for _, r in ranges], dtype=bool).reshape(-1, 1)
        self._any_unknown = bool(self._or_unknown.any())
        self._sticky = bool(self._hysteresis.any())
        self._lower, self._upper = bool((low > -np.inf).any()), bool((high < np.inf).any())
        self._max_margin = np.minimum(np.where(np.isinf(low), high, low), (high - low) / 2.0) / 2.0

    def hold(
        self, values: NDArray[Any], before: Bools, rows: Rows | None = None, margin: Floats | None = None
    ) -> Bools:
        """Whether values are in their range, given whether they were `before`, in these rows of a table.

        Values and their margins are of shape (N,), the same for all rows, or (rows, N); NaN where unknown.
        """
        low, high = self._low, self._high
        if self._sticky or margin is not None:
            slack = self._slack(before if rows is None else before.take(rows, axis=0), margin)
            low, high = low - slack if self._lower else low, high + slack if self._upper else high
        inside: Bools = values > low if self._lower else values < high
        if self._lower and self._upper:
            inside &= values < high
        return inside | (self._or_unknown & np.isnan(values)) if self._any_unknown else inside

    def _slack(self, before: Bools, margin: Floats | None) -> Floats:
        """How far beyond their range values are still in it; how far inside they must be, if negative."""
        if margin is None:
            slack: Floats = self._hysteresis * before
            return slack
        margin = np.minimum(margin, self._max_margin)
        return np.where(before, np.maximum(margin, self._hysteresis) if self._sticky else margin, -margin)


class Members:
    """The members that each row asks for, of rows that ask for any."""

    def __init__(self, members: Mapping[int, Sequence[int]]) -> None:
        asked = {row: found for row, found in members.items() if found}
        self.rows = np.array(list(asked), dtype=np.intp)
        self._flat = np.array([member for found in asked.values() for member in found], dtype=np.intp)
        self._starts = np.cumsum([0, *map(len, asked.values())])[: len(asked)]

    def gather(self, table: NDArray[T], *, all_of: bool) -> NDArray[T]:
        """The least (all of), or the greatest (any of), of the values of each row's members in `table`."""
        found = table.take(self._flat, axis=0)
        if len(self._flat) == len(self.rows):
            return found
        extreme: NDArray[T] = (np.minimum if all_of else np.maximum).reduceat(found, self._starts, axis=0)
        return extreme


def narrow(table: Bools, rows: Rows, also: Bools) -> None:
    """Leave true in these rows of a table what is `also` true."""
    table[rows] = table.take(rows, axis=0) & also


def spread(shape: tuple[int, int], places: Rows, values: NDArray[T], others: int = 0) -> NDArray[T]:
    """A table with these values at flat places, and at all others the same one."""
    table = np.full(shape, others, dtype=values.dtype)
    table.reshape(-1)[places] = values
    return table
