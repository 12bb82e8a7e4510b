# SPDX-License-Identifier: Apache-2.0
"""Typed questions: what can be asked, the probabilities of the answers, and the decisions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.decisions import calibrated, decide
from lfm_perception.demo.world import World
from lfm_perception.engine.chat_template import TURN_END, apply_chat_template
from lfm_perception.engine.kv_cache import StopRequest
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.perception import Perception
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Answer, Frame
from lfm_perception.settings import QuestionSettings, Settings
from lfm_perception.tracking import open_tracker
from lfm_perception.typed_questions import TypedQuestion

PLAN = FramePlan(plan_image(256, 256, ImageLimits(32, 64)), 64)

OPTIONS = [
    ("Yes", "No"),
    ("box", "box of cones", "box of pallets", "cone"),  # one begins the others
    ("a person in a yellow coat", "a person in a yellow hat", "a pallet"),
    tuple(map(str, range(21))),
    ("人", "箱子", "صندوق", "Kiste"),
]


@pytest.fixture(scope="module")
def frame() -> Frame:
    return World(seed=3, width=256, height=256).snapshot(0).frame


def step_by_step(vlm: LlamaVlm, frame: Frame, question: TypedQuestion) -> list[float]:
    """The probabilities of the answers by decoding each of them alone, token by token."""
    engine = vlm._engine
    chat = apply_chat_template(question.question.prompt)
    end = engine.vocabulary.special_token(TURN_END)
    sequences = [[*engine.vocabulary.tokenize(text), end] for text in question.answers]

    def logits_after(tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        engine.begin(StopRequest())
        engine.kv_cache.clear()
        embeddings = engine.encode(frame, PLAN.image)
        assert embeddings
        end_of_prompt = engine.vocabulary.encode(chat.after)
        before = tuple(engine.vocabulary.encode(chat.before))
        prompt_tokens = engine.kv_cache.prefill([before, *embeddings], end_of_prompt, cache_end=False)
        assert prompt_tokens
        rows = engine.kv_cache.decode(0, (), [-1])
        for number, token in enumerate(tokens):
            rows = engine.kv_cache.decode(number, (token,), [0])
        assert rows
        return np.array(rows[0], np.float64)

    def probabilities() -> list[float]:
        shares = [1.0] * len(sequences)
        for prefix in {tuple(each[:length]) for each in sequences for length in range(len(each))}:
            followers = {each[len(prefix)] for each in sequences if tuple(each[: len(prefix)]) == prefix}
            if len(followers) > 1:
                logits = logits_after(prefix)
                total = sum(math.exp(logits[token]) for token in followers)
                for index, each in enumerate(sequences):
                    if tuple(each[: len(prefix)]) == prefix:
                        shares[index] *= math.exp(logits[each[len(prefix)]]) / total
        return shares

    return vlm._thread.submit(probabilities).result()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[0])
def test_probabilities_equal_those_of_decoding_token_by_token(
    vlm: LlamaVlm, frame: Frame, options: tuple[str, ...]
) -> None:
    question = TypedQuestion("What is next to the person?", "choice", options)
    answer = vlm.describe(frame, question.question, PLAN)
    assert sum(answer.probabilities) == pytest.approx(1.0)
    assert answer.text == options[int(np.argmax(answer.probabilities))]
    assert answer.probabilities == pytest.approx(step_by_step(vlm, frame, question), rel=1e-4, abs=1e-9)


def test_a_question_about_a_frame_that_was_read_costs_one_batch(vlm: LlamaVlm, frame: Frame) -> None:
    vlm.describe(frame, detect(BBOX, ("box",)), PLAN)
    before = vlm._engine.kv_cache.decode_calls
    answer = vlm.describe(frame, TypedQuestion("Is there a box?", "yes_no").question, PLAN)
    assert vlm._engine.kv_cache.decode_calls == before + 1
    assert len(answer.probabilities) == 2


def test_a_detection_is_the_same_after_questions(vlm: LlamaVlm, frame: Frame) -> None:
    boxes = detect(BBOX, ("person", "box", "cone", "forklift", "pallet"))
    before = vlm.describe(frame, boxes, replace(PLAN, answer_tokens=200)).text
    for options in OPTIONS:
        vlm.describe(frame, TypedQuestion("What is it?", "choice", options).question, PLAN)
    assert vlm.describe(frame, boxes, replace(PLAN, answer_tokens=200)).text == before


def test_a_stop_gives_no_probabilities_and_a_long_option_is_refused(vlm: LlamaVlm, frame: Frame) -> None:
    question = TypedQuestion("Is there a box?", "yes_no")
    late = vlm.describe(frame, question.question, replace(PLAN, deadline_s=0.0))
    assert late.truncated
    with pytest.raises(PerceptionError, match="within its limits"):
        decide(question, late, QuestionSettings(), stamp_ns=0, plan=PLAN.image)
    long = TypedQuestion("Which?", "choice", ("a", "b" * 100)).question
    with pytest.raises(PerceptionError, match=r"may have 48: shorten it$"):
        vlm.describe(frame, long, PLAN)
    with pytest.raises(PerceptionError, match=r"may have 1: shorten it, or raise budget\.tokens$"):
        vlm.describe(
            frame, TypedQuestion("Which?", "choice", ("a", "bb")).question, replace(PLAN, answer_tokens=1)
        )


def test_a_decision_carries_its_evidence(vlm: LlamaVlm, frame: Frame) -> None:
    settings = Settings()
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    scene = perception.infer(frame)
    decision = perception.answer(frame, TypedQuestion("How many boxes are there?", "number", maximum=8))
    assert decision.stamp_ns == frame.stamp_ns
    assert decision.usage.image_tokens == scene.usage.image_tokens == decision.plan.tokens
    assert decision.probability == max(decision.probabilities.values())
    assert 0.0 <= (decision.expectation or -1.0) <= 8.0
    entry = json.loads(json.dumps(decision.to_json()))
    assert entry["value"] == decision.value
    assert set(entry["probabilities"]) == set(map(str, range(9)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is the door open?", TypedQuestion("Is the door open?")),
        ('{"question": "Open?", "type": "yes_no"}', TypedQuestion("Open?", "yes_no")),
        ('{"question": "?", "options": ["red", "blue"]}', TypedQuestion("?", "choice", ("red", "blue"))),
        ('{"question": "How many?", "maximum": 30}', TypedQuestion("How many?", "number", maximum=30)),
    ],
)  # fmt: skip
def test_a_question_comes_as_words_or_as_json(text: str, expected: TypedQuestion) -> None:
    assert TypedQuestion.from_json(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must not be blank"),
        ("<|im_end|>", "special token"),
        ("{", "must be JSON"),
        ('{"type": "yes_no"}', "the text under 'question'"),
        ('{"question": 5}', "the text under 'question'"),
        ('{"question": "?", "sort": 1}', "has no 'sort'"),
        ('{"question": "?", "type": "maybe"}', "must be one of yes_no"),
        ('{"question": "?", "type": "choice"}', "2 to 100 options, got 0"),
        ('{"question": "?", "options": ["a"]}', "2 to 100 options, got 1"),
        ('{"question": "?", "options": ["a", " a"]}', "more than once"),
        ('{"question": "?", "options": ["a", ""]}', "must not be blank"),
        ('{"question": "?", "options": ["a", "<|im_end|>"]}', "special token"),
        ('{"question": "?", "options": ["a", 1]}', "must be texts"),
        ('{"question": "?", "options": ["a", "\u200b"]}', "must not be blank"),
        ('{"question": "?", "options": ["\u00e9", "e\u0301"]}', "more than once"),
        ('{"question": "?", "options": ["a", "\u202eb"]}', "control characters"),
        ('{"question": "?", "type": "text", "maximum": 3}', "only a question of type number"),
        ('{"question": "?", "options": ["a", "b"], "minimum": 3}', "only a question of type number"),
        ('{"question": "?", "options": "ab"}', "must be a list"),
        ('{"question": "?", "type": "yes_no", "options": ["a", "b"]}', "has no options"),
        (json.dumps({"question": "?", "options": [str(n) for n in range(500)]}), "got 500"),
        (json.dumps({"question": "?", "options": ["a", "b" * 101]}), "longer than 100"),
        ('{"question": "?", "minimum": 5, "maximum": 2}', "its minimum below its maximum"),
        (
            '{"question": "?", "minimum": 20}',
            "with 'minimum' 20 needs a 'maximum' too, which is 10 by default",
        ),
        ('{"question": "?", "maximum": 1e3}', "must be a whole number"),
        ('{"question": "?", "maximum": true}', "must be a whole number"),
        ('{"question": "?", "maximum": 100000}', "within 0 to 999"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(PerceptionError, match=reason) as caught:
        TypedQuestion.from_json(text)
    assert len(str(caught.value)) < 300


def test_a_question_in_json_cannot_bring_in_unsafe_characters() -> None:
    question = TypedQuestion.from_json('{"question": "a\\u0000b\\u202ec", "type": "yes_no"}')
    assert question.text == "a\ufffdb\ufffdc"


def test_probabilities_are_calibrated_and_keep_their_order() -> None:
    settings = QuestionSettings(score_gain=2.0, score_bias=1.0)
    yes, no = calibrated((0.5, 0.5), settings, binary=True)
    assert yes == pytest.approx(1 / (1 + math.exp(-1)))
    assert yes + no == pytest.approx(1.0)
    shares = calibrated((0.2, 0.5, 0.3, 0.0), settings, binary=False)
    assert shares[1] > shares[2] > shares[0] > shares[3] >= 0.0
    assert shares[1] / shares[2] == pytest.approx((0.5 / 0.3) ** 2)
    identity = calibrated((0.2, 0.8), QuestionSettings(), binary=False)
    assert identity == pytest.approx((0.2, 0.8))


def test_free_text_has_no_probability() -> None:
    question = TypedQuestion("What do you see?")
    decision = decide(question, Answer(" A box. "), QuestionSettings(), stamp_ns=5, plan=PLAN.image)
    assert (decision.value, decision.probability) == ("A box.", None)
    assert "probability" not in decision.to_json()
