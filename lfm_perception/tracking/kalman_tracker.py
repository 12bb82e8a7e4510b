# SPDX-License-Identifier: Apache-2.0
"""Multi-object tracker with Kalman filters in continuous time.

The filters stand at the last inferred frame. A detection result moves them to the stamp of its own frame,
however late it arrives, and `predict` extrapolates them to any later stamp without moving them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lfm_perception.calibration import PlattScaling
from lfm_perception.geometry import BoxArray, iou_matrix
from lfm_perception.scene import Detection, Track, View
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import Pending, register_tracker
from lfm_perception.tracking.association import Indices, associate, remaining, unique_pairs
from lfm_perception.tracking.ego_motion_history import Affine, EgoMotionHistory, transform_boxes
from lfm_perception.tracking.kalman import Array, ConstantVelocityFilter, ImmFilter, centre_and_size
from lfm_perception.tracking.measurements import Measurements, are_leaving, visible_boxes
from lfm_perception.tracking.noise_scale import NoiseScale
from lfm_perception.tracking.published_tracks import PublishedTracks
from lfm_perception.tracking.track_state import TrackState
from lfm_perception.tracking.views import Fragments, is_observable, seen_parts

CLOCK_JUMP_S = 1.0
"""Time by which a stamp is older than the last one when the clock was set back; less means a late frame."""

AXIS_SCALE = np.array([1.0, 1.0, 0.5, 0.5])
"""Scale of process noise and initial velocity for centre x, y and width, height: sizes change less."""

MAX_NEW_IOU = 0.7
"""IoU with an established track, detected in the same answer, from which on no new track is started."""

START_MARGIN, REENTRY_MARGIN = 4.5, 1.0
"""Margins by which a pair must be the best one (see `unique_pairs`): for the second detection of a track,
which may as well start another track, and for the return of a dormant track's object."""

MISS_WEIGHT = 0.9
"""Factor on the association score of a track for each consecutive miss: detected tracks take precedence over
those whose object may have left."""

MIN_SPEED = 0.02
"""Speed below which an object counts as standing, image widths per second."""

# Reasons for which a whole frame is rejected, or all tracks are removed
INVALID_STAMP = "stamp is not finite"
DUPLICATE_STAMP = "duplicate stamp"
STAMP_OUT_OF_ORDER = "stamp out of order"
CLOCK_JUMP = "clock jumped back"


@register_tracker("kalman")
class KalmanTracker:
    """A `Tracker` with one IMM filter, one `TrackState` and one last measured box per track, row by row."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._last_id = 0
        self._settings, self._label_settings = settings, settings.rules
        self.reset()

    def reconfigure(self, settings: TrackerSettings) -> None:
        self._settings, self._label_settings = settings, settings.rules
        self._publish()

    def reset(self) -> None:
        empty = np.empty((0, 4))
        self._stamp_s = -math.inf
        self._states: list[TrackState] = []
        self._filters = ImmFilter.from_measurements(empty, empty, empty)
        self._last_boxes: BoxArray = empty
        self._truncated = empty.astype(bool)
        self._noise_scale = NoiseScale.empty()
        self._fragments = Fragments.none()
        self._ego_motion = EgoMotionHistory()
        self._compensating = False
        self._publish()

    def update(
        self, detections: Sequence[Detection], stamp_s: float, view: View | None = None
    ) -> Mapping[str, int]:
        rejects = Counter[str]()
        if (reason := self._stamp_reject(stamp_s)) is not None:
            rejects[reason] += 1
            return rejects
        if stamp_s < self._stamp_s:
            rejects[CLOCK_JUMP] += 1
            self.reset()
        step_s = stamp_s - self._stamp_s
        self._predict_filters(stamp_s)
        boxes = visible_boxes(self._filters.mixed, self._truncated)
        parts = seen_parts(boxes, view)
        seen = parts[self._established()]
        measurements = Measurements.from_detections(detections, self._settings, rejects, seen, view)
        tracks, matched = self._associate(measurements, parts, view)
        observable = is_observable(boxes, view)
        self._update_filters(tracks, matched, measurements)
        self._prune(tracks, observable, step_s)
        unmatched = remaining(len(measurements), matched)
        fragment = measurements.cut[unmatched].any(axis=1)
        self._spawn(unmatched[~fragment], measurements)
        self._fragments = self._fragments.update(measurements.boxes[unmatched[fragment]], view, stamp_s)
        self._reidentify()
        self._publish()
        return rejects

    def predict(self, stamp_s: float) -> tuple[Track, ...]:
        published = self._published
        if not published.ids or not math.isfinite(stamp_s):
            return ()
        now_s = max(stamp_s, self._stamp_s)
        filters = published.predict(now_s - self._stamp_s)
        camera_velocity = self._camera_velocity(filters, now_s)
        return published.tracks(self._compensate(filters, now_s), camera_velocity, now_s)

    def pending(self, stamp_s: float) -> Pending:
        rows = np.flatnonzero([not state.confirmed for state in self._states])
        filters = self._filters.mixed[rows].predict(max(stamp_s - self._stamp_s, 0.0), AXIS_SCALE)
        boxes = visible_boxes(self._compensate(filters, stamp_s), self._truncated[rows])
        return Pending(boxes, self._fragments.boxes)

    def add_ego_motion(self, motion: Affine, stamp_s: float) -> None:
        self._ego_motion.add(motion, stamp_s)

    def moving_boxes(self, stamp_s: float) -> BoxArray:
        if not self._states or not math.isfinite(stamp_s):
            return np.empty((0, 4))
        mixed = self._filters.mixed
        velocity_std = np.sqrt(mixed.velocity_variance[:, :2])
        moving = np.abs(mixed.velocity[:, :2]) > np.maximum(2.0 * velocity_std, MIN_SPEED)
        filters = mixed[np.flatnonzero(moving.any(axis=1))]
        filters = filters.predict(max(stamp_s - self._stamp_s, 0.0), AXIS_SCALE)
        return self._compensate(filters, stamp_s).corners()

    def _stamp_reject(self, stamp_s: float) -> str | None:
        """The reason why a frame with this stamp is rejected, if it is."""
        if not math.isfinite(stamp_s):
            return INVALID_STAMP
        if stamp_s == self._stamp_s:
            return DUPLICATE_STAMP
        if self._stamp_s - CLOCK_JUMP_S <= stamp_s < self._stamp_s:
            return STAMP_OUT_OF_ORDER
        return None

    def _predict_filters(self, stamp_s: float) -> None:
        """Moves the filters to a later frame; after a gap longer than `max_gap` all tracks are removed."""
        step_s = stamp_s - self._stamp_s
        if step_s > max(self._settings.max_gap, self._settings.max_age):
            self.reset()
        if self._states:
            looming = self._filters.mixed.looming()
            self._filters = self._filters.predict(step_s, self._process_noise, looming)
            if self._compensating:
                self._filters = self._filters.map(lambda modes: self._compensate(modes, stamp_s))
                self._last_boxes = transform_boxes(self._last_boxes, self._ego_motion.at(stamp_s))
        self._stamp_s = stamp_s
        self._ego_motion.rebase(stamp_s)
        self._switch_compensation()

    def _switch_compensation(self) -> None:
        """Turns ego-motion compensation on or off.

        While it is on, filters have the objects' own velocities; while it is off, those in the image.
        """
        setting = self._settings.camera_motion_compensation
        wanted = setting == "on" or (
            setting == "auto" and self._ego_motion.is_moving(self._stamp_s, was_moving=self._compensating)
        )
        if wanted != self._compensating:
            before = self._camera_velocity(self._filters.mixed, self._stamp_s)
            self._compensating = wanted
            after = self._camera_velocity(self._filters.mixed, self._stamp_s)
            self._filters = self._filters.map(lambda modes: modes.add_velocity(before - after))

    def _compensate(self, filters: ConstantVelocityFilter, stamp_s: float) -> ConstantVelocityFilter:
        """Filters of the last inferred frame, warped by the camera motion up to a stamp."""
        if not self._compensating or not self._ego_motion or not len(filters):
            return filters
        return filters.transform(self._ego_motion.at(stamp_s))

    def _camera_velocity(self, filters: ConstantVelocityFilter, stamp_s: float) -> Array:
        """Image velocity of each centre due to camera motion, shape (N, 2); 0 without compensation.

        The filters are those of the last inferred frame, not yet compensated.
        """
        if not self._compensating or not self._ego_motion:
            return np.zeros((len(filters), 2))
        rate = self._ego_motion.velocity(stamp_s)
        velocity: Array = filters.position[:, :2] @ rate[:2, :2].T + rate[:2, 2]
        return velocity

    def _associate(
        self, measurements: Measurements, boxes: BoxArray, view: View | None
    ) -> tuple[Indices, Indices]:
        """Rows of the tracks, of which `boxes` are visible in the view, and of their measurements."""
        if not self._states or not measurements.labels:
            return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
        agreement = self._label_agreement(measurements.labels)
        mismatch_weight = self._settings.label_mismatch_weight
        miss_weight = MISS_WEIGHT ** np.array([state.misses for state in self._states])
        label_weight = mismatch_weight + (1.0 - mismatch_weight) * agreement
        distances = self._filters.mixed.squared_distances(
            centre_and_size(boxes), measurements.position, measurements.variance
        )
        active = np.flatnonzero([not state.is_dormant(self._stamp_s) for state in self._states])
        # an object that has moved out is not where it was last: there, another one comes in
        last = np.where(self._left()[:, None], 0.0, self._last_boxes)
        tracks, matched = associate(
            predicted=boxes[active],
            last=seen_parts(last[active], view),
            measured=measurements.boxes,
            distance=distances.sum(axis=0)[active],
            weight=(miss_weight[:, None] * label_weight)[active],
            min_iou=np.array([state.settings.min_iou for state in self._states])[active],
        )
        tracks = active[tracks]
        started = np.array([state.hits == 1 for state in self._states])
        started[tracks] = False
        if not started.any() or len(matched) == len(measurements):
            return tracks, matched
        confirmed = np.flatnonzero([self._states[row].confirmed for row in active])
        explained = iou_matrix(boxes[active[confirmed]], measurements.boxes) >= self._settings.min_iou
        allowed = started[:, None] & ~explained.any(axis=0) & (agreement > 0.0)
        allowed[:, matched] = False
        more_tracks, more_matched = unique_pairs(
            distances[:2].sum(axis=0),
            centre_and_size(boxes),
            measurements.position,
            allowed,
            START_MARGIN,
        )
        return np.concatenate([tracks, more_tracks]), np.concatenate([matched, more_matched])

    def _established(self) -> NDArray[np.bool_]:
        """Which tracks are confirmed and had a detection in the last answer, shape (N,)."""
        return np.array([state.confirmed and not state.misses for state in self._states], dtype=bool)

    def _label_agreement(self, labels: Sequence[str]) -> Array:
        """Shares of the tracks' votes for labels, shape (N, len(labels))."""
        columns = {label: column for column, label in enumerate(dict.fromkeys(labels))}
        agreement = np.array([[state.label_agreement(label) for label in columns] for state in self._states])
        return agreement[:, [columns[label] for label in labels]]

    def _update_filters(self, tracks: Indices, matched: Indices, measurements: Measurements) -> None:
        predicted = self._filters.mixed.position[tracks]
        whole = measurements.complete(matched, predicted, self._truncated[tracks])
        self._filters = self._filters.map(lambda modes: modes.shift(tracks, predicted, whole.predicted))
        crowded = measurements.crowded[matched]
        scale = np.where(crowded[:, None], 1.0, self._noise_scale.variance_scale(tracks))
        variance = whole.variance * scale
        innovation = self._filters.mixed[tracks].normalized_innovation(whole.measured, variance)
        side_error = whole.side_errors()
        self._noise_scale = self._noise_scale.update(
            tracks[~crowded], innovation[~crowded], side_error[~crowded]
        )
        self._filters = self._filters.update(tracks, whole.measured, variance)
        cut = measurements.cut[matched]
        corners = self._filters.mixed.corners()[tracks]
        self._last_boxes[tracks] = np.where(
            cut.any(axis=1, keepdims=True), corners, measurements.boxes[matched]
        )
        self._truncated[tracks] = np.where(cut, self._truncated[tracks], measurements.truncated[matched])
        for row, column in zip(tracks.tolist(), matched.tolist(), strict=True):
            self._states[row].match(measurements.labels[column], measurements.scores[column], self._stamp_s)

    def _prune(self, matched: Indices, observable: NDArray[np.bool_], step_s: float) -> None:
        """Counts a miss of each unmatched track that was observable, and removes the lost tracks."""
        keep = np.zeros(len(self._states), dtype=bool)
        keep[matched] = True
        for row in np.flatnonzero(~keep).tolist():
            if observable[row]:
                self._states[row].miss()
            else:
                self._states[row].leave_unseen(step_s)
            keep[row] = not self._states[row].is_lost(self._stamp_s)
        self._keep(keep)

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        """Removes the tracks outside the mask."""
        if keep.all():
            return
        self._states = [state for state, kept in zip(self._states, keep.tolist(), strict=True) if kept]
        self._filters, self._last_boxes = self._filters[keep], self._last_boxes[keep]
        self._truncated, self._noise_scale = self._truncated[keep], self._noise_scale[keep]

    def _spawn(self, unmatched: Indices, measurements: Measurements) -> None:
        """Starts a tentative track with a new id for each unmatched measurement off established tracks."""
        if unmatched.size:
            boxes = visible_boxes(self._filters.mixed, self._truncated)[self._established()]
            iou = iou_matrix(measurements.boxes[unmatched], boxes)
            unmatched = unmatched[(iou < MAX_NEW_IOU).all(axis=1)]
        if not unmatched.size:
            return
        position, variance = measurements.position[unmatched], measurements.variance[unmatched]
        velocity_std = self._settings.initial_velocity_std * AXIS_SCALE
        spawned = ImmFilter.from_measurements(position, variance, velocity_std)
        self._filters = self._filters.concatenate(spawned)
        self._last_boxes = np.concatenate([self._last_boxes, measurements.boxes[unmatched]])
        self._truncated = np.concatenate([self._truncated, measurements.truncated[unmatched]])
        self._noise_scale = self._noise_scale.spawn(len(unmatched))
        for row in unmatched.tolist():
            self._last_id += 1
            stamp_s, score = self._stamp_s, measurements.scores[row]
            state = TrackState(self._last_id, self._settings, stamp_s, stamp_s, score)
            state.vote(measurements.labels[row])
            self._states.append(state)

    def _reidentify(self) -> None:
        """Gives a track that was confirmed just now the track id of the dormant track that it continues."""
        confirmed = np.flatnonzero([s.misses == 0 and s.hits == s.settings.min_hits for s in self._states])
        dormant = np.flatnonzero([s.may_return(self._stamp_s) for s in self._states])
        if not (confirmed.size and dormant.size):
            return
        mixed = self._filters.mixed
        old, new = mixed[dormant], mixed[confirmed]
        # sizes are not predicted for so long, unless only a part was visible at last
        part = self._truncated[dormant, :2] | self._truncated[dormant, 2:]
        seen = np.where(np.tile(part, 2), old.position, centre_and_size(self._last_boxes[dormant]))
        distance = old.squared_distances(old.position, new.position, new.variance)[:2].sum(axis=0)
        alike = np.array(
            [[self._states[o].label in self._states[n].label_votes for n in confirmed] for o in dormant]
        )
        gone = np.zeros(len(self._states), dtype=bool)
        for o, n in zip(*unique_pairs(distance, seen, new.position, alike, REENTRY_MARGIN), strict=True):
            self._states[confirmed[n]].continues(self._states[dormant[o]])
            gone[dormant[o]] = True
        self._keep(~gone)

    def _left(self) -> NDArray[np.bool_]:
        """Which tracks were missed, as their objects have moved out of the image, shape (N,)."""
        left = np.array([state.misses > 0 for state in self._states], dtype=bool)
        missed = np.flatnonzero(left)
        if missed.size:
            filters = self._filters.mixed[missed]
            moving = filters.add_velocity(self._camera_velocity(filters, self._stamp_s))
            left[missed] = are_leaving(moving, self._truncated[missed])
        return left

    def _publish(self) -> None:
        """Updates the published tracks, from which `predict` extrapolates."""
        for state in self._states:
            state.settings = self._label_settings.get(state.label, self._settings)
        noise = np.array([state.settings.process_noise for state in self._states])[:, None] * AXIS_SCALE
        self._process_noise = noise
        mixed = self._filters.mixed
        left = self._left()
        published = [row for row, state in enumerate(self._states) if state.published and not left[row]]
        rows = np.array(sorted(published, key=lambda row: self._states[row].track_id), dtype=np.intp)
        states = [self._states[row] for row in rows]
        scaling = PlattScaling(self._settings.score_gain, self._settings.score_bias)
        mixed = mixed[rows]
        filters = mixed.shrink_velocity()
        residual = centre_and_size(self._last_boxes[rows]) - mixed.position
        own = np.tile(self._noise_scale.residual_share[rows], 2) * residual
        self._published = PublishedTracks(
            ids=[state.track_id for state in states],
            labels=[state.label for state in states],
            scores=np.array([scaling.apply(state.score) for state in states]),
            first_s=np.array([state.first_s for state in states]),
            last_s=np.array([state.last_s for state in states]),
            filters=filters,
            at_update=replace(filters, position=mixed.position + own),
            process_noise=noise[rows],
            looming=mixed.looming(),
            max_prediction_s=np.array([state.max_prediction_s for state in states]),
            unseen=np.array([state.unseen for state in states], dtype=bool),
            truncated=self._truncated[rows],
            missed=np.array([state.misses > 0 for state in states], dtype=bool),
        )
