# SPDX-License-Identifier: Apache-2.0
"""Other trackers behind the interface that ours has: SORT, those of `trackers`, norfair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import norfair
import numpy as np
import supervision
from filterpy.kalman import KalmanFilter
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from trackers import ByteTrackTracker, OCSORTTracker, SORTTracker

from lfm_perception.evaluation.tracking import (
    EvaluatedTracker,
    TrackedBox,
    TrackingProtocol,
    TrackingSequence,
)
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection

Boxes = NDArray[np.float64]
MAX_AGE_S = 1.2
"""Maximum age of the peers' coasting tracks: the same as our default."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A box of a peer, with its identity."""

    track_id: int
    box: Box


def labelled(track_id: int, xyxy: Sequence[float]) -> list[Labelled]:
    """The part of a box inside the image, if there is one."""
    sides = [min(max(float(side), 0.0), 1.0) for side in xyxy]
    return [Labelled(track_id, Box(*sides))] if sides[0] < sides[2] and sides[1] < sides[3] else []


# --- SORT, as published ---------------------------------------------------------------------------


@dataclass
class _SortTrack:
    """State [cx, cy, area, aspect, and the speeds of the first three], with the paper's noises."""

    track_id: int
    filter: KalmanFilter
    hits: int = 1
    unseen: int = 0


class Sort:
    """SORT (Bewley et al. 2016) in frames. `coast`: predict at every frame; else hold the last boxes."""

    def __init__(
        self, sequence: TrackingSequence, protocol: TrackingProtocol, *, coast: bool, min_hits: int
    ) -> None:
        self._coast, self._min_hits = coast, min_hits
        self._forget = round(MAX_AGE_S * sequence.fps) if coast else 1
        self._tracks: list[_SortTrack] = []
        self._given = 0
        self._fresh = False
        self._scale = np.array(
            [sequence.width, sequence.height, sequence.width, sequence.height], dtype=np.float64
        )

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        boxes = stack(d.box for d in detections) * self._scale
        self._predict()
        known = np.array([self._box(track) for track in self._tracks]).reshape(-1, 4)
        overlap = iou_matrix(known, boxes)
        rows, columns = linear_sum_assignment(overlap, maximize=True)
        pairs = {int(c): int(r) for r, c in zip(rows, columns, strict=True) if overlap[r, c] >= 0.3}
        for column, box in enumerate(boxes):
            if column in pairs:
                track = self._tracks[pairs[column]]
                track.filter.update(self._measured(box))
                track.hits, track.unseen = track.hits + 1, 0
            else:
                self._given += 1
                self._tracks.append(_SortTrack(self._given, self._filter(box)))
        self._fresh = True

    def predict(self, stamp_s: float) -> Sequence[TrackedBox]:
        if self._coast and not self._fresh:
            self._predict()
        self._fresh = False
        shown: list[Labelled] = []
        for track in self._tracks:
            if track.hits >= self._min_hits and (self._coast or track.unseen == 0):
                shown += labelled(track.track_id, self._box(track) / self._scale)
        return shown

    def _predict(self) -> None:
        for track in self._tracks:
            if track.filter.x[2, 0] + track.filter.x[6, 0] <= 0:
                track.filter.x[6] = 0.0
            track.filter.predict()
            track.unseen += 1
        self._tracks = [track for track in self._tracks if track.unseen <= self._forget]

    def _filter(self, box: Boxes) -> KalmanFilter:
        kalman = KalmanFilter(dim_x=7, dim_z=4)
        kalman.F = np.eye(7) + np.eye(7, k=4)
        kalman.H = np.eye(4, 7)
        kalman.R[2:, 2:] *= 10.0
        kalman.P[4:, 4:] *= 1000.0
        kalman.P *= 10.0
        kalman.Q[-1, -1] *= 0.01
        kalman.Q[4:, 4:] *= 0.01
        kalman.x[:4, 0] = self._measured(box)
        return kalman

    @staticmethod
    def _measured(box: Boxes) -> Boxes:
        wide, high = box[2] - box[0], box[3] - box[1]
        return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, wide * high, wide / high])

    @staticmethod
    def _box(track: _SortTrack) -> Boxes:
        x, y, area, aspect = track.filter.x[:4, 0]
        wide = float(np.sqrt(max(area * aspect, 1e-9)))
        high = max(area, 1e-9) / wide
        return np.array([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])


# --- current releases of others -------------------------------------------------------------------


class Roboflow:
    """A tracker of the package `trackers`. It names the detections it is given: they are held."""

    def __init__(self, sequence: TrackingSequence, tracker: Any) -> None:
        self._tracker, self._shown = tracker, list[Labelled]()
        self._scale = np.array(
            [sequence.width, sequence.height, sequence.width, sequence.height], dtype=np.float64
        )

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        given = supervision.Detections(
            xyxy=stack(d.box for d in detections) * self._scale,
            confidence=np.array([d.score for d in detections]),
            class_id=np.zeros(len(detections), dtype=int),
        )
        named = self._tracker.update(given, timestamp=stamp_s)
        self._shown = []
        for track_id, box in zip(named.tracker_id, named.xyxy / self._scale, strict=True):
            if track_id >= 0:
                self._shown += labelled(int(track_id), box)

    def predict(self, stamp_s: float) -> Sequence[TrackedBox]:
        return self._shown


class Norfair:
    """norfair, told how many frames lie between two answers; it predicts at every frame."""

    def __init__(self, sequence: TrackingSequence, protocol: TrackingProtocol, **options: Any) -> None:
        self._tracker = norfair.Tracker("iou", distance_threshold=0.8, **options)
        self._period = protocol.stride
        self._fresh = False
        self._scale = np.array([sequence.width, sequence.height], dtype=np.float64)

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        self._step(
            [norfair.Detection(d.box.xyxy.reshape(2, 2) * self._scale, scores=np.ones(2)) for d in detections]
        )
        self._fresh = True

    def predict(self, stamp_s: float) -> Sequence[TrackedBox]:
        if not self._fresh:
            self._step(None)
        self._fresh = False
        shown: list[Labelled] = []
        for known in self._known:
            shown += labelled(known.id, (known.estimate / self._scale).reshape(4).tolist())
        return shown

    def _step(self, detections: list[norfair.Detection] | None) -> None:
        self._known = self._tracker.update(detections, period=self._period if detections is not None else 1)


PEERS: Mapping[str, Callable[[TrackingSequence, TrackingProtocol], EvaluatedTracker[TrackedBox]]] = {
    "SORT, holding": lambda sequence, protocol: Sort(sequence, protocol, coast=False, min_hits=3),
    "SORT, holding, shown at once": lambda sequence, protocol: Sort(
        sequence, protocol, coast=False, min_hits=1
    ),
    "SORT, coasting": lambda sequence, protocol: Sort(sequence, protocol, coast=True, min_hits=3),
    "SORT, coasting, shown early": lambda sequence, protocol: Sort(
        sequence, protocol, coast=True, min_hits=2
    ),
    "trackers SORT": lambda sequence, protocol: Roboflow(
        sequence, SORTTracker(frame_rate=sequence.fps / protocol.stride)
    ),
    "trackers SORT, shown at once": lambda sequence, protocol: Roboflow(
        sequence, SORTTracker(frame_rate=sequence.fps / protocol.stride, minimum_consecutive_frames=1)
    ),
    "trackers ByteTrack": lambda sequence, protocol: Roboflow(
        sequence, ByteTrackTracker(frame_rate=sequence.fps / protocol.stride)
    ),
    "trackers ByteTrack, shown at once": lambda sequence, protocol: Roboflow(
        sequence, ByteTrackTracker(frame_rate=sequence.fps / protocol.stride, minimum_consecutive_frames=1)
    ),
    "trackers OC-SORT": lambda sequence, protocol: Roboflow(
        sequence, OCSORTTracker(frame_rate=sequence.fps / protocol.stride)
    ),
    "trackers OC-SORT, shown at once": lambda sequence, protocol: Roboflow(
        sequence, OCSORTTracker(frame_rate=sequence.fps / protocol.stride, minimum_consecutive_frames=1)
    ),
    "norfair": lambda sequence, protocol: Norfair(sequence, protocol),
    "norfair, shown at once": lambda sequence, protocol: Norfair(sequence, protocol, initialization_delay=0),
}
