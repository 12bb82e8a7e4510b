# SPDX-License-Identifier: Apache-2.0
"""Decoding an answer token by token: boxes constrained by a grammar, or free text.

Boxes follow the automaton of `grammar`: only its decisions are sampled, from the allowed tokens. Forced
tokens are decoded in one batch with the decision before them and the draft tokens of `speculative`; rejected
draft tokens are rolled back.

Sampling follows llama.cpp's order, on the allowed tokens only: repetition penalty, then top_k, then min_p,
then temperature; temperature 0 takes the likeliest token. The penalty covers the tokens decided in this
answer and applies to free text only: in boxes it would change digits, repeated labels, and the choice between
another object and the end.

The log-probability of a decision is that of the model's own distribution at temperature 1, over all tokens:
it is low where the grammar excluded the model's choice. The tokens of a closed label are compared with the
other labels only, because the model may not know the words that were asked for. A number counts with all
its spellings (5, 50, 500 after `0.`). Forced tokens have 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lfm_perception.answers import Spread, TokenLogProb
from lfm_perception.engine.grammar import State
from lfm_perception.engine.kv_cache import MAX_EXACT_OUTPUTS, MAX_ROLLBACK, Logits
from lfm_perception.engine.speculative import Proposal, Speculator
from lfm_perception.engine.speculative_text import TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import Draft
from lfm_perception.settings import SamplingSettings
from lfm_perception.vlm import OnText

MAX_MEAN_OFFSET = 0.012
"""Largest distance from the sampled coordinate, normalized, of those that count for its mean and standard
deviation. More distant ones are other answers, such as the side of another object."""

MEAN_STEPS = 3
"""Least number of steps of the sampled number, such as 0.01 for 0.12, that count in each direction."""

NEAR_TIE = 1e-3
"""Difference of logits below which rounding may decide. Logits of a large batch differ from those of a small
one by less (1e-6 with the 450M model)."""

_JSON = json.JSONDecoder()


class DecodeFunction(Protocol):
    """The model at the end of the prompt: `KvCache.decode`."""

    def __call__(
        self, start: int, tokens: Sequence[int], outputs: Sequence[int], /
    ) -> Sequence[Logits] | None:
        """Roll the answer back to its first `start` tokens, then decode `tokens` after them.

        Args:
            start: number of the first token in the answer.
            tokens: accepted tokens, then draft tokens.
            outputs: ascending indices of the tokens after which logits are wanted; -1 before the first token
                of the answer is the end of the prompt.

        Returns: the logits, valid until the next call; None when a stop was requested.
        """
        ...


@dataclass(frozen=True, slots=True)
class DecodedAnswer:
    """A finished answer.

    `token_count` includes the tokens of an object that did not fit and was dropped from `text`; it never
    exceeds the limit. `truncated`: a limit ended the answer, not the model. `probabilities` are those of the
    question's options. `accepted` holds, for every decision with a draft token, whether it was accepted.
    """

    text: str
    tokens: tuple[TokenLogProb, ...]
    token_count: int
    truncated: bool
    probabilities: tuple[float, ...] = ()
    accepted: tuple[bool, ...] = field(default=(), compare=False)


class Sampler:
    """Samples the tokens of one answer; a new sampler with the same seed samples the same."""

    def __init__(self, settings: SamplingSettings) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self._sampled: list[int] = []

    def sample(self, logits: Logits, allowed: NDArray[np.intp] | None = None) -> tuple[int, float]:
        """A token and its log-probability among all tokens at temperature 1; with `allowed`, one of those.

        Raises PerceptionError when the logits are NaN or infinite.
        """
        peak = float(logits.max())
        if not math.isfinite(peak):
            raise PerceptionError(
                "the model computed NaN or infinity instead of probabilities: its files are damaged, "
                "compare their SHA-256 with the publisher's"
            )
        if allowed is None:
            token = self._choose(self._penalized(logits))
            self._sampled.append(token)
        else:
            token = int(allowed[self._choose(logits[allowed])])
        return token, float(logits[token]) - _log_sum(logits)

    def is_near_tie(self, logits: Logits, allowed: NDArray[np.intp] | None = None) -> bool:
        """Whether rounding could make another token the likeliest; above temperature 0 that is negligible."""
        if self._settings.temperature:
            return False
        penalized = self._penalized(logits) if allowed is None else logits[allowed]
        return bool(np.count_nonzero(penalized > penalized.max() - NEAR_TIE) > 1)

    def _penalized(self, logits: Logits) -> Logits:
        penalty = np.float32(self._settings.repeat_penalty)
        if penalty == 1.0 or not self._sampled:
            return logits
        sampled = np.unique(self._sampled)
        penalized = logits.copy()
        penalized[sampled] = np.where(
            logits[sampled] > 0.0, logits[sampled] / penalty, logits[sampled] * penalty
        )
        return penalized

    def _choose(self, logits: Logits) -> int:
        best = int(logits.argmax())
        if self._settings.temperature == 0.0:
            return best
        least = math.log(self._settings.min_p) if self._settings.min_p else -math.inf
        relative = (logits - logits[best]).astype(np.float64)
        likely = np.flatnonzero(relative >= least)
        top_k = self._settings.top_k
        if 0 < top_k < len(likely):
            likely = np.sort(likely[np.argpartition(-relative[likely], top_k - 1)[:top_k]])
        weights = np.exp(relative[likely] / self._settings.temperature).cumsum()
        return int(likely[np.searchsorted(weights, self._random.random() * weights[-1], side="right")])


class DecodeStream:
    """The decoded tokens of an answer, accepted and draft ones, with their logits.

    Args:
        decode: the model at the end of the prompt.
        prompt_tokens: tokens at the end of the prompt that the first batch decodes too.
        limit: maximum number of tokens of the answer.
    """

    def __init__(self, decode: DecodeFunction, prompt_tokens: int, limit: int) -> None:
        self.tokens: list[int] = []
        """The accepted tokens: the answer so far."""
        self.encoded = b""
        """Their text in UTF-8."""
        self.spans: list[TokenLogProb] = []
        """Their log-probabilities and the characters they touch, the last possibly in part."""
        self._decode_function, self._prompt_tokens, self._limit = decode, prompt_tokens, limit
        self._decoded: list[int] = []
        self._logits: dict[int, Logits] = {}
        self._rounded = False
        """Whether the batch had so many outputs that its logits may differ from those of plain decoding."""
        self._characters = 0
        self._start = self._again = 0
        """Where the last batch began in the answer, and its accepted tokens that are to be decoded again."""

    def accept(
        self, token: int, piece: bytes, log_prob: float, spread: Spread | None = None
    ) -> tuple[list[int], dict[int, Logits]]:
        """Append a token to the answer; draft tokens that were decoded instead are rejected.

        Returns: the rejected tokens, and by their numbers the logits before them, valid until the next batch.
        """
        number = len(self.tokens)
        rejected: tuple[list[int], dict[int, Logits]] = [], {}
        if self._decoded[number : number + 1] not in ([token], []):
            rejected = (
                self._decoded[number:],
                {place - number: logits for place, logits in self._logits.items() if place > number},
            )
            if len(rejected[0]) > MAX_ROLLBACK:
                self._again = number - self._start
            del self._decoded[number:]
            self._logits.clear()
        self.tokens.append(token)
        self.encoded += piece
        starts = [byte & 0xC0 != 0x80 for byte in piece]  # bytes that begin a character
        first = self._characters - (bool(starts) and not starts[0])
        self._characters += sum(starts)
        self.spans.append(TokenLogProb(first, self._characters, log_prob, spread))
        return rejected

    def logits(
        self, propose: Callable[[int, int], Proposal], is_near_tie: Callable[[Logits], bool]
    ) -> Logits | None:
        """The logits after the answer so far.

        Args:
            propose: draft tokens for the same batch, see `Speculator.propose`.
            is_near_tie: whether rounding could change the decision, so that logits of a large batch are
                computed again in a small one.

        Returns: None when a stop was requested.
        """
        count = len(self.tokens)
        if count not in self._logits:
            known = self.tokens[len(self._decoded) :]
            begun = self._prompt_tokens + self._again + len(known)
            draft, decisions = propose(begun, self._limit - count)
            self._decode(known, draft, [len(known) - 1, *(len(known) + index for index in decisions)])
        logits = self._logits.get(count)
        if logits is not None and self._rounded and is_near_tie(logits):
            del self._decoded[max(0, count - 1) :]
            self._decode(self.tokens[-1:], [], [len(self.tokens[-1:]) - 1])
            logits = self._logits.get(count)
        return logits

    def _decode(self, known: list[int], draft: list[int], outputs: list[int]) -> None:
        start = len(self._decoded)
        logits = self._decode_function(start, [*known, *draft], outputs) or ()
        self._logits = {start + index + 1: row for index, row in zip(outputs, logits, strict=False)}
        self._decoded += [*known, *draft]
        self._start, self._again = start - self._prompt_tokens, 0
        self._rounded = len(outputs) > MAX_EXACT_OUTPUTS
        self._prompt_tokens = 0


def decode_boxes(
    speculator: Speculator,
    prompt_tokens: int,
    decode: DecodeFunction,
    sampler: Sampler,
    limit: int,
    draft: Draft | None = None,
) -> DecodedAnswer:
    """Decode a box answer of the speculator's grammar.

    The text is always the dialect's JSON with whole objects. When the next object does not fit, or a stop is
    requested, the array is closed after the last whole one.

    Args:
        speculator: proposes draft tokens; they change the latency of the answer, never its content.
        prompt_tokens, decode, limit: see `DecodeStream`.
        sampler: a new one.
        draft: the objects that the answer is expected to hold.
    """
    pieces = speculator.grammar.vocabulary.pieces
    stream = DecodeStream(decode, prompt_tokens, limit)
    state, draft_state = speculator.grammar.start, speculator.start(draft)
    refused = b""
    verified = list[bool | None]()
    while state.allowed_tokens.size:
        if state.allowed_tokens.size == 1:
            token, log_prob, spread = int(state.allowed_tokens[0]), 0.0, None
        else:
            logits = stream.logits(
                partial(speculator.propose, state, draft_state),
                partial(sampler.is_near_tie, allowed=state.allowed_tokens),
            )
            if logits is None:
                break
            token, log_prob = sampler.sample(logits, state.allowed_tokens)
            log_prob = _log_prob(logits, state, token, log_prob)
            spread = _spread(logits, state, token)
            verified.append(speculator.verify(state, token, draft_state))
        following = state.next_state(token)
        if len(stream.tokens) + 1 + following.tokens_to_end > limit:
            refused = pieces[token]  # it may hold the brace that ends an object
            break
        rejected, logits_behind = stream.accept(token, pieces[token], log_prob, spread)
        draft_state = speculator.advance(state, token, draft_state)
        if logits_behind:
            draft_state = speculator.correct(state, draft_state, rejected, logits_behind)
        state = following
    text = (stream.encoded + refused).decode(errors="ignore")
    truncated = bool(state.allowed_tokens.size)
    text = _whole_objects(text) if truncated else text
    return DecodedAnswer(
        text, tuple(stream.spans), len(stream.tokens), truncated, accepted=_without_none(verified)
    )


def decode_text(
    vocabulary: Vocabulary,
    prompt_tokens: int,
    decode: DecodeFunction,
    sampler: Sampler,
    limit: int,
    speculator: TextSpeculator,
    on_text: OnText | None = None,
) -> DecodedAnswer:
    """Decode free text until the model ends it. Arguments as for `decode_boxes`.

    The speculator remembers the answer. `on_text` receives the text so far after every token.
    """
    stream = DecodeStream(decode, prompt_tokens, limit)
    tokens = stream.tokens
    truncated = True
    verified = list[bool | None]()
    while len(tokens) < limit:
        logits = stream.logits(partial(speculator.propose, tokens), sampler.is_near_tie)
        if logits is None:
            break
        token, log_prob = sampler.sample(logits)
        if token in vocabulary.end_tokens:
            truncated = False
            break
        verified.append(speculator.verify(tokens, token))
        _, logits_behind = stream.accept(token, vocabulary.pieces[token], log_prob)
        if logits_behind:
            speculator.correct(tokens, logits_behind)
        if on_text is not None:
            on_text(stream.encoded.decode(errors="ignore"))
    if tokens:
        speculator.remember(tokens)
    text = stream.encoded.decode(errors="ignore")
    return DecodedAnswer(text, tuple(stream.spans), len(tokens), truncated, accepted=_without_none(verified))


def _without_none(verified: Sequence[bool | None]) -> tuple[bool, ...]:
    return tuple(each for each in verified if each is not None)


def _whole_objects(text: str) -> str:
    """The array up to its last whole object, closed."""
    end = start = 1
    while start < len(text):
        try:
            _, end = _JSON.raw_decode(text, start)
        except ValueError:
            break
        start = end + len(", ")
    return f"[{text[1:end]}]"


def _log_prob(logits: Logits, state: State, token: int, log_prob: float) -> float:
    """The log-probability of a decision, given that of its token among all tokens."""
    if token in state.label_tokens:
        return float(logits[token]) - _log_sum(logits[state.allowed_tokens])
    coordinate = state.coordinates.get(token)
    if coordinate is None:
        return log_prob
    spellings = state.allowed_tokens[state.allowed_coordinates == coordinate]
    return min(0.0, log_prob + _log_sum(logits[spellings]) - float(logits[token]))


def _log_sum(logits: Logits) -> float:
    """The logarithm of the sum of the exponentials."""
    peak = float(logits.max())
    return peak + math.log(float(np.exp(logits - peak).sum(dtype=np.float64)))


def _spread(logits: Logits, state: State, token: int) -> Spread | None:
    """Mean and standard deviation, by the model's probabilities, of the coordinate that ends with `token`.

    Spellings with other numbers of digits are values on the same axis. A number with few digits has few
    neighbours: at least `MEAN_STEPS` on each side count, and it is at least as uncertain as its rounding.
    """
    sampled = state.coordinates.get(token)
    if sampled is None:
        return None
    step = state.steps[token]
    offset = max(MAX_MEAN_OFFSET, MEAN_STEPS * step + 1e-9)
    near = np.abs(state.allowed_coordinates - sampled) <= offset  # NaN is not
    coordinates, likely = (
        state.allowed_coordinates[near],
        logits[state.allowed_tokens[near]].astype(np.float64),
    )
    weights = np.exp(likely - likely.max())
    weights /= weights.sum()
    mean = min(float(weights @ coordinates), 1.0)  # the sum of the weights is 1 but for rounding
    std = math.sqrt(float(weights @ (coordinates - mean) ** 2))
    return Spread(mean, max(std, step / math.sqrt(12.0)))
