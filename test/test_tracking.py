"""The tracker: ids that stay, speeds that are right, and predictions that change nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection
from lfm_perception.tracking import Tracker
from lfm_perception.tracking.sort import SortTracker

STEP_S = 0.2


def seen(x: float, y: float = 0.5, size: float = 0.1, label: str = "box", score: float = 0.9) -> Detection:
    """A square detection around (x, y), cut at the image's edge."""
    sides = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Detection(label, Box(*(min(max(side, 0.0), 1.0) for side in sides)), score)


def test_an_object_keeps_its_id_and_gets_its_speed() -> None:
    tracker: Tracker = SortTracker()
    for i in range(10):
        tracker.update([seen(0.2 + 0.2 * i * STEP_S)], i * STEP_S)
    (track,) = tracker.predict(9 * STEP_S)
    assert track.track_id == 1
    assert track.velocity.x == pytest.approx(0.2, rel=0.1)
    assert track.velocity.y == pytest.approx(0.0, abs=0.01)
    assert track.age_s == pytest.approx(9 * STEP_S)
    assert track.unseen_s == 0.0


def test_tracks_are_predicted_between_detections() -> None:
    tracker = SortTracker()
    for i in range(10):
        tracker.update([seen(0.2 + 0.2 * i * STEP_S)], i * STEP_S)
    (track,) = tracker.predict(9 * STEP_S + 0.5)
    true = seen(0.2 + 0.2 * (9 * STEP_S + 0.5)).box
    assert iou_matrix(stack([track.box]), stack([true]))[0, 0] > 0.8
    assert track.unseen_s == pytest.approx(0.5)


def test_prediction_changes_nothing() -> None:
    told, left_alone = SortTracker(), SortTracker()
    for i in range(6):
        for tracker in (told, left_alone):
            tracker.update([seen(0.3 + 0.02 * i), seen(0.8, 0.2)], i * STEP_S)
        for k in range(5):
            told.predict(i * STEP_S + k * 0.03)
    assert told.predict(1.1) == left_alone.predict(1.1)


def test_a_track_is_published_after_min_hits() -> None:
    tracker = SortTracker(min_hits=3)
    for i in range(2):
        tracker.update([seen(0.5)], i * STEP_S)
        assert tracker.predict(i * STEP_S) == ()
    tracker.update([seen(0.5)], 2 * STEP_S)
    assert len(tracker.predict(2 * STEP_S)) == 1
    at_once = SortTracker(min_hits=1)
    at_once.update([seen(0.5)], 0.0)
    assert len(at_once.predict(0.0)) == 1


def test_one_missed_frame_is_bridged_and_more_hide_the_track_until_it_is_seen_again() -> None:
    tracker = SortTracker(shown_misses=1, forget_after=1.5)
    tracker.update([seen(0.5)], 0.0)
    tracker.update([seen(0.5)], 0.2)
    tracker.update([], 0.4)
    assert [track.track_id for track in tracker.predict(0.4)] == [1]
    tracker.update([], 0.6)
    assert tracker.predict(0.6) == ()
    tracker.update([seen(0.5)], 0.8)
    assert [track.track_id for track in tracker.predict(0.8)] == [1]


def test_a_track_is_forgotten_in_seconds_even_when_no_frame_comes() -> None:
    tracker = SortTracker(forget_after=1.0)
    tracker.update([seen(0.5)], 0.0)
    tracker.update([seen(0.5)], 0.2)
    assert len(tracker.predict(1.1)) == 1
    assert tracker.predict(1.3) == ()
    tracker.update([seen(0.5)], 1.3)
    tracker.update([seen(0.5)], 1.5)
    assert [track.track_id for track in tracker.predict(1.5)] == [2]


def test_ids_are_never_given_twice() -> None:
    tracker = SortTracker(min_hits=1)
    tracker.update([seen(0.2), seen(0.8)], 5.0)
    tracker.reset()
    assert tracker.predict(5.0) == ()
    tracker.update([seen(0.2)], 0.0)
    assert [track.track_id for track in tracker.predict(0.0)] == [3]


def test_stamps_that_go_back_are_refused() -> None:
    tracker = SortTracker()
    tracker.update([], 1.0)
    with pytest.raises(ValueError, match="before the last update"):
        tracker.update([], 0.9)


def test_a_label_that_flips_once_is_outvoted() -> None:
    tracker = SortTracker()
    for i, label in enumerate(["box", "box", "crate", "box"]):
        tracker.update([seen(0.5, label=label)], i * STEP_S)
        assert {track.label for track in tracker.predict(i * STEP_S)} <= {"box"}
    assert [track.track_id for track in tracker.predict(0.6)] == [1]


def test_labels_decide_between_objects_in_one_place() -> None:
    tracker = SortTracker()
    person, pallet = seen(0.5, size=0.2, label="person"), seen(0.53, size=0.2, label="pallet")
    tracker.update([person, pallet], 0.0)
    tracker.update([pallet, person], 0.2)
    assert [(t.track_id, t.label) for t in tracker.predict(0.2)] == [(1, "person"), (2, "pallet")]


def test_an_object_that_leaves_the_image_is_not_published_outside() -> None:
    tracker = SortTracker()
    for i in range(6):
        tracker.update([seen(0.75 + 0.04 * i)], i * STEP_S)
    assert tracker.predict(1.0)[0].box.x2 == 1.0
    assert tracker.predict(1.9) == ()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), clock=st.floats(-1e6, 1e6))
def test_noisy_scenes_give_ordered_boxes_unique_ids_and_no_surprise_from_the_clock(
    seed: int, clock: float
) -> None:
    rng = random.Random(seed)
    here, there = (SortTracker(forget_after=1.25) for _ in range(2))  # no step ends exactly there
    for i in range(12):
        scene = [
            seen(
                rng.random(),
                rng.random(),
                rng.uniform(0.02, 0.4),
                rng.choice(["box", "person"]),
                rng.random(),
            )
            for _ in range(rng.randint(0, 5))
        ]
        here.update(scene, i * STEP_S)
        there.update(scene, clock + i * STEP_S)
        tracks = here.predict(i * STEP_S + 0.1)
        assert len({track.track_id for track in tracks}) == len(tracks)
        assert [t.track_id for t in tracks] == [t.track_id for t in there.predict(clock + i * STEP_S + 0.1)]
