"""The answers of a dialect as an automaton over tokens.

A dialect's answers form a regular language. `Grammar` turns it into a small automaton: in each state the
tokens that may come next are a precomputed set. Its paths are cut out of whole rendered answers, tokenized
by the model's own vocabulary, so that syntax, numbers and labels are written in the tokens in which the
model would write them. A state with one token left is forced.

What is decided: whether there is a (further) object, its label, and each coordinate. A label is one of
the allowed ones (closed vocabulary), or any name (open vocabulary).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lfm_perception.engine.vocabulary import NameTokens, Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.questions import Dialect, in_json

LONGEST_LABEL = 16
"""Tokens in the longest label of an open vocabulary, not counting those that finish a character."""


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

    def walk(self, objects: Sequence[tuple[str, Box]]) -> Iterator[tuple[State, int]]:
        """The way through the answer that holds these objects: each place, and the token chosen there.

        It ends early where the automaton does not go on, such as at a label that is not allowed.
        """
        state = self.start
        for token in self.vocabulary.plain(self.dialect.answer(objects)):
            if token not in state.allowed:
                return
            yield state, token
            state = state.after(token)

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
