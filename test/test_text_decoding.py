# SPDX-License-Identifier: Apache-2.0
"""Decoding of free text, drafted from the previous answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fake_models import ANYTHING, GREEDY, NAMES, THREE, RandomModel, ScriptedModel, cost
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.engine.chat_template import TURN_END
from lfm_perception.engine.decoding import (
    DecodedAnswer,
    Sampler,
    decode_boxes,
    decode_text,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import MAX_BATCH_TOKENS, Logits
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.speculative_text import TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.questions import BBOX


def test_text_ends_at_an_end_token(vocabulary: Vocabulary) -> None:
    model = ScriptedModel(vocabulary, "A person stands by a コーン.")
    model.wanted.append(vocabulary.special_token(TURN_END))
    decoded = decode_text(vocabulary, 0, model, Sampler(GREEDY), 100, TextSpeculator(cost))
    assert decoded.text == "A person stands by a コーン."
    assert not decoded.truncated
    assert decoded.token_count == len(model.wanted) - 1


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 50))
def test_text_keeps_its_limit(vocabulary: Vocabulary, seed: int, limit: int) -> None:
    model = RandomModel(vocabulary, seed)
    decoded = decode_text(vocabulary, 0, model, Sampler(ANYTHING), limit, TextSpeculator(cost))
    assert decoded.token_count <= limit
    assert decoded.truncated == (decoded.token_count == limit)
    assert model.calls <= limit
    assert "<|" not in decoded.text


@given(seed=st.integers(0, 10**6), data=st.data())
def test_any_previous_answer_gives_the_text_that_none_gives(
    vocabulary: Vocabulary, seed: int, data: st.DataObject
) -> None:
    favoured = vocabulary.tokenize("A person stands by a box and a box stands by a person.")

    def answer(speculator: TextSpeculator) -> DecodedAnswer:
        model = RandomModel(vocabulary, seed, favoured)
        return decode_text(vocabulary, 0, model, Sampler(ANYTHING), 20, speculator)

    plain = answer(TextSpeculator(cost))
    speculator = TextSpeculator(cost)
    speculator.remember(data.draw(st.lists(st.sampled_from(favoured), max_size=30)))
    assert [answer(speculator) for _ in range(3)] == [plain] * 3


@pytest.mark.parametrize("prompt_tokens", [1, 16, 60])
def test_the_first_batch_has_room_for_the_end_of_the_prompt(
    vocabulary: Vocabulary, prompt_tokens: int
) -> None:
    grammar = Grammar(vocabulary, BBOX, NAMES)
    boxes, text_only = Speculator(grammar, cost), TextSpeculator(cost)
    caption = "A person stands by a box, and a box by a person."
    for _ in range(4):
        for text in (BBOX.answer(THREE), caption):
            model = ScriptedModel(vocabulary, text)
            model.wanted.append(vocabulary.special_token(TURN_END))
            first: list[int] = []

            def decode(
                start: int,
                tokens: Sequence[int],
                outputs: Sequence[int],
                model: ScriptedModel = model,
                first: list[int] = first,
            ) -> list[Logits]:
                first.append(len(tokens))
                return model(start, tokens, outputs)

            if text == caption:
                decoded = decode_text(vocabulary, prompt_tokens, decode, Sampler(GREEDY), 100, text_only)
            else:
                decoded = decode_boxes(boxes, prompt_tokens, decode, Sampler(GREEDY), 1000, tuple(THREE))
            assert decoded.text == text
            assert prompt_tokens + first[0] <= MAX_BATCH_TOKENS


def test_text_like_the_previous_answer_needs_few_decode_calls(vocabulary: Vocabulary) -> None:
    speculator = TextSpeculator(cost)
    calls = []
    for text in ("A person stands by a box.",) * 5 + ("A forklift stands by a box.", "Nothing is there."):
        model = ScriptedModel(vocabulary, text)
        model.wanted.append(vocabulary.special_token(TURN_END))
        assert decode_text(vocabulary, 0, model, Sampler(GREEDY), 100, speculator).text == text
        calls.append(model.calls / len(model.wanted))
    assert calls[0] > 0.8
    assert calls[4] < 0.3
    assert calls[5] < 0.8
    assert calls[6] <= 1.0
