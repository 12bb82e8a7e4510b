# SPDX-License-Identifier: Apache-2.0
"""The life of a track: tentative, confirmed, coasting, lost."""

from __future__ import annotations

import numpy as np
import pytest
from tracks import STEP_S, following, seen

from lfm_perception.tracking import Tracker


def test_a_track_is_published_after_min_hits() -> None:
    tracker = following(min_hits=3)
    for i in range(2):
        tracker.update([seen(0.5)], i * STEP_S)
        assert tracker.predict(i * STEP_S) == ()
    tracker.update([seen(0.5)], 2 * STEP_S)
    assert len(tracker.predict(2 * STEP_S)) == 1
    at_once = following(min_hits=1)
    at_once.update([seen(0.5)], 0.0)
    assert len(at_once.predict(0.0)) == 1


def test_one_missed_frame_is_bridged_and_more_hide_the_track_until_it_is_seen_again() -> None:
    tracker = following(max_consecutive_misses=1, max_age=1.5)
    tracker.update([seen(0.5)], 0.0)
    tracker.update([seen(0.5)], 0.2)
    tracker.update([], 0.4)
    assert [track.track_id for track in tracker.predict(0.4)] == [1]
    tracker.update([], 0.6)
    assert tracker.predict(0.6) == ()
    tracker.update([seen(0.5)], 0.8)
    assert [track.track_id for track in tracker.predict(0.8)] == [1]


def test_a_track_that_answers_miss_for_long_is_forgotten() -> None:
    tracker = following(max_age=1.0)
    for stamp_s in (0.0, 0.2):
        tracker.update([seen(0.5)], stamp_s)
    for stamp_s in (0.7, 1.3):
        tracker.update([], stamp_s)
    for stamp_s in (1.5, 1.7):
        tracker.update([seen(0.5)], stamp_s)
    assert [track.track_id for track in tracker.predict(1.7)] == [2]


def test_a_track_outlives_a_time_without_answers_but_is_not_shown_meanwhile() -> None:
    tracker = following(max_age=1.0, max_gap=5.0)
    for stamp_s in (0.0, 0.2):
        tracker.update([seen(0.5)], stamp_s)
    assert len(tracker.predict(1.1)) == 1
    assert tracker.predict(1.3) == ()
    tracker.update([seen(0.5)], 4.0)  # the model was started anew
    assert [track.track_id for track in tracker.predict(4.0)] == [1]
    tracker.update([seen(0.5)], 9.5)
    tracker.update([seen(0.5)], 9.7)
    assert [track.track_id for track in tracker.predict(9.7)] == [2]


def test_ids_are_never_given_twice() -> None:
    tracker = following(min_hits=1)
    tracker.update([seen(0.2), seen(0.8)], 5.0)
    tracker.reset()
    assert tracker.predict(5.0) == ()
    tracker.update([seen(0.2)], 0.0)
    assert [track.track_id for track in tracker.predict(0.0)] == [3]


def test_an_object_that_leaves_the_image_is_not_published_outside() -> None:
    tracker = following()
    for i in range(6):
        tracker.update([seen(0.75 + 0.04 * i)], i * STEP_S)
    assert tracker.predict(1.1)[0].box.x2 == 1.0
    assert tracker.predict(1.9) == ()


def test_an_object_that_is_named_twice_has_one_track() -> None:
    tracker = following(min_hits=1)
    for i in range(6):
        twice = [seen(0.505, size=0.102, label="crate", score=0.5)] if i % 2 else []
        tracker.update([seen(0.5), *twice], i * STEP_S)
        assert [track.track_id for track in tracker.predict(i * STEP_S)] == [1]


def test_a_second_box_on_an_established_track_starts_none() -> None:
    tracker = following(nms_iou=1.0)
    for i in range(6):
        tracker.update([seen(0.5), *([seen(0.505)] if i > 1 else [])], i * STEP_S)
    assert [track.track_id for track in tracker.predict(5 * STEP_S)] == [1]


def test_an_object_that_returns_from_behind_another_keeps_its_id() -> None:
    tracker = following()
    for i in range(30):
        visible = i < 10 or i >= 20
        tracker.update([seen(0.2 + 0.015 * i)] if visible else [], i * STEP_S)
        if 12 <= i < 21:
            assert tracker.predict(i * STEP_S) == ()
    (track,) = tracker.predict(29 * STEP_S)
    assert track.track_id == 1
    assert track.age_s == pytest.approx(29 * STEP_S)


def walking_out(last_x: float, misses: int = 1) -> Tracker:
    """A tracker of an object of size 0.1 that walks to the right up to `last_x`, and is then missed."""
    tracker = following()
    for i in range(8):
        tracker.update([seen(last_x - 0.02 * (7 - i))], i * STEP_S)
    for i in range(8, 8 + misses):
        tracker.update([], i * STEP_S)
    return tracker


def test_an_object_that_is_missed_while_it_leaves_the_image_is_not_published() -> None:
    assert walking_out(1.0, misses=0).predict(8 * STEP_S)
    assert walking_out(1.0).predict(8 * STEP_S) == ()


def test_a_miss_of_an_object_that_is_mostly_visible_or_comes_back_is_bridged() -> None:
    assert walking_out(0.95).predict(8 * STEP_S)
    returning = following()
    for i, x in enumerate((0.92, 0.95, 0.98, 1.01, 1.01, 1.0, 0.99)):
        returning.update([seen(x)], i * STEP_S)
    returning.update([], 7 * STEP_S)
    (track,) = returning.predict(7 * STEP_S)
    assert track.velocity.x < 0.0
    assert track.box.width < 0.07


def test_who_did_not_leave_keeps_the_id() -> None:
    tracker = walking_out(1.0)
    tracker.update([seen(1.0)], 9 * STEP_S)
    assert [track.track_id for track in tracker.predict(9 * STEP_S)] == [1]


def test_an_object_that_a_turning_camera_leaves_behind_is_not_published_after_a_miss() -> None:
    tracker = following(camera_motion_compensation="on")
    step = np.eye(3)
    step[0, 2] = 0.02
    for i in range(8):
        tracker.add_ego_motion(step, i * STEP_S)
        tracker.update([seen(0.86 + 0.02 * i)], i * STEP_S)
    assert abs(tracker.predict(7 * STEP_S)[0].velocity.x - 0.1) < 0.02
    tracker.add_ego_motion(step, 8 * STEP_S)
    tracker.update([], 8 * STEP_S)
    assert tracker.predict(8 * STEP_S) == ()
