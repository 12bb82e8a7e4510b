# SPDX-License-Identifier: Apache-2.0
"""Synthetic sequences: motions that trackers of sparse, late detections fail at, one trial each.

Every trial is a small world, seeded, with a detector of its own. Beside the metrics of tracking, a trial
gives `coverage`, the share of an object's frames with a track on it, from the arrival of the second answer
that can show it; and `identity_kept`, the share of objects that have the same identity at first and at last.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lfm_perception.evaluation.tracking import (
    PROTOCOLS,
    VLM_NOISE,
    EgoMotionTracker,
    EvaluatedTracker,
    TrackedBox,
    TrackingProtocol,
    TrackingSequence,
    TrueObject,
    track_sequence,
)
from lfm_perception.geometry import Box, BoxArray, iou_matrix, stack
from lfm_perception.scene import Image, Track
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.ego_motion_history import Affine

FPS, WIDTH, HEIGHT = 25.0, 640, 480
MIN_OVERLAP = 0.5
"""IoU from which on a track is on an object."""

HIDDEN_S = 2.0
"""Time for which objects of the trial `occlusion` cannot be seen."""

Path = Callable[[float], tuple[float, float, float, float] | None]
"""Box [cx, cy, w, h] of an object at a time in seconds, not yet cut by the image's edge; None: hidden."""

View = Callable[[float], Affine]
"""Motion from the image at 0 s to that at a time in seconds, shape (3, 3), in image sides."""


@dataclass(frozen=True, slots=True)
class SyntheticTrial:
    """A named trial. `world` makes the paths of a seed; `view` is the camera's motion, `exact` when known."""

    name: str
    world: Callable[[random.Random], Sequence[Path]]
    protocol: TrackingProtocol = PROTOCOLS["sparse-late"]
    seconds: float = 12.0
    fps: float = FPS
    view: View | None = None
    exact: bool = False

    def sequence(self, seed: int) -> TrackingSequence:
        paths = self.world(random.Random(f"{seed} world"))
        frames = tuple(
            tuple(_objects(paths, index / self.fps, self.view))
            for index in range(round(self.seconds * self.fps))
        )
        return TrackingSequence(f"{self.name} {seed}", self.fps, WIDTH, HEIGHT, frames)

    def run(self, settings: TrackerSettings, seed: int) -> SyntheticRun:
        sequence = self.sequence(seed)
        tracker: EvaluatedTracker[Track] = open_tracker(settings)
        if self.view is not None:
            moving: type[EgoMotionTracker] = ExactMotionTracker if self.exact else EgoMotionTracker
            tracker = moving(open_tracker(settings), _Background(self.view, self.fps, seed), self.fps)
        tracks = track_sequence(sequence, self.protocol, tracker, seed)
        return SyntheticRun(sequence, tracks, self.protocol)


@dataclass(frozen=True, slots=True)
class SyntheticRun:
    """Tracks of a trial with its ground truth."""

    sequence: TrackingSequence
    tracks: Sequence[Sequence[TrackedBox]]
    protocol: TrackingProtocol

    def objects(self) -> Mapping[int, Sequence[int | None]]:
        """Id of the track on an object, frame by frame, from the second answer that can show it."""
        on: dict[int, list[int | None]] = {}
        inferred: dict[int, int] = {}
        arrivals = dict(self._inferred())
        ready: dict[int, int] = {}
        for index, (truth, tracks) in enumerate(zip(self.sequence.frames, self.tracks, strict=True)):
            overlap = iou_matrix(stack(each.box for each in truth), stack(each.box for each in tracks))
            for row, each in enumerate(truth):
                if index in arrivals:
                    inferred[each.identity] = inferred.get(each.identity, 0) + 1
                    if inferred[each.identity] == 2:
                        ready[each.identity] = arrivals[index]
                if index >= ready.get(each.identity, len(self.tracks)):
                    column = int(overlap[row].argmax()) if len(tracks) else -1
                    found = column >= 0 and overlap[row, column] >= MIN_OVERLAP
                    on.setdefault(each.identity, []).append(tracks[column].track_id if found else None)
        return on

    def _inferred(self) -> Iterator[tuple[int, int]]:
        rng = random.Random(0)
        return self.protocol.inferred_frames(len(self.sequence.frames), rng)

    @property
    def coverage(self) -> float:
        frames = [track for each in self.objects().values() for track in each]
        return 100.0 * sum(track is not None for track in frames) / max(len(frames), 1)

    @property
    def identity_kept(self) -> float:
        """Per cent of the objects that have the same track at first and at last."""
        ids = [[track for track in each if track is not None] for each in self.objects().values()]
        return 100.0 * sum(len(each) > 0 and each[0] == each[-1] for each in ids) / max(len(ids), 1)


class ExactMotionTracker(EgoMotionTracker):
    """A tracker that is told the camera's true motion."""

    def _motion(self, index: int, moving: BoxArray) -> Affine:
        assert isinstance(self._image, _Background)
        return self._image.step(index)


class _Background:
    """Images of a flat, spotted background under a moving view."""

    def __init__(self, view: View, fps: float, seed: int) -> None:
        self._view, self._fps = view, fps
        rng = np.random.default_rng(seed)
        noise = rng.uniform(0.0, 255.0, (480, 640, 3)).astype(np.float32)
        spots = np.sum([sigma * cv2.GaussianBlur(noise, (0, 0), sigma) for sigma in (1.5, 4.0, 12.0)], axis=0)
        spots = (spots - spots.mean()) * (50.0 / spots.std()) + 128.0
        self._world = spots.clip(0.0, 255.0).astype(np.uint8)

    def __call__(self, index: int) -> Image:
        size = np.diag([WIDTH / 4, HEIGHT / 4, 1.0])
        placed = np.array(
            [[1.0, 0.0, -(640 - WIDTH / 4) / 2], [0.0, 1.0, -(480 - HEIGHT / 4) / 2], [0.0, 0.0, 1.0]]
        )
        motion = size @ self._view(index / self._fps) @ np.linalg.inv(size) @ placed
        view = cv2.warpAffine(
            self._world,
            motion[:2],
            (WIDTH // 4, HEIGHT // 4),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        return np.asarray(view, dtype=np.uint8)

    def step(self, index: int) -> Affine:
        before = self._view(max(index - 1, 0) / self._fps)
        step: Affine = self._view(index / self._fps) @ np.linalg.inv(before)
        return step


def _objects(paths: Sequence[Path], time_s: float, view: View | None) -> Iterator[TrueObject]:
    motion = view(time_s) if view else np.eye(3)
    scale = math.sqrt(abs(float(np.linalg.det(motion[:2, :2]))))
    for identity, path in enumerate(paths, start=1):
        if (place := path(time_s)) is None:
            continue
        x, y, _ = motion @ (place[0], place[1], 1.0)
        wide, high = place[2] * scale, place[3] * scale
        left, top, right, bottom = (
            min(max(side, 0.0), 1.0) for side in (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
        )
        if right - left >= 0.02 and bottom - top >= 0.02:
            yield TrueObject(identity, "person", Box(left, top, right, bottom))


# --- worlds ---------------------------------------------------------------------------------------


def walkers(rng: random.Random, count: int = 6, width: float = 0.07) -> list[Path]:
    """Objects that walk to and fro, each at its own pace, and pass each other."""

    def walker(lane: int) -> Path:
        span, pace, phase = rng.uniform(0.15, 0.4), rng.uniform(0.03, 0.12), rng.uniform(0.0, 2 * math.pi)
        y, size = 0.3 + 0.4 * lane / count, width * rng.uniform(0.8, 1.3)
        sway = rng.uniform(0.0, 0.15)
        return lambda t: (
            0.5 + span * math.sin(phase + pace / span * t),
            y,
            size * (1.0 + sway * math.sin(6.0 * t + phase)),
            3.0 * size,
        )

    return [walker(lane) for lane in range(count)]


def fast(speed: float, rng: random.Random) -> list[Path]:
    """Objects 0.06 wide that cross the image at `speed` image widths per second, one after another."""
    paths: list[Path] = []
    for lane in range(3):
        start = rng.uniform(0.0, 0.5)
        while start + 1.1 / speed < 12.0:
            paths.append(_crosser(start, speed, 0.2 + 0.3 * lane, rng.choice((True, False))))
            start += 1.1 / speed + rng.uniform(1.0, 1.5)
    return paths


def _crosser(start_s: float, speed: float, y: float, leftward: bool, width: float = 0.06) -> Path:
    def path(t: float) -> tuple[float, float, float, float] | None:
        x = speed * (t - start_s) - 0.03
        return ((1.0 - x if leftward else x), y, width, 0.2) if t >= start_s else None

    return path


def passing(closing: float, rng: random.Random) -> list[Path]:
    """Objects beside the camera's axis that come nearer (`closing` > 0, m/s) or go away."""
    return [
        _passer(start, (-1.0 if lane % 2 else 1.0) * rng.uniform(1.0, 2.0), closing * rng.uniform(0.8, 1.2))
        for lane, start in enumerate((0.0, 1.0, 6.0, 7.0))
    ]


def _passer(start_s: float, beside: float, closing: float) -> Path:
    """A person 0.7 m wide and 1.7 m tall, `beside` the axis by so many metres, for 5 s, 3 m away at best."""

    def path(t: float) -> tuple[float, float, float, float] | None:
        if not 0.0 <= t - start_s <= 5.0:
            return None
        depth = 3.0 + abs(closing) * (t - start_s if closing < 0 else 5.0 - (t - start_s))
        return 0.5 + 0.9 * beside / depth, 0.5 + 0.5 / depth, 0.9 * 0.7 / depth, 1.2 * 1.7 / depth

    return path


def crossing(rng: random.Random) -> list[Path]:
    """Pairs that cross the image in opposite directions and meet."""
    paths: list[Path] = []
    for start in (0.0, 4.5):
        for y in (0.25, 0.7):
            speed = 0.25
            offset = rng.uniform(-0.02, 0.02)
            late = start + rng.uniform(0.0, 0.8)
            paths += [_crosser(start, speed, y, False), _crosser(late, speed, y + offset, True)]
    return paths


def occluded(rng: random.Random) -> list[Path]:
    """Objects that walk on behind something for `HIDDEN_S` seconds."""

    def walker(lane: int) -> Path:
        pace = rng.uniform(0.03, 0.09) * rng.choice((-1.0, 1.0))
        x = (0.15 if pace > 0 else 0.85) + rng.uniform(-0.05, 0.05)
        hidden, size, drift = rng.uniform(3.0, 5.0), rng.uniform(0.05, 0.09), rng.uniform(-0.01, 0.01)
        gait, turn = rng.uniform(0.0, 6.0), rng.uniform(0.0, 0.1)

        def path(t: float) -> tuple[float, float, float, float] | None:
            if hidden <= t < hidden + HIDDEN_S:
                return None
            return (
                x + pace * (t + turn * math.sin(1.5 * t + gait)),
                0.2 + 0.3 * lane + drift * t,
                size * (1.0 + 0.1 * math.sin(6.0 * t + gait)),
                2.8 * size,
            )

        return path

    return [walker(lane) for lane in range(3)]


def _roll(degrees: float) -> View:
    """The camera rolls by 40 degrees to and fro at about `degrees` per second."""

    def view(t: float) -> Affine:
        angle = math.radians(40.0) * math.sin(t * degrees / 40.0)
        c, s = math.cos(angle), math.sin(angle)
        size = np.diag([WIDTH, HEIGHT, 1.0])
        centre = np.array([[1.0, 0.0, WIDTH / 2], [0.0, 1.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
        turn = centre @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ np.linalg.inv(centre)
        motion: Affine = np.linalg.inv(size) @ turn @ size
        return motion

    return view


def _zoom(t: float) -> Affine:
    """The camera zooms between 1 and 1.8 times within 2 s."""
    scale = 1.4 - 0.4 * math.cos(math.pi * t / 2.0)
    return np.array([[scale, 0.0, 0.5 - scale / 2], [0.0, scale, 0.5 - scale / 2], [0.0, 0.0, 1.0]])


_LATE = PROTOCOLS["sparse-late"]
_CLEAN = PROTOCOLS["sparse-late-clean"]
_NAMED_TWICE = replace(_LATE, noise=replace(VLM_NOISE, duplicates=0.1))
_FLIPPED = replace(_LATE, noise=replace(VLM_NOISE, label_flips=0.3))
_SLOW_CAMERA = TrackingProtocol("every-frame-late", stride=1, latency=1)

TRIALS = {
    trial.name: trial
    for trial in (
        SyntheticTrial("walkers", walkers),
        SyntheticTrial("duplicates", walkers, _NAMED_TWICE),
        SyntheticTrial("label-flips", walkers, _FLIPPED),
        SyntheticTrial("fast-0.25", functools.partial(fast, 0.25), _CLEAN),
        SyntheticTrial("fast-0.6", functools.partial(fast, 0.6), _CLEAN),
        SyntheticTrial("crossing", crossing, _CLEAN),
        SyntheticTrial("approach", functools.partial(passing, 2.0), _CLEAN),
        SyntheticTrial("recede", functools.partial(passing, -2.0), _CLEAN),
        SyntheticTrial("occlusion", occluded, _LATE),
        SyntheticTrial("roll", walkers, _LATE, view=_roll(40.0)),
        SyntheticTrial("roll-exact", walkers, _LATE, view=_roll(40.0), exact=True),
        SyntheticTrial("zoom", walkers, _LATE, view=_zoom),
        SyntheticTrial("zoom-exact", walkers, _LATE, view=_zoom, exact=True),
        SyntheticTrial("low-camera-rate", walkers, _SLOW_CAMERA, fps=4.0),
    )
}
"""The named trials. Those without noise ask only whether the motion is followed."""
