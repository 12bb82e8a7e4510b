# SPDX-License-Identifier: Apache-2.0
"""Fake models for the decoder: functions from the answer so far to logits.

Stand-ins for logits that no real model gives on request: ties, rounding and any answer at all. The
tests of the engine decode with the demo model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import settings

from lfm_perception.engine.decoding import (
    DecodedAnswer,
    Sampler,
    decode_boxes,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import MAX_BATCH_TOKENS, MAX_OUTPUTS, Logits
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.questions import Dialect, Draft
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
"""Labels that an open vocabulary tokenizes as the model would: no punctuation at their edges."""

GREEDY = SamplingSettings(temperature=0.0, repeat_penalty=1.0)
ANYTHING = SamplingSettings(temperature=1.0, min_p=0.0)


PER_GRAMMAR = settings(max_examples=25, deadline=None)
"""A property of answers is tried so often with each of the six grammars."""

RANDOM_LOGITS: Logits = np.random.default_rng(1).normal(scale=4.0, size=1 << 20).astype(np.float32)
"""Drawn once: a random model takes a part of them, because drawing would take most of the time of a test."""


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
        begin = hash((self._seed, *tokens)) % (len(RANDOM_LOGITS) - self.size)
        logits = RANDOM_LOGITS[begin : begin + self.size].copy()
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


def sequential_answer(grammar: Grammar, model: FakeModel, sampler: Sampler, limit: int) -> tuple[str, int]:
    """Text and number of tokens by plain decoding: one after the other, without drafts or batches.

    The text ends with the token that exceeds the limit.
    """
    tokens: list[int] = []
    encoded, state = b"", grammar.start
    while state.allowed_tokens.size:
        token = int(state.allowed_tokens[0])
        if state.allowed_tokens.size > 1:
            token, _ = sampler.sample(model.after(tokens), state.allowed_tokens)
        state = state.next_state(token)
        encoded += grammar.vocabulary.pieces[token]
        if len(tokens) + 1 + state.tokens_to_end > limit:
            break
        tokens.append(token)
    return encoded.decode(errors="ignore"), len(tokens)


THREE = [("person", Box(0.1, 0.2, 0.3, 0.4)), ("box", Box(0.5, 0.5, 0.75, 1.0)), ("box 2", Box(0, 0, 1, 1))]
