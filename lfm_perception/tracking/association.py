"""Which detection shows which track: by overlap and by likelihood, all of them weighed together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray, iou_matrix

Indices = NDArray[np.intp]
Matrix = NDArray[np.float64]

LIKELIHOOD = 2.0
"""What the best possible fit to the expected motion counts, where a full overlap counts 1."""

WORSE_FIT = 8.0
"""A squared Mahalanobis distance this large makes a fit count 1/e of the best. Its mean is 4, one for each
axis of a box; less steep than a Gaussian's 2, because people turn round."""

LEAST_OF_LAST = 0.5
"""Least overlap with where a track was last seen. Less takes neighbours for what has moved on."""


def prepare() -> None:
    """Load what the first association needs: half a second in which other threads hardly run."""
    import scipy.optimize  # noqa: F401


def associate(
    predicted: BoxArray, last: BoxArray, seen: BoxArray, distance: Matrix, favour: Matrix, least: Matrix
) -> tuple[Indices, Indices]:
    """Indices of the T tracks and of the D detections that belong together, pair by pair.

    First the detections `seen`, shape (D, 4), are compared with where the tracks are `predicted`, shape
    (T, 4): a pair must overlap by `least`, shape (T,), and counts the more, the more it overlaps and the
    smaller the squared Mahalanobis `distance`, shape (T, D), is. Those left over are compared with where each
    track was `last` seen, which finds what stopped or turned round. Everything is multiplied by `favour`,
    shape (T, D), 0 to 1. Of all pairings the one that counts most is taken.
    """
    overlap = iou_matrix(predicted, seen)
    fit = overlap + LIKELIHOOD * np.exp(-distance / WORSE_FIT)
    tracks, detections = _best(fit * favour, (overlap >= least[:, None]) & (overlap > 0.0))
    rest, free = _others(len(predicted), tracks), _others(len(seen), detections)
    if rest.size and free.size:
        overlap = iou_matrix(last[rest], seen[free])
        again, found = _best(overlap * favour[np.ix_(rest, free)], overlap >= LEAST_OF_LAST)
        tracks = np.concatenate([tracks, rest[again]])
        detections = np.concatenate([detections, free[found]])
    return tracks, detections


def _best(gain: Matrix, possible: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    from scipy.optimize import linear_sum_assignment  # here, because it takes a while to load

    rows, columns = linear_sum_assignment(np.where(possible, gain, 0.0), maximize=True)
    worth = possible[rows, columns]
    return rows[worth], columns[worth]


def _others(count: int, taken: Indices) -> Indices:
    free = np.ones(count, dtype=bool)
    free[taken] = False
    return np.flatnonzero(free)
