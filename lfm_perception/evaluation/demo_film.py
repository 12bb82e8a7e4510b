"""The demo world as a film for the tracker, with the real model or with noisy truth as its detector."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.calibration import PlattScaling, calibrated
from lfm_perception.demo.world import Snapshot, World
from lfm_perception.evaluation.detection import ReliabilityBin, calibration_error, match, reliability
from lfm_perception.evaluation.tracking import Detector, Figure, Film, Follower, Look, Watching, follow
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.questions import FramePlan, detect
from lfm_perception.scene import Detection, Track
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.ego_motion import downscale
from lfm_perception.vlm import Vlm

SETTLED_S = 1.0
"""Tracks are judged for their speed when they are this old."""

LEAST_SPREAD = 1e-3
"""Image sides; a coordinate is not written finer."""

NORMAL_MEDIAN = 0.6745
"""Of the distance from the mean, in standard deviations."""

AT_REST = 0.03
"""Image sides per second. Of bodies slower than this, a share of the speed says nothing."""


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One film followed. `speed_errors`: length of the difference to the true velocity as a share of the true
    speed, one for each settled track of a body that moves, at each answer's frame. `scores` and `right`: of
    each track shown there before it is calibrated, and whether it lay on a body of its label. `spreads`: how
    far off each side of a detected box was, in the spreads that the model gave.
    """

    film: Film
    shown: tuple[Sequence[Track], ...]
    speed_errors: tuple[float, ...]
    scores: tuple[float, ...]
    right: tuple[bool, ...]
    spreads: tuple[float, ...]


class DemoFilm:
    """Frames of `World(seed, pan=pan)`, rendered when they are asked for."""

    def __init__(self, seed: int, seconds: float, pan: float, width: int = 640, height: int = 480) -> None:
        self.world = World(seed, width, height, pan=pan)
        self.snapshot = functools.lru_cache(maxsize=64)(self._snapshot)
        self._picture = functools.lru_cache(maxsize=4096)(
            lambda index: downscale(self.snapshot(index).frame.image)
        )
        frames = [self.snapshot(index).objects for index in range(round(seconds * self.world.fps))]
        figures = tuple(tuple(Figure(o.object_id, o.label, o.box) for o in objects) for objects in frames)
        self.film = Film(f"demo {seed}", self.world.fps, width, height, figures)

    def _snapshot(self, index: int) -> Snapshot:
        return self.world.snapshot(index)

    def seen_by(self, vlm: Vlm, settings: Settings) -> Look:
        """What the model names in each frame."""
        question = detect(settings.dialect, settings.detect.labels, closed=settings.detect.closed)
        image = plan_image(self.film.width, self.film.height, ImageLimits())
        plan = FramePlan(image, settings.detect.max_tokens)

        @functools.cache
        def look(index: int) -> Sequence[Detection]:
            return calibrated(
                vlm.describe(self.snapshot(index).frame, question, plan).detections, settings.detect
            )

        return look

    def run(self, detector: Detector, settings: Settings, seed: int, look: Look | None = None) -> DemoRun:
        tracker = open_tracker(settings.tracker)
        follower: Follower[Track] = tracker
        if settings.tracker.camera_motion_compensation != "off":
            follower = Watching(tracker, self._picture, self.film.fps)
        shown = follow(self.film, detector, follower, seed, look)
        errors: list[float] = []
        scores: list[float] = []
        right: list[bool] = []
        for index in range(0, len(shown), detector.every):
            self._judge(index, shown[index], errors, scores, right)
        spreads = self._spreads(detector, look) if look else []
        raw_score = PlattScaling(settings.tracker.score_gain, settings.tracker.score_bias).invert
        return DemoRun(
            self.film,
            tuple(shown),
            tuple(errors),
            tuple(map(raw_score, scores)),
            tuple(right),
            tuple(spreads),
        )

    def _spreads(self, detector: Detector, look: Look) -> list[float]:
        off: list[float] = []
        for index in range(0, len(self.film.frames), detector.every):
            detections, figures = look(index), self.film.frames[index]
            for pair in match(detections, figures):
                detection = detections[pair.detection]
                if (std := detection.std) is not None:
                    spread = np.maximum((std.x1, std.y1, std.x2, std.y2), LEAST_SPREAD)
                    off += (np.abs(detection.box.xyxy - figures[pair.truth].box.xyxy) / spread).tolist()
        return off

    def _judge(
        self, index: int, tracks: Sequence[Track], errors: list[float], scores: list[float], right: list[bool]
    ) -> None:
        figures = self.film.frames[index]
        true = self.world.velocities(index)
        pairs = match(tracks, figures)
        for pair in pairs:
            track, velocity = tracks[pair.detection], true[figures[pair.truth].identity]
            speed = float(np.hypot(velocity.x, velocity.y))
            if track.age_s >= SETTLED_S and speed >= AT_REST:
                off = np.hypot(track.velocity.x - velocity.x, track.velocity.y - velocity.y)
                errors.append(float(off) / speed)
        on_body = {pair.detection for pair in pairs}
        scores += [track.score for track in tracks]
        right += [row in on_body for row in range(len(tracks))]


def measurement_noise_scale(runs: Sequence[DemoRun]) -> float | None:
    """The `tracker.measurement_noise_scale` that the runs ask for: half of the sides are nearer than a normal
    spread's median says. None where the model gave no spreads.
    """
    off = [each for run in runs for each in run.spreads]
    return float(np.median(off)) / NORMAL_MEDIAN if off else None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often tracks of each score are right, and the mean distance of the two, under one calibration."""

    bins: tuple[ReliabilityBin, ...]
    error: float


def judge_scores(runs: Sequence[DemoRun], calibration: PlattScaling) -> Reliability:
    """Of all runs together, were their scores calibrated that way."""
    raw, right = _scores(runs)
    bins = reliability(np.array([calibration.apply(score) for score in raw.tolist()]), right)
    return Reliability(bins, calibration_error(bins))


def fit_scores(runs: Sequence[DemoRun]) -> PlattScaling:
    """The calibration that suits the runs best."""
    return PlattScaling.fit(*_scores(runs))


def _scores(runs: Sequence[DemoRun]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores = np.array([score for run in runs for score in run.scores], dtype=np.float64)
    return scores, np.array([hit for run in runs for hit in run.right], dtype=bool)
