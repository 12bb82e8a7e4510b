# SPDX-License-Identifier: Apache-2.0
"""What models and clocks do to the tracker: boxes, labels, spreads, scores and stamps that are none."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest
from tracks import STEP_S, following, seen

from lfm_perception.geometry import Box
from lfm_perception.scene import CoordinateStd, Detection
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


def test_a_spread_far_beyond_the_image_does_no_harm() -> None:
    tracker, detection = following(), seen(0.5)
    odd = replace(detection, std=CoordinateStd(1e150, 1e150, 1e150, 1e150))
    with np.errstate(over="raise", invalid="raise"):
        for i in range(6):
            tracker.update([odd if i < 3 else detection], i * STEP_S)
    assert tracker.predict(5 * STEP_S)[0].box.xyxy == pytest.approx(detection.box.xyxy, abs=0.01)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -3.0, 7.0])
def test_a_score_that_is_none_does_no_harm(score: float) -> None:
    tracker = following(min_hits=1)
    tracker.update([seen(0.5, score=score)], 0.0)
    assert 0.0 <= tracker.predict(0.0)[0].score <= 1.0


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
