# SPDX-License-Identifier: Apache-2.0
"""Since when what a frame shows has been known: answers come late, and are about an earlier frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lfm_perception.rules.conditions import ROUNDING_S
from lfm_perception.rules.places import Floats, moved
from lfm_perception.scene import AlertStatus, AttributeValue, Scene
from lfm_perception.stamps import to_seconds

MAX_LATENCY_S = 5.0
"""Maximum age of an answer's frame that counts towards a duration: a new track from before a silence of the
camera fulfils none."""


class AnswerTimes:
    """Times of the rules' own clock, a column each: the first is the scene's, the others are those of tracks.

    `detected_s`: frame of the last detection. `known_since_s`: frame of the answer that arrived with the
    newest frame, or this frame. `speed_known`: whether the speed rests on more than the two detections that
    began the track, one of which may be a false positive.
    """

    def __init__(self) -> None:
        self.detected_s: Floats = np.full(1, -np.inf)
        self.known_since_s, self._answered_s = np.zeros((2, 1))
        self.speed_known = np.zeros(1, dtype=bool)

    def move(self, source: NDArray[np.intp], now_s: float) -> None:
        """Put the state of the columns `source` in this order; -1 is a track that is new now."""
        self.detected_s = moved(self.detected_s, source, -np.inf)
        self._answered_s = moved(self._answered_s, source, now_s)
        self.speed_known = moved(self.speed_known, source, 0)

    def hand_over(self, column: int) -> None:
        """Another track continues that of this column, and none of its detections has been seen."""
        self.detected_s[column], self.speed_known[column] = -np.inf, False

    def update(self, now_s: float, detected_s: Floats, answered_s: Floats, speed_std: Floats) -> None:
        """Note what has arrived with a frame.

        Args:
            detected_s: frames of the last detections.
            answered_s: frames of the newest answers to standing questions, and about attributes of tracks.
            speed_std: standard deviations of the speeds; one without any is known.
        """
        detected = detected_s > self.detected_s + ROUNDING_S
        answered = answered_s > self._answered_s + ROUNDING_S
        if not self.speed_known.all():
            self.speed_known |= (detected & (self.detected_s > -np.inf)) | (speed_std == 0.0)
        since_s = np.where(detected, detected_s, -np.inf)
        since_s[0] = since_s.max()  # what is true of the scene follows from all tracks
        told_s = np.where(answered, answered_s, -np.inf)
        since_s = np.maximum(since_s, np.maximum(told_s, told_s[0]))
        self.known_since_s = np.where(np.isinf(since_s), now_s, np.maximum(since_s, now_s - MAX_LATENCY_S))
        self.detected_s, self._answered_s = detected_s, np.maximum(answered_s, self._answered_s)


def answer_ages_s(scene: Scene | None, track_ids: Sequence[int], stamp_ns: int) -> Floats:
    """Seconds from the frames of the newest answers to a stamp: to standing questions, and for each track
    about its attributes. Infinite without an answer; shape (1 + number of tracks,).
    """
    ages_s = np.full(1 + len(track_ids), np.inf)
    if scene is not None and (scene.alerts or scene.attributes):
        attributes = (scene.attributes.get(track_id, {}).values() for track_id in track_ids)
        answers: tuple[Collection[AlertStatus | AttributeValue], ...] = (scene.alerts, *attributes)
        for column, found in enumerate(answers):
            if found:
                newest_ns = max(answer.stamp_ns for answer in found)
                ages_s[column] = max(to_seconds(stamp_ns - newest_ns), 0.0)
    return ages_s
