"""Association of detections with tracks, by overlap and likelihood, as one assignment problem."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray, iou_matrix

Indices = NDArray[np.intp]
Matrix = NDArray[np.float64]

LIKELIHOOD_WEIGHT = 2.0
"""Score of the best possible likelihood, where a full overlap scores 1."""

LIKELIHOOD_SCALE = 8.0
"""Squared Mahalanobis distance at which the likelihood scores 1/e of the best. Its mean is 4, one for each
axis of a box; the slope is less steep than a Gaussian's (2), because people turn round."""

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
    label_weight: Matrix,
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
        label_weight: factors of the scores, 0 to 1, shape (T, D).
        min_iou: least overlap of each track in the first stage, shape (T,).

    Returns:
        Row of the track and row of the detection of every pair.
    """
    overlap = iou_matrix(predicted, measured)
    score = overlap + LIKELIHOOD_WEIGHT * np.exp(-distance / LIKELIHOOD_SCALE)
    tracks, detections = _assign(score * label_weight, (overlap >= min_iou[:, None]) & (overlap > 0.0))
    lost = np.setdiff1d(np.arange(len(predicted)), tracks)
    free = np.setdiff1d(np.arange(len(measured)), detections)
    if lost.size and free.size:
        overlap = iou_matrix(last[lost], measured[free])
        rows, columns = _assign(overlap * label_weight[np.ix_(lost, free)], overlap >= SECOND_STAGE_MIN_IOU)
        tracks = np.concatenate([tracks, lost[rows]])
        detections = np.concatenate([detections, free[columns]])
    return tracks, detections


def _assign(score: Matrix, gate: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    from scipy.optimize import linear_sum_assignment  # here, because it takes a while to load

    rows, columns = linear_sum_assignment(np.where(gate, score, 0.0), maximize=True)
    passed = gate[rows, columns]
    return rows[passed], columns[passed]
