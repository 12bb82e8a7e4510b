# SPDX-License-Identifier: Apache-2.0
"""Planned inference: plan within the budgets, ask the model, and update the latency model with its usage."""

from __future__ import annotations

import time
from dataclasses import replace

from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.planner import Planner
from lfm_perception.planning.regions import crop, from_region, to_region
from lfm_perception.questions import Draft, FramePlan, Question
from lfm_perception.scene import Answer, Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import OnText, StreamingVlm, Vlm


class Inferencer:
    """Asks a model about one frame after the other; `plan` is that of the latest frame.

    Every method raises PerceptionError when a frame cannot be shown to the model or the model fails.
    """

    def __init__(self, settings: Settings, vlm: Vlm) -> None:
        self._vlm, self._planner = vlm, Planner(settings)
        self._stamp_ns = 0
        self._started_s = 0.0
        self._spent_tokens = 0
        self.plan: FramePlan | None = None

    def reconfigure(self, settings: Settings) -> None:
        """Applies other settings; the latency model stays."""
        self._planner.reconfigure(settings)

    def profile_latency(self, question: Question) -> None:
        """Measures the model's latency where the planner needs it and does not know it yet."""
        self._planner.profile_latency(self._vlm, question)

    def picture(self, frame: Frame) -> ImagePlan:
        """The picture of the whole frame within the budgets."""
        return self._planner.picture(frame.width, frame.height)

    def infer(
        self,
        frame: Frame,
        question: Question,
        max_tokens: int,
        draft: Draft | None = None,
        region: Box | None = None,
    ) -> tuple[Answer, FramePlan]:
        """Asks the first question about a frame or a region of it, with a draft of the answer.

        Returns the answer and the plan. Boxes of draft and answer are those in the frame.
        """
        self._stamp_ns, self._started_s, self.plan = frame.stamp_ns, time.perf_counter(), None
        self.profile_latency(question)
        elapsed_s = time.perf_counter() - self._started_s
        seen = frame if region is None else crop(frame, region)
        if region is not None and draft is not None:
            draft = to_region(draft, region)
        plan = self._planner.plan_first(seen.width, seen.height, max_tokens, elapsed_s)
        self.plan = plan = replace(plan, draft=draft, region=region)
        answer = self._vlm.describe(seen, question, plan)
        self._planner.observe(plan.image, answer.usage)
        self._spent_tokens = answer.usage.answer_tokens
        return answer if region is None else from_region(answer, region), plan

    def follow_up(self, frame: Frame, question: Question, max_tokens: int) -> Answer | None:
        """Asks more about the whole frame of `infer` within the rest of its budgets; None if used up."""
        assert self.plan is not None
        assert self.plan.region is None
        return self._within_budgets(frame, question, self.plan.image, max_tokens, self._spent_tokens)

    def ask_region(self, frame: Frame, region: Box, question: Question, max_tokens: int) -> Answer | None:
        """Asks about a region of the frame within the rest of the budgets of `infer`; None if used up."""
        assert self.plan is not None
        seen = crop(frame, region)
        image = self._planner.small_picture(seen.width, seen.height)
        spent_tokens = self.plan.image.tokens + self._spent_tokens
        answer = self._within_budgets(seen, question, image, max_tokens, spent_tokens)
        if answer is not None:
            self._spent_tokens += image.tokens
        return answer

    def _within_budgets(
        self, frame: Frame, question: Question, image: ImagePlan, max_tokens: int, spent_tokens: int
    ) -> Answer | None:
        elapsed_s = time.perf_counter() - self._started_s
        plan = self._planner.plan_followup(image, max_tokens, spent_tokens, elapsed_s)
        if plan.answer_tokens < 1 or (plan.deadline_s is not None and plan.deadline_s <= 0.0):
            return None
        answer = self._vlm.describe(frame, question, plan)
        self._spent_tokens += answer.usage.answer_tokens
        return answer

    def ask(
        self,
        frame: Frame,
        question: Question,
        max_tokens: int,
        on_text: OnText | None = None,
        region: Box | None = None,
    ) -> tuple[Answer, FramePlan]:
        """Asks a question with budgets of its own, about the frame or a region of it.

        The whole frame of `infer` is not encoded again. `on_text` receives the text so far, if the model can
        be followed.
        """
        first = self.plan
        if region is None and first and first.region is None and frame.stamp_ns == self._stamp_ns:
            plan = self._planner.plan_followup(first.image, max_tokens, 0, 0.0)
        else:
            frame = frame if region is None else crop(frame, region)
            plan = self._planner.plan_first(frame.width, frame.height, max_tokens, 0.0)
        if on_text is not None and isinstance(self._vlm, StreamingVlm):
            return self._vlm.stream(frame, question, plan, on_text), plan
        return self._vlm.describe(frame, question, plan), plan
