# SPDX-License-Identifier: Apache-2.0
"""Scores of tracks, and their calibration."""

from __future__ import annotations

import numpy as np
import pytest
from tracks import STEP_S, following, seen

from lfm_perception.calibration import PlattScaling


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
