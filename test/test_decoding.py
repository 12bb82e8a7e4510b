"""Grounded decoding writes the dialect's JSON and nothing else, in the model's own tokens."""

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
from lfm_perception.engine.decoding import NEARBY, Logits, Sampler, Written, write_boxes, write_words
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.speculative import EXACT_ROWS, LONGEST_RUN, MOST_ROWS, Speculator, TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D, Dialect, Draft
from lfm_perception.settings import SamplingSettings

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
"""Labels that also an open vocabulary cuts as the rest of the text does: no punctuation at their edges."""

GREEDY = SamplingSettings(temperature=0.0, repeat_penalty=1.0)
ANYTHING = SamplingSettings(temperature=1.0, min_p=0.0)


class Speaker(ABC):
    """A model in play: a function from what was said to what comes next, fed as llama.cpp is."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.size = len(vocabulary.pieces)
        self.runs = 0
        self._said: list[int] = []

    @abstractmethod
    def after(self, said: Sequence[int]) -> Logits:
        """What the model makes of what was said."""

    def __call__(self, start: int, tokens: Sequence[int], places: Sequence[int]) -> list[Logits]:
        self.runs += 1
        assert len(tokens) <= LONGEST_RUN
        assert len(places) <= MOST_ROWS
        assert start <= len(self._said)
        self._said[start:] = tokens
        return [self.after(self._said[: start + place + 1]) for place in places]

    def step(self, token: int) -> Logits:
        return self(len(self._said), [token], [0])[0]


class Monkey(Speaker):
    """A model of which the logits are chance, the same for the same seed after the same words."""

    def __init__(self, vocabulary: Vocabulary, seed: int, favoured: Sequence[int] = ()) -> None:
        super().__init__(vocabulary)
        self._seed = seed
        self._favoured = list(favoured)

    def after(self, said: Sequence[int]) -> Logits:
        random = np.random.default_rng([self._seed, *said])
        logits = random.normal(scale=4.0, size=self.size).astype(np.float32)
        logits[self._favoured] += np.float32(8.0)
        return logits


class Parrot(Speaker):
    """A model that wants to say one text, in the tokens into which the vocabulary cuts it."""

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        super().__init__(vocabulary)
        self.wanted = vocabulary.plain(text)

    def after(self, said: Sequence[int]) -> Logits:
        logits = np.zeros(self.size, dtype=np.float32)
        if list(said) == self.wanted[: len(said)]:  # else it has lost the thread
            logits[self.wanted[len(said)]] = 20.0
        return logits


class Doubter(Parrot):
    """A parrot that gives the numbers around the wanted one a bell of probabilities, a bit to the right."""

    OFFSET, STD = 0.0004, 0.003

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        super().__init__(vocabulary, text)
        self._digits = [vocabulary.plain(f"0.{number:03d}")[-1] for number in range(1000)]

    def after(self, said: Sequence[int]) -> Logits:
        logits = super().after(said)
        wanted = int(logits.argmax())
        if wanted in self._digits:
            away = (np.arange(1000) - self._digits.index(wanted)) / 1000 - self.OFFSET
            logits[self._digits] = 20.0 - 0.5 * (away / self.STD) ** 2
        return logits


def cost(tokens: int) -> float:
    """Of a run, as measured with the shape of LFM2.5-VL-450M on a CPU, in seconds."""
    return 0.006 + 0.0012 * tokens


def write(
    grammar: Grammar, model: Speaker, sampler: Sampler, limit: int, draft: Draft | None = None
) -> Written:
    return write_boxes(Speculator(grammar, cost), 0, model, sampler, limit, draft)


def scribble(grammar: Grammar, seed: int, limit: int, draft: Draft | None = None) -> Written:
    """An answer to random logits that like to begin objects."""
    openings = (grammar.vocabulary.plain(text)[0] for text in ('[{"', "},", "]},", ", "))
    monkey = Monkey(grammar.vocabulary, seed, tuple(openings))
    return write(grammar, monkey, Sampler(replace(ANYTHING, seed=seed)), limit, draft)


def say(
    grammar: Grammar, text: str, limit: int = 10_000, draft: Draft | None = None
) -> tuple[Written, Parrot]:
    parrot = Parrot(grammar.vocabulary, text)
    return write(grammar, parrot, Sampler(GREEDY), limit, draft), parrot


@pytest.fixture(
    scope="module",
    params=[(dialect, labels) for dialect in (BBOX, BBOX_2D, USERS_OWN) for labels in (LABELS, None)],
    ids=lambda param: f"{param[0].name}-{'closed' if param[1] else 'open'}",
)
def grammar(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> Grammar:
    return Grammar(vocabulary, *request.param)


# --- whatever the model wants, the answer is the dialect's --------------------------------------------


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 300))
def test_any_logits_give_whole_objects_of_the_dialect(grammar: Grammar, seed: int, limit: int) -> None:
    dialect = grammar.dialect
    written = scribble(grammar, seed, limit)
    assert written.decoded == len(written.tokens) <= limit
    for found in json.loads(written.text):
        assert tuple(found) == dialect.keys
        assert found[dialect.label_key].strip()
        assert grammar.labels is None or found[dialect.label_key] in grammar.labels
        assert len(found[dialect.box_key]) == 4
        assert all(0 <= side <= dialect.coordinate_range for side in found[dialect.box_key])
        assert all(found[key] == 0 for key in set(dialect.keys) - {dialect.label_key, dialect.box_key})


@given(seed=st.integers(0, 10**6))
def test_numbers_are_written_in_the_dialects_form(grammar: Grammar, seed: int) -> None:
    numbers = re.findall(r"[\d.]+(?=[],])", re.sub(r'"[^"]*"', "", scribble(grammar, seed, 300).text))
    assert set(numbers) <= {*grammar.dialect.numbers(), "0"}


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 300))
def test_the_parser_takes_every_object_that_is_written(grammar: Grammar, seed: int, limit: int) -> None:
    written = scribble(grammar, seed, limit)
    parsed = parse(written.text, grammar.dialect, labels=grammar.labels or (), closed=bool(grammar.labels))
    assert len(parsed.objects) + sum(parsed.rejects.values()) == len(json.loads(written.text))
    assert set(parsed.rejects) <= {"zero_area", "duplicate"}


@given(seed=st.integers(0, 10**6))
def test_means_are_near_the_printed_numbers(grammar: Grammar, seed: int) -> None:
    written = scribble(grammar, seed, 300)
    parsed = parse(written.text, grammar.dialect)
    for found, detection in zip(parsed.objects, parsed.scored(written.tokens, means=True), strict=True):
        assert np.abs(found.box.xyxy - detection.box.xyxy).max() <= NEARBY + 1e-9


def test_a_box_is_the_mean_of_the_models_probabilities(vocabulary: Vocabulary) -> None:
    text = BBOX.answer([("box", Box(0.25, 0.3, 0.5, 0.75)), ("person", Box(0.6, 0.1, 0.7, 1.0))])
    doubter = Doubter(vocabulary, text)
    written = write(Grammar(vocabulary, BBOX, None), doubter, Sampler(GREEDY), 300)
    assert written.text == text
    box, person = parse(text, BBOX).scored(written.tokens, means=True)
    assert box.box.xyxy == pytest.approx(np.array([0.25, 0.3, 0.5, 0.75]) + Doubter.OFFSET, abs=5e-5)
    assert box.std is not None
    assert person.std is not None
    assert astuple(box.std) == pytest.approx([Doubter.STD] * 4, rel=0.02)
    assert (person.box.y2, person.std.y2) == (1.0, 0.0)
    assert parse(text, BBOX).scored(written.tokens)[0].box == Box(0.25, 0.3, 0.5, 0.75)


@given(seed=st.integers(0, 10**6))
def test_a_smaller_limit_gives_the_beginning_of_the_same_answer(grammar: Grammar, seed: int) -> None:
    long, short = scribble(grammar, seed, 400), scribble(grammar, seed, 100)
    objects = json.loads(short.text)
    assert json.loads(long.text)[: len(objects)] == objects
    assert short.truncated or short == long


def test_open_labels_finish_the_characters_they_begin(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, None)
    begun = list(vocabulary.names.begun)
    monkey = Monkey(vocabulary, seed=1, favoured=[*begun, vocabulary.plain('[{"')[0]])
    written = write(grammar, monkey, Sampler(ANYTHING), 2000)
    labels = [found["label"] for found in json.loads(written.text)]
    assert any(ord(letter) > 127 for label in labels for letter in label)


# --- whatever the dialect can say can be written, and as the model would cut it -----------------------


@given(data=st.data())
def test_any_answer_is_written_in_the_vocabularys_own_tokens(grammar: Grammar, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(grammar.labels or NAMES), max_size=6))
    spans = st.lists(st.integers(0, 10_000), min_size=2, max_size=2).map(sorted)
    objects = []
    for name in names:
        (x1, x2), (y1, y2) = data.draw(spans), data.draw(spans)
        objects.append((name, Box(x1 / 1e4, y1 / 1e4, x2 / 1e4, y2 / 1e4)))
    text = grammar.dialect.answer(objects)
    written, parrot = say(grammar, text)  # a parrot says nothing sensible after other tokens
    assert written.text == text
    assert not written.truncated
    assert written.decoded == len(parrot.wanted)


def test_forced_tokens_share_a_run_with_a_decision(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("person", "box"))
    text = BBOX.answer([("person", Box(0.1, 0.2, 0.3, 0.4))] * 3)
    written, parrot = say(grammar, text)
    # one object or none, then for each its name, four coordinates, and whether there is one more
    assert parrot.runs <= 1 + 3 * (1 + 4 + 1)
    assert written.decoded > 4 * parrot.runs


# --- drafts change the time, never the answer -----------------------------------------------------------

SIDES = st.lists(st.integers(0, 1000).map(lambda side: side / 1000), min_size=2, max_size=2).map(sorted)
BOXES = st.tuples(SIDES, SIDES).map(lambda spans: Box(spans[0][0], spans[1][0], spans[0][1], spans[1][1]))
DRAFTS = st.lists(st.tuples(st.sampled_from((*LABELS, "dragon")), BOXES), max_size=5).map(tuple)


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 200), draft=DRAFTS)
def test_any_draft_gives_the_answer_that_none_gives(
    grammar: Grammar, seed: int, limit: int, draft: Draft
) -> None:
    assert scribble(grammar, seed, limit, draft) == scribble(grammar, seed, limit)


def test_where_rounding_could_decide_the_model_is_asked_again(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, NAMES)
    text = BBOX.answer(THREE)
    twin = vocabulary.plain("box")[0], vocabulary.plain("person")[0]

    class Rounding(Parrot):
        """Cannot tell two labels apart in a large run: there it errs by a little, and the wrong way."""

        def __call__(self, start: int, tokens: Sequence[int], places: Sequence[int]) -> list[Logits]:
            rows = super().__call__(start, tokens, places)
            for row in rows:
                wanted = int(row.argmax())
                if wanted in twin:
                    other = twin[1 - twin.index(wanted)]
                    row[other] = row[wanted] + np.float32(1e-5 if len(places) > EXACT_ROWS else -1e-5)
            return rows

    speculator = Speculator(grammar, cost)
    for _ in range(6):
        model = Rounding(vocabulary, text)
        written = write_boxes(speculator, 0, model, Sampler(GREEDY), 1000, tuple(THREE))
        assert written.text == text


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), draft=DRAFTS)
def test_what_was_learnt_about_guesses_never_changes_an_answer(
    grammar: Grammar, seed: int, draft: Draft
) -> None:
    speculator = Speculator(grammar, cost)
    for number in range(4):
        monkey = Monkey(grammar.vocabulary, seed + number)
        sampler, fresh = (Sampler(replace(ANYTHING, seed=seed)) for _ in range(2))
        experienced = write_boxes(speculator, 0, monkey, sampler, 150, draft)
        assert experienced == write(grammar, Monkey(grammar.vocabulary, seed + number), fresh, 150)


def test_a_right_draft_saves_most_of_the_runs(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, NAMES)
    speculator, right = Speculator(grammar, cost), tuple(THREE)

    def runs(said: Draft, draft: Draft | None) -> int:
        parrot = Parrot(vocabulary, BBOX.answer(said))
        write_boxes(speculator, 0, parrot, Sampler(GREEDY), 1000, draft)
        return parrot.runs

    none = [runs(right, None) for _ in range(6)][-1]
    assert [runs(right, right) for _ in range(6)][-1] < none / 2
    # an object too many, one too few, another order: what is right of the draft still helps
    for draft in (right[:2], (*right, ("person", Box(0.7, 0.7, 0.8, 0.8))), right[::-1]):
        assert runs(right, draft) < none
    # what was always wrong is soon not tried any more
    wrong = tuple(("コーン", Box(0.9, 0.9, 0.95, 0.95)) for _ in range(3))
    assert [runs(right, wrong) for _ in range(20)][-1] <= none + 3


# --- limits -------------------------------------------------------------------------------------------

THREE = [("person", Box(0.1, 0.2, 0.3, 0.4)), ("box", Box(0.5, 0.5, 0.75, 1.0)), ("box 2", Box(0, 0, 1, 1))]


def test_every_limit_keeps_the_whole_objects_that_fit(grammar: Grammar) -> None:
    full = grammar.dialect.answer(THREE)
    sizes = [len(grammar.vocabulary.plain(grammar.dialect.answer(THREE[:count]))) for count in range(4)]
    for limit in range(1, sizes[3] + 2):
        written, _ = say(grammar, full, limit)
        kept = max((count for count, size in enumerate(sizes) if size <= limit), default=0)
        assert written.text == grammar.dialect.answer(THREE[:kept])
        assert written.truncated == (limit < sizes[3])
        assert written.decoded <= limit


def test_an_object_that_cannot_fit_is_not_begun(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("person",))
    one = len(vocabulary.plain(BBOX.answer(THREE[:1])))
    written, _ = say(grammar, BBOX.answer([THREE[0]] * 3), limit=one + 10)
    assert written.decoded < one


def test_when_time_is_up_whole_objects_are_kept(grammar: Grammar) -> None:
    full = grammar.dialect.answer(THREE)
    for most in range(12):
        parrot = Parrot(grammar.vocabulary, full)

        def until_time_is_up(
            start: int,
            tokens: Sequence[int],
            places: Sequence[int],
            parrot: Parrot = parrot,
            most: int = most,
        ) -> list[Logits] | None:
            return parrot(start, tokens, places) if parrot.runs < most else None

        written = write_boxes(Speculator(grammar, cost), 0, until_time_is_up, Sampler(GREEDY), 1000)
        assert written.truncated
        assert written.text in {grammar.dialect.answer(THREE[:count]) for count in range(3)}


# --- words --------------------------------------------------------------------------------------------


def test_words_end_where_the_model_ends_them(vocabulary: Vocabulary) -> None:
    parrot = Parrot(vocabulary, "A person stands by a コーン.")
    parrot.wanted.append(vocabulary.special(TURN_END))
    written = write_words(vocabulary, 0, parrot, Sampler(GREEDY), 100, TextSpeculator(cost))
    assert written.text == "A person stands by a コーン."
    assert not written.truncated
    assert written.decoded == len(parrot.wanted) - 1


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 50))
def test_words_keep_their_limit(vocabulary: Vocabulary, seed: int, limit: int) -> None:
    monkey = Monkey(vocabulary, seed)
    written = write_words(vocabulary, 0, monkey, Sampler(ANYTHING), limit, TextSpeculator(cost))
    assert written.decoded <= limit
    assert written.truncated == (written.decoded == limit)
    assert monkey.runs <= limit
    assert "<|" not in written.text


@given(seed=st.integers(0, 10**6), data=st.data())
def test_whatever_was_said_last_the_words_are_the_same(
    vocabulary: Vocabulary, seed: int, data: st.DataObject
) -> None:
    favoured = vocabulary.plain("A person stands by a box and a box stands by a person.")

    def said(recall: TextSpeculator) -> Written:
        monkey = Monkey(vocabulary, seed, favoured)
        return write_words(vocabulary, 0, monkey, Sampler(ANYTHING), 20, recall)

    plain = said(TextSpeculator(cost))
    recall = TextSpeculator(cost)
    recall.remember(data.draw(st.lists(st.sampled_from(favoured), max_size=30)))
    assert [said(recall) for _ in range(3)] == [plain] * 3


@pytest.mark.parametrize("unread", [1, 16, 60])
def test_the_first_run_has_room_for_the_end_of_the_question(vocabulary: Vocabulary, unread: int) -> None:
    grammar = Grammar(vocabulary, BBOX, NAMES)
    speculator, recall = Speculator(grammar, cost), TextSpeculator(cost)
    words = "A person stands by a box, and a box by a person."
    for _ in range(4):
        for text in (BBOX.answer(THREE), words):
            parrot = Parrot(vocabulary, text)
            parrot.wanted.append(vocabulary.special(TURN_END))
            first: list[int] = []

            def model(
                start: int,
                tokens: Sequence[int],
                places: Sequence[int],
                parrot: Parrot = parrot,
                first: list[int] = first,
            ) -> list[Logits]:
                first.append(len(tokens))
                return parrot(start, tokens, places)

            if text == words:
                written = write_words(vocabulary, unread, model, Sampler(GREEDY), 100, recall)
            else:
                written = write_boxes(speculator, unread, model, Sampler(GREEDY), 1000, tuple(THREE))
            assert written.text == text
            assert unread + first[0] <= LONGEST_RUN


def test_words_that_are_said_again_need_few_runs(vocabulary: Vocabulary) -> None:
    recall = TextSpeculator(cost)
    runs = []
    for text in ("A person stands by a box.",) * 5 + ("A forklift stands by a box.", "Nothing is there."):
        parrot = Parrot(vocabulary, text)
        parrot.wanted.append(vocabulary.special(TURN_END))
        assert write_words(vocabulary, 0, parrot, Sampler(GREEDY), 100, recall).text == text
        runs.append(parrot.runs / len(parrot.wanted))
    assert runs[0] > 0.8
    assert runs[4] < 0.3
    assert runs[5] < 0.8
    assert runs[6] <= 1.0


# --- log-probabilities --------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6))
def test_spans_cover_the_text_in_order(grammar: Grammar, seed: int) -> None:
    written = scribble(grammar, seed, 300)
    whole = 0
    for token in written.tokens:
        assert token.start <= whole <= token.end
        assert token.log_prob <= 0.0
        whole = token.end
    assert written.truncated or whole == len(written.text)


def test_a_decision_has_the_models_own_probability_and_a_forced_token_none(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("person", "box"))
    text = BBOX.answer(THREE[:1])
    written, _ = say(grammar, text)
    sure = 20.0 - math.log(math.exp(20.0) + len(vocabulary.pieces) - 1)
    by_start = {text[token.start : token.end]: token.log_prob for token in written.tokens}
    assert by_start["person"] == pytest.approx(sure, abs=1e-9)
    assert by_start["label"] == by_start["bbox"] == by_start["."] == 0.0
    (detection,) = parse(text, BBOX).scored(written.tokens)
    assert 0.9 < detection.score <= 1.0


def test_a_model_pressed_into_a_closed_vocabulary_shows_it(vocabulary: Vocabulary) -> None:
    grammar = Grammar(vocabulary, BBOX, ("cone",))
    person, first = vocabulary.plain("person")[0], vocabulary.plain('[{"')[0]
    logits = np.zeros(len(vocabulary.pieces), dtype=np.float32)
    logits[[person, first]] = 20.0
    written = write_boxes(
        Speculator(grammar, cost), 0, lambda start, tokens, places: [logits] * len(places),
        Sampler(GREEDY), 40,
    )  # fmt: skip
    assert json.loads(written.text)[0]["label"] == "cone"


# --- sampling -----------------------------------------------------------------------------------------


def draws(settings: SamplingSettings, logits: Sequence[float], count: int) -> list[int]:
    """First draws of `count` fresh samplers with different seeds."""
    row = np.array(logits, dtype=np.float32)
    return [Sampler(replace(settings, seed=seed)).draw(row)[0] for seed in range(count)]


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
    assert [sampler.draw(logits)[0] for _ in range(3)] == [0, 1, 0]


def test_the_same_seed_draws_the_same() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    first, second = (Sampler(replace(ANYTHING, seed=7)) for _ in range(2))
    assert [first.draw(row) for row in logits] == [second.draw(row) for row in logits]


def test_only_allowed_tokens_are_drawn() -> None:
    logits = np.array([9.0, 1.0, 5.0, 2.0], dtype=np.float32)
    assert Sampler(GREEDY).draw(logits, np.array([1, 3]))[0] == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(PerceptionError, match="NaN or infinity"):
        Sampler(GREEDY).draw(np.array([1.0, bad, 0.0], dtype=np.float32))
