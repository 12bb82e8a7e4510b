# SPDX-License-Identifier: Apache-2.0
"""Data association: detections to tracks, by IoU and Kalman likelihood, in three stages.

The first two are linear assignment problems, as the Hungarian algorithm solves them (`associate`). The third
(`unique_pairs`) pairs tracks with a single detection, whose velocity is still unknown, with the remaining
detections, by the distance of the centres.
"""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from lfm_perception.extension_modules import extension_module
from lfm_perception.geometry import BoxArray, iou_matrix
from lfm_perception.tracking.kalman import MIN_SIZE

Indices = NDArray[np.intp]
Pairs = tuple[Indices, ...]
Matrix = NDArray[np.float64]

LIKELIHOOD_WEIGHT = 2.0
"""Score of the highest possible likelihood; an IoU of 1 scores 1."""

LIKELIHOOD_SCALE = 8.0
"""Squared Mahalanobis distance at which the likelihood scores 1/e of the best. Its mean is 4, one for each
axis of a box; the slope is less steep than a Gaussian's (2), because people turn round."""

MAX_SQUARED_CENTRE_DISTANCE = 4.5
"""Largest squared Mahalanobis distance of the centres of a pair in the third stage."""

MAX_SIZE_RATIO = 1.6
"""Largest ratio of widths, and of heights, in the third stage."""

SECOND_STAGE_MIN_IOU = 0.5
"""Minimum IoU with a track's last measured box; less would match neighbours of an object that moved on."""


def associate(
    predicted: BoxArray,
    last: BoxArray,
    measured: BoxArray,
    distance: Matrix,
    weight: Matrix,
    min_iou: Matrix,
) -> tuple[Indices, Indices]:
    """Assigns D detections to T tracks: the first two stages, each with the highest total score.

    The first stage compares the detections with the predicted boxes: an IoU of `min_iou` or more passes the
    gate, and IoU plus likelihood is the score. The second stage compares the remaining detections with
    the last measured boxes of the remaining tracks, which finds objects that stopped or turned round.

    Args:
        predicted: predicted boxes of the tracks, `xyxy`, shape (T, 4).
        last: last measured boxes of the tracks, `xyxy`, shape (T, 4).
        measured: boxes of the detections, `xyxy`, shape (D, 4).
        distance: squared Mahalanobis distances, shape (T, D).
        weight: factors of the scores, 0 to 1, shape (T, D).
        min_iou: minimum IoU of each track in the first stage, shape (T,).

    Returns:
        Row of the track and row of the detection of every pair.
    """
    iou = iou_matrix(predicted, measured)
    score = iou + LIKELIHOOD_WEIGHT * np.exp(-distance / LIKELIHOOD_SCALE)
    tracks, detections = _assign(score * weight, (iou >= min_iou[:, None]) & (iou > 0.0))
    lost, free = remaining(len(predicted), tracks), remaining(len(measured), detections)
    if lost.size and free.size:
        iou = iou_matrix(last[lost], measured[free])
        rows, columns = _assign(iou * weight[np.ix_(lost, free)], iou >= SECOND_STAGE_MIN_IOU)
        tracks = np.concatenate([tracks, lost[rows]])
        detections = np.concatenate([detections, free[columns]])
    return tracks, detections


def remaining(count: int, taken: Indices) -> Indices:
    """The rows of `count` that are not taken, in ascending order."""
    free = np.ones(count, dtype=bool)
    free[taken] = False
    return np.flatnonzero(free)


def unique_pairs(
    distance: Matrix, first: Matrix, second: Matrix, allowed: NDArray[np.bool_], margin: float
) -> Pairs:
    """The third stage: mutual nearest neighbours by centre distance, with a margin over the runner-up.

    The distance and the size ratio gate them. Re-identification finds dormant tracks in the same way.

    Args:
        distance: squared Mahalanobis distances of the centres, shape (N, M).
        first, second: their [cx, cy, w, h], shape (N, 4) and (M, 4).
        allowed: which pairs may be formed, shape (N, M).
        margin: by how much the distance of any other pair with one of the two must be larger.

    Returns:
        Rows of the first and of the second boxes.
    """
    sizes = [np.log(np.maximum(boxes[:, 2:], MIN_SIZE)) for boxes in (first, second)]
    ratio = np.abs(sizes[0][:, None] - sizes[1][None]).max(axis=2)
    near = distance <= MAX_SQUARED_CENTRE_DISTANCE + margin
    possible = allowed & near & (ratio <= math.log(MAX_SIZE_RATIO))
    padded = np.pad(np.where(possible, distance, np.inf), (0, 1), constant_values=np.inf)
    alone = padded <= MAX_SQUARED_CENTRE_DISTANCE
    for axis in (0, 1):
        best, runner_up = np.take(np.partition(padded, 1, axis=axis), [0, 1], axis=axis).swapaxes(0, axis)
        best, runner_up = (np.expand_dims(each, axis) for each in (best, runner_up))
        alone &= (padded == best) & (padded + margin <= runner_up)
    return np.nonzero(alone)


def _assign(score: Matrix, gate: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """The linear assignment with the highest total score, without the pairs outside the gate."""
    try:  # the function that `scipy.optimize` exports
        module = extension_module("scipy.optimize._lsap")
    except ImportError:  # it is private: another scipy may have it elsewhere
        module = import_module("scipy.optimize")
    rows, columns = module.linear_sum_assignment(np.where(gate, score, 0.0), maximize=True)
    passed = gate[rows, columns]
    return rows[passed], columns[passed]
