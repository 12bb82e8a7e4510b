# SPDX-License-Identifier: Apache-2.0
"""The demo world as a sequence for the tracker, with the model or with simulated detections."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfm_perception.calibration import PlattScaling, calibrated
from lfm_perception.demo.bodies import Body
from lfm_perception.demo.world import World
from lfm_perception.evaluation.detection import match
from lfm_perception.evaluation.tracking import (
    Detector,
    EgoMotionTracker,
    EvaluatedTracker,
    TrackingProtocol,
    TrackingSequence,
    TrueObject,
    track_sequence,
)
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.perception import Perception
from lfm_perception.questions import FramePlan
from lfm_perception.scene import Detection, Scene, Track
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.ego_motion import downscale
from lfm_perception.vlm import Vlm

MIN_AGE_S = 1.0
"""Age from which on the velocity of a track is compared."""

MIN_SPEED = 0.03
"""Image sides per second; relative errors of the velocity of slower objects say nothing."""

MIN_STD = 1e-3
"""Image sides; coordinates have no more decimals."""


@dataclass(frozen=True, slots=True)
class DemoRun:
    """A tracked sequence, compared with the ground truth at every inferred frame.

    `velocity_errors`: length of the velocity error, as a share of the true speed. `raw_scores`: uncalibrated
    scores of the tracks. `correct`: whether each of them lay on an object of its label. `normalized_errors`:
    errors of the sides of detected boxes, in the standard deviations that the model gave.
    """

    sequence: TrackingSequence
    tracks: Sequence[Sequence[Track]]
    velocity_errors: list[float]
    raw_scores: list[float]
    correct: list[bool]
    normalized_errors: list[float]


class DemoSequence:
    """Frames of `World(seed, pan=pan)`, rendered on demand; with other `bodies` where they are given."""

    def __init__(
        self,
        seed: int,
        seconds: float,
        pan: float,
        width: int = 640,
        height: int = 480,
        bodies: Sequence[Body] = (),
    ) -> None:
        self._world = World(seed, width, height, pan=pan)
        self._world.bodies = tuple(bodies) or self._world.bodies
        self._snapshot = functools.lru_cache(maxsize=64)(self._world.snapshot)
        self._small = functools.lru_cache(maxsize=4096)(
            lambda index: downscale(self._snapshot(index).frame.image)
        )
        frames, self._visible = list[tuple[TrueObject, ...]](), list[dict[int, float]]()
        for index in range(round(seconds * self._world.fps)):
            seen, inside = self._snapshot(index).objects, self._world.shares_in_image(index)
            frames.append(tuple(TrueObject(each.object_id, each.label, each.box) for each in seen))
            self._visible.append({each.object_id: each.visible * inside[each.object_id] for each in seen})
        self.sequence = TrackingSequence(f"demo {seed}", self._world.fps, width, height, tuple(frames))

    def visible_shares(self, index: int) -> Mapping[int, float]:
        """The share of each object's body that is in the image and not hidden, by identity."""
        return self._visible[index]

    def detector(self, vlm: Vlm, settings: Settings) -> Detector:
        """The model's calibrated detections; every frame is inferred once at most."""
        question = settings.question
        image = plan_image(self.sequence.width, self.sequence.height, ImageLimits())
        plan = FramePlan(image, settings.detect.max_tokens)

        @functools.cache
        def infer(index: int) -> Sequence[Detection]:
            answer = vlm.describe(self._snapshot(index).frame, question, plan)
            return calibrated(answer, settings.detect)

        return infer

    def run(
        self, protocol: TrackingProtocol, settings: Settings, seed: int, detector: Detector | None = None
    ) -> DemoRun:
        """Tracks the sequence; by default with detections that the protocol simulates."""
        tracker: EvaluatedTracker[Track] = open_tracker(settings.tracker)
        if settings.tracker.camera_motion_compensation != "off":
            tracker = EgoMotionTracker(open_tracker(settings.tracker), self._small, self.sequence.fps)
        tracks = track_sequence(self.sequence, protocol, tracker, seed, detector)
        run = DemoRun(self.sequence, tracks, [], [], [], [])
        scaling = PlattScaling(settings.tracker.score_gain, settings.tracker.score_bias)
        for index in range(0, len(tracks), protocol.stride):
            self._compare_tracks(index, run, scaling)
            if detector:
                self._compare_detections(index, run, detector(index))
        return run

    def perceive(
        self, protocol: TrackingProtocol, perception: Perception, seed: int
    ) -> Iterator[tuple[Sequence[Track], Scene | None]]:
        """The tracks at each frame and the newest scene, None before the first, as the node has them."""
        frames, scene = len(self.sequence.frames), None
        inferred = protocol.inferred_frames(frames, random.Random(f"{seed} {self.sequence.name}"))
        frame, arrival = next(inferred)
        for index in range(frames):
            while arrival <= index:
                scene = perception.infer(self._snapshot(frame).frame)
                frame, arrival = next(inferred, (0, frames))
            perception.update_ego_motion(self._snapshot(index).frame)
            yield perception.tracks(from_seconds(index / self.sequence.fps)), scene

    def _compare_tracks(self, index: int, run: DemoRun, scaling: PlattScaling) -> None:
        tracks, objects, velocities = (
            run.tracks[index],
            self.sequence.frames[index],
            self._world.velocities(index),
        )
        pairs = match(tracks, objects)
        for pair in pairs:
            track, true = tracks[pair.detection], velocities[objects[pair.truth].identity]
            speed = float(np.hypot(true.x, true.y))
            if track.age_s >= MIN_AGE_S and speed >= MIN_SPEED:
                error = np.hypot(track.velocity.x - true.x, track.velocity.y - true.y)
                run.velocity_errors.append(float(error) / speed)
        correct = {pair.detection for pair in pairs}
        run.raw_scores.extend(scaling.invert(track.score) for track in tracks)
        run.correct.extend(row in correct for row in range(len(tracks)))

    def _compare_detections(self, index: int, run: DemoRun, detections: Sequence[Detection]) -> None:
        objects = self.sequence.frames[index]
        for pair in match(detections, objects):
            detection = detections[pair.detection]
            if (std := detection.std) is not None:
                error = np.abs(detection.box.xyxy - objects[pair.truth].box.xyxy)
                run.normalized_errors.extend(error / np.maximum((std.x1, std.y1, std.x2, std.y2), MIN_STD))
