"""What a recorded run of the ROS node came to, judged by the ground truth in the same bag.

The bag holds `/detections`, `/tracks`, `/ground_truth` (Detection2DArray, in pixels) and `/scene` (JSON), all
logged at the time they arrived, so that ages can be read from it. No ROS is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Tally, match, tally
from lfm_perception.geometry import Box
from lfm_perception.media.bags import typestore
from lfm_perception.scene import Scene, Velocity
from lfm_perception.scene_json import scene_from_json

BOXES = "vision_msgs/msg/Detection2DArray"
SETTLED_ANSWERS = 2
"""A track is shown from its second detection on: tracks are judged once so many answers have arrived."""


@dataclass(frozen=True, slots=True)
class NamedBox:
    """A box of a message, normalized. `identity` is the message's `id`: of a track, of a true body."""

    label: str
    box: Box
    score: float
    identity: str


@dataclass(frozen=True, slots=True)
class Boxes:
    """One message of boxes: about which instant, and when it arrived, ns of one clock."""

    stamp_ns: int
    arrived_ns: int
    items: tuple[NamedBox, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """A scene and the time it arrived."""

    scene: Scene
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class LiveRun:
    """All that was heard, in order of arrival."""

    truth: tuple[Boxes, ...]
    tracks: tuple[Boxes, ...]
    detections: tuple[Boxes, ...]
    scenes: tuple[Heard, ...]


@dataclass(frozen=True, slots=True)
class LiveReport:
    """The figures of a run. Rates in Hz, ages in seconds, velocities in image sides per second.

    `detections` are judged at the frames that the model looked at, `tracks` at every camera frame against
    the truth of that very frame; both at IoU 0.5. `speed_error` is the median length of the difference
    between a track's and its body's velocity, `speed` the median speed of those bodies; None without any.
    """

    seconds: float
    camera_hz: float
    tracks_hz: float
    answers_hz: float
    detections: Tally
    tracks: Tally
    track_age_p50_s: float
    track_age_p95_s: float
    answer_age_p50_s: float
    answer_age_p95_s: float
    speed_error: float | None
    speed: float | None
    captions: int


def read_run(bag: Path, width: int, height: int) -> LiveRun:
    """The run recorded in `bag`, of images of `width` x `height` pixels."""
    types = typestore()
    boxes: dict[str, list[Boxes]] = {"/ground_truth": [], "/tracks": [], "/detections": []}
    scenes: list[Heard] = []
    with Reader(bag) as reader:
        wanted = [c for c in reader.connections if c.topic in boxes or c.topic == "/scene"]
        for connection, arrived_ns, raw in reader.messages(wanted):
            message: Any = types.deserialize_cdr(raw, connection.msgtype)
            if connection.topic == "/scene":
                scenes.append(Heard(scene_from_json(json.loads(message.data)), arrived_ns))
            else:
                stamp = message.header.stamp
                items = tuple(_named_box(d, width, height) for d in message.detections)
                boxes[connection.topic].append(Boxes(stamp.sec * 10**9 + stamp.nanosec, arrived_ns, items))
    return LiveRun(
        tuple(boxes["/ground_truth"]), tuple(boxes["/tracks"]), tuple(boxes["/detections"]), tuple(scenes)
    )


def judge(run: LiveRun, velocities: Callable[[int], Mapping[str, Velocity]]) -> LiveReport:
    """The figures; `velocities` gives the true ones at a stamp, by the body's number.

    Raises PerceptionError when nothing was recorded that could be judged.
    """
    if not run.truth or not run.scenes or not run.tracks:
        raise PerceptionError(
            f"there is nothing to judge: {len(run.truth)} frames of the camera, {len(run.scenes)} answers of "
            f"the model and {len(run.tracks)} messages of tracks were recorded"
        )
    truth = {boxes.stamp_ns: boxes.items for boxes in run.truth}
    settled_ns = run.scenes[min(SETTLED_ANSWERS, len(run.scenes)) - 1].arrived_ns
    seconds = max((run.truth[-1].arrived_ns - run.truth[0].arrived_ns) / 1e9, 1e-9)
    errors, speeds = _speeds(run.scenes, truth, velocities)
    track_ages = [(b.arrived_ns - b.stamp_ns) / 1e9 for b in run.tracks]
    answer_ages = [(h.arrived_ns - h.scene.stamp_ns) / 1e9 for h in run.scenes]
    return LiveReport(
        seconds=seconds,
        camera_hz=_rate([b.arrived_ns for b in run.truth]),
        tracks_hz=_rate([b.arrived_ns for b in run.tracks]),
        answers_hz=_rate([h.arrived_ns for h in run.scenes]),
        detections=_judged(run.detections, truth),
        tracks=_judged((b for b in run.tracks if b.arrived_ns > settled_ns), truth),
        track_age_p50_s=float(np.percentile(track_ages, 50)),
        track_age_p95_s=float(np.percentile(track_ages, 95)),
        answer_age_p50_s=float(np.percentile(answer_ages, 50)),
        answer_age_p95_s=float(np.percentile(answer_ages, 95)),
        speed_error=float(np.median(errors)) if errors else None,
        speed=float(np.median(speeds)) if speeds else None,
        captions=sum(heard.scene.caption_usage is not None for heard in run.scenes),
    )


def _judged(messages: Iterable[Boxes], truth: Mapping[int, Sequence[NamedBox]]) -> Tally:
    total = Tally()
    for boxes in messages:
        if boxes.stamp_ns in truth:
            total += tally(boxes.items, truth[boxes.stamp_ns])
    return total


def _speeds(
    scenes: Sequence[Heard],
    truth: Mapping[int, Sequence[NamedBox]],
    velocities: Callable[[int], Mapping[str, Velocity]],
) -> tuple[list[float], list[float]]:
    """Errors and true speeds of all tracks that lie on a body, over all scenes."""
    errors, speeds = [], []
    for heard in scenes:
        stamp_ns, tracks = heard.scene.stamp_ns, heard.scene.tracks
        if stamp_ns not in truth:
            continue
        bodies, true = truth[stamp_ns], velocities(stamp_ns)
        for pair in match(tracks, bodies):
            seen, right = tracks[pair.detection].velocity, true[bodies[pair.truth].identity]
            errors.append(float(np.hypot(seen.x - right.x, seen.y - right.y)))
            speeds.append(float(np.hypot(right.x, right.y)))
    return errors, speeds


def _rate(arrivals_ns: Sequence[int]) -> float:
    span_s = (arrivals_ns[-1] - arrivals_ns[0]) / 1e9
    return (len(arrivals_ns) - 1) / span_s if span_s > 0 else 0.0


def _named_box(detection: Any, width: int, height: int) -> NamedBox:
    centre, box = detection.bbox.center.position, detection.bbox
    left, top = centre.x - box.size_x / 2, centre.y - box.size_y / 2
    sides = (left / width, top / height, (left + box.size_x) / width, (top + box.size_y) / height)
    hypothesis = detection.results[0].hypothesis
    return NamedBox(
        hypothesis.class_id, Box(*np.clip(sides, 0.0, 1.0).tolist()), hypothesis.score, detection.id
    )
