# SPDX-License-Identifier: Apache-2.0
"""Platt scaling (logistic calibration, Platt 1999): from raw scores to probabilities of being correct."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lfm_perception.scene import Answer, Detection
from lfm_perception.settings import DetectSettings

MAX_SCORE = 0.999
"""Scores are clipped to 1 - MAX_SCORE .. MAX_SCORE, because the logits of 0 and 1 are infinite."""

MIN_GAIN, MAX_GAIN = 0.01, 100.0
"""Bounds of a fitted gain, which is positive: calibration keeps the order of scores."""

MAX_BIAS = 20.0
"""Bound of a fitted bias, in both directions."""

REGULARIZATION = 1.0
"""L2 penalty of a fit towards gain 1 and bias 0. Without it a fit diverges where all are correct."""


@dataclass(frozen=True, slots=True)
class PlattScaling:
    """A logistic curve: sigmoid(gain * logit(score) + bias), with scores from 0 to 1."""

    gain: float = 1.0
    bias: float = 0.0

    def apply(self, score: float) -> float:
        """The calibrated score of a raw one."""
        if self == IDENTITY:
            return score
        clipped = min(max(score, 1.0 - MAX_SCORE), MAX_SCORE)
        logit = self.gain * math.log(clipped / (1.0 - clipped)) + self.bias
        return 1.0 / (1.0 + math.exp(-logit)) if logit > -500.0 else 0.0

    def invert(self, score: float) -> float:
        """The raw score of a calibrated one."""
        return PlattScaling(1.0 / self.gain, -self.bias / self.gain).apply(score)

    @classmethod
    def fit(cls, scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> PlattScaling:
        """Fits gain and bias to raw `scores`, shape (N,), and whether each is `correct`, shape (N,)."""
        clipped = scores.clip(1.0 - MAX_SCORE, MAX_SCORE)
        features = np.stack([np.log(clipped / (1.0 - clipped)), np.ones(len(clipped))], axis=1)
        prior = weights = np.array([1.0, 0.0])
        for _ in range(50):  # Newton's method for logistic regression
            probability = 1.0 / (1.0 + np.exp(-(features @ weights).clip(-30.0, 30.0)))
            gradient = features.T @ (correct - probability) - REGULARIZATION * (weights - prior)
            variance = probability * (1.0 - probability)
            hessian = (features * variance[:, None]).T @ features + REGULARIZATION * np.eye(2)
            step = np.linalg.solve(hessian, gradient)
            weights = weights + step / max(1.0, float(np.abs(step).max()))
        return cls(float(weights[0].clip(MIN_GAIN, MAX_GAIN)), float(weights[1].clip(-MAX_BIAS, MAX_BIAS)))


IDENTITY = PlattScaling()


def calibrated(answer: Answer, settings: DetectSettings) -> tuple[Detection, ...]:
    """The detections whose calibrated score is at least `detect.min_score`, with that score."""
    scaling = IDENTITY if answer.calibrated else PlattScaling(settings.score_gain, settings.score_bias)
    scored = (replace(each, score=scaling.apply(each.score)) for each in answer.detections)
    return tuple(detection for detection in scored if detection.score >= settings.min_score)
