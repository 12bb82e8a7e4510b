"""SORT (Bewley et al. 2016, https://arxiv.org/abs/1602.00763) on filterpy, in seconds.

Each track is a Kalman filter with constant velocity on the box's centre and size; boxes are matched
by overlap with the Hungarian method. Measurements are fused at their stamp, and `predict` reads the
filters without moving them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection, Track, Velocity
from lfm_perception.settings import TrackerSettings

if TYPE_CHECKING:
    from filterpy.kalman import KalmanFilter

Vector = NDArray[np.float64]

NOISE_PER_SIZE = 0.10
"""Standard deviation of a measured centre or size, in widths (heights) of the box..."""

NOISE_FLOOR = 0.004
"""...plus this share of the image."""

ACCELERATION = np.array([0.3, 0.3, 0.15, 0.15])
"""Standard deviation of the acceleration of centre x, y and of width, height; image sides per s^2."""

START_SPEED = np.array([0.3, 0.3, 0.15, 0.15])
"""Standard deviation of the unknown first velocity, image sides per second."""

OTHER_LABEL = 0.5
"""An overlap counts this much when the labels differ: models rename what they see now and then."""


@dataclass
class _Target:
    """One filter, state [cx, cy, w, h, vx, vy, vw, vh], with the history that decides its fate."""

    track_id: int
    filter: KalmanFilter
    first_s: float
    last_s: float
    score: float
    hits: int = 1
    misses: int = 0
    votes: Counter[str] = field(default_factory=Counter)

    @property
    def label(self) -> str:
        return self.votes.most_common(1)[0][0]


class SortTracker:
    """A `Tracker`. Not for several threads at once.

    `min_iou`: least overlap of a prediction and a detection that may be the same object, 0..1.
    `min_hits`: detections before a track is published. `shown_misses`: inferred frames in a row that a
    track may be missing from and still be published. `forget_after`: seconds after the last detection when
    a track ends; one that was never published ends with its first miss.
    """

    def __init__(
        self, *, min_iou: float = 0.2, min_hits: int = 2, shown_misses: int = 1, forget_after: float = 1.2
    ) -> None:
        self._min_iou, self._min_hits = min_iou, min_hits
        self._shown_misses, self._forget_after = shown_misses, forget_after
        self._last_id = 0
        self.reset()

    def change(self, settings: TrackerSettings) -> None:
        self._min_iou, self._min_hits = settings.min_iou, settings.min_hits
        self._forget_after = settings.forget_after

    def reset(self) -> None:
        self._targets: list[_Target] = []
        self._stamp_s = -np.inf

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        if stamp_s < self._stamp_s:
            raise ValueError(f"stamp {stamp_s} s is before the last update at {self._stamp_s} s")
        self._targets = [target for target in self._targets if stamp_s - target.last_s <= self._forget_after]
        for target in self._targets:
            step = stamp_s - self._stamp_s
            target.filter.predict(F=_transition(step), Q=_process_noise(step))
        self._stamp_s = stamp_s

        pairs = self._associate(detections)
        for target_index, detection_index in pairs.items():
            self._fuse(self._targets[target_index], detections[detection_index])
        for index, target in enumerate(self._targets):
            target.misses = 0 if index in pairs else target.misses + 1
        self._targets = [t for t in self._targets if t.misses == 0 or t.hits >= self._min_hits]

        matched = set(pairs.values())
        for index, detection in enumerate(detections):
            if index not in matched:
                self._start(detection)

    def predict(self, stamp_s: float) -> tuple[Track, ...]:
        step = max(stamp_s - self._stamp_s, 0.0)
        tracks = []
        for target in self._targets:
            unseen_s = self._stamp_s + step - target.last_s
            if (
                target.hits < self._min_hits
                or target.misses > self._shown_misses
                or unseen_s > self._forget_after
            ):
                continue
            state = _transition(step) @ target.filter.x[:, 0]
            box = _visible(state)
            if box is not None:
                velocity = Velocity(x=float(state[4]), y=float(state[5]))
                age_s = self._stamp_s + step - target.first_s
                tracks.append(
                    Track(target.track_id, target.label, box, target.score, velocity, age_s, unseen_s)
                )
        return tuple(tracks)

    def _associate(self, detections: Sequence[Detection]) -> dict[int, int]:
        """Index of target -> index of detection, for the pairs that overlap enough."""
        if not self._targets or not detections:
            return {}
        from scipy.optimize import linear_sum_assignment

        predicted = np.array([_corners(target.filter.x[:, 0]) for target in self._targets])
        overlap = iou_matrix(predicted, stack(detection.box for detection in detections))
        same = np.array([[t.label == d.label for d in detections] for t in self._targets])
        gain = np.where(overlap >= self._min_iou, overlap * np.where(same, 1.0, OTHER_LABEL), 0.0)
        rows, columns = linear_sum_assignment(gain, maximize=True)
        return {
            int(row): int(column) for row, column in zip(rows, columns, strict=True) if gain[row, column] > 0
        }

    def _fuse(self, target: _Target, detection: Detection) -> None:
        measured = _centre_and_size(detection.box)
        target.filter.update(measured, R=_measurement_noise(measured))
        target.filter.x[2:4] = np.maximum(target.filter.x[2:4], 0.0)
        target.hits += 1
        target.last_s = self._stamp_s
        target.score = detection.score
        target.votes[detection.label] += 1

    def _start(self, detection: Detection) -> None:
        from filterpy.kalman import KalmanFilter  # here, because it takes half a second

        measured = _centre_and_size(detection.box)
        kalman = KalmanFilter(dim_x=8, dim_z=4)
        kalman.H = np.eye(4, 8)
        kalman.x = np.concatenate([measured, np.zeros(4)])[:, None]
        kalman.P = np.diag(np.concatenate([_measurement_noise(measured).diagonal(), START_SPEED**2]))
        self._last_id += 1
        self._targets.append(
            _Target(
                track_id=self._last_id,
                filter=kalman,
                first_s=self._stamp_s,
                last_s=self._stamp_s,
                score=detection.score,
                votes=Counter([detection.label]),
            )
        )


def _transition(step_s: float) -> Vector:
    """What `step_s` seconds at constant velocity make of the state, shape (8, 8)."""
    matrix = np.eye(8)
    matrix[:4, 4:] = np.eye(4) * step_s
    return matrix


def _process_noise(step_s: float) -> Vector:
    """Covariance that random acceleration adds in `step_s` seconds, shape (8, 8)."""
    position, mixed, speed = step_s**4 / 4.0, step_s**3 / 2.0, step_s**2
    return np.kron(np.array([[position, mixed], [mixed, speed]]), np.diag(ACCELERATION**2))


def _measurement_noise(measured: Vector) -> Vector:
    """Covariance of a measured [cx, cy, w, h], shape (4, 4)."""
    width, height = measured[2:]
    deviation = NOISE_PER_SIZE * np.array([width, height, width, height]) + NOISE_FLOOR
    return np.diag(deviation**2)


def _centre_and_size(box: Box) -> Vector:
    """[cx, cy, w, h], shape (4,)."""
    return np.array([(box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, box.width, box.height])


def _corners(state: Vector) -> Vector:
    """`xyxy` of a state, shape (4,); may leave the image."""
    half = np.maximum(state[2:4], 0.0) / 2
    return np.concatenate([state[:2] - half, state[:2] + half])


def _visible(state: Vector) -> Box | None:
    """The part of the box inside the image; None when nothing is."""
    x1, y1, x2, y2 = (float(side) for side in _corners(state).clip(0.0, 1.0))
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
