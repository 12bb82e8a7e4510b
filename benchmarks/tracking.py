# SPDX-License-Identifier: Apache-2.0
"""Comparison of the tracker with others, on the same detections.

    pip install trackers && pip install --no-deps norfair      (norfair asks for an older numpy than it needs)
    python benchmarks/tracking.py --out benchmarks/results/tracking.json

Every tracker gets the detections when they arrive and predicts at every frame, under the protocols of
`lfm_perception.evaluation.tracking`, on TUD-Campus and TUD-Stadtmitte. None of them
knows latency or frames without inference, so each is used in the way that suits it best: trackers that only
return the identities of detections hold their last boxes until the next ones; those that predict do so at
every frame. Each is measured with its own defaults, and once more with tracks confirmed at once.

`bound` is an upper bound: it knows the identities and which objects are still there, has no false positives,
and fits the constant velocity with the best metrics, over the last 2 to 8 detections.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import norfair
import numpy as np
import supervision
from filterpy.kalman import KalmanFilter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from trackers import ByteTrackTracker, OCSORTTracker, SORTTracker

from lfm_perception.evaluation.sequences import read_tud
from lfm_perception.evaluation.tracking import (
    PROTOCOLS,
    EvaluatedTracker,
    TrackedBox,
    TrackingMetrics,
    TrackingProtocol,
    TrackingSequence,
    evaluate_tracks,
    mean_metrics,
    simulate_detections,
    track_sequence,
)
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.kalman import ConstantVelocityFilter

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


# --- the bound --------------------------------------------------------------------------------------


def informed(
    sequence: TrackingSequence, protocol: TrackingProtocol, seed: int, memory: int
) -> list[list[Labelled]]:
    """Tracks with known identities, by a straight line through the last `memory` detections.

    Draws the same detections as `track_sequence`.
    """
    rng = random.Random(f"{seed} {sequence.name}")
    noise = random.Random(f"{seed} {sequence.name} noise")
    inferred = list(protocol.inferred_frames(len(sequence.frames), rng))
    seen: dict[int, list[tuple[int, Boxes]]] = defaultdict(list)
    shown = []
    for index, figures in enumerate(sequence.frames):
        while inferred and inferred[0][1] <= index:
            frame, _ = inferred.pop(0)
            for detection, identity in simulate_detections(sequence.frames[frame], protocol.noise, noise):
                if identity is not None:
                    seen[identity].append((frame, detection.box.xyxy))
        boxes: list[Labelled] = []
        for figure in figures:
            if points := seen[figure.identity][-memory:]:
                times = np.array([frame for frame, _ in points], dtype=np.float64)
                degree = min(1, len(points) - 1)
                line = np.polynomial.polynomial.polyfit(
                    times - index, np.array([b for _, b in points]), degree
                )
                boxes += labelled(figure.identity, line[0])
        shown.append(boxes)
    return shown


# --- comparison ----------------------------------------------------------------------------------


OURS = "lfm_perception"


def compare(protocol: TrackingProtocol, seeds: Sequence[int]) -> dict[str, TrackingMetrics]:
    """Metrics of all trackers under one protocol, means over the seeds."""
    sequences = read_tud()
    trackers = {OURS: lambda sequence, protocol: open_tracker(TrackerSettings()), **PEERS}
    figures = {
        name: mean_metrics(
            [
                evaluate_tracks(
                    {
                        sequence.name: (
                            sequence,
                            track_sequence(sequence, protocol, make(sequence, protocol), seed),
                        )
                        for sequence in sequences
                    }
                )
                for seed in seeds
            ]
        )
        for name, make in trackers.items()
    }
    bounds = [
        mean_metrics(
            [
                evaluate_tracks({f.name: (f, informed(f, protocol, seed, memory)) for f in sequences})
                for seed in seeds
            ]
        )
        for memory in range(2, 9)
    ]
    best = {key: max(getattr(b, key) for b in bounds) for key in ("hota", "deta", "assa", "mota", "idf1")}
    least = {
        key: min(getattr(b, key) for b in bounds)
        for key in ("id_switches", "false_positives", "false_negatives")
    }
    figures["bound"] = TrackingMetrics(**best, **least)
    return figures


@dataclass(frozen=True, slots=True)
class Times:
    """Median milliseconds of a prediction at a camera frame, and of an update with detections."""

    camera_ms: float
    detection_ms: float


def times(
    make: Callable[[TrackingSequence, TrackingProtocol], EvaluatedTracker[TrackedBox]],
    tracks: int,
    answers: int = 60,
) -> Times:
    """Times with separate objects, all detected in every update, and 10 predictions after each."""
    protocol = TrackingProtocol("timing", stride=6, latency=6)
    side = int(np.ceil(np.sqrt(tracks)))
    sequence = TrackingSequence("timing", 25.0, 640, 480, ())
    rng = random.Random(1)
    tracker = make(sequence, protocol)
    shown_s, taken_s = [], []
    for answer in range(answers):
        detections = []
        for index in range(tracks):
            x, y = (index % side + 0.2) / side, (index // side + 0.2) / side
            jitter = [rng.gauss(0.0, 0.002) for _ in range(4)]
            sides = (x, y, x + 0.6 / side, y + 0.6 / side)
            box = Box(*(min(max(a + b, 0.0), 1.0) for a, b in zip(sides, jitter, strict=True)))
            detections.append(Detection("person", box, 0.9))
        begin = time.perf_counter()
        tracker.update(detections, answer * 0.24)
        taken_s.append(time.perf_counter() - begin)
        for frame in range(10):
            begin = time.perf_counter()
            tracker.predict(answer * 0.24 + 0.024 * frame)
            shown_s.append(time.perf_counter() - begin)
    return Times(1e3 * statistics.median(shown_s[100:]), 1e3 * statistics.median(taken_s[10:]))


def filters(tracks: int, repeats: int = 200) -> dict[str, float]:
    """Median microseconds for the filters of `tracks` tracks: ours as arrays, filterpy's one by one."""
    rng = np.random.default_rng(1)
    measured, noise = rng.uniform(0.0, 1.0, (tracks, 4)), np.full((tracks, 4), 1e-3)
    motion = ConstantVelocityFilter.from_measurements(measured, noise, np.ones(4))
    rows, process_noise = np.arange(tracks), np.full(4, 0.1)
    single = [KalmanFilter(dim_x=8, dim_z=4) for _ in range(tracks)]
    for kalman in single:
        kalman.H = np.eye(4, 8)
    transition = np.eye(8) + np.eye(8, k=4) * 0.03
    process, measurement = np.eye(8) * 1e-5, np.eye(4) * 1e-3

    def median_us(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begin)
        return 1e6 * statistics.median(taken)

    return {
        "arrays_predict_us": median_us(lambda: motion.predict(0.03, process_noise)),
        "arrays_update_us": median_us(lambda: motion.update(rows, measured, noise)),
        "filterpy_predict_us": median_us(lambda: [k.predict(F=transition, Q=process) for k in single]),
        "filterpy_update_us": median_us(
            lambda: [k.update(z, R=measurement) for k, z in zip(single, measured, strict=True)]
        ),
    }


def table(title: str, figures: Mapping[str, TrackingMetrics], timing: Mapping[str, Times]) -> Table:
    shown = Table(title=title, box=None, pad_edge=False, title_justify="left")
    shown.add_column("tracker", no_wrap=True)
    for head in ("HOTA", "MOTA", "IDF1", "IDSW", "FP", "FN", "frame ms", "update ms"):
        shown.add_column(head, justify="right")
    for name, each in figures.items():
        row = (each.hota, each.mota, each.idf1, each.id_switches, each.false_positives, each.false_negatives)
        cost = timing.get(name)
        taken = (f"{cost.camera_ms:.3f}", f"{cost.detection_ms:.2f}") if cost else ("", "")
        shown.add_row(name, *(f"{value:.1f}" for value in row), *taken)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tracks", type=int, default=50, help="for the times")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    trackers = {OURS: lambda sequence, protocol: open_tracker(TrackerSettings()), **PEERS}
    timing = {name: times(make, options.tracks) for name, make in trackers.items()}
    record: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {
            name: version(name)
            for name in ("trackers", "norfair", "filterpy", "trackeval", "motmetrics", "numpy", "scipy")
        },
        "seeds": options.seeds,
        "tracks": options.tracks,
        "times": {name: asdict(each) for name, each in timing.items()},
        "filters": filters(options.tracks),
        "metrics": {},
    }
    for name, protocol in PROTOCOLS.items():
        figures = compare(protocol, range(options.seeds))
        record["metrics"][name] = {who: asdict(each) for who, each in figures.items()}
        Console().print(table(name, figures, timing))
    print(json.dumps(record["filters"], indent=2))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
