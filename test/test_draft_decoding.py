# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding of boxes changes the time, never the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fake_models import (
    ANYTHING,
    GREEDY,
    LABELS,
    NAMES,
    PER_GRAMMAR,
    THREE,
    RandomModel,
    ScriptedModel,
    cost,
    decode,
    random_answer,
    sequential_answer,
)
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.engine.decoding import (
    Sampler,
    decode_boxes,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import MAX_EXACT_OUTPUTS, Logits
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D, Dialect, Draft

SIDES = st.lists(st.integers(0, 1000).map(lambda side: side / 1000), min_size=2, max_size=2).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(lambda spans: Box(spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
DRAFTS = st.lists(st.tuples(st.sampled_from((*LABELS, "dragon")), BOXES), max_size=5).map(tuple)
UNWRITABLE = "dragon" * 40
"""No closed label, and longer than an open one may be."""
LONG_DRAFTS = st.lists(st.tuples(st.sampled_from((*LABELS, UNWRITABLE)), BOXES), max_size=50).map(tuple)


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 200), draft=DRAFTS)
def test_any_draft_gives_the_answer_that_none_gives(
    grammar: Grammar, seed: int, limit: int, draft: Draft
) -> None:
    assert random_answer(grammar, seed, limit, draft) == random_answer(grammar, seed, limit)


@PER_GRAMMAR
@given(
    seed=st.integers(0, 10**6), limit=st.integers(1, 200), draft=st.none() | DRAFTS | LONG_DRAFTS,
    temperature=st.sampled_from((0.0, 0.7)), prompt_tokens=st.sampled_from((1, 16, 70)),
)  # fmt: skip
def test_any_draft_gives_the_tokens_of_sequential_decoding(
    grammar: Grammar, seed: int, limit: int, draft: Draft | None, temperature: float, prompt_tokens: int
) -> None:
    vocabulary = grammar.vocabulary
    model = RandomModel(vocabulary, seed, [vocabulary.tokenize(text)[0] for text in ('[{"', "},", "]},")])
    sampling = replace(ANYTHING, seed=seed, temperature=temperature)
    text, count = sequential_answer(grammar, model, Sampler(sampling), limit)
    speculator = Speculator(grammar, cost)
    decoded = decode_boxes(speculator, prompt_tokens, model, Sampler(sampling), limit, draft)
    assert decoded.token_count == count
    assert text.startswith(decoded.text[:-1])
    assert decoded.truncated or decoded.text == text


def test_near_ties_of_a_large_batch_are_decoded_again(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, NAMES)
    text = BBOX.answer(THREE)
    twin = vocabulary.tokenize("box")[0], vocabulary.tokenize("person")[0]

    class Rounding(ScriptedModel):
        """In a large batch, rounding reverses the order of two labels."""

        def __call__(self, start: int, tokens: Sequence[int], outputs: Sequence[int]) -> list[Logits]:
            rows = super().__call__(start, tokens, outputs)
            for row in rows:
                wanted = int(row.argmax())
                if wanted in twin:
                    other = twin[1 - twin.index(wanted)]
                    row[other] = row[wanted] + np.float32(1e-5 if len(outputs) > MAX_EXACT_OUTPUTS else -1e-5)
            return rows

    speculator = Speculator(grammar, cost)
    for _ in range(6):
        model = Rounding(vocabulary, text)
        decoded = decode_boxes(speculator, 0, model, Sampler(GREEDY), 1000, tuple(THREE))
        assert decoded.text == text


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6), draft=DRAFTS)
def test_learned_acceptance_rates_never_change_an_answer(grammar: Grammar, seed: int, draft: Draft) -> None:
    speculator = Speculator(grammar, cost)
    for number in range(4):
        model = RandomModel(grammar.vocabulary, seed + number)
        sampler, fresh = (Sampler(replace(ANYTHING, seed=seed)) for _ in range(2))
        experienced = decode_boxes(speculator, 0, model, sampler, 150, draft)
        assert experienced == decode(grammar, RandomModel(grammar.vocabulary, seed + number), fresh, 150)


def test_a_right_draft_saves_most_decode_calls(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, NAMES)
    speculator, right = Speculator(grammar, cost), tuple(THREE)

    def calls(objects: Draft, draft: Draft | None) -> int:
        model = ScriptedModel(vocabulary, BBOX.answer(objects))
        decode_boxes(speculator, 0, model, Sampler(GREEDY), 1000, draft)
        return model.calls

    none = [calls(right, None) for _ in range(6)][-1]
    assert [calls(right, right) for _ in range(6)][-1] < none / 2
    # an object too many, one too few, another order: the right part of the draft still helps
    for draft in (right[:2], (*right, ("person", Box(0.7, 0.7, 0.8, 0.8))), right[::-1]):
        assert calls(right, draft) < none
    # a draft that is always rejected is soon not proposed any more
    wrong = tuple(("コーン", Box(0.9, 0.9, 0.95, 0.95)) for _ in range(3))
    assert [calls(right, wrong) for _ in range(20)][-1] <= none + 3


def test_objects_that_no_answer_can_hold_are_left_out_of_a_draft(grammar: Grammar) -> None:
    right, unwritable = tuple(THREE), (UNWRITABLE, Box(0.1, 0.1, 0.2, 0.2))

    def calls(draft: Draft | None) -> list[int]:
        speculator = Speculator(grammar, lambda tokens: 1.0)
        models = [ScriptedModel(grammar.vocabulary, grammar.dialect.answer(THREE)) for _ in range(8)]
        for model in models:
            decode_boxes(speculator, 0, model, Sampler(GREEDY), 1000, draft)
        return [model.calls for model in models]

    assert calls((unwritable, *right)) == calls((*right, unwritable)) == calls(right)
    assert calls((unwritable,) * 3) == calls(None)


def calls_with_a_right_draft(grammar: Grammar, objects: Draft) -> int:
    """Decode calls of an answer once the speculator has seen seven others, where all batches cost alike."""
    speculator, calls = Speculator(grammar, lambda tokens: 1.0), 0
    for _ in range(8):
        model = ScriptedModel(grammar.vocabulary, grammar.dialect.answer(objects))
        decode_boxes(speculator, 0, model, Sampler(GREEDY), 1000, objects)
        calls = model.calls
    return calls


@pytest.mark.parametrize("dialect", [BBOX, BBOX_2D], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("label", ["コーン", "traffic cone"])
def test_a_right_draft_of_long_labels_saves_most_decode_calls(
    vocabulary: Vocabulary, dialect: Dialect, label: str
) -> None:
    """Characters of several tokens, and open labels at the end of an object, are drafted as all else."""
    assert len(vocabulary.tokenize(label)) > 1
    drafted = tuple((label, box) for _, box in THREE)
    assert calls_with_a_right_draft(Grammar(vocabulary, dialect, None), drafted) <= 3


def test_a_draft_follows_a_label_past_another_one_that_it_begins_with(vocabulary: Vocabulary) -> None:
    """Where labels come last, the object may end after the shorter one, but goes on."""
    grammar = Grammar(vocabulary, BBOX_2D, ("person", "person sitting", "person sitting down"))
    drafted = tuple((label, box) for label, (_, box) in zip(grammar.labels or (), THREE, strict=True))[::-1]
    assert calls_with_a_right_draft(grammar, drafted) <= 3


def test_logits_behind_a_rejection_correct_the_draft(vocabulary: Vocabulary) -> None:
    class Independent(ScriptedModel):
        """Prefers the same token at a place whatever comes before it, as the sides of a box nearly are."""

        def after(self, tokens: Sequence[int]) -> Logits:
            return super().after(self.wanted[: len(tokens)])

    grammar = Grammar(vocabulary, BBOX, NAMES)
    near = tuple((label, Box(*(0.9 * side + 0.05 for side in box.xyxy.tolist()))) for label, box in THREE)
    speculator = Speculator(grammar, lambda tokens: 1.0)  # as on a GPU, a batch costs the same at any length
    calls = []
    for _ in range(8):
        model = Independent(vocabulary, BBOX.answer(THREE))
        decoded = decode_boxes(speculator, 0, model, Sampler(GREEDY), 1000, near)
        assert decoded.text == BBOX.answer(THREE)
        calls.append(model.calls)
    assert calls[-1] <= 6  # no coordinate is drafted right: 14 calls without corrections


def test_logits_that_are_probably_not_needed_are_not_computed_where_they_cost(vocabulary: Vocabulary) -> None:
    class Counting(ScriptedModel):
        outputs = 0

        def __call__(self, start: int, tokens: Sequence[int], outputs: Sequence[int]) -> list[Logits]:
            self.outputs += len(outputs)
            return super().__call__(start, tokens, outputs)

    grammar = Grammar(vocabulary, BBOX, NAMES)
    wrong = tuple((label, Box(0.9, 0.9, 0.95, 0.95)) for label, _ in THREE)

    def outputs(output_cost: float) -> int:
        speculator, count = Speculator(grammar, cost, output_cost), 0
        for _ in range(6):
            model = Counting(vocabulary, BBOX.answer(THREE))
            assert decode_boxes(speculator, 0, model, Sampler(GREEDY), 1000, wrong).text == BBOX.answer(THREE)
            count += model.outputs
        return count

    assert outputs(0.005) < outputs(0.0)
    model = Counting(vocabulary, BBOX.answer(THREE))
    decode_boxes(Speculator(grammar, cost, 1.0), 0, model, Sampler(GREEDY), 1000, wrong)
    assert model.outputs == model.calls  # those after the last token of a batch count too
