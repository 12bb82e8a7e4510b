"""Writing an answer token by token: boxes in a dialect's JSON and nothing else, or free words.

A dialect's answers form a regular language. `Grammar` turns it into a small automaton over tokens: in
each state the tokens that may come next are a precomputed set. Its paths are cut out of whole rendered
answers, tokenized by the model's own vocabulary, so that syntax, numbers and labels are written in the
tokens in which the model would write them. A state with one token left is forced: runs of forced tokens
go to the model as one batch, together with the decision before them.

What is decided: whether there is a (further) object, its label, and each coordinate. A label is one of
the allowed ones (closed vocabulary), or any name (open vocabulary).

Sampling follows llama.cpp's order, on the allowed tokens only: repetition penalty, then min_p, then
temperature; temperature 0 takes the likeliest. The penalty covers the tokens decided in this answer.

The log-probability kept for a decision is that of the model's own distribution, over all tokens and at
temperature 1: a model that was pressed into the allowed set against its will shows a low one. Forced
tokens have 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.settings import SamplingSettings
from lfm_perception.vlm.answers import Spread, TokenLogProb
from lfm_perception.vlm.prompts import Dialect, in_json
from lfm_perception.vlm.vocabulary import NameTokens, Vocabulary

Logits = NDArray[np.float32]
"""One number for each token of the vocabulary, shape (tokens,)."""

NEARBY = 0.012
"""How far from the number that was drawn others count for its mean, as a part of the image. Farther ones
are other answers, such as the side of another object, and not spread."""

LONGEST_LABEL = 16
"""Tokens in the longest label of an open vocabulary, not counting those that finish a character."""


class Step(Protocol):
    """Feeds tokens to the model; the logits after the last one, or None when the time is up."""

    def __call__(self, tokens: Sequence[int], /) -> Logits | None: ...


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


def write_boxes(grammar: Grammar, logits: Logits | None, step: Step, sampler: Sampler, limit: int) -> Written:
    """An answer of the grammar in at most `limit` tokens, from the logits after the prompt.

    The text is always the dialect's JSON with whole objects. When the next object does not fit, or the
    time is up, the array is closed after the last whole one.
    """
    state = grammar.start
    tokens: list[int] = []
    log_probs: list[float] = []
    spreads: list[Spread | None] = []
    fed, refused = 0, b""
    while state.allowed.size:
        if state.allowed.size == 1:
            token, log_prob, spread = int(state.allowed[0]), 0.0, None
        else:
            if fed < len(tokens):
                logits, fed = step(tokens[fed:]), len(tokens)
            if logits is None:
                break
            token, log_prob = sampler.draw(logits, state.allowed)
            spread = _spread(logits, state, token)
        following = state.after(token)
        if len(tokens) + 1 + following.to_end > limit:
            refused = grammar.vocabulary.pieces[token]  # it may hold the brace that ends an object
            break
        tokens.append(token)
        log_probs.append(log_prob)
        spreads.append(spread)
        state = following
    pieces = [grammar.vocabulary.pieces[token] for token in tokens]
    text = (b"".join(pieces) + refused).decode(errors="ignore")
    truncated = bool(state.allowed.size)
    spans = _spans(pieces, log_probs, spreads)
    return Written(_whole(text) if truncated else text, spans, len(tokens), truncated)


def write_words(
    vocabulary: Vocabulary, logits: Logits | None, step: Step, sampler: Sampler, limit: int
) -> Written:
    """Free text until the model ends it, in at most `limit` tokens, from the logits after the prompt."""
    tokens: list[int] = []
    log_probs: list[float] = []
    truncated = True
    while logits is not None and len(tokens) < limit:
        token, log_prob = sampler.draw(logits)
        if token in vocabulary.ends:
            truncated = False
            break
        tokens.append(token)
        log_probs.append(log_prob)
        if len(tokens) < limit:
            logits = step([token])
    pieces = [vocabulary.pieces[token] for token in tokens]
    text = b"".join(pieces).decode(errors="ignore")
    spans = _spans(pieces, log_probs, [None] * len(pieces))
    return Written(text, spans, len(tokens), truncated)


class State:
    """A place in the automaton: which tokens may come next, and where they lead.

    `to_end` is the least number of tokens from here to the end of the answer. `sides` are the
    coordinates, normalized, that are complete with one of the tokens that may come next.
    """

    def __init__(self) -> None:
        self.edges: dict[int, State] = {}
        self.sides: dict[int, float] = {}
        self.to_end = 0

    @cached_property
    def allowed(self) -> NDArray[np.intp]:
        """The tokens that may come next; none at the end of the answer."""
        return np.fromiter(self.edges, dtype=np.intp)

    @cached_property
    def allowed_sides(self) -> NDArray[np.float64]:
        """The coordinate that each of the allowed tokens completes; NaN: none."""
        return np.array([self.sides.get(int(token), math.nan) for token in self.allowed])

    def after(self, token: int) -> State:
        """Where one of the allowed tokens leads."""
        return self.edges[token]

    def following(self) -> Iterable[State]:
        """The places one token from here."""
        return self.edges.values()


class Grammar:
    """The answers of a dialect, over a vocabulary. With `labels`, no other name may stand in them.

    Raises PerceptionError when the vocabulary joins a number or a label with the syntax around it in one
    token; those of the LFM2 family do not.
    """

    def __init__(self, vocabulary: Vocabulary, dialect: Dialect, labels: Sequence[str] | None) -> None:
        self.vocabulary = vocabulary
        self.dialect = dialect
        self.labels = labels
        opening, separator, _, _, closing = dialect.spell([_ONE]).split(_NUMBER)
        reopening = dialect.spell([_ONE, _ONE]).split(_NUMBER)[4]
        number = dialect.number(0.5)
        first = opening.replace(_LABEL, _NAME)
        box = first + number + 3 * (separator + number)

        end, x1 = State(), State()
        after_box = self._either(_Way(box, closing, "", end), _Way(box, reopening, number, x1))
        self.start = self._either(_Way("", dialect.spell([]), "", end), _Way("", opening, number, x1))

        comma = self._cut(box, separator, number)
        numbers = [(self._cut(first, text, separator), float(text)) for text in dialect.numbers()]

        def number_then(place: State) -> State:
            start = _trie((path, place) for path, _ in numbers)
            for path, value in numbers:
                _walk(start, path[:-1]).sides[path[-1]] = value / dialect.coordinate_range
            return start

        place = number_then(after_box)
        for _ in range(3):
            place = number_then(_trie([(comma, place)]))
        x1.edges, x1.sides = place.edges, place.sides
        _measure(self.start, end)

    def _either(self, *ways: _Way) -> State:
        """The place from which one takes one of the ways."""
        paths: list[tuple[Sequence[int], State]] = []
        exits: dict[str, list[_Way]] = {}
        for way in ways:
            if _LABEL not in way.text:
                paths.append((self._cut(way.before, way.text, way.after), way.target))
            elif self.labels is None:
                head, tail = way.text.split(_LABEL)
                exits.setdefault(head, []).append(replace(way, before=way.before + head + _NAME, text=tail))
            else:
                for name in self.labels:
                    text = way.text.replace(_LABEL, in_json(name))
                    paths.append((self._cut(way.before, text, way.after), way.target))
        for head, tails in exits.items():
            label = _open_label(self.vocabulary.names, self._either(*tails))
            paths.append((self._cut(ways[0].before, head, _NAME), label))
        return _trie(paths)

    def _cut(self, before: str, text: str, after: str) -> list[int]:
        """The tokens of `text` where it stands between `before` and `after`."""
        tokens = self.vocabulary.plain(before + text + after)
        edges = [0, *accumulate(len(self.vocabulary.pieces[token]) for token in tokens)]
        start, stop = len(before.encode()), len((before + text).encode())
        if start not in edges or stop not in edges:
            raise PerceptionError(
                f"the model's vocabulary has a token that crosses the edge of {text!r} in "
                f"{before + text + after!r}: it cannot write answers of this form"
            )
        return tokens[edges.index(start) : edges.index(stop)]


_LABEL, _NUMBER = "\ue000", "\ue001"
_ONE = (_LABEL, (_NUMBER, _NUMBER, _NUMBER, _NUMBER))
"""An object with stand-ins where something is to be decided."""

_NAME = "object"
"""A label as good as any other, where tokens are cut around an open one."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A text to write, the text around it, and where it leads."""

    before: str
    text: str
    after: str
    target: State


def _trie(paths: Iterable[tuple[Sequence[int], State]]) -> State:
    """The place from which each path of tokens leads to its state."""
    state = State()
    longer: dict[int, list[tuple[Sequence[int], State]]] = {}
    for path, target in paths:
        if len(path) == 1:
            state.edges[path[0]] = target
        else:
            longer.setdefault(path[0], []).append((path[1:], target))
    for token, rests in longer.items():
        onward = _trie(rests)
        if token in state.edges:  # one path is the beginning of another: 100 and 1000
            onward.edges.update(state.edges[token].edges)
        state.edges[token] = onward
    return state


def _walk(state: State, path: Iterable[int]) -> State:
    """The place to which a path of tokens leads."""
    for token in path:
        state = state.after(token)
    return state


def _measure(start: State, end: State) -> None:
    """Set `to_end` of every state on a way from start to end, walking backwards."""
    sources: dict[State, list[State]] = {start: []}
    waiting = [start]
    while waiting:
        state = waiting.pop()
        for place in state.following():
            if place not in sources:
                sources[place] = []
                waiting.append(place)
            sources[place].append(state)
    ring, measured, distance = {end}, {end}, 0
    while ring:
        for state in ring:
            state.to_end = distance
        ring = {source for state in ring for source in sources[state]} - measured
        measured |= ring
        distance += 1


def _open_label(names: NameTokens, exits: State) -> State:
    """The place before a label of any text, after which come the exits."""
    place = exits
    for _ in range(LONGEST_LABEL - 1):
        place = _Label(names, names.inner, exits.edges, place)
    return _Label(names, names.first, {}, place)


class _Label(State):
    """Between two characters of a label: one of the exits, or some token of text and then `further`."""

    def __init__(
        self, names: NameTokens, inside: NDArray[np.intp], exits: dict[int, State], further: State
    ) -> None:
        super().__init__()
        self.edges = exits
        self._names = names
        self._inside = inside
        self._further = further

    @cached_property
    def allowed(self) -> NDArray[np.intp]:
        return np.concatenate((super().allowed, self._inside))

    def after(self, token: int) -> State:
        if token in self.edges:
            return self.edges[token]
        begun = self._names.begun.get(token)
        return _Character(self._names, begun, self._further) if begun else self._further

    def following(self) -> Iterable[State]:
        return (*self.edges.values(), self._further)


class _Character(State):
    """Inside a character of a label, of which the first bytes are written; then comes `further`."""

    def __init__(self, names: NameTokens, begun: bytes, further: State) -> None:
        super().__init__()
        self._names = names
        self._further = further
        self._begun = names.continuing(begun)
        self.to_end = 1 + further.to_end

    @cached_property
    def allowed(self) -> NDArray[np.intp]:
        return np.fromiter(self._begun, dtype=np.intp)

    def after(self, token: int) -> State:
        begun = self._begun[token]
        return _Character(self._names, begun, self._further) if begun else self._further


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
