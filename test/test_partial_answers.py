# SPDX-License-Identifier: Apache-2.0
"""Answers in words that are followed while they are decoded."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise

import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.backends.supervisor import SupervisedVlm
from lfm_perception.demo.world import World
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.perception import Perception
from lfm_perception.questions import CAPTION, FramePlan, ask
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker
from lfm_perception.typed_questions import TypedQuestion
from lfm_perception.vlm import StreamingVlm

PLAN = FramePlan(plan_image(256, 256, ImageLimits(32, 64)), 64)
GREEDY = Settings().with_values({"sampling.temperature": 0.0, "engine.n_threads": 1})


@pytest.fixture(scope="module")
def frame() -> Frame:
    return World(seed=3, width=256, height=256).snapshot(0).frame


def test_the_text_so_far_grows_to_the_answer(vlm: LlamaVlm, frame: Frame) -> None:
    texts: list[str] = []
    answer = vlm.stream(frame, ask(CAPTION), PLAN, texts.append)
    assert len(texts) == answer.usage.answer_tokens > 3
    assert texts[-1] == answer.text
    assert all(later.startswith(text) for text, later in pairwise(texts))


def test_an_answer_is_followed_through_the_worker_process(vlm: LlamaVlm, frame: Frame) -> None:
    texts: list[str] = []
    with closing(SupervisedVlm(GREEDY)) as supervised:
        answer = supervised.stream(frame, ask(CAPTION), PLAN, texts.append)
        assert texts
        assert all(answer.text.startswith(text) for text in texts)
        assert sorted(texts, key=len) == texts
        seen = len(texts)
        assert supervised.describe(frame, ask(CAPTION), PLAN).text == answer.text
        assert len(texts) == seen

        def refuse(text: str) -> None:
            raise ValueError(text)

        with pytest.raises(ValueError, match=texts[0].split()[0]):
            supervised.stream(frame, ask(CAPTION), PLAN, refuse)
        assert supervised.describe(frame, ask(CAPTION), PLAN).text == answer.text  # it goes on


def test_words_are_followed_and_decisions_are_not(vlm: LlamaVlm, frame: Frame) -> None:
    assert isinstance(vlm, StreamingVlm)
    perception, texts = Perception(GREEDY, vlm, open_tracker(GREEDY.tracker)), list[str]()
    decision = perception.answer(frame, TypedQuestion("What do you see?"), texts.append)
    assert texts[-1] == decision.value
    texts.clear()
    perception.answer(frame, TypedQuestion("Is there a box?", "yes_no"), texts.append)
    assert not texts
