# SPDX-License-Identifier: Apache-2.0
"""Measurement model: from the detections of a frame to measured boxes with their variances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray, iou_matrix, stack
from lfm_perception.scene import Detection, View
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking.kalman import Array, ConstantVelocityFilter, centre_and_size
from lfm_perception.tracking.views import cut_sides

MAX_DETECTIONS = 256
"""Maximum number of detections per frame; of more, those with the highest scores are used."""

MAX_LABEL_LENGTH = 64
"""Characters after which a label is cut."""

TRUNCATION_MARGIN = 0.005
"""Distance from the image's edge, in image sides, below which the edge truncates a side of a box."""

IMAGE_EDGES = np.array([0.0, 0.0, 1.0, 1.0])

CROWDED_IOU = 0.7
"""IoU with another detection above which a box is crowded: its errors are systematic, so they do not adapt
the measurement noise."""

PAIR_IOU = 0.5
"""IoU with each of two tracks from which on a detection is one of two objects, not a duplicate."""

UNMEASURED = 1e6
"""Variance, in image sides squared, of a component that a detection does not measure."""

LEAVING_SHARE = 0.7
"""Visible share of the width or height of an object that moves out of the image, below which a miss means
that it has left."""

OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])
"""Direction out of the image of each side, `xyxy`."""

# Reasons for which detections are rejected
INVALID_BOX = "not a box"
NO_LABEL = "no label"
TOO_MANY_DETECTIONS = "too many objects"


@dataclass(frozen=True, slots=True)
class WholeObjects:
    """Predicted and measured [cx, cy, w, h] of whole objects, with measurement noise, shape (M, 4)."""

    predicted: Array
    measured: Array
    variance: Array

    def side_errors(self) -> Array:
        """Mean squares of the innovations of the sides along x and y, shape (M, 2), in measurement variances.

        Innovations of the filters before the update; NaN along an axis on which an edge cuts the object off.
        """
        error = self.measured - self.predicted
        square = (error[:, :2] ** 2 + error[:, 2:] ** 2 / 4.0) / self.variance[:, :2]
        return np.where(self.variance[:, 2:] < UNMEASURED, square, np.nan)


@dataclass(frozen=True, slots=True)
class Measurements:
    """The valid detections of a frame, sorted: their original order has no influence.

    `boxes`: `xyxy`, shape (D, 4). `position`: [cx, cy, w, h], shape (D, 4), and `variance` its measurement
    noise. `truncated`: which sides the image's edge cuts off, shape (D, 4); `cut`: which the region's edge
    does. `crowded`: which boxes have an IoU above `CROWDED_IOU` with others, shape (D,).
    """

    boxes: BoxArray
    position: Array
    variance: Array
    truncated: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    crowded: NDArray[np.bool_]
    labels: tuple[str, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_detections(
        cls,
        detections: Sequence[Detection],
        settings: TrackerSettings,
        rejects: Counter[str],
        seen: BoxArray,
        view: View | None,
    ) -> Measurements:
        """Measurements of the valid detections in a view; the others are added to `rejects` by reason.

        Class-agnostic non-maximum suppression: of two detections with an IoU of `nms_iou` or more, the one
        with the higher score remains; both where the other one overlaps two of the tracks `seen`, `xyxy` of
        shape (N, 4).
        """
        valid = []
        boxes = stack(detection.box for detection in detections)
        low, high = boxes[:, :2], boxes[:, 2:]
        ordered = np.isfinite(low) & np.isfinite(high) & (low < high) & (high > 0.0) & (low < 1.0)
        fit = np.logical_and.reduce(ordered, axis=1).tolist()
        for detection, box, is_box in zip(detections, boxes.clip(0.0, 1.0).tolist(), fit, strict=True):
            label = detection.label.strip()[:MAX_LABEL_LENGTH]
            if not is_box:
                rejects[INVALID_BOX] += 1
            elif not label:
                rejects[NO_LABEL] += 1
            else:
                score = min(max(detection.score, 0.0), 1.0) if math.isfinite(detection.score) else 0.0
                valid.append((-score, tuple(box), label, _model_variance(detection)))
        valid.sort()
        if len(valid) > MAX_DETECTIONS:
            rejects[TOO_MANY_DETECTIONS] += len(valid) - MAX_DETECTIONS
            del valid[MAX_DETECTIONS:]
        boxes = np.array([box for _, box, _, _ in valid]).reshape(-1, 4)
        iou = iou_matrix(boxes, boxes)
        np.fill_diagonal(iou, 0.0)
        duplicate = iou >= settings.nms_iou
        if duplicate.any():
            pair_seen = (iou_matrix(boxes, seen) >= PAIR_IOU).sum(axis=1) > 1
            single = _without_duplicates(duplicate & ~pair_seen)
            valid = [valid[row] for row in single]
            boxes, iou = boxes[single], iou[np.ix_(single, single)]
        position = centre_and_size(boxes)
        variance = np.array([variance for _, _, _, variance in valid]).reshape(-1, 4)
        return cls(
            boxes=boxes,
            position=position,
            variance=_measurement_noise(position, variance, settings),
            truncated=np.concatenate(
                [boxes[:, :2] < TRUNCATION_MARGIN, boxes[:, 2:] > 1.0 - TRUNCATION_MARGIN], axis=1
            ),
            cut=cut_sides(boxes, view),
            crowded=np.any(iou > CROWDED_IOU, axis=1),
            labels=tuple(label for _, _, label, _ in valid),
            scores=tuple(-score for score, _, _, _ in valid),
        )

    def complete(
        self, rows: NDArray[np.intp], predicted: Array, was_truncated: NDArray[np.bool_]
    ) -> WholeObjects:
        """Whole boxes of the objects that an edge cuts off, which move as their visible side does.

        A truncated object is as large as its track, or as its visible part where that is larger. A track that
        must grow for that keeps the position of its visible side, as it does when its other side appears.
        Where both sides are cut off and one of them by a region, the box measures nothing.

        Args:
            rows: measurements, shape (M,).
            predicted: predicted [cx, cy, w, h] of their tracks, shape (M, 4).
            was_truncated: which sides were cut off at the tracks' last measurement, shape (M, 4).
        """
        position, variance, cut_off = self.position[rows], self.variance[rows], self.cut[rows]
        truncated = self.truncated[rows] | cut_off
        size, track_size = position[:, 2:], predicted[:, 2:]
        cut = truncated[:, :2] ^ truncated[:, 2:]  # cut off at both sides, the visible centre is a good guess
        appeared = ~(truncated[:, :2] | truncated[:, 2:]) & (was_truncated[:, :2] ^ was_truncated[:, 2:])
        low_side = np.where(cut, truncated[:, :2], was_truncated[:, :2])
        beyond = np.where(low_side, -0.5, 0.5) * (cut | appeared)
        whole = np.where(cut, np.maximum(size, track_size), np.where(appeared, size, track_size))
        centre = position[:, :2] + beyond * (whole - size)
        spanned = truncated[:, :2] & truncated[:, 2:] & (cut_off[:, :2] | cut_off[:, 2:])
        centre_variance = np.where(cut, variance[:, 2:], np.where(spanned, UNMEASURED, variance[:, :2]))
        size_variance = np.where(cut | spanned, UNMEASURED, variance[:, 2:])
        return WholeObjects(
            np.concatenate([predicted[:, :2] + beyond * (whole - track_size), whole], axis=1),
            np.concatenate([centre, size], axis=1),
            np.concatenate([centre_variance, size_variance], axis=1),
        )


def _without_duplicates(duplicate: NDArray[np.bool_]) -> list[int]:
    """Greedy non-maximum suppression: the rows that remain of D detections, sorted by descending score.

    `duplicate`: which pairs overlap too much, shape (D, D); the second one of a pair is suppressed.
    """
    dropped = set[int]()
    for first, second in np.argwhere(duplicate).tolist():
        if first < second and first not in dropped:
            dropped.add(second)
    return [row for row in range(len(duplicate)) if row not in dropped]


def _model_variance(detection: Detection) -> tuple[float, float, float, float]:
    """Variances of [cx, cy, w, h] from those of the sides; NaN where the model gave no finite ones."""
    std = detection.std
    if std is None:
        return (math.nan,) * 4
    # products become infinite where powers would raise
    x = std.x1 * std.x1 + std.x2 * std.x2
    y = std.y1 * std.y1 + std.y2 * std.y2
    if not (math.isfinite(x) and math.isfinite(y)):
        return (math.nan,) * 4
    return x / 4.0, y / 4.0, x, y


def _measurement_noise(position: Array, model_variance: Array, settings: TrackerSettings) -> Array:
    """Variances of measured [cx, cy, w, h], shape (D, 4): the model's, or a share of the box's size."""
    default = settings.measurement_noise * np.tile(position[:, 2:], 2) + settings.min_measurement_noise
    scaled = settings.measurement_noise_scale**2 * model_variance + settings.min_measurement_noise**2
    return np.where(np.isnan(model_variance), default**2, np.minimum(scaled, UNMEASURED))


def visible_boxes(tracks: ConstantVelocityFilter, truncated: NDArray[np.bool_]) -> BoxArray:
    """The parts of the boxes inside the image, `xyxy`, shape (N, 4). Truncated sides stay on the edge."""
    return np.where(truncated, IMAGE_EDGES, tracks.corners().clip(0.0, 1.0))


def are_leaving(tracks: ConstantVelocityFilter, truncated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which objects move out of the image through a truncated side and have mostly done so, shape (N,)."""
    boxes = visible_boxes(tracks, truncated)
    outward = truncated & (np.tile(tracks.velocity[:, :2], 2) * OUTWARD > 0.0)
    small = boxes[:, 2:] - boxes[:, :2] < LEAVING_SHARE * tracks.position[:, 2:]
    return np.asarray((outward & np.tile(small, 2)).any(axis=1))
