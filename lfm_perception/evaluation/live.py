# SPDX-License-Identifier: Apache-2.0
"""Metrics of a recorded run of the ROS node, against the ground truth in the same bag.

The bag holds `/detections`, `/tracks`, `/ground_truth` (Detection2DArray, in pixels) and `/scene` (JSON), all
logged at the time of their arrival, from which ages are computed. No ROS is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Counts, count_matches, match
from lfm_perception.files import parse_json
from lfm_perception.geometry import Box
from lfm_perception.media.bags import message_box, typestore
from lfm_perception.scene import Scene, Velocity
from lfm_perception.scene_json import scene_from_json
from lfm_perception.stamps import join_stamp, to_seconds

SETTLED_SCENES = 2
"""Number of scenes after which tracks are evaluated: a track is confirmed by its second detection."""


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A normalized box of a message. `identity` is the message's `id`: of a track or of an object."""

    label: str
    box: Box
    score: float
    identity: str


@dataclass(frozen=True, slots=True)
class Boxes:
    """One message of boxes: the stamp of its frame and its arrival, nanoseconds of one clock."""

    stamp_ns: int
    received_ns: int
    items: tuple[NamedBox, ...]


@dataclass(frozen=True, slots=True)
class ReceivedScene:
    """A scene and the time of its arrival, nanoseconds."""

    scene: Scene
    received_ns: int


@dataclass(frozen=True, slots=True)
class LiveRun:
    """All messages of a run, in the order of their arrival."""

    truth: tuple[Boxes, ...]
    tracks: tuple[Boxes, ...]
    detections: tuple[Boxes, ...]
    scenes: tuple[ReceivedScene, ...]

    @property
    def track_ages_s(self) -> list[float]:
        """Seconds from the capture of each frame to the arrival of its tracks."""
        return [to_seconds(boxes.received_ns - boxes.stamp_ns) for boxes in self.tracks]

    @property
    def scene_ages_s(self) -> list[float]:
        """Seconds from the capture of each inferred frame to the arrival of its scene."""
        return [to_seconds(each.received_ns - each.scene.stamp_ns) for each in self.scenes]


@dataclass(frozen=True, slots=True)
class LiveReport:
    """The figures of a run. Rates in Hz, ages in seconds, velocities in image sides per second.

    `detections` are evaluated at the inferred frames, `tracks` at every camera frame against the ground
    truth of the same frame; both at IoU 0.5. `velocity_error` is the median norm of the difference between a
    track's and its object's velocity, `speed` the median speed of those objects; None without matches.
    """

    seconds: float
    camera_hz: float
    tracks_hz: float
    inferences_hz: float
    detections: Counts
    tracks: Counts
    track_age_p50_s: float
    track_age_p95_s: float
    scene_age_p50_s: float
    scene_age_p95_s: float
    velocity_error: float | None
    speed: float | None
    captions: int


def read_run(bag: Path, width: int, height: int) -> LiveRun:
    """The run recorded in `bag`, of images of `width` x `height` pixels."""
    types = typestore()
    boxes: dict[str, list[Boxes]] = {"/ground_truth": [], "/tracks": [], "/detections": []}
    scenes: list[ReceivedScene] = []
    with Reader(bag) as reader:
        wanted = [c for c in reader.connections if c.topic in boxes or c.topic == "/scene"]
        for connection, received_ns, raw in reader.messages(wanted):
            message: Any = types.deserialize_cdr(raw, connection.msgtype)
            if connection.topic == "/scene":
                scenes.append(ReceivedScene(scene_from_json(parse_json(message.data)), received_ns))
            else:
                stamp = message.header.stamp
                items = tuple(_named_box(d, width, height) for d in message.detections)
                boxes[connection.topic].append(
                    Boxes(join_stamp(stamp.sec, stamp.nanosec), received_ns, items)
                )
    return LiveRun(
        tuple(boxes["/ground_truth"]), tuple(boxes["/tracks"]), tuple(boxes["/detections"]), tuple(scenes)
    )


def evaluate_run(run: LiveRun, velocities: Callable[[int], Mapping[str, Velocity]]) -> LiveReport:
    """The metrics of a run; `velocities` returns the true velocities at a stamp, by the object's identity.

    Raises PerceptionError when there are no messages to evaluate.
    """
    if not run.truth or not run.scenes or not run.tracks:
        raise PerceptionError(
            f"there is nothing to evaluate: {len(run.truth)} camera frames, {len(run.scenes)} scenes and "
            f"{len(run.tracks)} messages of tracks were recorded"
        )
    truth = {boxes.stamp_ns: boxes.items for boxes in run.truth}
    settled_ns = run.scenes[min(SETTLED_SCENES, len(run.scenes)) - 1].received_ns
    seconds = max(to_seconds(run.truth[-1].received_ns - run.truth[0].received_ns), 1e-9)
    errors, speeds = _speeds(run.scenes, truth, velocities)
    track_ages, scene_ages = run.track_ages_s, run.scene_ages_s
    return LiveReport(
        seconds=seconds,
        camera_hz=_rate([b.received_ns for b in run.truth]),
        tracks_hz=_rate([b.received_ns for b in run.tracks]),
        inferences_hz=_rate([h.received_ns for h in run.scenes]),
        detections=_counts(run.detections, truth),
        tracks=_counts((b for b in run.tracks if b.received_ns > settled_ns), truth),
        track_age_p50_s=float(np.percentile(track_ages, 50)),
        track_age_p95_s=float(np.percentile(track_ages, 95)),
        scene_age_p50_s=float(np.percentile(scene_ages, 50)),
        scene_age_p95_s=float(np.percentile(scene_ages, 95)),
        velocity_error=float(np.median(errors)) if errors else None,
        speed=float(np.median(speeds)) if speeds else None,
        captions=sum(received.scene.caption_usage is not None for received in run.scenes),
    )


def _counts(messages: Iterable[Boxes], truth: Mapping[int, Sequence[NamedBox]]) -> Counts:
    total = Counts()
    for boxes in messages:
        if boxes.stamp_ns in truth:
            total += count_matches(boxes.items, truth[boxes.stamp_ns])
    return total


def _speeds(
    scenes: Sequence[ReceivedScene],
    truth: Mapping[int, Sequence[NamedBox]],
    velocities: Callable[[int], Mapping[str, Velocity]],
) -> tuple[list[float], list[float]]:
    """Velocity errors and true speeds of all tracks that match an object, over all scenes."""
    errors, speeds = [], []
    for received in scenes:
        stamp_ns, tracks = received.scene.stamp_ns, received.scene.tracks
        if stamp_ns not in truth:
            continue
        objects, true = truth[stamp_ns], velocities(stamp_ns)
        for pair in match(tracks, objects):
            estimate, actual = tracks[pair.detection].velocity, true[objects[pair.truth].identity]
            errors.append(float(np.hypot(estimate.x - actual.x, estimate.y - actual.y)))
            speeds.append(float(np.hypot(actual.x, actual.y)))
    return errors, speeds


def _rate(arrivals_ns: Sequence[int]) -> float:
    span_s = to_seconds(arrivals_ns[-1] - arrivals_ns[0])
    return (len(arrivals_ns) - 1) / span_s if span_s > 0 else 0.0


def _named_box(detection: Any, width: int, height: int) -> NamedBox:
    sides = np.clip(message_box(detection, width, height), 0.0, 1.0).tolist()
    hypothesis = detection.results[0].hypothesis
    return NamedBox(hypothesis.class_id, Box(*sides), hypothesis.score, detection.id)
