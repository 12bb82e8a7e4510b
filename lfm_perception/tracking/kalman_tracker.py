"""The tracker: Kalman filters in seconds, fused at the stamp of the frame, read at any later one.

A model that looks a few times a second and answers late is followed exactly: the filters stand at the last
frame looked at, an answer moves them to its own frame, and `predict` reads them further on without moving
them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap

import numpy as np
from numpy.typing import NDArray

from lfm_perception.calibration import PlattScaling
from lfm_perception.geometry import Box, BoxArray, stack
from lfm_perception.scene import Detection, Track, Velocity
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import register_tracker
from lfm_perception.tracking.association import Indices, associate
from lfm_perception.tracking.ego_motion import Affine, EgoMotionHistory, moved
from lfm_perception.tracking.kalman import Array, ImmFilter, Motion, centre_and_size

MOST_DETECTIONS = 256
"""Of one frame; of more, those with the highest scores are taken."""

CLOCK_JUMP_S = 1.0
"""A stamp this far before the last one is a clock that was set back; less far, a late answer."""

SHARES = np.array([1.0, 1.0, 0.5, 0.5])
"""Of process_noise and start speed that centre x, y and width, height have: sizes change less than places."""

AT_REST = 0.02
"""Image widths per second; what is slower stands."""

VOTE_MEMORY = 0.9
"""What a vote for a label is still worth at the next one."""

NEWS = 0.3
"""Share that the latest answer has in the score of a track."""

EDGE = 0.005
"""Image sides. A side of a box this near to the image's edge is where the image ends, not the object."""

EDGES = np.array([0.0, 0.0, 1.0, 1.0])

UNMEASURED = 1e6
"""Variance, in image sides squared, of what a detection does not tell."""

VOTES_AHEAD = 0.5
"""A track takes another name when that one has so many more votes."""

FORGOTTEN_VOTE = 0.02
"""A label with fewer votes is forgotten, so that a model that invents names fills no memory."""

LABEL_CHARACTERS = 64
"""A longer label is cut."""

# Reasons why something was refused
NOT_A_BOX = "not a box"
NO_LABEL = "no label"
TOO_MANY = "too many objects"
BAD_STAMP = "stamp is not a number"
SAME_STAMP = "stamp of an answer that was there already"
OLD_STAMP = "stamp out of order"
CLOCK_JUMP = "clock jumped back"


@dataclass(slots=True)
class _Target:
    """What decides about a track, beside its motion."""

    track_id: int
    rules: TrackerSettings
    first_s: float
    last_s: float
    score: float
    hits: int = 1
    misses: int = 0
    label: str = ""
    votes: dict[str, float] = field(default_factory=dict)

    def vote(self, label: str) -> None:
        faded = {name: votes * VOTE_MEMORY for name, votes in self.votes.items()}
        self.votes = {name: votes for name, votes in faded.items() if votes >= FORGOTTEN_VOTE}
        self.votes[label] = self.votes.get(label, 0.0) + 1.0
        best = max(self.votes, key=lambda name: (self.votes[name], name))
        if self.votes[best] > self.votes.get(self.label, 0.0) + VOTES_AHEAD:
            self.label = best

    def agreement(self, label: str) -> float:
        """Share of the votes for this label, 0..1."""
        return self.votes.get(label, 0.0) / sum(self.votes.values())

    @property
    def confirmed(self) -> bool:
        return self.hits >= self.rules.min_hits


@dataclass(frozen=True, slots=True)
class _Seen:
    """The usable detections of a frame, in an order that does not depend on theirs.

    `boxes`: `xyxy`, shape (D, 4). `spread`: variances of centre and size where the model gave its spread,
    NaN where not, shape (D, 4).
    """

    boxes: BoxArray
    spread: Array
    labels: tuple[str, ...]
    scores: tuple[float, ...]


@register_tracker("kalman")
class KalmanTracker:
    """A `Tracker`. Not for several threads at once."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._last_id = 0
        self._settings, self._rules = settings, settings.rules
        self.reset()

    def reconfigure(self, settings: TrackerSettings) -> None:
        self._settings, self._rules = settings, settings.rules
        self._settle()

    def reset(self) -> None:
        nothing = np.empty((0, 4))
        self._stamp_s = -math.inf
        self._targets: list[_Target] = []
        self._mixed = ImmFilter.starting(nothing, nothing, nothing)
        self._last_boxes: BoxArray = nothing
        self._cut = nothing.astype(bool)
        self._path = EgoMotionHistory()
        self._compensating = False
        self._settle()

    def update(self, detections: Sequence[Detection], stamp_s: float) -> Mapping[str, int]:
        refused = Counter[str]()
        if (reason := self._refusal(stamp_s)) is not None:
            refused[reason] += 1
            return refused
        if stamp_s < self._stamp_s:
            refused[CLOCK_JUMP] += 1
            self.reset()
        seen = _usable(detections, refused)
        self._move_to(stamp_s)
        tracks, found = self._associate(seen)
        self._fuse(tracks, found, seen)
        self._end_missed(tracks)
        self._start(np.setdiff1d(np.arange(len(seen.boxes)), found), seen)
        self._settle()
        return refused

    def predict(self, stamp_s: float) -> tuple[Track, ...]:
        if not self._shown or not math.isfinite(stamp_s):
            return ()
        now_s = max(stamp_s, self._stamp_s)
        motion = self._shown_motion.after(now_s - self._stamp_s, self._shown_agility)
        drift = self._drift(motion, now_s)
        motion = self._carried(motion, now_s)
        velocity = motion.velocity[:, :2] + drift
        boxes = _in_image(motion, self._shown_cut)
        time_since_update_s = now_s - self._shown_last_s
        there = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & (time_since_update_s <= self._settings.max_age)
        return tuple(
            Track(track_id, label, Box(*box), score, speed, age, unseen, spread)
            for (track_id, label, score), box, speed, age, unseen, spread, visible in zip(
                self._shown,
                boxes.tolist(),
                starmap(Velocity, velocity.tolist()),
                (now_s - self._shown_first_s).tolist(),
                time_since_update_s.tolist(),
                starmap(Velocity, np.sqrt(motion.velocity_variance[:, :2]).tolist()),
                there.tolist(),
                strict=True,
            )
            if visible
        )

    def add_ego_motion(self, view: Affine, stamp_s: float) -> None:
        self._path.add(view, stamp_s)

    def moving_boxes(self, stamp_s: float) -> BoxArray:
        if not self._targets or not math.isfinite(stamp_s):
            return np.empty((0, 4))
        step_s = max(stamp_s - self._stamp_s, 0.0)
        speed = np.abs(self._motion.velocity[:, :2])
        sure = speed > np.maximum(2.0 * np.sqrt(self._motion.velocity_variance[:, :2]), AT_REST)
        motion = self._motion[np.flatnonzero(sure.any(axis=1))].after(step_s, SHARES)
        return self._carried(motion, stamp_s).corners()

    @property
    def _motion(self) -> Motion:
        return self._mixed.whole

    def _refusal(self, stamp_s: float) -> str | None:
        """Why an answer with this stamp cannot be used; None when it can."""
        if not math.isfinite(stamp_s):
            return BAD_STAMP
        if stamp_s == self._stamp_s:
            return SAME_STAMP
        if self._stamp_s - CLOCK_JUMP_S <= stamp_s < self._stamp_s:
            return OLD_STAMP
        return None

    def _move_to(self, stamp_s: float) -> None:
        """Take the filters on to a later frame; after too long a gap nothing is known any more."""
        step_s = stamp_s - self._stamp_s
        if step_s > max(self._settings.max_gap, self._settings.max_age):
            self.reset()
        if self._targets:
            self._mixed = self._mixed.after(step_s, self._agility)
            self._mixed = self._mixed.each(lambda motion: self._carried(motion, stamp_s))
            if self._compensating:
                self._last_boxes = moved(self._last_boxes, self._path.to(stamp_s))
        self._stamp_s = stamp_s
        self._path.count_from(stamp_s)
        self._follow_camera()

    def _follow_camera(self) -> None:
        """Decide whether tracks move with the camera.

        While they do, their velocities are their own; while they do not, those in the image.
        """
        mode = self._settings.camera_motion_compensation
        wanted = mode == "on" or (
            mode == "auto" and self._path.moves(self._stamp_s, already=self._compensating)
        )
        if wanted != self._compensating:
            before = self._drift(self._motion, self._stamp_s)
            self._compensating = wanted
            after = self._drift(self._motion, self._stamp_s)
            self._mixed = self._mixed.each(lambda motion: motion.faster(before - after))

    def _carried(self, motion: Motion, stamp_s: float) -> Motion:
        """Boxes of the last frame looked at, where the camera has them at that stamp."""
        if not self._compensating or not self._path or not len(motion):
            return motion
        return motion.seen_from(self._path.to(stamp_s))

    def _drift(self, motion: Motion, stamp_s: float) -> Array:
        """What the camera adds to the velocity of each centre, shape (N, 2), while tracks move with it.

        The boxes are those of the last frame looked at, not yet carried.
        """
        if not self._compensating or not self._path:
            return np.zeros((len(motion), 2))
        rate = self._path.rate(stamp_s)
        drift: Array = motion.position[:, :2] @ rate[:2, :2].T + rate[:2, 2]
        return drift

    def _associate(self, seen: _Seen) -> tuple[Indices, Indices]:
        if not self._targets or not seen.labels:
            return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
        names = {label: column for column, label in enumerate(dict.fromkeys(seen.labels))}
        agreement = np.array([[target.agreement(name) for name in names] for target in self._targets])
        other = self._settings.label_mismatch_weight
        favour = (other + (1.0 - other) * agreement)[:, [names[label] for label in seen.labels]]
        least = np.array([target.rules.min_iou for target in self._targets])
        measured = centre_and_size(seen.boxes)
        boxes = _in_image(self._motion, self._cut)
        distance = self._motion.distance(centre_and_size(boxes), measured, self._noise(measured, seen.spread))
        return associate(boxes, self._last_boxes, seen.boxes, distance, favour, least)

    def _fuse(self, tracks: Indices, found: Indices, seen: _Seen) -> None:
        boxes = seen.boxes[found]
        noise = self._noise(centre_and_size(boxes), seen.spread[found])
        whole = self._whole(tracks, boxes, noise)
        self._last_boxes[tracks], self._cut[tracks] = boxes, _cut(boxes)
        self._mixed = self._mixed.fused(tracks, *whole)
        for row, column in zip(tracks.tolist(), found.tolist(), strict=True):
            target = self._targets[row]
            target.hits, target.misses, target.last_s = target.hits + 1, 0, self._stamp_s
            target.score += NEWS * (seen.scores[column] - target.score)
            target.vote(seen.labels[column])

    def _end_missed(self, found: Indices) -> None:
        """Count the misses; tracks that were never shown end with the first, the others in time."""
        keep = np.zeros(len(self._targets), dtype=bool)
        keep[found] = True
        for row in np.flatnonzero(~keep).tolist():
            target = self._targets[row]
            target.misses += 1
            target.score *= 1.0 - NEWS  # as if seen with a score of 0
            time_since_update_s = self._stamp_s - target.last_s
            keep[row] = target.confirmed and time_since_update_s <= target.rules.max_age
        self._targets = [target for target, kept in zip(self._targets, keep.tolist(), strict=True) if kept]
        self._mixed, self._last_boxes = self._mixed[keep], self._last_boxes[keep]
        self._cut = self._cut[keep]

    def _start(self, fresh: Indices, seen: _Seen) -> None:
        measured = centre_and_size(seen.boxes[fresh])
        noise = self._noise(measured, seen.spread[fresh])
        speed = self._settings.initial_velocity_std * SHARES
        self._mixed = self._mixed.joined(ImmFilter.starting(measured, noise, speed))
        self._last_boxes = np.concatenate([self._last_boxes, seen.boxes[fresh]])
        self._cut = np.concatenate([self._cut, _cut(seen.boxes[fresh])])
        for column in fresh.tolist():
            self._last_id += 1
            label, score = seen.labels[column], seen.scores[column]
            target = _Target(self._last_id, self._settings, self._stamp_s, self._stamp_s, score)
            target.vote(label)
            self._targets.append(target)

    def _settle(self) -> None:
        """Work out once what every prediction needs."""
        for target in self._targets:
            target.rules = self._rules.get(target.label, self._settings)
        self._agility = np.array([target.rules.process_noise for target in self._targets])[:, None] * SHARES
        rows = np.array(
            [
                row
                for row, target in enumerate(self._targets)
                if target.confirmed and target.misses <= target.rules.max_consecutive_misses
            ],
            dtype=np.intp,
        )
        shown = [self._targets[row] for row in rows]
        calibration = PlattScaling(self._settings.score_gain, self._settings.score_bias)
        self._shown = [(target.track_id, target.label, calibration.apply(target.score)) for target in shown]
        self._shown_first_s = np.array([target.first_s for target in shown])
        self._shown_last_s = np.array([target.last_s for target in shown])
        self._shown_motion, self._shown_agility = self._motion[rows].believed(), self._agility[rows]
        self._shown_cut = self._cut[rows]

    def _whole(self, tracks: Indices, boxes: BoxArray, noise: Array) -> tuple[Array, Array]:
        """What boxes, `xyxy`, say of whole objects: centres and sizes with variances, shape (M, 4).

        An object that the image's edge cuts off is as large as its track says, or as what can be seen of it,
        and it moves as the side that can be seen. A track that must grow for that keeps this side's place, as
        it does when the other side comes into view.
        """
        seen, known = centre_and_size(boxes), self._motion.position[tracks]
        sides = _cut(boxes)
        cut = sides[:, :2] ^ sides[:, 2:]  # of what is cut off at both sides the middle is as good a guess
        came = ~(sides[:, :2] | sides[:, 2:]) & (self._cut[tracks, :2] ^ self._cut[tracks, 2:])
        beyond = np.where(np.where(cut, sides[:, :2], self._cut[tracks, :2]), -0.5, 0.5) * (cut | came)
        at_least = np.maximum(seen[:, 2:], known[:, 2:])
        size = np.select([cut, came], [at_least, seen[:, 2:]], known[:, 2:])
        grown = np.concatenate([known[:, :2] + beyond * (size - known[:, 2:]), size], axis=1)
        self._mixed = self._mixed.each(
            lambda motion: motion.placed(tracks, motion.position[tracks] + grown - known)
        )
        centre = seen[:, :2] + beyond * (size - seen[:, 2:])
        where, size_noise = np.where(cut, noise[:, 2:], noise[:, :2]), np.where(cut, UNMEASURED, noise[:, 2:])
        return np.concatenate([centre, seen[:, 2:]], axis=1), np.concatenate([where, size_noise], axis=1)

    def _noise(self, measured: Array, spread: Array) -> Array:
        """Variances of measured [cx, cy, w, h], shape (M, 4)."""
        settings = self._settings
        guess = settings.measurement_noise * np.tile(measured[:, 2:], 2) + settings.min_measurement_noise
        given = settings.measurement_noise_scale**2 * spread + settings.min_measurement_noise**2
        return np.where(np.isnan(spread), guess**2, given)


def _cut(boxes: BoxArray) -> NDArray[np.bool_]:
    """Which sides lie on the edge of the image, shape (N, 4)."""
    return np.concatenate([boxes[:, :2] < EDGE, boxes[:, 2:] > 1.0 - EDGE], axis=1)


def _in_image(motion: Motion, cut: NDArray[np.bool_]) -> BoxArray:
    """What of the boxes can be seen, `xyxy`, shape (N, 4). A side that was `cut` off stays on the edge."""
    return np.where(cut, EDGES, motion.corners().clip(0.0, 1.0))


def _usable(detections: Sequence[Detection], refused: Counter[str]) -> _Seen:
    """What can be tracked; the rest is counted by reason."""
    usable = []
    boxes = stack(detection.box for detection in detections)
    low, high = boxes[:, :2], boxes[:, 2:]
    sound = np.isfinite(low) & np.isfinite(high) & (low < high) & (high > 0.0) & (low < 1.0)
    fit = np.logical_and.reduce(sound, axis=1).tolist()
    for detection, box, valid in zip(detections, boxes.clip(0.0, 1.0).tolist(), fit, strict=True):
        label = detection.label.strip()[:LABEL_CHARACTERS]
        if not valid:
            refused[NOT_A_BOX] += 1
        elif not label:
            refused[NO_LABEL] += 1
        else:
            score = min(max(detection.score, 0.0), 1.0) if math.isfinite(detection.score) else 0.0
            usable.append((score, tuple(box), label, _spread(detection)))
    usable.sort(key=lambda entry: (-entry[0], *entry[1:]))
    if len(usable) > MOST_DETECTIONS:
        refused[TOO_MANY] += len(usable) - MOST_DETECTIONS
        del usable[MOST_DETECTIONS:]
    return _Seen(
        boxes=np.array([box for _, box, _, _ in usable]).reshape(-1, 4),
        spread=np.array([spread for _, _, _, spread in usable]).reshape(-1, 4),
        labels=tuple(label for _, _, label, _ in usable),
        scores=tuple(score for score, _, _, _ in usable),
    )


def _spread(detection: Detection) -> tuple[float, float, float, float]:
    """Variances of [cx, cy, w, h] from those of the four sides; NaN where the model gave none or nonsense."""
    std = detection.std
    if std is None:
        return (math.nan,) * 4
    x = std.x1**2 + std.x2**2
    y = std.y1**2 + std.y2**2
    if not (math.isfinite(x) and math.isfinite(y)):
        return (math.nan,) * 4
    return x / 4.0, y / 4.0, x, y
