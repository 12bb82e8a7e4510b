"""What a frame may cost, decided before a pixel is touched: resolution, tiles, answer length.

Tokens are counted exactly and never exceeded. Time is estimated from what earlier answers took on this
machine; the first estimate comes from a few questions about a blank picture (`Planner.calibrate`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import TILE_TOKENS, ImageLimits, ImagePlan, plan_image
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Frame, Usage
from lfm_perception.settings import ONE_OBJECT_TOKENS, Settings
from lfm_perception.vlm import Vlm

IMAGE_SHARE = 0.75
"""Most of `budget.tokens` that the image may take; the answer keeps the rest, or one object at least."""

FINER = 0.8
"""Image tokens of the next smaller picture that is considered, as a share."""

_LATEST = 0.2
"""Weight of the latest measurement in what is known of the same thing..."""

_ELSEWHERE = 0.1
"""...and in what is known of other sizes: a machine that slows down does so for all of them."""

_TRIAL_TOKENS = 8
"""Answer tokens of a question that is asked to measure."""


class Planner:
    """Plans within `budget.tokens` and `budget.latency`, and learns from every answer."""

    def __init__(self, settings: Settings) -> None:
        self._costs = StageLatencyModel()
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings; what was learnt about the machine stays."""
        self._budget = settings.budget
        # only the engine here tells the stages of its time apart
        self._told = settings.engine.backend == "llama"
        self._limits = _within(settings)

    def calibrate(self, vlm: Vlm, question: Question) -> None:
        """Ask about a blank picture in the smallest and the largest planned size, unless costs are known."""
        if self._costs.known or not self._budget.latency or not self._told:
            return
        side = 4096
        for tokens in (self._limits.min_tokens, self._limits.max_tokens):
            limits = replace(self._limits, min_tokens=tokens, max_tokens=tokens, max_tiles=1)
            image = plan_image(side, side, limits)
            blank = Frame(np.zeros((image.height, image.width, 3), np.uint8), 0)
            self.observe(image, vlm.describe(blank, question, FramePlan(image, _TRIAL_TOKENS)).usage)

    def observe(self, image: ImagePlan, usage: Usage) -> None:
        """Take in what the first question about a frame cost."""
        if self._told:
            self._costs.observe(image, usage)

    def plan_first(self, width: int, height: int, wanted_tokens: int, elapsed_s: float) -> FramePlan:
        """For the first question about a frame: the largest picture that the budgets allow.

        `elapsed_s` have gone by since the frame came. When not even the smallest picture and one object
        fit into the time, the plan is that, and says that it does not fit.

        Raises PerceptionError when the frame cannot be shown to the model in any size.
        """
        plans = [
            self.plan_followup(image, wanted_tokens, 0, elapsed_s) for image in self._images(width, height)
        ]
        return next((plan for plan in plans if plan.fits), plans[-1])

    def plan_followup(
        self, image: ImagePlan, wanted_tokens: int, spent_tokens: int, elapsed_s: float
    ) -> FramePlan:
        """For a question about a frame of which the picture is chosen and answers were already paid."""
        tokens, latency_s = self._budget.tokens, self._budget.latency
        room = min(wanted_tokens, tokens - image.tokens - spent_tokens) if tokens else wanted_tokens
        if not latency_s:
            return FramePlan(image, room)
        left_s = latency_s - elapsed_s
        before_s, token_s = self._costs.time_to_first_token_s(image), self._costs.token_s
        answered = min(room, max(ONE_OBJECT_TOKENS, round(self._costs.answer_tokens)))
        expected_s = before_s + answered * token_s
        in_time = int((left_s - before_s) / token_s) if token_s else room
        return FramePlan(
            image=image,
            answer_tokens=min(room, max(in_time, ONE_OBJECT_TOKENS)),
            deadline_s=left_s,
            expected_s=expected_s,
            fits=expected_s <= left_s,
        )

    def _images(self, width: int, height: int) -> Iterator[ImagePlan]:
        """From the largest to the smallest, each once."""
        image = plan_image(width, height, self._limits)
        yield image
        if not self._budget.latency:
            return
        sizes = [replace(self._limits, max_tiles=tiles) for tiles in range(self._limits.max_tiles, 0, -1)]
        tokens = FINER * self._limits.max_tokens
        while tokens >= self._limits.min_tokens:
            sizes.append(replace(self._limits, max_tokens=int(tokens), max_tiles=1))
            tokens *= FINER
        sizes.append(replace(self._limits, max_tokens=self._limits.min_tokens, max_tiles=1))
        for limits in sizes:
            try:
                smaller = plan_image(width, height, limits)
            except PerceptionError:  # too long and thin to be smaller
                return
            if smaller.tokens < image.tokens:
                image = smaller
                yield image


class StageLatencyModel:
    """What the parts of an answer took so far: seconds by image tokens, and by answer token."""

    def __init__(self) -> None:
        self._encode, self._prefill = _Curve(), _Curve()
        self._text_tokens = 0
        self.token_s = 0.0
        """Seconds for one token of an answer, runs and guesses averaged in."""
        self.answer_tokens = 0.0
        """Tokens of a usual answer."""

    @property
    def known(self) -> bool:
        return bool(self._encode)

    def time_to_first_token_s(self, image: ImagePlan) -> float:
        """Seconds until the first token of an answer."""
        tiles = image.columns * image.rows if image.tiled else 0
        single = image.tokens - tiles * TILE_TOKENS
        encode_s = tiles * self._encode.at(TILE_TOKENS) + self._encode.at(single)
        return encode_s + self._prefill.at(image.tokens + self._text_tokens)

    def observe(self, image: ImagePlan, usage: Usage) -> None:
        picture_tokens = TILE_TOKENS if image.tiled else image.tokens
        self._encode.observe(picture_tokens, usage.encode_s * picture_tokens / image.tokens)
        self._prefill.observe(image.tokens + usage.text_tokens, usage.prefill_s)
        self._text_tokens = usage.text_tokens
        if usage.answer_tokens:
            weight = _LATEST if self.token_s else 1.0
            self.token_s += weight * (usage.decode_s / usage.answer_tokens - self.token_s)
            self.answer_tokens += weight * (usage.answer_tokens - self.answer_tokens)


class _Curve:
    """Seconds by size, between the sizes that were measured; in proportion beyond them."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._seconds: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._sizes)

    def at(self, size: int) -> float:
        if not self._sizes or not size:
            return 0.0
        if self._sizes[0] <= size <= self._sizes[-1]:
            return float(np.interp(size, self._sizes, [self._seconds[known] for known in self._sizes]))
        nearest = self._sizes[0 if size < self._sizes[0] else -1]
        return self._seconds[nearest] * size / nearest

    def observe(self, size: int, seconds: float) -> None:
        expected = self.at(size)
        if expected:
            slower = 1.0 + _ELSEWHERE * (seconds / expected - 1.0)
            self._seconds = {known: slower * value for known, value in self._seconds.items()}
        before = self._seconds.get(size, seconds)
        self._seconds[size] = before + _LATEST * (seconds - before)
        if bisect_left(self._sizes, size) == bisect_left(self._sizes, size + 1):
            insort(self._sizes, size)


def _within(settings: Settings) -> ImageLimits:
    """The image settings, tightened so that the token budget leaves room for an answer."""
    image, budget = settings.image, settings.budget.tokens
    max_tokens, max_tiles = image.max_tokens, image.max_tiles
    if budget:
        room = max(image.min_tokens, min(budget - ONE_OBJECT_TOKENS, round(budget * IMAGE_SHARE)))
        max_tokens = min(max_tokens, room)
        beside_tiles = max_tokens if image.thumbnail else 0
        max_tiles = min(max_tiles, max(1, (room - beside_tiles) // TILE_TOKENS))
    return ImageLimits(image.min_tokens, max_tokens, max_tiles, image.splitting, image.thumbnail)
