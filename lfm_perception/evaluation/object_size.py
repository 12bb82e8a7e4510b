# SPDX-License-Identifier: Apache-2.0
"""From which size on a model sees objects: recall by their size in picture pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOUNDS = (0.0, 10.0, 14.0, 18.0, 24.0, 32.0, 48.0)
"""Lower bounds of the classes of size, picture pixels."""

DETECTED = 0.8
"""Share of the objects of a size that a model detects, from which on a track without one counts as missed."""

MIN_OBJECTS = 30
"""Objects below which a class or a fit says nothing."""


@dataclass(frozen=True, slots=True)
class SizedObjects:
    """Objects of a size in picture pixels, shape (N,), and whether each was found."""

    sizes: NDArray[np.float64]
    found: NDArray[np.bool_]

    @classmethod
    def of(cls, objects: Sequence[tuple[float, bool]]) -> SizedObjects:
        """From pairs of size and found."""
        return cls(np.array([size for size, _ in objects]), np.array([found for _, found in objects], bool))

    def recall(self) -> tuple[float | None, ...]:
        """Share of those found in each class of `BOUNDS`; None where there are too few."""
        classes = np.searchsorted(BOUNDS, self.sizes, side="right") - 1
        members = [self.found[classes == index] for index in range(len(BOUNDS))]
        return tuple(float(each.mean()) if len(each) >= MIN_OBJECTS else None for each in members)

    def smallest_seen(self) -> float | None:
        """The size from which on `DETECTED` of the objects are found, as the bound with the fewest errors.

        An error is an object that was found below the bound, or one that was not from it on, which counts the
        more the larger `DETECTED` is. None for too few objects, or where either kind is rare.
        """
        if min(int(self.found.sum()), int((~self.found).sum())) < MIN_OBJECTS:
            return None
        order = np.argsort(self.sizes)
        weight = DETECTED / (1.0 - DETECTED)
        errors = np.cumsum(np.append(0.0, np.where(self.found[order], 1.0, -weight)))
        # the bound lies at the first object above it, or beyond the last one
        bound = min(int(errors.argmin()), len(order) - 1)
        return round(float(self.sizes[order][bound]), 1)


def size_advice(smallest: float | None) -> str:
    """What to do with `fovea.min_object_size`, in a sentence."""
    if smallest is None:
        return "Keep fovea.min_object_size: too few objects were detected, or too few were not."
    return f"Set fovea.min_object_size {smallest:g}: from that size on most objects are detected."
