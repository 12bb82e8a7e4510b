# SPDX-License-Identifier: Apache-2.0
"""The planner chooses a frame's resolution, tiles and answer length before any pixel is processed.

The token budget is exact and never exceeded. Latency is predicted by a model of this machine (`latency.py`),
profiled with two questions about a blank image and updated by every inference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import SERVER_MAX_TOKENS, ImageLimits, ImagePlan, plan_image
from lfm_perception.planning.latency import StageLatencyModel
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Frame, Usage
from lfm_perception.settings import ONE_OBJECT_TOKENS, Settings
from lfm_perception.vlm import Vlm

MAX_IMAGE_SHARE = 0.75
"""Largest share of `budget.tokens` for the image; the answer gets the rest, or one object at least."""

SIZE_STEP = 0.8
"""Ratio of image tokens between two resolutions that are considered one after the other."""

CROP_TOKENS = 64
"""Maximum image tokens of the crop of one object."""

_PROFILE_SIDE = 4096
"""Pixels on each side of the blank image that `profile_latency` plans: larger than any single tile."""

_PROFILE_TOKENS = 8
"""Answer tokens of a question of `profile_latency`."""


class Planner:
    """Plans within `budget.tokens` and `budget.latency`."""

    def __init__(self, settings: Settings) -> None:
        self._latency = StageLatencyModel()
        self._excess_tokens = 0
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Applies other settings; the latency model stays."""
        self._budget = settings.budget
        # only the built-in engine reports the latency of each stage
        self._has_stage_latency = settings.engine.backend == "llama"
        self._settings = settings
        self._limits = _image_limits(settings, self._excess_tokens)

    def profile_latency(self, vlm: Vlm, question: Question) -> None:
        """Infers a blank image in the smallest and the largest size, if there is a latency budget to meet and
        the latency model has no observations yet.
        """
        if self._latency.observed or not self._budget.latency or not self._has_stage_latency:
            return
        for tokens in (self._limits.min_tokens, self._limits.max_tokens):
            limits = replace(self._limits, min_tokens=tokens, max_tokens=tokens, max_tiles=1)
            image = plan_image(_PROFILE_SIDE, _PROFILE_SIDE, limits)
            blank = Frame(np.zeros((image.height, image.width, 3), np.uint8), 0)
            self.observe(image, vlm.describe(blank, question, FramePlan(image, _PROFILE_TOKENS)).usage)

    def observe(self, image: ImagePlan, usage: Usage) -> None:
        """Updates latency and token counts with the usage of a frame's first question.

        A server may compute more image tokens than planned; later frames are planned with as many fewer.
        """
        on_server = self._settings.engine.backend == "openai"
        if on_server and usage.image_tokens - image.tokens > self._excess_tokens:
            self._excess_tokens = usage.image_tokens - image.tokens
            self._limits = _image_limits(self._settings, self._excess_tokens)
        if self._has_stage_latency:
            self._latency.observe(image, usage)

    def picture(self, width: int, height: int) -> ImagePlan:
        """The largest picture of a frame of this size within the limits and the token budget."""
        return plan_image(width, height, self._limits)

    def small_picture(self, width: int, height: int) -> ImagePlan:
        """The picture of a crop of this size: one tile of up to `CROP_TOKENS` tokens."""
        most = max(self._limits.min_tokens, min(CROP_TOKENS, self._limits.max_tokens))
        return plan_image(width, height, replace(self._limits, max_tokens=most, max_tiles=1))

    def plan_first(self, width: int, height: int, max_tokens: int, elapsed_s: float) -> FramePlan:
        """Plans the first question about a frame: the largest image that the budgets allow.

        If even the smallest image and one object exceed the latency budget, the plan is that, with `fits`
        False.

        Args:
            width, height: of the frame, in pixels.
            max_tokens: limit on the answer, besides the budgets.
            elapsed_s: part of the latency budget that is already spent.

        Raises:
            PerceptionError: the frame cannot be shown to the model in any size.
        """
        images = self._images(width, height)
        plans = [self.plan_followup(image, max_tokens, 0, elapsed_s) for image in images]
        return next((plan for plan in plans if plan.fits), plans[-1])

    def plan_followup(
        self, image: ImagePlan, max_tokens: int, spent_tokens: int, elapsed_s: float
    ) -> FramePlan:
        """Plans a question about a frame whose image is planned, after answers of `spent_tokens` tokens."""
        tokens, latency_s = self._budget.tokens, self._budget.latency
        spent_tokens += image.tokens + self._excess_tokens
        room = min(max_tokens, tokens - spent_tokens) if tokens else max_tokens
        if not latency_s:
            return FramePlan(image, room)
        left_s = latency_s - elapsed_s
        first_token_s, token_s = self._latency.time_to_first_token_s(image), self._latency.time_per_token_s
        expected_tokens = min(room, max(ONE_OBJECT_TOKENS, round(self._latency.answer_tokens)))
        expected_s = first_token_s + expected_tokens * token_s
        in_time = int((left_s - first_token_s) / token_s) if token_s else room
        return FramePlan(
            image=image,
            answer_tokens=min(room, max(in_time, ONE_OBJECT_TOKENS)),
            deadline_s=left_s,
            expected_s=expected_s,
            fits=expected_s <= left_s,
        )

    def _images(self, width: int, height: int) -> Iterator[ImagePlan]:
        """Image plans of a frame from the largest to the smallest, without duplicates."""
        image = self.picture(width, height)
        yield image
        if not self._budget.latency:
            return
        sizes = [replace(self._limits, max_tiles=tiles) for tiles in range(self._limits.max_tiles, 0, -1)]
        tokens = SIZE_STEP * self._limits.max_tokens
        while tokens >= self._limits.min_tokens:
            sizes.append(replace(self._limits, max_tokens=int(tokens), max_tiles=1))
            tokens *= SIZE_STEP
        sizes.append(replace(self._limits, max_tokens=self._limits.min_tokens, max_tiles=1))
        for limits in sizes:
            try:
                smaller = plan_image(width, height, limits)
            except PerceptionError:  # too long and thin to be smaller
                return
            if smaller.tokens < image.tokens:
                image = smaller
                yield image


def _image_limits(settings: Settings, excess_tokens: int) -> ImageLimits:
    """The image settings, tightened so that the token budget leaves room for an answer and the excess."""
    limits, budget = settings.image.limits, settings.budget.tokens
    if settings.engine.backend == "openai":
        limits = limits.for_server()
    if not budget:
        return limits
    budget -= excess_tokens
    room = max(limits.min_tokens, min(budget - ONE_OBJECT_TOKENS, round(budget * MAX_IMAGE_SHARE)))
    max_tokens = min(limits.max_tokens, room)
    thumbnail_tokens = SERVER_MAX_TOKENS if limits.server else max_tokens if limits.thumbnail else 0
    tiles = (room - thumbnail_tokens) // limits.tile_tokens
    return replace(limits, max_tokens=max_tokens, max_tiles=min(limits.max_tiles, max(1, tiles)))
