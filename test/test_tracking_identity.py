# SPDX-License-Identifier: Apache-2.0
"""Whose detection it is: pairs that overlap, tracks that may have left, objects that return."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker

STEP_S = 0.2


def person(x: float, score: float = 0.9) -> Detection:
    return Detection("person", Box(max(x - 0.1, 0.0), 0.3, min(x + 0.1, 1.0), 0.9), score)


def test_two_that_pass_each_other_keep_both_tracks_while_their_boxes_nearly_coincide() -> None:
    tracker = open_tracker(TrackerSettings())
    for i in range(21):
        tracker.update([person(0.3 + 0.02 * i), person(0.7 - 0.02 * i, score=0.8)], i * STEP_S)
        if i:
            tracks = tracker.predict(i * STEP_S)
            assert [(track.track_id, track.time_since_update_s) for track in tracks] == [(1, 0.0), (2, 0.0)]
    rightward, leftward = tracks
    assert rightward.box.x1 > leftward.box.x2


def test_a_detection_between_a_seen_and_a_missed_track_is_that_of_the_seen_one() -> None:
    tracker = open_tracker(TrackerSettings(camera_motion_compensation="off"))
    for i in range(10):
        tracker.update([person(0.4), *([person(0.54)] if i < 7 else [])], i * STEP_S)
    tracker.update([person(0.455)], 10 * STEP_S)
    (track,) = tracker.predict(10 * STEP_S)
    assert (track.track_id, track.time_since_update_s) == (1, 0.0)


def test_who_was_seen_for_a_moment_only_is_not_recognized_after_a_long_time() -> None:
    tracker = open_tracker(TrackerSettings())
    seen = {0, 1, 2, 12, 13, 14}
    for i in range(15):
        tracker.update([person(0.5)] if i in seen else [], i * STEP_S)
    assert [track.track_id for track in tracker.predict(14 * STEP_S)] == [2]


def test_who_was_seen_for_long_is_recognized_after_the_same_time() -> None:
    tracker = open_tracker(TrackerSettings())
    for i in range(25):
        tracker.update([person(0.5)] if not 13 <= i < 22 else [], i * STEP_S)
    assert [track.track_id for track in tracker.predict(24 * STEP_S)] == [1]


def test_who_is_partly_visible_before_the_camera_turns_away_is_recognized_when_it_turns_back() -> None:
    tracker = open_tracker(TrackerSettings(camera_motion_compensation="on"))
    away = [0.5 - 0.13 * i for i in range(6)]
    places = [0.5] * 10 + away + [away[-1]] * 6 + away[::-1]
    for i, (before, x) in enumerate(pairwise([0.5, *places])):
        step = np.eye(3)
        step[0, 2] = x - before
        tracker.add_ego_motion(step, i * STEP_S)
        tracker.update([person(x)] if x > -0.1 else [], i * STEP_S)
    assert [track.track_id for track in tracker.predict(len(places) * STEP_S)] == [1]
