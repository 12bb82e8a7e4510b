# SPDX-License-Identifier: Apache-2.0
"""Grammar-constrained decoding: the dialect's JSON and nothing else, in the model's own tokens."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from fake_models import (
    ANYTHING,
    GREEDY,
    NAMES,
    PER_GRAMMAR,
    THREE,
    RandomModel,
    ScriptedModel,
    UncertainModel,
    cost,
    decode,
    random_answer,
    scripted_answer,
)
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.answers import parse
from lfm_perception.engine.decoding import (
    MAX_MEAN_OFFSET,
    MEAN_STEPS,
    Sampler,
    decode_boxes,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import Logits
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 300))
def test_any_logits_give_whole_objects_of_the_dialect(grammar: Grammar, seed: int, limit: int) -> None:
    dialect = grammar.dialect
    decoded = random_answer(grammar, seed, limit)
    assert decoded.token_count == len(decoded.tokens) <= limit
    for found in json.loads(decoded.text):
        assert tuple(found) == dialect.keys
        assert found[dialect.label_key].strip()
        assert grammar.labels is None or found[dialect.label_key] in grammar.labels
        assert len(found[dialect.box_key]) == 4
        assert all(0 <= side <= dialect.coordinate_range for side in found[dialect.box_key])
        assert all(found[key] == 0 for key in set(dialect.keys) - {dialect.label_key, dialect.box_key})


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6))
def test_numbers_are_written_in_the_dialects_form(grammar: Grammar, seed: int) -> None:
    numbers = re.findall(r"[\d.]+(?=[],])", re.sub(r'"[^"]*"', "", random_answer(grammar, seed, 300).text))
    assert set(numbers) <= {*grammar.dialect.numbers(), "0"}


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 300))
def test_the_parser_takes_every_object_that_is_written(grammar: Grammar, seed: int, limit: int) -> None:
    decoded = random_answer(grammar, seed, limit)
    parsed = parse(decoded.text, grammar.dialect, labels=grammar.labels or (), closed=bool(grammar.labels))
    assert len(parsed.objects) + sum(parsed.rejects.values()) == len(json.loads(decoded.text))
    assert set(parsed.rejects) <= {"zero_area", "duplicate"}


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6))
def test_means_are_near_the_printed_numbers(grammar: Grammar, seed: int) -> None:
    decoded = random_answer(grammar, seed, 300)
    parsed = parse(decoded.text, grammar.dialect)
    for found, detection in zip(parsed.objects, parsed.scored(decoded.tokens, means=True), strict=True):
        assert (
            np.abs(found.box.xyxy - detection.box.xyxy).max()
            <= max(MAX_MEAN_OFFSET, MEAN_STEPS * 0.01) + 1e-8
        )


def test_a_box_is_the_mean_of_the_models_probabilities(vocabulary: Vocabulary) -> None:
    text = BBOX.answer([("box", Box(0.25, 0.3, 0.5, 0.75)), ("person", Box(0.6, 0.1, 0.7, 1.0))])
    model = UncertainModel(vocabulary, text)
    decoded = decode(Grammar(vocabulary, BBOX, None), model, Sampler(GREEDY), 300)
    assert decoded.text == text
    box, person = parse(text, BBOX).scored(decoded.tokens, means=True)
    assert box.box.xyxy == pytest.approx(np.array([0.25, 0.3, 0.5, 0.75]) + UncertainModel.OFFSET, abs=5e-5)
    assert box.std is not None
    assert person.std is not None
    assert box.std == pytest.approx([UncertainModel.STD] * 4, rel=0.02)
    assert person.box.y2 == 1.0
    assert person.std.y2 == pytest.approx(0.001 / math.sqrt(12))  # its rounding
    assert parse(text, BBOX).scored(decoded.tokens)[0].box == Box(0.25, 0.3, 0.5, 0.75)


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6))
def test_a_smaller_limit_gives_the_beginning_of_the_same_answer(grammar: Grammar, seed: int) -> None:
    long, short = random_answer(grammar, seed, 400), random_answer(grammar, seed, 100)
    objects = json.loads(short.text)
    assert json.loads(long.text)[: len(objects)] == objects
    assert short.truncated or short == long


def test_open_labels_finish_the_characters_they_begin(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, None)
    begun = list(vocabulary.name_tokens.partial)
    model = RandomModel(vocabulary, seed=1, favoured=[*begun, vocabulary.tokenize('[{"')[0]])
    decoded = decode(grammar, model, Sampler(ANYTHING), 2000)
    labels = [found["label"] for found in json.loads(decoded.text)]
    assert any(ord(letter) > 127 for label in labels for letter in label)


@PER_GRAMMAR
@given(data=st.data())
def test_any_answer_is_written_in_the_vocabularys_own_tokens(grammar: Grammar, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(grammar.labels or NAMES), max_size=6))
    spans = st.lists(st.integers(0, 10_000), min_size=2, max_size=2).map(sorted)
    objects = []
    for name in names:
        (x1, x2), (y1, y2) = data.draw(spans), data.draw(spans)
        objects.append((name, Box(x1 / 1e4, y1 / 1e4, x2 / 1e4, y2 / 1e4)))
    text = grammar.dialect.answer(objects)
    decoded, model = scripted_answer(grammar, text)  # it prefers nothing after other tokens
    assert decoded.text == text
    assert not decoded.truncated
    assert decoded.token_count == len(model.wanted)


def test_forced_tokens_share_a_batch_with_a_decision(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("person", "box"))
    text = BBOX.answer([("person", Box(0.1, 0.2, 0.3, 0.4))] * 3)
    decoded, model = scripted_answer(grammar, text)
    # one object or none, then for each its name, four coordinates, and whether there is one more
    assert model.calls <= 1 + 3 * (1 + 4 + 1)
    assert decoded.token_count > 4 * model.calls


def test_every_limit_keeps_the_whole_objects_that_fit(grammar: Grammar) -> None:
    full = grammar.dialect.answer(THREE)
    sizes = [len(grammar.vocabulary.tokenize(grammar.dialect.answer(THREE[:count]))) for count in range(4)]
    for limit in range(1, sizes[3] + 2):
        decoded, _ = scripted_answer(grammar, full, limit)
        kept = max((count for count, size in enumerate(sizes) if size <= limit), default=0)
        assert decoded.text == grammar.dialect.answer(THREE[:kept])
        assert decoded.truncated == (limit < sizes[3])
        assert decoded.token_count <= limit


def test_an_object_that_cannot_fit_is_not_begun(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("person",))
    one = len(vocabulary.tokenize(BBOX.answer(THREE[:1])))
    decoded, _ = scripted_answer(grammar, BBOX.answer([THREE[0]] * 3), limit=one + 10)
    assert decoded.token_count < one


def test_a_stop_keeps_whole_objects(grammar: Grammar) -> None:
    full = grammar.dialect.answer(THREE)
    for most in range(12):
        model = ScriptedModel(grammar.vocabulary, full)

        def until_stopped(
            start: int,
            tokens: Sequence[int],
            outputs: Sequence[int],
            model: ScriptedModel = model,
            most: int = most,
        ) -> list[Logits] | None:
            return model(start, tokens, outputs) if model.calls < most else None

        decoded = decode_boxes(Speculator(grammar, cost), 0, until_stopped, Sampler(GREEDY), 1000)
        assert decoded.truncated
        assert decoded.text in {grammar.dialect.answer(THREE[:count]) for count in range(3)}


@PER_GRAMMAR
@given(seed=st.integers(0, 10**6))
def test_spans_cover_the_text_in_order(grammar: Grammar, seed: int) -> None:
    decoded = random_answer(grammar, seed, 300)
    whole = 0
    for token in decoded.tokens:
        assert token.start <= whole <= token.end
        assert token.log_prob <= 0.0
        whole = token.end
    assert decoded.truncated or whole == len(decoded.text)


def test_a_label_has_its_probability_among_the_allowed_ones_and_a_forced_token_none(
    vocabulary: Vocabulary,
) -> None:
    grammar = Grammar(vocabulary, BBOX, ("person", "box"))
    text = BBOX.answer(THREE[:1])
    decoded, _ = scripted_answer(grammar, text)
    sure = 20.0 - math.log(math.exp(20.0) + 1.0)  # not lowered by words that the grammar forbids
    by_start = {text[token.start : token.end]: token.log_prob for token in decoded.tokens}
    assert by_start["person"] == pytest.approx(sure, abs=1e-9)
    assert by_start["label"] == by_start["bbox"] == by_start["."] == 0.0
    (detection,) = parse(text, BBOX).scored(decoded.tokens)
    assert 0.9 < detection.score <= 1.0


def test_a_label_outside_the_closed_vocabulary_is_never_decoded(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("cone",))
    person, first = vocabulary.tokenize("person")[0], vocabulary.tokenize('[{"')[0]
    logits = np.zeros(len(vocabulary.pieces), dtype=np.float32)
    logits[[person, first]] = 20.0
    decoded = decode_boxes(
        Speculator(grammar, cost), 0, lambda start, tokens, outputs: [logits] * len(outputs),
        Sampler(GREEDY), 40,
    )  # fmt: skip
    assert json.loads(decoded.text)[0]["label"] == "cone"
