# SPDX-License-Identifier: Apache-2.0
"""The confidence of a track falls while its position is only predicted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lfm_perception.evaluation.detection import calibration_error, match, reliability
from lfm_perception.evaluation.sequences import read_tud
from lfm_perception.evaluation.tracking import TrackingProtocol, track_sequence
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import Tracker, open_tracker, published_tracks


def tracker() -> Tracker:
    """A tracker with one object, detected every 0.1 s until 1 s."""
    opened = open_tracker(TrackerSettings())
    for index in range(11):
        opened.update([Detection("box", Box(0.4, 0.4, 0.6, 0.6), 0.9)], index / 10)
    return opened


def test_the_confidence_holds_at_the_usual_age_and_falls_steadily_after_it() -> None:
    opened = tracker()
    scores = [opened.predict(stamp_s)[0].score for stamp_s in (1.0, 1.3, 1.5, 1.7, 2.0)]
    assert scores[0] == scores[1] > scores[2] > scores[3] > scores[4] > 0.0
    assert opened.predict(1.0)[0].score == scores[0]


def test_a_detection_restores_the_confidence_and_a_miss_is_not_counted_twice() -> None:
    opened = tracker()
    before = opened.predict(1.0)[0].score
    opened.update([], 1.2)
    missed = [opened.predict(stamp_s)[0].score for stamp_s in (1.2, 1.6)]
    assert before > missed[0] == missed[1]
    opened.update([Detection("box", Box(0.4, 0.4, 0.6, 0.6), 0.9)], 1.6)
    assert opened.predict(1.6)[0].score > missed[1]


@pytest.mark.parametrize(("stride", "gain"), [(12, 0.03), (25, 0.1)])
def test_decay_calibrates_the_confidences_of_sparse_answers(
    monkeypatch: pytest.MonkeyPatch, stride: int, gain: float
) -> None:
    protocol = TrackingProtocol("sparse", stride=stride, latency=6)
    errors = []
    for decay_s in (published_tracks.CONFIDENCE_DECAY_S, math.inf):
        monkeypatch.setattr(published_tracks, "CONFIDENCE_DECAY_S", decay_s)
        scores, correct = list[float](), list[bool]()
        for sequence in read_tud():
            runs = track_sequence(sequence, protocol, open_tracker(TrackerSettings()), seed=0)
            for objects, tracks in zip(sequence.frames, runs, strict=True):
                right = {pair.detection for pair in match(tracks, objects)}
                scores += [track.score for track in tracks]
                correct += [row in right for row in range(len(tracks))]
        errors.append(calibration_error(reliability(np.array(scores), np.array(correct))))
    assert errors[0] < errors[1] - gain
