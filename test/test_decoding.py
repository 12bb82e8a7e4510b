# SPDX-License-Identifier: Apache-2.0
"""Grammar-constrained decoding: the dialect's JSON and nothing else, in the model's own tokens."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.answers import parse
from lfm_perception.engine.chat_template import TURN_END
from lfm_perception.engine.decoding import (
    MAX_MEAN_OFFSET,
    MEAN_STEPS,
    DecodedAnswer,
    Sampler,
    decode_boxes,
    decode_text,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import MAX_BATCH_TOKENS, MAX_EXACT_OUTPUTS, MAX_OUTPUTS, Logits
from lfm_perception.engine.speculative import Speculator, TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D, Dialect, Draft
from lfm_perception.settings import SamplingSettings, Settings

USERS_OWN = Dialect(
    name="users_own",
    user="{labels}!",
    keys=("where", "nr", "what", "sure"),
    label_key="what",
    box_key="where",
    coordinate_range=100,
    decimals=1,
)
LABELS = ("person", "traffic cone", "コーン", "box", "box 2", "#1 (big) box", 'a "quoted" \\ name', "[x]")
NAMES = LABELS[:5]
"""Labels that an open vocabulary tokenizes as the model would: no punctuation at their edges."""

GREEDY = SamplingSettings(temperature=0.0, repeat_penalty=1.0)
ANYTHING = SamplingSettings(temperature=1.0, min_p=0.0)


class FakeModel(ABC):
    """A fake model: a function from the answer so far to logits, called as `KvCache.decode` is."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.size = len(vocabulary.pieces)
        self.calls = 0
        self._tokens: list[int] = []

    @abstractmethod
    def after(self, tokens: Sequence[int]) -> Logits:
        """The logits after these tokens of the answer."""

    def __call__(self, start: int, tokens: Sequence[int], outputs: Sequence[int]) -> list[Logits]:
        self.calls += 1
        assert len(tokens) <= MAX_BATCH_TOKENS
        assert len(outputs) <= MAX_OUTPUTS
        assert start <= len(self._tokens)
        self._tokens[start:] = tokens
        return [self.after(self._tokens[: start + index + 1]) for index in outputs]


class RandomModel(FakeModel):
    """Random logits, the same for the same seed and tokens."""

    def __init__(self, vocabulary: Vocabulary, seed: int, favoured: Sequence[int] = ()) -> None:
        super().__init__(vocabulary)
        self._seed = seed
        self._favoured = list(favoured)

    def after(self, tokens: Sequence[int]) -> Logits:
        random = np.random.default_rng([self._seed, *tokens])
        logits = random.normal(scale=4.0, size=self.size).astype(np.float32)
        logits[self._favoured] += np.float32(8.0)
        return logits


class ScriptedModel(FakeModel):
    """Prefers one text, in the tokens of the vocabulary; after any other token all logits are equal."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        super().__init__(vocabulary)
        self.wanted = vocabulary.tokenize(text)

    def after(self, tokens: Sequence[int]) -> Logits:
        logits = np.zeros(self.size, dtype=np.float32)
        if list(tokens) == self.wanted[: len(tokens)]:
            logits[self.wanted[len(tokens)]] = 20.0
        return logits


class UncertainModel(ScriptedModel):
    """Normally distributed probabilities around each wanted coordinate, with an offset of the mean."""

    OFFSET, STD = 0.0004, 0.003

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        super().__init__(vocabulary, text)
        self._digits = [vocabulary.tokenize(f"0.{number:03d}")[-1] for number in range(1000)]

    def after(self, tokens: Sequence[int]) -> Logits:
        logits = super().after(tokens)
        wanted = int(logits.argmax())
        if wanted in self._digits:
            away = (np.arange(1000) - self._digits.index(wanted)) / 1000 - self.OFFSET
            logits[self._digits] = 20.0 - 0.5 * (away / self.STD) ** 2
        return logits


def cost(tokens: int) -> float:
    """Seconds of a batch, as measured with the shape of LFM2.5-VL-450M on a CPU."""
    return 0.006 + 0.0012 * tokens


def decode(
    grammar: Grammar, model: FakeModel, sampler: Sampler, limit: int, draft: Draft | None = None
) -> DecodedAnswer:
    return decode_boxes(Speculator(grammar, cost), 0, model, sampler, limit, draft)


def random_answer(grammar: Grammar, seed: int, limit: int, draft: Draft | None = None) -> DecodedAnswer:
    """An answer from random logits that favour the beginning of objects."""
    openings = (grammar.vocabulary.tokenize(text)[0] for text in ('[{"', "},", "]},", ", "))
    model = RandomModel(grammar.vocabulary, seed, tuple(openings))
    return decode(grammar, model, Sampler(replace(ANYTHING, seed=seed)), limit, draft)


def scripted_answer(
    grammar: Grammar, text: str, limit: int = 10_000, draft: Draft | None = None
) -> tuple[DecodedAnswer, ScriptedModel]:
    model = ScriptedModel(grammar.vocabulary, text)
    return decode(grammar, model, Sampler(GREEDY), limit, draft), model


@pytest.fixture(
    scope="module",
    params=[(dialect, labels) for dialect in (BBOX, BBOX_2D, USERS_OWN) for labels in (LABELS, None)],
    ids=lambda param: f"{param[0].name}-{'closed' if param[1] else 'open'}",
)
def grammar(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> Grammar:
    return Grammar(vocabulary, *request.param)


# --- any logits give an answer of the dialect ---------------------------------------------------------


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


@given(seed=st.integers(0, 10**6))
def test_numbers_are_written_in_the_dialects_form(grammar: Grammar, seed: int) -> None:
    numbers = re.findall(r"[\d.]+(?=[],])", re.sub(r'"[^"]*"', "", random_answer(grammar, seed, 300).text))
    assert set(numbers) <= {*grammar.dialect.numbers(), "0"}


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 300))
def test_the_parser_takes_every_object_that_is_written(grammar: Grammar, seed: int, limit: int) -> None:
    decoded = random_answer(grammar, seed, limit)
    parsed = parse(decoded.text, grammar.dialect, labels=grammar.labels or (), closed=bool(grammar.labels))
    assert len(parsed.objects) + sum(parsed.rejects.values()) == len(json.loads(decoded.text))
    assert set(parsed.rejects) <= {"zero_area", "duplicate"}


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
    assert astuple(box.std) == pytest.approx([UncertainModel.STD] * 4, rel=0.02)
    assert person.box.y2 == 1.0
    assert person.std.y2 == pytest.approx(0.001 / math.sqrt(12))  # its rounding
    assert parse(text, BBOX).scored(decoded.tokens)[0].box == Box(0.25, 0.3, 0.5, 0.75)


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


# --- any answer of the dialect can be decoded, in the model's own tokens ------------------------------


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


# --- speculative decoding changes the time, never the answer ------------------------------------------

SIDES = st.lists(st.integers(0, 1000).map(lambda side: side / 1000), min_size=2, max_size=2).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(lambda spans: Box(spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
DRAFTS = st.lists(st.tuples(st.sampled_from((*LABELS, "dragon")), BOXES), max_size=5).map(tuple)


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 200), draft=DRAFTS)
def test_any_draft_gives_the_answer_that_none_gives(
    grammar: Grammar, seed: int, limit: int, draft: Draft
) -> None:
    assert random_answer(grammar, seed, limit, draft) == random_answer(grammar, seed, limit)


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


@settings(max_examples=20)
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


# --- limits -------------------------------------------------------------------------------------------

THREE = [("person", Box(0.1, 0.2, 0.3, 0.4)), ("box", Box(0.5, 0.5, 0.75, 1.0)), ("box 2", Box(0, 0, 1, 1))]


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


# --- free text ----------------------------------------------------------------------------------------


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


# --- log-probabilities --------------------------------------------------------------------------------


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


# --- sampling -----------------------------------------------------------------------------------------


def draws(settings: SamplingSettings, logits: Sequence[float], count: int) -> list[int]:
    """First draws of `count` fresh samplers with different seeds."""
    row = np.array(logits, dtype=np.float32)
    return [Sampler(replace(settings, seed=seed)).sample(row)[0] for seed in range(count)]


def test_temperature_0_takes_the_likeliest() -> None:
    assert set(draws(GREEDY, [0.0, 1.0, 0.9], 50)) == {1}


def test_sampling_follows_the_softmax() -> None:
    drawn = draws(ANYTHING, [math.log(0.7), math.log(0.2), math.log(0.1)], 4000)
    shares = np.bincount(drawn) / len(drawn)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_min_p_leaves_out_what_is_unlikely_beside_the_likeliest() -> None:
    drawn = draws(replace(ANYTHING, min_p=0.15), [math.log(0.7), math.log(0.2), math.log(0.1)], 1000)
    assert set(drawn) == {0, 1}


def test_a_low_temperature_sharpens_after_min_p() -> None:
    drawn = draws(SamplingSettings(temperature=0.1), [1.0, 0.9, -5.0], 4000)
    assert np.mean(np.equal(drawn, 0)) == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.03)


def test_the_penalty_turns_to_another_token_of_about_the_same_logit() -> None:
    sampler = Sampler(replace(GREEDY, repeat_penalty=1.05))
    logits = np.array([10.0, 9.8, -1.0], dtype=np.float32)
    assert [sampler.sample(logits)[0] for _ in range(3)] == [0, 1, 0]


def test_the_penalty_never_acts_on_decisions_of_a_grammar() -> None:
    sampler = Sampler(replace(GREEDY, repeat_penalty=2.0))
    logits = np.array([10.0, 9.8, -1.0], dtype=np.float32)
    assert [sampler.sample(logits, np.array([0, 1]))[0] for _ in range(3)] == [0, 0, 0]
    assert sampler.sample(logits)[0] == 0  # and remembers none of them


def test_top_k_leaves_out_all_but_the_likeliest() -> None:
    drawn = draws(replace(ANYTHING, top_k=2), [0.0, 0.3, 0.2, 0.1], 300)
    assert set(drawn) == {1, 2}
    assert set(draws(replace(ANYTHING, top_k=9), [0.0, 0.3, 0.2, 0.1], 300)) == {0, 1, 2, 3}
    assert set(draws(replace(ANYTHING, top_k=1), [0.0, 0.3, 0.3, 0.1], 50)) <= {1, 2}


def test_a_penalty_ends_no_answer_early_and_changes_no_digit(vocabulary: Vocabulary) -> None:
    """The model is scripted: it prefers the same object four times, each time by little."""

    class Wavering(ScriptedModel):
        def after(self, tokens: Sequence[int]) -> Logits:
            logits = super().after(tokens) / 20.0  # a lead of 1 logit
            logits += np.float32(10.0)
            return logits

    text = BBOX.answer([("box", Box(0.111, 0.222, 0.333 + at / 100, 0.444)) for at in range(4)])
    grammar = Grammar(vocabulary, BBOX, ("box", "person"))
    sampler = Sampler(Settings().with_values({"sampling.repeat_penalty": 2.0}).box_sampling)
    assert decode(grammar, Wavering(vocabulary, text), sampler, 1000).text == text
    assert (
        decode(grammar, Wavering(vocabulary, text), Sampler(replace(GREEDY, repeat_penalty=2.0)), 1000).text
        == text
    )


# --- numbers of digits --------------------------------------------------------------------------------


class DigitsModel(ScriptedModel):
    """Scripted: writes numbers of `digits` decimals, normally distributed around the wanted ones."""

    def __init__(
        self, vocabulary: Vocabulary, objects: Draft, digits: int, offset: float, std: float
    ) -> None:
        text = BBOX.spell([(label, [f"{side:.{digits}f}" for side in box.xyxy]) for label, box in objects])
        super().__init__(vocabulary, text)
        self.text, self._offset, self._std = text, offset, std
        count = 10**digits
        self._values = np.arange(count) / count
        self._digits = [vocabulary.tokenize(f"0.{number:0{digits}d}")[-1] for number in range(count)]

    def after(self, tokens: Sequence[int]) -> Logits:
        logits = super().after(tokens)
        wanted = int(logits.argmax())
        if wanted in self._digits:
            away = self._values - self._values[self._digits.index(wanted)] - self._offset
            logits[self._digits] = 20.0 - 0.5 * (away / self._std) ** 2
        return logits


@pytest.mark.parametrize(("digits", "offset", "std"), [(2, 0.003, 0.009), (3, 0.0004, 0.003)])
def test_the_number_of_digits_is_the_models(
    vocabulary: Vocabulary, digits: int, offset: float, std: float
) -> None:
    objects = (("box", Box(0.25, 0.31, 0.56, 0.75)),)
    model = DigitsModel(vocabulary, objects, digits, offset, std)
    decoded = decode(Grammar(vocabulary, BBOX, None), model, Sampler(GREEDY), 300)
    assert decoded.text == model.text
    (found,) = parse(decoded.text, BBOX).scored(decoded.tokens, means=True)
    assert found.box.xyxy == pytest.approx(objects[0][1].xyxy + offset, abs=5e-4)
    assert found.std is not None
    assert astuple(found.std) == pytest.approx([std] * 4, rel=0.05)


def test_spellings_of_one_number_count_together(vocabulary: Vocabulary) -> None:
    """Scripted: 0.5, 0.50 and 0.500 are equally likely, and so are 0.12 and 0.120."""

    class Undecided(ScriptedModel):
        def after(self, tokens: Sequence[int]) -> Logits:
            logits = super().after(tokens)
            wanted = int(logits.argmax())
            for spellings in (("5", "50", "500"), ("12", "120")):
                same = [vocabulary.tokenize(f"0.{digits}")[-1] for digits in spellings]
                if wanted in same:
                    logits[same] = 20.0
                    logits[wanted] = 20.001
            return logits

    text = '[{"label": "box", "bbox": [0.12, 0.120, 0.5, 0.500]}]'
    grammar = Grammar(vocabulary, BBOX, None)
    decoded = decode(grammar, Undecided(vocabulary, text), Sampler(GREEDY), 300)
    assert decoded.text == text
    (found,) = parse(decoded.text, BBOX).scored(decoded.tokens, means=True)
    assert found.score == pytest.approx(1.0, abs=1e-4)
    assert found.box.xyxy == pytest.approx([0.12, 0.12, 0.5, 0.5], abs=1e-6)
    assert found.std is not None
    assert found.std.x1 == pytest.approx(
        0.01 / math.sqrt(12)
    )  # a number is at least as uncertain as its rounding
    assert found.std.y1 == pytest.approx(0.001 / math.sqrt(12))


def test_a_closed_label_is_compared_with_the_other_labels_only(vocabulary: Vocabulary) -> None:
    """Scripted: the model wants to write `robot`, which the grammar forbids, and else rather `box`."""

    class Stranger(ScriptedModel):
        def after(self, tokens: Sequence[int]) -> Logits:
            logits = super().after(tokens)
            box, person, robot = (vocabulary.tokenize(f'"{name}"')[1] for name in ("box", "person", "robot"))
            if int(logits.argmax()) == box:
                logits[[robot, box, person]] = 30.0, 20.0, 20.0 - math.log(3.0)
            return logits

    text = BBOX.answer([("box", Box(0.25, 0.3, 0.5, 0.75))])
    for labels, score in ((("box", "person"), 0.75), (("box",), 1.0)):
        decoded = decode(Grammar(vocabulary, BBOX, labels), Stranger(vocabulary, text), Sampler(GREEDY), 300)
        assert decoded.text == text
        assert parse(text, BBOX).scored(decoded.tokens)[0].score == pytest.approx(score, abs=1e-3)


def test_the_same_seed_samples_the_same() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    first, second = (Sampler(replace(ANYTHING, seed=7)) for _ in range(2))
    assert [first.sample(row) for row in logits] == [second.sample(row) for row in logits]


def test_only_allowed_tokens_are_sampled() -> None:
    logits = np.array([9.0, 1.0, 5.0, 2.0], dtype=np.float32)
    assert Sampler(GREEDY).sample(logits, np.array([1, 3]))[0] == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(PerceptionError, match="NaN or infinity"):
        Sampler(GREEDY).sample(np.array([1.0, bad, 0.0], dtype=np.float32))
