"""What a score means: the chance that something of that name is there."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lfm_perception.scene import Detection
from lfm_perception.settings import DetectSettings

SUREST = 0.999
"""Scores are taken as if at most this sure, and at least as unsure: log odds of 0 and 1 have no end."""

LEAST_GAIN, MOST_GAIN = 0.01, 100.0
"""What is better must not score lower."""

PULL = 1.0
"""How hard a fit is held to no change, in scores: where all were right there would be no end."""


@dataclass(frozen=True, slots=True)
class PlattScaling:
    """A rising curve from raw scores to chances, both 0..1: a straight line in log odds."""

    gain: float = 1.0
    bias: float = 0.0

    def apply(self, score: float) -> float:
        if self == IDENTITY:
            return score
        sure = min(max(score, 1.0 - SUREST), SUREST)
        odds = self.gain * math.log(sure / (1.0 - sure)) + self.bias
        return 1.0 / (1.0 + math.exp(-odds)) if odds > -500.0 else 0.0

    def invert(self, score: float) -> float:
        """The raw score that this chance was made of."""
        return PlattScaling(1.0 / self.gain, -self.bias / self.gain).apply(score)

    @classmethod
    def fit(cls, scores: NDArray[np.float64], right: NDArray[np.bool_]) -> PlattScaling:
        """The one that suits best: `scores` raw, and whether each was `right`, both of shape (N,)."""
        sure = scores.clip(1.0 - SUREST, SUREST)
        odds = np.stack([np.log(sure / (1.0 - sure)), np.ones(len(sure))], axis=1)
        start = line = np.array([1.0, 0.0])
        for _ in range(50):  # Newton's steps for logistic regression
            chance = 1.0 / (1.0 + np.exp(-(odds @ line).clip(-30.0, 30.0)))
            slope = odds.T @ (right - chance) - PULL * (line - start)
            bend = (odds * (chance * (1.0 - chance))[:, None]).T @ odds + PULL * np.eye(2)
            step = np.linalg.solve(bend, slope)
            line = line + step / max(1.0, float(np.abs(step).max()))
        return cls(float(line[0].clip(LEAST_GAIN, MOST_GAIN)), float(line[1].clip(-20.0, 20.0)))


IDENTITY = PlattScaling()


def calibrated(detections: Iterable[Detection], settings: DetectSettings) -> tuple[Detection, ...]:
    """The detections with calibrated scores, if these are high enough."""
    calibration = PlattScaling(settings.score_gain, settings.score_bias)
    scored = (replace(each, score=calibration.apply(each.score)) for each in detections)
    return tuple(detection for detection in scored if detection.score >= settings.min_score)
