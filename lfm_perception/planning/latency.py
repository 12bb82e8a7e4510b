# SPDX-License-Identifier: Apache-2.0
"""Latency model of an inference on this machine, by stage: encode, prefill and decode."""

from __future__ import annotations

import numpy as np

from lfm_perception.image_plan import ImagePlan
from lfm_perception.scene import Usage

SAME_SIZE_WEIGHT = 0.2
"""Weight of a new observation in the moving average of its own size."""

OTHER_SIZES_WEIGHT = 0.1
"""Weight of a new observation in all other sizes: a machine that slows down does so for every size."""


class StageLatencyModel:
    """Predicts the stages of an inference from exponential moving averages of those observed."""

    def __init__(self) -> None:
        self._encode, self._prefill = _LatencyCurve(), _LatencyCurve()
        self._text_tokens = 0
        self.time_per_token_s = 0.0
        """Seconds of decode per answer token, drafted and forced tokens included."""
        self.answer_tokens = 0.0
        """Tokens of an average answer."""

    @property
    def observed(self) -> bool:
        """Whether there was any observation."""
        return bool(self._encode.sizes)

    def time_to_first_token_s(self, image: ImagePlan) -> float:
        """Seconds of encode and prefill."""
        tiles = image.columns * image.rows if image.tiled else 0
        single = image.tokens - tiles * image.tile_tokens
        encode_s = tiles * self._encode.at(image.tile_tokens) + self._encode.at(single)
        return encode_s + self._prefill.at(image.tokens + self._text_tokens)

    def observe(self, image: ImagePlan, usage: Usage) -> None:
        """Updates the model with the usage of a frame's first question."""
        self._encode.observe(image.tile_tokens, usage.encode_s * image.tile_tokens / image.tokens)
        self._prefill.observe(image.tokens + usage.text_tokens, usage.prefill_s)
        self._text_tokens = usage.text_tokens
        if usage.answer_tokens:
            weight = SAME_SIZE_WEIGHT if self.time_per_token_s else 1.0
            self.time_per_token_s += weight * (usage.decode_s / usage.answer_tokens - self.time_per_token_s)
            self.answer_tokens += weight * (usage.answer_tokens - self.answer_tokens)


class _LatencyCurve:
    """Seconds by number of tokens: interpolated between observed sizes, proportional beyond them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._seconds: dict[int, float] = {}

    def at(self, size: int) -> float:
        if not self.sizes or not size:
            return 0.0
        if self.sizes[0] <= size <= self.sizes[-1]:
            return float(np.interp(size, self.sizes, [self._seconds[known] for known in self.sizes]))
        nearest = self.sizes[0 if size < self.sizes[0] else -1]
        return self._seconds[nearest] * size / nearest

    def observe(self, size: int, seconds: float) -> None:
        expected = self.at(size)
        if expected:
            slowdown = 1.0 + OTHER_SIZES_WEIGHT * (seconds / expected - 1.0)
            self._seconds = {known: slowdown * value for known, value in self._seconds.items()}
        average = self._seconds.get(size, seconds)
        self._seconds[size] = average + SAME_SIZE_WEIGHT * (seconds - average)
        self.sizes = sorted(self._seconds)
