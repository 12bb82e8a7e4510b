# SPDX-License-Identifier: Apache-2.0
"""Association of detections with tracks, by overlap and likelihood, as one assignment problem."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray, iou_matrix
from lfm_perception.tracking.kalman import MIN_SIZE

Indices = NDArray[np.intp]
Pairs = tuple[Indices, ...]
Matrix = NDArray[np.float64]

LIKELIHOOD_WEIGHT = 2.0
"""Score of the best possible likelihood, where a full overlap scores 1."""

LIKELIHOOD_SCALE = 8.0
"""Squared Mahalanobis distance at which the likelihood scores 1/e of the best. Its mean is 4, one for each
axis of a box; the slope is less steep than a Gaussian's (2), because people turn round."""

MAX_CENTRE_DISTANCE = 4.5
"""Largest squared distance of the centres of a unique pair, in standard deviations."""

MAX_SIZE_RATIO = 1.6
"""Largest ratio of widths, and of heights, in the third stage."""

SECOND_STAGE_MIN_IOU = 0.5
"""Least overlap with a track's last measured box; less would associate neighbours of what has moved on."""


def prepare() -> None:
    """Imports what the first association needs: half a second in which other threads hardly run."""
    import scipy.optimize  # noqa: F401


def associate(
    predicted: BoxArray,
    last: BoxArray,
    measured: BoxArray,
    distance: Matrix,
    weight: Matrix,
    min_iou: Matrix,
) -> tuple[Indices, Indices]:
    """Assigns D detections to T tracks in two stages, each with the highest total score.

    The first stage compares the detections with the predicted boxes: overlaps of `min_iou` or more pass the
    gate, and overlap plus likelihood is the score. The second stage compares the remaining detections with
    the last measured boxes of the remaining tracks, which finds objects that stopped or turned round.

    Args:
        predicted: predicted boxes of the tracks, `xyxy`, shape (T, 4).
        last: last measured boxes of the tracks, `xyxy`, shape (T, 4).
        measured: boxes of the detections, `xyxy`, shape (D, 4).
        distance: squared Mahalanobis distances, shape (T, D).
        weight: factors of the scores, 0 to 1, shape (T, D).
        min_iou: least overlap of each track in the first stage, shape (T,).

    Returns:
        Row of the track and row of the detection of every pair.
    """
    overlap = iou_matrix(predicted, measured)
    score = overlap + LIKELIHOOD_WEIGHT * np.exp(-distance / LIKELIHOOD_SCALE)
    tracks, detections = _assign(score * weight, (overlap >= min_iou[:, None]) & (overlap > 0.0))
    lost = np.setdiff1d(np.arange(len(predicted)), tracks)
    free = np.setdiff1d(np.arange(len(measured)), detections)
    if lost.size and free.size:
        overlap = iou_matrix(last[lost], measured[free])
        rows, columns = _assign(overlap * weight[np.ix_(lost, free)], overlap >= SECOND_STAGE_MIN_IOU)
        tracks = np.concatenate([tracks, lost[rows]])
        detections = np.concatenate([detections, free[columns]])
    return tracks, detections


def unique_pairs(
    distance: Matrix, first: Matrix, second: Matrix, allowed: NDArray[np.bool_], margin: float
) -> Pairs:
    """Pairs of N and M boxes that go together by place and size, and with no other one.

    Args:
        distance: squared distances of the centres in standard deviations, shape (N, M).
        first, second: their [cx, cy, w, h], shape (N, 4) and (M, 4).
        allowed: which pairs may be formed, shape (N, M).
        margin: by how much the distance of any other pair with one of the two must be larger.

    Returns:
        Rows of the first and of the second boxes.
    """
    sizes = [np.log(np.maximum(boxes[:, 2:], MIN_SIZE)) for boxes in (first, second)]
    ratio = np.abs(sizes[0][:, None] - sizes[1][None]).max(axis=2)
    possible = allowed & (ratio <= math.log(MAX_SIZE_RATIO)) & (distance <= MAX_CENTRE_DISTANCE + margin)
    padded = np.pad(np.where(possible, distance, np.inf), (0, 1), constant_values=np.inf)
    alone = padded <= MAX_CENTRE_DISTANCE
    for axis in (0, 1):
        best, rival = np.take(np.partition(padded, 1, axis=axis), [0, 1], axis=axis).swapaxes(0, axis)
        best, rival = (np.expand_dims(each, axis) for each in (best, rival))
        alone &= (padded == best) & (padded + margin <= rival)
    return np.nonzero(alone)


def _assign(score: Matrix, gate: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    from scipy.optimize import linear_sum_assignment  # here, because it takes a while to load

    rows, columns = linear_sum_assignment(np.where(gate, score, 0.0), maximize=True)
    passed = gate[rows, columns]
    return rows[passed], columns[passed]
