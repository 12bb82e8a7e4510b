# SPDX-License-Identifier: Apache-2.0
"""Tracking accuracy by the metrics of the tracking benchmarks, with slow and noisy detectors.

A `TrackingSequence` is the ground truth. A `TrackingProtocol` defines a detector: the inferred frames, the
latency of its detections and their noise. `track_sequence` runs a tracker on a sequence, with detections at
their arrival and a prediction at every frame, and `evaluate_tracks` compares these with the ground truth by
HOTA, MOTA and IDF1, which the package `trackeval` computes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box, BoxArray, iou_matrix, stack
from lfm_perception.scene import Detection, Image, Track
from lfm_perception.tracking import Tracker
from lfm_perception.tracking.ego_motion import EgoMotionEstimator
from lfm_perception.tracking.ego_motion_history import Affine


@dataclass(frozen=True, slots=True)
class TrueObject:
    """A ground-truth object in one frame; `identity` is the same in all frames."""

    identity: int
    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class TrackingSequence:
    """Ground truth of a sequence, frame by frame; `width` and `height` in pixels."""

    name: str
    fps: float
    width: int
    height: int
    frames: tuple[tuple[TrueObject, ...], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the ground truth, in order."""
        return tuple(sorted({each.label for frame in self.frames for each in frame}))


@dataclass(frozen=True, slots=True)
class DetectionNoise:
    """Errors of simulated detections.

    `jitter`: standard deviation of each side, in widths (heights) of the box. `false_negatives`: share of
    missed objects. `false_positives`: spurious boxes per object. `label_flips`: share of wrong labels.
    `decimals` of a coordinate. `duplicates`: share of detections that are given a second time, with errors of
    their own.
    """

    jitter: float = 0.03
    false_negatives: float = 0.15
    false_positives: float = 0.05
    label_flips: float = 0.05
    decimals: int = 2
    duplicates: float = 0.0


VLM_NOISE = DetectionNoise()
NO_NOISE = DetectionNoise(jitter=0.0, false_negatives=0.0, false_positives=0.0, label_flips=0.0, decimals=6)


@dataclass(frozen=True, slots=True)
class TrackingProtocol:
    """Every `stride`-th frame is inferred, with a latency of `latency` frames.

    With `max_latency`, the next frame is inferred as soon as the detections arrived, after a random latency
    from `latency` to `max_latency` frames (one request in flight, jittered).
    """

    name: str
    stride: int
    latency: int
    max_latency: int = 0
    noise: DetectionNoise = VLM_NOISE

    def inferred_frames(self, frames: int, rng: random.Random) -> Iterator[tuple[int, int]]:
        """Pairs of inferred frame and frame at which its detections arrive, in order."""
        frame = 0
        while frame < frames:
            latency = rng.randint(self.latency, self.max_latency) if self.max_latency else self.latency
            yield frame, frame + latency
            frame += latency if self.max_latency else self.stride


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        TrackingProtocol("sparse-late", stride=6, latency=6),
        TrackingProtocol("jittered", stride=6, latency=5, max_latency=11),
        TrackingProtocol("sparse", stride=6, latency=0),
        TrackingProtocol("every-frame", stride=1, latency=0),
        TrackingProtocol("every-frame-clean", stride=1, latency=0, noise=NO_NOISE),
        TrackingProtocol("sparse-late-clean", stride=6, latency=6, noise=NO_NOISE),
    )
}
"""The named protocols. At 25 frames per second 6 frames are 240 ms."""

FLIPPED_LABEL = "something else"
SIMULATED_SCORE = 0.9
"""Score of all simulated detections, right or wrong, which therefore gives no hint to a tracker."""


class TrackedBox(Protocol):
    """A box with an identity."""

    @property
    def track_id(self) -> int: ...

    @property
    def box(self) -> Box: ...


B = TypeVar("B", bound=TrackedBox)
B_co = TypeVar("B_co", bound=TrackedBox, covariant=True)


class EvaluatedTracker(Protocol[B_co]):
    """The part of `lfm_perception.tracking.Tracker` that is evaluated; other trackers are adapted to it."""

    def update(self, detections: Sequence[Detection], stamp_s: float) -> object:
        """Takes the detections of the frame at `stamp_s` when they arrive."""
        ...

    def predict(self, stamp_s: float) -> Sequence[B_co]:
        """The tracks at a frame; called once per frame, in order."""
        ...


def simulate_detections(
    objects: Sequence[TrueObject], noise: DetectionNoise, rng: random.Random
) -> list[tuple[Detection, int | None]]:
    """Noisy detections of a frame, with the identity of the object; None for false positives."""
    detections: list[tuple[Detection, int | None]] = []
    for truth in objects:
        if rng.random() >= noise.false_negatives:
            detections += _simulate(truth, noise, rng)
            if noise.duplicates and rng.random() < noise.duplicates:
                detections += _simulate(truth, noise, rng)
        if rng.random() < noise.false_positives:
            wide, high = truth.box.width * rng.uniform(0.7, 1.3), truth.box.height * rng.uniform(0.7, 1.3)
            left, top = rng.uniform(0.0, 1.0 - min(wide, 0.9)), rng.uniform(0.0, 1.0 - min(high, 0.9))
            if (box := _box([left, top, left + wide, top + high], noise.decimals)) is not None:
                detections.append((Detection(truth.label, box, SIMULATED_SCORE), None))
    rng.shuffle(detections)
    return detections


def _simulate(
    truth: TrueObject, noise: DetectionNoise, rng: random.Random
) -> Iterator[tuple[Detection, int | None]]:
    """A detection of an object, unless its box is too small for `noise.decimals`."""
    label = FLIPPED_LABEL if rng.random() < noise.label_flips else truth.label
    wide, high = truth.box.width * noise.jitter, truth.box.height * noise.jitter
    sides = [
        side + rng.gauss(0.0, std)
        for side, std in zip(truth.box.xyxy.tolist(), (wide, high, wide, high), strict=True)
    ]
    if (box := _box(sides, noise.decimals)) is not None:
        yield Detection(label, box, SIMULATED_SCORE), truth.identity


def _box(sides: Sequence[float], decimals: int) -> Box | None:
    x1, y1, x2, y2 = (min(max(round(side, decimals), 0.0), 1.0) for side in sides)
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


Detector = Callable[[int], Sequence[Detection]]
"""Detections in the frame of an index."""


def simulated_detector(sequence: TrackingSequence, noise: DetectionNoise, seed: int) -> Detector:
    """A detector that makes its detections from the ground truth."""
    rng = random.Random(f"{seed} {sequence.name} noise")
    return lambda index: [each for each, _ in simulate_detections(sequence.frames[index], noise, rng)]


def track_sequence(
    sequence: TrackingSequence,
    protocol: TrackingProtocol,
    tracker: EvaluatedTracker[B],
    seed: int,
    detector: Detector | None = None,
) -> list[Sequence[B]]:
    """The tracks at each frame of the sequence; by default, detections are simulated by the protocol."""
    detector = detector or simulated_detector(sequence, protocol.noise, seed)
    rng = random.Random(f"{seed} {sequence.name}")
    never = 0, len(sequence.frames)
    inferred = protocol.inferred_frames(len(sequence.frames), rng)
    frame, arrival = next(inferred, never)
    tracks: list[Sequence[B]] = []
    for index in range(len(sequence.frames)):
        while arrival <= index:
            tracker.update(detector(frame), frame / sequence.fps)
            frame, arrival = next(inferred, never)
        tracks.append(tracker.predict(index / sequence.fps))
    return tracks


class EgoMotionTracker:
    """A tracker that gets the camera's motion from every image of a sequence."""

    def __init__(self, tracker: Tracker, image: Callable[[int], Image], fps: float) -> None:
        self._tracker, self._image, self._fps = tracker, image, fps
        self._estimator = EgoMotionEstimator()

    def update(self, detections: Sequence[Detection], stamp_s: float) -> object:
        return self._tracker.update(detections, stamp_s)

    def predict(self, stamp_s: float) -> Sequence[Track]:
        motion = self._motion(round(stamp_s * self._fps), self._tracker.moving_boxes(stamp_s))
        self._tracker.add_ego_motion(motion, stamp_s)
        return self._tracker.predict(stamp_s)

    def _motion(self, index: int, moving: BoxArray) -> Affine:
        """The camera's motion from the frame before to that of the index."""
        return self._estimator.measure(self._image(index), moving)


@dataclass(frozen=True, slots=True)
class TrackingMetrics:
    """HOTA with its detection and association accuracy, MOTA and IDF1 in per cent; and numbers of errors."""

    hota: float
    deta: float
    assa: float
    mota: float
    idf1: float
    id_switches: float
    false_positives: float
    false_negatives: float


def mean_metrics(metrics: Sequence[TrackingMetrics]) -> TrackingMetrics:
    """The mean of each metric, over seeds for example."""
    return TrackingMetrics(*np.mean([astuple(each) for each in metrics], axis=0).tolist())


def evaluate_tracks(
    runs: Mapping[str, tuple[TrackingSequence, Sequence[Sequence[TrackedBox]]]],
) -> TrackingMetrics:
    """Metrics of all runs together, by name of the sequence.

    Raises:
        PerceptionError: the packages of the extra `eval` are missing.
    """
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        raise PerceptionError(
            f"this needs {error.name}: install the extra 'eval' and then `pip install --no-deps trackeval`"
        ) from error
    quiet = {"PRINT_CONFIG": False}
    data = {name: _trackeval_data(sequence, tracks) for name, (sequence, tracks) in runs.items()}
    hota, clear, identity = (
        metric.combine_sequences({name: metric.eval_sequence(entry) for name, entry in data.items()})
        for metric in (HOTA(), CLEAR(dict(quiet)), Identity(dict(quiet)))
    )
    return TrackingMetrics(
        hota=100.0 * float(np.mean(hota["HOTA"])),
        deta=100.0 * float(np.mean(hota["DetA"])),
        assa=100.0 * float(np.mean(hota["AssA"])),
        mota=100.0 * float(clear["MOTA"]),
        idf1=100.0 * float(identity["IDF1"]),
        id_switches=float(clear["IDSW"]),
        false_positives=float(clear["CLR_FP"]),
        false_negatives=float(clear["CLR_FN"]),
    )


def _trackeval_data(sequence: TrackingSequence, tracks: Sequence[Sequence[TrackedBox]]) -> dict[str, Any]:
    """A run in trackeval's format: identities counted from 0, IoU frame by frame."""
    true_ids, true_count = _renumber([[truth.identity for truth in frame] for frame in sequence.frames])
    track_ids, track_count = _renumber([[track.track_id for track in frame] for frame in tracks])
    overlaps = [
        iou_matrix(stack(truth.box for truth in objects), stack(track.box for track in frame))
        for objects, frame in zip(sequence.frames, tracks, strict=True)
    ]
    return {
        "num_timesteps": len(sequence.frames),
        "num_gt_ids": true_count,
        "num_tracker_ids": track_count,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, track_ids)),
        "gt_ids": true_ids,
        "tracker_ids": track_ids,
        "similarity_scores": overlaps,
    }


def _renumber(identities: Sequence[Sequence[int]]) -> tuple[list[NDArray[np.int64]], int]:
    """The identities of each frame as 0, 1, 2..., and their number."""
    number: dict[int, int] = {}
    renumbered = [[number.setdefault(each, len(number)) for each in frame] for frame in identities]
    return [np.array(frame, dtype=np.int64) for frame in renumbered], len(number)
