# SPDX-License-Identifier: Apache-2.0
"""The tracker: ids that stay, speeds that are right, and predictions that change nothing."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.calibration import PlattScaling
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import CoordinateStd, Detection, Track
from lfm_perception.settings import Settings, TrackerSettings
from lfm_perception.tracking import Tracker, open_tracker, register_tracker
from lfm_perception.tracking.ego_motion import EgoMotionEstimator
from lfm_perception.tracking.ego_motion_history import EgoMotionHistory, identity_affine
from lfm_perception.tracking.kalman import (
    LOW_NOISE_SCALE,
    MODE_TIME_CONSTANT_S,
    Array,
    ConstantVelocityFilter,
    ImmFilter,
)
from lfm_perception.tracking.kalman_tracker import (
    CLOCK_JUMP,
    DUPLICATE_STAMP,
    INVALID_STAMP,
    STAMP_OUT_OF_ORDER,
)
from lfm_perception.tracking.measurements import (
    INVALID_BOX,
    MAX_DETECTIONS,
    NO_LABEL,
    TOO_MANY_DETECTIONS,
)

STEP_S = 0.2


def seen(x: float, y: float = 0.5, size: float = 0.1, label: str = "box", score: float = 0.9) -> Detection:
    """A square detection around (x, y), cut at the image's edge."""
    sides = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Detection(label, Box(*(min(max(side, 0.0), 1.0) for side in sides)), score)


def following(**values: Any) -> Tracker:
    return open_tracker(TrackerSettings(**values))


# --- the registry -----------------------------------------------------------------------------------------


def test_a_tracker_is_chosen_by_its_registered_name() -> None:
    made = open_tracker(TrackerSettings())
    register_tracker("same tracker")(lambda settings: made)
    assert open_tracker(TrackerSettings(algorithm="same tracker")) is made


def test_an_unknown_tracker_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PerceptionError, match=r"tracker\.algorithm is 'sort': choose one of kalman"):
        open_tracker(TrackerSettings(algorithm="sort"))


# --- what a controller gets -------------------------------------------------------------------------------


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


# --- the life of a track ----------------------------------------------------------------------------------


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


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_an_object_that_the_edge_cuts_off_moves_as_a_whole(edge: str) -> None:
    """It is 0.2 wide and leaves with 0.15 image sides per second, from 1.05 s on behind the edge."""
    tracker = following()
    for i in range(10):
        side = max(0.16 - 0.03 * i, 0.0)
        near, far = (side, 0.36 - 0.03 * i) if edge in ("left", "top") else (0.64 + 0.03 * i, 1.0 - side)
        box = Box(near, 0.4, far, 0.6) if edge in ("left", "right") else Box(0.4, near, 0.6, far)
        tracker.update([Detection("person", box, 0.9)], i * 0.2)
    (track,) = tracker.predict(1.8)
    speed = track.velocity.x if edge in ("left", "right") else track.velocity.y
    assert speed == pytest.approx(-0.15 if edge in ("left", "top") else 0.15, rel=0.1)
    assert {"left": track.box.x1, "top": track.box.y1}.get(edge, 0.0) == 0.0
    assert {"right": track.box.x2, "bottom": track.box.y2}.get(edge, 1.0) == 1.0


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_an_object_that_comes_into_view_keeps_its_speed(edge: str) -> None:
    """It is 0.2 wide and enters with 0.15 image sides per second; from 1.2 s on it is seen whole."""
    tracker = following()
    speeds = []
    for i in range(9):
        far = 0.01 + 0.03 * i
        near = max(far - 0.2, 0.0)
        ends = (near, far) if edge in ("left", "top") else (1.0 - far, 1.0 - near)
        box = (
            Box(ends[0], 0.4, ends[1], 0.6) if edge in ("left", "right") else Box(0.4, ends[0], 0.6, ends[1])
        )
        tracker.update([Detection("person", box, 0.9)], i * 0.2)
        speeds += [track.velocity for track in tracker.predict(i * 0.2) if i >= 5]
    for velocity in speeds:
        speed = velocity.x if edge in ("left", "right") else velocity.y
        assert speed == pytest.approx(0.15 if edge in ("left", "top") else -0.15, rel=0.1)


def test_what_stands_is_told_to_stand_though_its_boxes_tremble() -> None:
    told, standing = [], random.Random(5)
    for _ in range(20):
        tracker = following()
        for i in range(12):
            tracker.update([seen(0.5 + standing.gauss(0.0, 0.004))], i * STEP_S)
        told.append(abs(tracker.predict(11 * STEP_S)[0].velocity.x))
    assert float(np.median(told)) < 0.001


def test_a_label_that_flips_once_is_outvoted() -> None:
    tracker = following()
    for i, label in enumerate(["box", "box", "crate", "box"]):
        tracker.update([seen(0.5, label=label)], i * STEP_S)
        assert {track.label for track in tracker.predict(i * STEP_S)} <= {"box"}
    assert [track.track_id for track in tracker.predict(0.6)] == [1]


def test_a_name_that_stays_is_taken_over() -> None:
    tracker = following()
    for i, label in enumerate(["box", "crate", "crate", "crate"]):
        tracker.update([seen(0.5, label=label)], i * STEP_S)
    assert [(track.track_id, track.label) for track in tracker.predict(0.6)] == [(1, "crate")]


def test_labels_decide_between_objects_in_one_place() -> None:
    tracker = following()
    person, pallet = seen(0.5, size=0.2, label="person"), seen(0.53, size=0.2, label="pallet")
    tracker.update([person, pallet], 0.0)
    before = dict(_names(tracker, 0.0, hits=1))
    tracker.update([pallet, person], 0.2)
    assert dict(_names(tracker, 0.2, hits=1)) == before
    assert sorted(before.values()) == ["pallet", "person"]


def _names(tracker: Tracker, stamp_s: float, hits: int) -> list[tuple[int, str]]:
    tracker.reconfigure(TrackerSettings(min_hits=hits))
    return [(track.track_id, track.label) for track in tracker.predict(stamp_s)]


def test_a_label_can_have_settings_of_its_own() -> None:
    tracker = following(per_label=("forklift: min_hits=3, max_age=0.1",))
    both = [seen(0.2, label="person"), seen(0.8, label="forklift")]
    for i in range(2):
        tracker.update(both, i * STEP_S)
    assert [track.label for track in tracker.predict(STEP_S)] == ["person"]
    tracker.update(both, 2 * STEP_S)
    assert {track.label for track in tracker.predict(2 * STEP_S)} == {"person", "forklift"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("forklift", "takes `label: name=value"),
        ("forklift: min_hits", "takes `label: name=value"),
        (": min_hits=2", "takes `label: name=value"),
        ("forklift: min_hit=2", "did you mean 'min_hits'"),
        ("forklift: min_hits=0", "tracker.min_hits must be a whole number from 1 to 100"),
        ("forklift: min_hits=[", "is no value for min_hits"),
    ],
)
def test_what_a_label_cannot_have_is_said_at_once(entry: str, said: str) -> None:
    with pytest.raises(PerceptionError) as error:
        Settings().with_values({"tracker.per_label": [entry]})
    assert said in str(error.value)


# --- what models and clocks do ----------------------------------------------------------------------------


@dataclass(frozen=True)
class AnyBox:
    """A box that nobody has checked."""

    x1: float
    y1: float
    x2: float
    y2: float


@pytest.mark.parametrize(
    "sides",
    [
        (float("nan"), 0.1, 0.2, 0.3),
        (0.1, 0.1, float("inf"), 0.3),
        (0.5, 0.1, 0.2, 0.3),
        (0.1, 0.1, 0.1, 0.3),
        (1.2, 0.1, 1.4, 0.3),
        (-0.5, 0.1, -0.2, 0.3),
    ],
)
def test_what_is_no_box_is_refused_and_counted(sides: tuple[float, float, float, float]) -> None:
    tracker = following(min_hits=1)
    bad = Detection("box", cast(Box, AnyBox(*sides)), 0.9)
    assert tracker.update([bad, seen(0.5)], 0.0) == {INVALID_BOX: 1}
    assert len(tracker.predict(0.0)) == 1


@pytest.mark.parametrize("label", ["", "   "])
def test_a_box_without_a_name_is_refused_and_counted(label: str) -> None:
    assert following().update([seen(0.5, label=label)], 0.0) == {NO_LABEL: 1}


@pytest.mark.parametrize("label", ["人", "رجل", "😀" * 500, "a\nb", "box " * 1000])
def test_any_name_can_be_followed(label: str) -> None:
    tracker, detection = following(), seen(0.5, label=label)
    for i in range(3):
        assert tracker.update([detection], i * STEP_S) == {}
    (track,) = tracker.predict(0.4)
    assert detection.label.startswith(track.label)
    assert track.label


@pytest.mark.parametrize("spread", [1e200, float("inf"), float("nan")])
def test_a_spread_whose_square_is_not_finite_counts_as_none(spread: float) -> None:
    tracker, plain = following(min_hits=1), following(min_hits=1)
    detection = seen(0.5)
    odd = replace(detection, std=CoordinateStd(spread, spread, spread, spread))
    assert tracker.update([odd], 0.0) == plain.update([detection], 0.0) == {}
    assert tracker.predict(0.0) == plain.predict(0.0)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -3.0, 7.0])
def test_a_score_that_is_none_does_no_harm(score: float) -> None:
    tracker = following(min_hits=1)
    tracker.update([seen(0.5, score=score)], 0.0)
    assert 0.0 <= tracker.predict(0.0)[0].score <= 1.0


def test_a_score_follows_the_answers_and_sinks_when_they_miss() -> None:
    tracker = following(score_gain=1.0, score_bias=0.0)  # as the model gives them
    for i, score in enumerate((0.9, 0.3, 0.3, 0.3)):
        tracker.update([seen(0.5, score=score)], i * STEP_S)
    (shown,) = tracker.predict(3 * STEP_S)
    assert 0.3 < shown.score < 0.9
    tracker.update([], 4 * STEP_S)
    assert tracker.predict(4 * STEP_S)[0].score < shown.score


def test_a_calibrated_score_is_the_chance_that_the_track_is_right() -> None:
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.05, 0.95, 4000)
    odds = 2.0 * np.log(scores / (1.0 - scores)) - 1.0
    right = rng.random(4000) < 1.0 / (1.0 + np.exp(-odds))
    fitted = PlattScaling.fit(scores, right)
    assert fitted.gain == pytest.approx(2.0, rel=0.1)
    assert fitted.bias == pytest.approx(-1.0, abs=0.15)
    assert fitted.apply(0.3) < fitted.apply(0.6) < fitted.apply(0.9)
    assert fitted.invert(fitted.apply(0.7)) == pytest.approx(0.7)
    tracker = following(score_gain=fitted.gain, score_bias=fitted.bias)
    for i in range(3):
        tracker.update([seen(0.5, score=0.7)], i * 0.2)
    assert tracker.predict(0.4)[0].score == pytest.approx(fitted.apply(0.7))


@pytest.mark.parametrize("right", [True, False])
def test_a_fit_to_tracks_that_are_all_alike_stays_within_reason(right: bool) -> None:
    fitted = PlattScaling.fit(np.full(500, 0.8), np.full(500, right))
    assert 0.0 <= fitted.apply(0.0) <= fitted.apply(0.8) <= fitted.apply(1.0) <= 1.0
    assert (fitted.apply(0.8) > 0.9) == right


def test_of_thousands_of_objects_the_surest_are_followed() -> None:
    rng = random.Random(1)
    many = [seen(rng.random(), rng.random(), 0.05, score=rng.uniform(0.0, 0.8)) for _ in range(3000)]
    tracker = following()
    for i in range(3):
        refused = tracker.update([*many, seen(0.5, 0.5, 0.3, label="forklift")], i * STEP_S)
        assert refused == {TOO_MANY_DETECTIONS: 3001 - MAX_DETECTIONS}
    assert "forklift" in {track.label for track in tracker.predict(0.4)}


@pytest.mark.parametrize(
    ("stamp_s", "reason"),
    [
        (1.0, DUPLICATE_STAMP),
        (0.9, STAMP_OUT_OF_ORDER),
        (float("nan"), INVALID_STAMP),
        (float("inf"), INVALID_STAMP),
    ],
)
def test_an_answer_with_a_useless_stamp_is_refused_whole(stamp_s: float, reason: str) -> None:
    tracker = following(min_hits=1)
    tracker.update([seen(0.5)], 1.0)
    before = tracker.predict(1.0)
    assert tracker.update([seen(0.2)], stamp_s) == {reason: 1}
    assert tracker.predict(1.0) == before


def test_a_clock_that_is_set_back_begins_anew() -> None:
    tracker = following(min_hits=1)
    tracker.update([seen(0.5)], 100.0)
    assert tracker.update([seen(0.5)], 3.0) == {CLOCK_JUMP: 1}
    assert [track.track_id for track in tracker.predict(3.0)] == [2]


def test_an_empty_answer_ages_the_tracks() -> None:
    tracker = following(max_consecutive_misses=0)
    tracker.update([seen(0.5)], 0.0)
    tracker.update([seen(0.5)], 0.2)
    tracker.update([], 0.4)
    assert tracker.predict(0.4) == ()


# --- whatever happens -------------------------------------------------------------------------------------


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


# --- the filter -------------------------------------------------------------------------------------------


def positive(rng: np.random.Generator, *shape: int) -> Array:
    values: Array = rng.uniform(0.001, 0.3, shape)
    return values


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_filter_is_filterpys(seed: int) -> None:
    from filterpy.common import Q_continuous_white_noise
    from filterpy.kalman import KalmanFilter

    rng = np.random.default_rng(seed)
    start, noise, speed = rng.uniform(0.0, 1.0, (3, 4)), positive(rng, 3, 4) ** 2, positive(rng, 4)
    ours = ConstantVelocityFilter.from_measurements(start, noise, speed)
    theirs = []
    for row in range(3):
        kalman = KalmanFilter(dim_x=8, dim_z=4)
        kalman.H = np.eye(4, 8)
        kalman.x = np.concatenate([start[row], np.zeros(4)])[:, None]
        kalman.P = np.diag(np.concatenate([noise[row], speed**2]))
        theirs.append(kalman)
    for _ in range(15):
        step_s, process_noise = float(rng.uniform(0.01, 1.0)), positive(rng, 3, 4)
        measured, noise = rng.uniform(0.0, 1.0, (2, 4)), positive(rng, 2, 4) ** 2
        rows = rng.choice(3, 2, replace=False)
        ours = ours.predict(step_s, process_noise).update(rows, measured, noise)
        for row, kalman in enumerate(theirs):
            transition, drift = np.eye(8), np.zeros((8, 8))
            transition[:4, 4:] = np.eye(4) * step_s
            for axis in range(4):
                pair = np.ix_([axis, axis + 4], [axis, axis + 4])
                drift[pair] = Q_continuous_white_noise(
                    2, dt=step_s, spectral_density=process_noise[row, axis] ** 2
                )
            kalman.predict(F=transition, Q=drift)
        for index, row in enumerate(rows):
            theirs[row].update(measured[index], R=np.diag(noise[index]))
    for row, kalman in enumerate(theirs):
        np.testing.assert_allclose(ours.position[row], kalman.x[:4, 0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours.velocity[row], kalman.x[4:, 0], rtol=0, atol=1e-9)
        covariance = np.block(
            [
                [np.diag(ours.variance[row]), np.diag(ours.covariance[row])],
                [np.diag(ours.covariance[row]), np.diag(ours.velocity_variance[row])],
            ]
        )
        np.testing.assert_allclose(covariance, kalman.P, rtol=0, atol=1e-9)
        assert np.linalg.eigvalsh(covariance).min() > 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_mixture_of_filters_is_filterpys(seed: int) -> None:
    """Where x alone tells the modes apart: the correlation of x and y that mixing brings is left out here."""
    from filterpy.common import Q_continuous_white_noise
    from filterpy.kalman import IMMEstimator, KalmanFilter

    rng = np.random.default_rng(seed)
    start, noise, speed = rng.uniform(0.0, 1.0, (1, 4)), positive(rng, 1, 4) ** 2, positive(rng, 4)
    ours = ImmFilter.from_measurements(start, noise, speed)
    filters = []
    for _ in range(2):
        kalman = KalmanFilter(dim_x=4, dim_z=2)
        kalman.H = np.eye(2, 4)
        kalman.x = np.concatenate([start[0, :2], np.zeros(2)])[:, None]
        kalman.P = np.diag(np.concatenate([noise[0, :2], speed[:2] ** 2]))
        filters.append(kalman)
    step_s, process_noise = float(rng.uniform(0.1, 1.0)), positive(rng, 1, 4) * [1.0, 0.0, 1.0, 1.0]
    stays = math.exp(-step_s / MODE_TIME_CONSTANT_S)
    theirs = IMMEstimator(filters, [0.5, 0.5], np.array([[1 + stays, 1 - stays], [1 - stays, 1 + stays]]) / 2)
    for share, kalman in zip((LOW_NOISE_SCALE, 1.0), filters, strict=True):
        kalman.F[:2, 2:] = np.eye(2) * step_s
        for axis in range(2):
            pair, wander = np.ix_([axis, axis + 2], [axis, axis + 2]), (share * process_noise[0, axis]) ** 2
            kalman.Q[pair] = Q_continuous_white_noise(2, dt=step_s, spectral_density=wander)
            kalman.Q[axis, axis + 2] = kalman.Q[axis + 2, axis]
    for _ in range(10):
        measured, noise = rng.uniform(0.0, 1.0, (1, 4)), positive(rng, 1, 4) ** 2
        ours = ours.predict(step_s, process_noise).update(np.array([0]), measured, noise)
        for kalman in filters:
            kalman.R = np.diag(noise[0, :2])
        theirs.predict()
        theirs.update(measured[0, :2])
        np.testing.assert_allclose(ours.mode_probabilities[:, 0], theirs.mu, rtol=0, atol=1e-9)
        whole = np.concatenate([ours.mixed.position[0, :2], ours.mixed.velocity[0, :2]])
        np.testing.assert_allclose(whole, theirs.x[:, 0], rtol=0, atol=1e-9)
        spread = np.concatenate([ours.mixed.variance[0, :2], ours.mixed.velocity_variance[0, :2]])
        np.testing.assert_allclose(spread, np.diag(theirs.P), rtol=0, atol=1e-9)


def test_two_short_steps_are_one_long_step() -> None:
    rng = np.random.default_rng(3)
    motion = ConstantVelocityFilter.from_measurements(
        rng.uniform(0.0, 1.0, (5, 4)), positive(rng, 5, 4), positive(rng, 4)
    )
    process_noise = positive(rng, 4)
    twice, once = (
        motion.predict(0.2, process_noise).predict(0.3, process_noise),
        motion.predict(0.5, process_noise),
    )
    np.testing.assert_allclose(twice.variance, once.variance)
    np.testing.assert_allclose(twice.covariance, once.covariance)
    np.testing.assert_allclose(twice.velocity_variance, once.velocity_variance)


# --- a camera that moves ----------------------------------------------------------------------------------


def turned(by: float) -> Array:
    """The view after the image has moved to the left by that share of its width."""
    view = identity_affine()
    view[0, 2] = -by
    return view


def test_the_motion_of_the_image_is_measured_beside_what_moves_in_it() -> None:
    world = World(seed=5, pan=0.5)
    camera, shift = EgoMotionEstimator(), 0.0
    bodies = [body for body, _ in enumerate(world.bodies) if world.bodies[body].speed]
    for index in range(30):
        snapshot = world.snapshot(index)
        moving = stack(thing.box for thing in snapshot.objects if thing.object_id in bodies)
        shift += float(camera.measure(snapshot.frame.image, moving)[0, 2])
    ahead = world.velocities(0)
    standing = next(i for i, body in enumerate(world.bodies) if not body.speed)
    true = sum(world.velocities(index)[standing].x for index in range(29)) / world.fps
    assert abs(ahead[standing].x) > 0.01
    assert shift == pytest.approx(true, abs=0.01)


def test_a_change_of_light_is_no_motion() -> None:
    camera = EgoMotionEstimator()
    spots = np.random.default_rng(5).uniform(60.0, 120.0, (480, 640, 3))
    wall = np.asarray(cv2.GaussianBlur(spots, (0, 0), 6.0), dtype=np.float64) * 4.0 - 270.0
    for i in range(20):
        light = (1.0 + 0.3 * np.sin(i)) * wall + 30.0 * np.cos(2.0 * i)
        view = camera.measure(light.clip(0, 255).astype(np.uint8), np.empty((0, 4)))
        np.testing.assert_allclose(view, identity_affine(), atol=0.001)


def test_an_image_without_anything_to_follow_stands_still() -> None:
    camera = EgoMotionEstimator()
    for shade in (0, 90, 255):
        image = np.full((120, 160, 3), shade, dtype=np.uint8)
        np.testing.assert_array_equal(camera.measure(image, np.empty((0, 4))), identity_affine())


def test_a_path_leads_from_the_image_it_counts_from_to_any_moment() -> None:
    path = EgoMotionHistory()
    for i in range(10):
        path.add(turned(0.01 if i else 0.0), i * 0.1)
    path.rebase(0.2)
    assert path.at(0.6)[0, 2] == pytest.approx(-0.04)
    assert path.at(0.25)[0, 2] == pytest.approx(-0.005)
    path.rebase(0.6)
    assert path.at(0.2)[0, 2] == pytest.approx(0.04)
    path.rebase(0.85)
    assert path.at(0.9)[0, 2] - path.at(0.7)[0, 2] == pytest.approx(-0.02)
    assert path.velocity(0.9)[0, 2] == pytest.approx(-0.1)


def test_a_camera_that_turns_faster_and_faster_has_its_rate_of_the_moment() -> None:
    path = EgoMotionHistory()
    for i in range(15):
        path.add(turned(0.01 * ((i / 30) ** 2 - (max(i - 1, 0) / 30) ** 2)), i / 30)
    assert path.velocity(14 / 30)[0, 2] == pytest.approx(-0.02 * 14 / 30)


def shaken(mode: str) -> tuple[tuple[Track, ...], float]:
    """Tracks of a thing that stands while the camera turns to and fro, and where the thing is then."""
    tracker = following(camera_motion_compensation=mode)
    place = 0.5
    for i in range(61):
        by = 0.01 if i // 10 % 2 else -0.01  # 0.3 image widths per second, at 30 Hz
        place -= by
        tracker.add_ego_motion(turned(by), i / 30)
        if i % 5 == 0 and i <= 55:
            tracker.update([seen(place)], i / 30)
    return tracker.predict(2.0), place


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_tracks_move_with_a_camera_that_moves(mode: str) -> None:
    (left_alone,), place = shaken("off")
    (carried,), _ = shaken(mode)

    def off(track: Track) -> float:
        return abs((track.box.x1 + track.box.x2) / 2 - place)

    assert off(carried) < 0.01 < 0.03 < off(left_alone)


def test_a_speed_is_the_one_in_the_image() -> None:
    tracker = following(camera_motion_compensation="on")
    for i in range(31):
        tracker.add_ego_motion(turned(0.01), i / 30)
        if i % 5 == 0:
            tracker.update([seen(0.8 - 0.01 * i)], i / 30)
    assert tracker.predict(1.0)[0].velocity.x == pytest.approx(-0.3, rel=0.1)


def test_a_camera_at_rest_changes_nothing() -> None:
    watched, blind = following(), following()
    for i in range(20):
        watched.add_ego_motion(identity_affine(), i / 30)
        for tracker in (watched, blind):
            if i % 5 == 0:
                tracker.update([seen(0.3 + i / 100)], i / 30)
    assert watched.predict(0.7) == blind.predict(0.7)
