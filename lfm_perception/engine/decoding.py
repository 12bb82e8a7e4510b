"""Writing an answer token by token: boxes in a dialect's JSON and nothing else, or free words.

Boxes are written along the automaton of `grammar`: only its decisions are drawn, from the tokens allowed
there. What is forced goes to the model in one run, together with the decision before it and with what
`speculator` expects to come; a guess that turns out wrong is taken back.

Sampling follows llama.cpp's order, on the allowed tokens only: repetition penalty, then min_p, then
temperature; temperature 0 takes the likeliest. The penalty covers the tokens decided in this answer.

The log-probability kept for a decision is that of the model's own distribution, over all tokens and at
temperature 1: a model that was pressed into the allowed set against its will shows a low one. Forced
tokens have 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lfm_perception.answers import Spread, TokenLogProb
from lfm_perception.engine.grammar import State
from lfm_perception.engine.speculative import EXACT_ROWS, Speculator, TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import Draft
from lfm_perception.settings import SamplingSettings

Logits = NDArray[np.float32]
"""One number for each token of the vocabulary, shape (tokens,)."""

NEARBY = 0.012
"""How far from the number that was drawn others count for its mean, as a part of the image. Farther ones
are other answers, such as the side of another object, and not spread."""


ROUNDING = 1e-3
"""More than the logits of a large run differ from those of a small one (1e-6 with the 450M model)."""


class Model(Protocol):
    """The model that answers, at the end of the prompt."""

    def __call__(
        self, start: int, tokens: Sequence[int], places: Sequence[int], /
    ) -> Sequence[Logits] | None:
        """Feed tokens number `start` and following of the answer; what was fed from there on is taken back.

        Gives the logits after the tokens at `places`, which are ascending; place -1 of the first tokens is
        the end of the prompt. They are valid until the next call. None when the time is up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """A finished answer.

    `decoded` counts the tokens that were taken, also those of an object that did not fit and was
    dropped from `text`; it never exceeds the limit. `truncated`: a limit, not the model, ended it.
    """

    text: str
    tokens: tuple[TokenLogProb, ...]
    decoded: int
    truncated: bool


class Sampler:
    """Draws tokens for one answer; a fresh sampler with the same seed draws the same."""

    def __init__(self, settings: SamplingSettings) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._drawn: list[int] = []

    def draw(self, logits: Logits, allowed: NDArray[np.intp] | slice = slice(None)) -> tuple[int, float]:
        """One of the allowed tokens, and its log-probability among all tokens at temperature 1.

        Raises PerceptionError when the logits are not numbers.
        """
        peak = float(logits.max())
        if not math.isfinite(peak):
            raise PerceptionError(
                "the model computed NaN or infinity instead of probabilities: its files are damaged, "
                "compare their SHA-256 with the publisher's"
            )
        choice = self._choose(self._penalized(logits)[allowed])
        token = choice if isinstance(allowed, slice) else int(allowed[choice])
        self._drawn.append(token)
        total = peak + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))
        return token, float(logits[token]) - total

    def hesitates(self, logits: Logits, allowed: NDArray[np.intp] | slice = slice(None)) -> bool:
        """Whether rounding could make another token the likeliest, where that is what counts."""
        if self._settings.temperature:
            return False
        likely = self._penalized(logits)[allowed]
        return bool(np.count_nonzero(likely > likely.max() - ROUNDING) > 1)

    def _penalized(self, logits: Logits) -> Logits:
        penalty = np.float32(self._settings.repeat_penalty)
        if penalty == 1.0 or not self._drawn:
            return logits
        drawn = np.unique(self._drawn)
        penalized = logits.copy()
        penalized[drawn] = np.where(logits[drawn] > 0.0, logits[drawn] / penalty, logits[drawn] * penalty)
        return penalized

    def _choose(self, logits: Logits) -> int:
        best = int(logits.argmax())
        if self._settings.temperature == 0.0:
            return best
        least = math.log(self._settings.min_p) if self._settings.min_p else -math.inf
        below = (logits - logits[best]).astype(np.float64)
        likely = np.flatnonzero(below >= least)
        weights = np.exp(below[likely] / self._settings.temperature).cumsum()
        return int(likely[np.searchsorted(weights, self._random.random() * weights[-1], side="right")])


def write_boxes(
    speculator: Speculator,
    unread: int,
    model: Model,
    sampler: Sampler,
    limit: int,
    draft: Draft | None = None,
) -> Written:
    """An answer of the speculator's grammar in at most `limit` tokens.

    `unread` tokens of the prompt are left to be read with the answer's first.

    The text is always the dialect's JSON with whole objects. When the next object does not fit, or the
    time is up, the array is closed after the last whole one. A draft changes the time it takes, nothing else.
    """
    vocabulary = speculator.grammar.vocabulary
    reading = _Reading(unread, model, limit)
    state, expected = speculator.grammar.start, speculator.expect(draft)
    tokens = reading.tokens
    log_probs: list[float] = []
    spreads: list[Spread | None] = []
    refused = b""
    while state.allowed.size:
        if state.allowed.size == 1:
            token, log_prob, spread = int(state.allowed[0]), 0.0, None
        else:
            row = reading.logits(
                partial(speculator.ahead, state, expected), partial(sampler.hesitates, allowed=state.allowed)
            )
            if row is None:
                break
            token, log_prob = sampler.draw(row, state.allowed)
            spread = _spread(row, state, token)
            speculator.note(state, token, expected)
        following = state.after(token)
        if len(tokens) + 1 + following.to_end > limit:
            refused = vocabulary.pieces[token]  # it may hold the brace that ends an object
            break
        reading.take(token)
        log_probs.append(log_prob)
        spreads.append(spread)
        expected = speculator.after(state, token, expected)
        state = following
    pieces = [vocabulary.pieces[token] for token in tokens]
    text = (b"".join(pieces) + refused).decode(errors="ignore")
    truncated = bool(state.allowed.size)
    spans = _spans(pieces, log_probs, spreads)
    return Written(_whole(text) if truncated else text, spans, len(tokens), truncated)


def write_words(
    vocabulary: Vocabulary,
    unread: int,
    model: Model,
    sampler: Sampler,
    limit: int,
    recall: TextSpeculator,
) -> Written:
    """Free text until the model ends it, in at most `limit` tokens. `unread`: see `write_boxes`.

    What `recall` remembers changes the time it takes, nothing else; it learns the answer.
    """
    reading = _Reading(unread, model, limit)
    tokens = reading.tokens
    log_probs: list[float] = []
    truncated = True
    while len(tokens) < limit:
        row = reading.logits(partial(recall.ahead, tokens), sampler.hesitates)
        if row is None:
            break
        token, log_prob = sampler.draw(row)
        if token in vocabulary.ends:
            truncated = False
            break
        recall.note(recall.guess(tokens), token)
        reading.take(token)
        log_probs.append(log_prob)
    if tokens:
        recall.remember(tokens)
    pieces = [vocabulary.pieces[token] for token in tokens]
    text = b"".join(pieces).decode(errors="ignore")
    spans = _spans(pieces, log_probs, [None] * len(pieces))
    return Written(text, spans, len(tokens), truncated)


class _Reading:
    """What the model has been fed of an answer, guesses included, and the logits it gave."""

    def __init__(self, unread: int, model: Model, limit: int) -> None:
        self.tokens: list[int] = []
        """The answer so far."""
        self._unread, self._model, self._limit = unread, model, limit
        self._fed: list[int] = []
        self._rows: dict[int, Logits] = {}
        self._rounded = False
        """Whether the logits come from a run of so many that they may differ from plain decoding."""

    def take(self, token: int) -> None:
        """Go on with the answer; what was fed instead does not count."""
        number = len(self.tokens)
        if self._fed[number : number + 1] not in ([token], []):
            del self._fed[number:]
            self._rows.clear()
        self.tokens.append(token)

    def logits(
        self, ahead: Callable[[int, int], tuple[list[int], list[int]]], doubtful: Callable[[Logits], bool]
    ) -> Logits | None:
        """The logits after the answer so far. None when the time is up.

        `ahead(known, room)` gives what to feed in the same run: see `Speculator.ahead`. Logits that may be
        rounded another way than in plain decoding are computed again when they are `doubtful`.
        """
        count, fed = len(self.tokens), len(self._fed)
        if count not in self._rows:
            known = self.tokens[fed:]
            guessed, decisions = ahead(self._unread + len(known), self._limit - count)
            self._feed(known, guessed, [len(known) - 1, *(len(known) + number for number in decisions)])
        row = self._rows.get(count)
        if row is not None and self._rounded and doubtful(row):
            del self._fed[max(0, count - 1) :]
            self._feed(self.tokens[-1:], [], [len(self.tokens[-1:]) - 1])
            row = self._rows.get(count)
        return row

    def _feed(self, known: list[int], guessed: list[int], places: list[int]) -> None:
        fed = len(self._fed)
        rows = self._model(fed, [*known, *guessed], places) or ()
        self._rows = {fed + place + 1: row for place, row in zip(places, rows, strict=False)}
        self._fed += [*known, *guessed]
        self._rounded = len(places) > EXACT_ROWS
        self._unread = 0


def _whole(text: str) -> str:
    """The array up to its last whole object, closed."""
    end = start = 1
    while start < len(text):
        try:
            _, end = _JSON.raw_decode(text, start)
        except ValueError:
            break
        start = end + len(", ")
    return f"[{text[1:end]}]"


_JSON = json.JSONDecoder()


def _spread(logits: Logits, state: State, token: int) -> Spread | None:
    """The model's mean and standard deviation of the coordinate that ends with `token`."""
    drawn = state.sides.get(token)
    if drawn is None:
        return None
    near = np.abs(state.allowed_sides - drawn) <= NEARBY  # NaN is not
    sides, likely = state.allowed_sides[near], logits[state.allowed[near]].astype(np.float64)
    weights = np.exp(likely - likely.max())
    weights /= weights.sum()
    mean = min(float(weights @ sides), 1.0)  # the sum of the weights is 1 but for rounding
    return Spread(mean, math.sqrt(float(weights @ (sides - mean) ** 2)))


def _spans(
    pieces: Sequence[bytes], log_probs: Sequence[float], spreads: Sequence[Spread | None]
) -> tuple[TokenLogProb, ...]:
    """What is known of each token, with the characters it touches, the last possibly in part."""
    spans = []
    begun = 0
    for piece, log_prob, spread in zip(pieces, log_probs, spreads, strict=True):
        starts = [byte & 0xC0 != 0x80 for byte in piece]
        first = begun - (bool(starts) and not starts[0])
        begun += sum(starts)
        spans.append(TokenLogProb(first, begun, log_prob, spread))
    return tuple(spans)
