# SPDX-License-Identifier: Apache-2.0
"""Published boxes of the inferred frame: noise is smoothed, changes of the object itself are not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from tracks import following

from lfm_perception.evaluation.sequences import read_tud
from lfm_perception.evaluation.tracking import PROTOCOLS, evaluate_tracks, track_sequence
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import Tracker, open_tracker
from lfm_perception.tracking.noise_scale import NoiseScale

STEP_S = 0.04


def person(rng: random.Random, x_std: float, y_std: float) -> Detection:
    """A standing person whose sides tremble by shares of width and height."""
    errors = [rng.gauss(0.0, std) for std in (0.1 * x_std, 0.4 * y_std) * 2]
    sides = (side + error for side, error in zip((0.4, 0.3, 0.5, 0.7), errors, strict=True))
    return Detection("person", Box(*sides), 0.9)


def excess(x_std: float, y_std: float, delay_s: float = 0.0) -> tuple[float, float]:
    """Mean squared residuals of the left and the upper side, as shares of those of the mean box."""
    rng, tracker = random.Random(1), following()
    measured, published = list[Box](), list[Box]()
    for i in range(120):
        detection = person(rng, x_std, y_std)
        tracker.update([detection], i * STEP_S)
        if i >= 20:
            measured.append(detection.box)
            published.append(tracker.predict(i * STEP_S + delay_s)[0].box)

    def squares(boxes: Sequence[Box]) -> tuple[float, float]:
        return (
            sum((a.x1 - b.x1) ** 2 for a, b in zip(measured, boxes, strict=True)),
            sum((a.y1 - b.y1) ** 2 for a, b in zip(measured, boxes, strict=True)),
        )

    (x, y), (x_all, y_all) = squares(published), squares([Box(0.4, 0.3, 0.5, 0.7)] * len(measured))
    return x / x_all, y / y_all


def test_a_width_that_changes_while_the_height_does_not_is_the_objects_own() -> None:
    x, _ = excess(x_std=0.06, y_std=0.01)
    assert x < 0.03


def test_what_is_the_objects_own_at_one_frame_tells_nothing_of_the_next() -> None:
    x, _ = excess(x_std=0.06, y_std=0.01, delay_s=1e-6)
    assert x > 0.3


def test_boxes_that_tremble_alike_along_both_axes_are_smoothed() -> None:
    x, y = excess(x_std=0.06, y_std=0.05)
    assert x > 0.5
    assert y > 0.5


def trembling(last: Sequence[Detection]) -> tuple[Tracker, float]:
    rng, tracker = random.Random(2), following()
    for i in range(40):
        tracker.update([person(rng, 0.06, 0.01)], i * STEP_S)
    tracker.update(last, 40 * STEP_S)
    return tracker, 40 * STEP_S


def test_a_box_far_from_what_is_usual_is_smoothed() -> None:
    usual, stamp_s = trembling([Detection("person", Box(0.41, 0.3, 0.51, 0.7), 0.9)])
    assert usual.predict(stamp_s)[0].box.x1 == pytest.approx(0.41, abs=0.002)
    other, stamp_s = trembling([Detection("person", Box(0.44, 0.3, 0.54, 0.7), 0.9)])
    assert other.predict(stamp_s)[0].box.x1 < 0.43


def test_a_box_in_a_crowd_is_smoothed() -> None:
    crowd = [Detection("person", Box(0.4 + x, 0.3, 0.5 + x, 0.7), 0.9) for x in (0.01, 0.026)]
    tracker, stamp_s = trembling(crowd)
    assert tracker.predict(stamp_s)[0].box.x1 < 0.407


def test_a_missed_track_is_where_it_was_predicted() -> None:
    tracker, stamp_s = trembling([])
    later = tracker.predict(stamp_s + 1e-6)[0].box
    assert tracker.predict(stamp_s)[0].box.xyxy == pytest.approx(later.xyxy, abs=1e-6)


def test_what_is_the_objects_own_is_known_soon_after_a_long_time_without_any_change() -> None:
    scale, row, none = NoiseScale.empty().spawn(1), np.array([0]), np.zeros((1, 4))
    for _ in range(1000):
        scale = scale.update(row, none, none[:, :2])
    assert scale.residual_share.tolist() == [[0.0, 0.0]]
    for _ in range(20):
        scale = scale.update(row, none, np.array([[0.5, 0.01]]))
    x, y = scale.residual_share[0]
    assert x > 0.9
    assert y == 0.0


def test_perfect_boxes_of_every_frame_give_98_hota() -> None:
    protocol = PROTOCOLS["every-frame-clean"]
    runs = {
        sequence.name: (sequence, track_sequence(sequence, protocol, open_tracker(TrackerSettings()), 0))
        for sequence in read_tud()
    }
    assert evaluate_tracks(runs).hota > 98.0
