# SPDX-License-Identifier: Apache-2.0
"""The tracker: ids that stay, speeds that are right, and predictions that change nothing."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracks import STEP_S, following, seen

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import iou_matrix, stack
from lfm_perception.scene import CoordinateStd, Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import Tracker, open_tracker, register_tracker


def test_a_tracker_is_chosen_by_its_registered_name() -> None:
    made = open_tracker(TrackerSettings())
    register_tracker("same tracker")(lambda settings: made)
    assert open_tracker(TrackerSettings(algorithm="same tracker")) is made


def test_an_unknown_tracker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PerceptionError, match=r"tracker\.algorithm is 'sort': choose one of kalman"):
        open_tracker(TrackerSettings(algorithm="sort"))


def test_an_object_keeps_its_id_and_gets_its_speed() -> None:
    tracker: Tracker = following()
    for i in range(10):
        tracker.update([seen(0.2 + 0.2 * i * STEP_S)], i * STEP_S)
    (track,) = tracker.predict(9 * STEP_S)
    assert track.track_id == 1
    assert track.velocity.x == pytest.approx(0.2, rel=0.1)
    assert track.velocity.y == pytest.approx(0.0, abs=0.01)
    assert track.velocity.in_pixels(640, 480)[0] == pytest.approx(128.0, rel=0.1)
    assert track.age_s == pytest.approx(9 * STEP_S)
    assert track.time_since_update_s == 0.0


def test_a_speed_says_how_sure_it_is() -> None:
    tracker = following()
    for i in range(10):
        tracker.update([seen(0.5)], i * STEP_S)
        if i == 1:
            early = tracker.predict(i * STEP_S)[0].velocity_std
    late = tracker.predict(9 * STEP_S)[0].velocity_std
    later = tracker.predict(9 * STEP_S + 0.5)[0].velocity_std
    assert 0.0 < late.x < early.x
    assert later.x > late.x


def test_tracks_are_predicted_between_detections() -> None:
    tracker = following()
    for i in range(10):
        tracker.update([seen(0.2 + 0.2 * i * STEP_S)], i * STEP_S)
    (track,) = tracker.predict(9 * STEP_S + 0.5)
    true = seen(0.2 + 0.2 * (9 * STEP_S + 0.5)).box
    assert iou_matrix(stack([track.box]), stack([true]))[0, 0] > 0.8
    assert track.time_since_update_s == pytest.approx(0.5)


def test_an_answer_that_comes_late_counts_as_if_it_had_come_at_once() -> None:
    late, prompt = following(), following()
    frames = [[seen(0.3 + 0.03 * i), seen(0.8, 0.2)] for i in range(6)]
    for i, detections in enumerate(frames):
        prompt.update(detections, i * STEP_S)
        late.predict(i * STEP_S + 0.19)  # the answer is on its way, the camera goes on
        late.update(detections, i * STEP_S)
    assert late.predict(1.5) == prompt.predict(1.5)


def test_prediction_changes_nothing() -> None:
    told, left_alone = following(), following()
    for i in range(6):
        for tracker in (told, left_alone):
            tracker.update([seen(0.3 + 0.02 * i), seen(0.8, 0.2)], i * STEP_S)
        for k in range(5):
            told.predict(i * STEP_S + k * 0.03)
    assert told.predict(1.1) == left_alone.predict(1.1)


def test_a_model_that_is_sure_of_a_side_is_believed() -> None:
    def shown(std: float) -> float:
        tracker = following(min_hits=1)
        tracker.update([seen(0.5)], 0.0)
        spread = CoordinateStd(std, std, std, std)
        tracker.update([replace(seen(0.52), std=spread)], 0.01)
        return tracker.predict(0.01)[0].box.x1

    assert 0.45 < shown(0.1) < shown(0.01) < shown(0.0001) <= 0.47


def test_an_object_that_moves_by_more_than_its_size_gets_a_track() -> None:
    tracker = following()
    for i in range(5):
        tracker.update([seen(0.1 + 0.12 * i, size=0.06), seen(0.5, 0.9)], i * STEP_S)
    fast, _ = sorted(tracker.predict(4 * STEP_S), key=lambda track: track.box.y1)
    assert fast.velocity.x == pytest.approx(0.6, rel=0.1)


def test_an_object_that_comes_nearer_is_predicted_to_grow_faster_and_faster() -> None:
    tracker = following()

    def at(seconds: float) -> Detection:
        depth = 10.0 - 2.0 * seconds
        return seen(0.5 + 0.5 / depth, size=1.2 / depth)

    for i in range(14):
        tracker.update([at(i * STEP_S)], i * STEP_S)
    (track,) = tracker.predict(13 * STEP_S + 0.5)
    true = at(13 * STEP_S + 0.5).box
    assert track.box.width == pytest.approx(true.width, rel=0.04)


def test_perfect_boxes_are_followed_closely() -> None:
    tracker = following()
    place = 0.5
    for i in range(60):
        place = 0.5 + 0.2 * math.sin(i / 12)
        tracker.update([seen(place)], i / 25)
    (track,) = tracker.predict(59 / 25)
    assert (track.box.x1 + track.box.x2) / 2 == pytest.approx(place, abs=0.003)


def test_what_stands_is_told_to_stand_though_its_boxes_tremble() -> None:
    told, standing = [], random.Random(5)
    for _ in range(20):
        tracker = following()
        for i in range(12):
            tracker.update([seen(0.5 + standing.gauss(0.0, 0.004))], i * STEP_S)
        told.append(abs(tracker.predict(11 * STEP_S)[0].velocity.x))
    assert float(np.median(told)) < 0.001


def noisy_scene(rng: random.Random) -> list[Detection]:
    return [
        seen(rng.random(), rng.random(), rng.uniform(0.02, 0.4), rng.choice(["box", "person"]), rng.random())
        for _ in range(rng.randint(0, 5))
    ]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), steps=st.lists(st.floats(0.001, 3.0), min_size=1, max_size=20))
def test_boxes_stay_in_the_image_ids_are_unique_and_spreads_positive(seed: int, steps: list[float]) -> None:
    rng, tracker, stamp_s = random.Random(seed), following(min_hits=1), 0.0
    for step_s in steps:
        stamp_s += step_s
        tracker.update(noisy_scene(rng), stamp_s)
        for ahead_s in (0.0, 0.1, 1.0):
            tracks = tracker.predict(
                stamp_s + ahead_s
            )  # a Box that is not ordered inside 0..1 cannot be made
            assert len({track.track_id for track in tracks}) == len(tracks)
            assert [track.track_id for track in tracks] == sorted(track.track_id for track in tracks)
            assert all(track.velocity_std.x > 0.0 and track.velocity_std.y > 0.0 for track in tracks)
            assert all(np.isfinite([track.velocity.x, track.velocity.y]).all() for track in tracks)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), clock=st.integers(-(2**20), 2**20))
def test_the_clock_does_not_matter(seed: int, clock: int) -> None:
    rng, here, there = random.Random(seed), following(), following()
    for i in range(12):
        scene = noisy_scene(rng)
        here.update(scene, i / 4)  # quarters of a second are exact on any of these clocks
        there.update(scene, clock + i / 4)
        assert here.predict(i / 4 + 0.125) == there.predict(clock + i / 4 + 0.125)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_detections_does_not_matter(seed: int) -> None:
    rng, given_, shuffled = random.Random(seed), following(), following()
    for i in range(12):
        scene = noisy_scene(rng)
        given_.update(scene, i * STEP_S)
        shuffled.update(rng.sample(scene, len(scene)), i * STEP_S)
        assert given_.predict(i * STEP_S + 0.1) == shuffled.predict(i * STEP_S + 0.1)


def test_a_predicted_box_has_a_standard_deviation_that_grows_with_time() -> None:
    tracker = following(min_hits=1)
    for stamp_s in (0.0, 0.2, 0.4):
        tracker.update([seen(0.5)], stamp_s)
    (now,), (later,) = tracker.predict(0.4), tracker.predict(1.0)
    assert all(0.0 < before < after for before, after in zip(now.box_std, later.box_std, strict=True))
