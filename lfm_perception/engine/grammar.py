# SPDX-License-Identifier: Apache-2.0
"""Grammar-constrained decoding: the answers of a dialect as a finite-state automaton over tokens.

The answers of a dialect form a regular language. In each state of the automaton the allowed tokens are a
precomputed set. Its transitions are cut out of whole rendered answers that the model's own vocabulary has
tokenized, so that syntax, numbers and labels use the tokens that the model would use. A state with one
allowed token is forced.

Decisions are: whether there is a (further) object, its label, and each coordinate. A label is one of the
given labels (closed vocabulary), or any name (open vocabulary).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lfm_perception.engine.vocabulary import NameTokens, Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.questions import Dialect, in_json

MAX_LABEL_TOKENS = 16
"""Tokens in the longest label of an open vocabulary, without those that complete a character."""


class State:
    """A state of the automaton.

    `transitions` lead from each allowed token to the next state. `coordinates` are the normalized coordinates
    that an allowed token completes, `steps` the distances to the next number of as many digits.
    `label_tokens` hold text of closed labels. `tokens_to_end` is the least number of tokens to the end of the
    answer.
    """

    label_tokens: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.steps: dict[int, float] = {}
        self.transitions: dict[int, State] = {}
        self.coordinates: dict[int, float] = {}
        self.tokens_to_end = 0

    @cached_property
    def allowed_tokens(self) -> NDArray[np.intp]:
        """The allowed tokens; none in the final state."""
        return np.fromiter(self.transitions, dtype=np.intp)

    @cached_property
    def allowed_coordinates(self) -> NDArray[np.float64]:
        """The coordinate that each of the allowed tokens completes; NaN: none."""
        return np.array([self.coordinates.get(int(token), math.nan) for token in self.allowed_tokens])

    def next_state(self, token: int) -> State:
        """The state after one of the allowed tokens."""
        return self.transitions[token]

    def successors(self) -> Iterable[State]:
        """The states that one token leads to."""
        return self.transitions.values()


class Grammar:
    """The automaton of a dialect's answers over a vocabulary. With `labels`, the vocabulary is closed.

    Raises PerceptionError when the vocabulary joins a number or a label with the syntax around it in one
    token; those of the LFM2 family do not.
    """

    def __init__(self, vocabulary: Vocabulary, dialect: Dialect, labels: Sequence[str] | None) -> None:
        self.vocabulary = vocabulary
        self.dialect = dialect
        self.labels = labels
        opening, separator, _, _, closing = dialect.spell([_OBJECT]).split(_NUMBER)
        reopening = dialect.spell([_OBJECT, _OBJECT]).split(_NUMBER)[4]
        number = dialect.number(0.5)
        first = opening.replace(_LABEL, _ANY_NAME)
        box = first + number + 3 * (separator + number)

        end, x1 = State(), State()
        after_box = self._branch(_Segment(box, closing, "", end), _Segment(box, reopening, number, x1))
        self.start = self._branch(_Segment("", dialect.spell([]), "", end), _Segment("", opening, number, x1))

        comma = self._tokenize(box, separator, number)
        numbers = [(self._tokenize(first, text, separator), text) for text in dialect.numbers()]

        def number_then(target: State) -> State:
            state = _trie((path, target) for path, _ in numbers)
            for path, text in numbers:
                last = _follow(state, path[:-1])
                last.coordinates[path[-1]] = float(text) / dialect.coordinate_range
                last.steps[path[-1]] = _step(text, dialect)
            return state

        state = number_then(after_box)
        for _ in range(3):
            state = number_then(_trie([(comma, state)]))
        x1.transitions, x1.coordinates, x1.steps = state.transitions, state.coordinates, state.steps
        _set_tokens_to_end(self.start, end)

    def path(self, objects: Sequence[tuple[str, Box]]) -> Iterator[tuple[State, int]]:
        """The states and tokens of the answer that holds these objects.

        Ends early where a token is not allowed, such as at a label outside of a closed vocabulary.
        """
        state = self.start
        for token in self.vocabulary.tokenize(self.dialect.answer(objects)):
            if token not in state.transitions and token not in state.allowed_tokens:  # a dict is faster
                return
            yield state, token
            state = state.next_state(token)

    def _branch(self, *segments: _Segment) -> State:
        """The state from which each of the segments can be written."""
        paths: list[tuple[Sequence[int], State]] = []
        names: list[tuple[Sequence[int], int, int]] = []
        after_label: dict[str, list[_Segment]] = {}
        for segment in segments:
            if _LABEL in segment.text and self.labels is None:
                head, tail = segment.text.split(_LABEL)
                rest = replace(segment, before=segment.before + head + _ANY_NAME, text=tail)
                after_label.setdefault(head, []).append(rest)
                continue
            for name in (self.labels or ()) if _LABEL in segment.text else ("",):
                text = segment.text.replace(_LABEL, in_json(name))
                paths.append((self._tokenize(segment.before, text, segment.after), segment.target))
                begin = len(segment.text.partition(_LABEL)[0].encode())
                names.append((paths[-1][0], begin, begin + len(in_json(name).encode())))
        for head, rests in after_label.items():
            label = _open_label(self.vocabulary.name_tokens, self._branch(*rests))
            paths.append((self._tokenize(segments[0].before, head, _ANY_NAME), label))
        branch = _trie(paths)
        for path, begin, end in names:
            self._mark_label(branch, path, begin, end)
        return branch

    def _mark_label(self, state: State, path: Sequence[int], begin: int, end: int) -> None:
        """Note the tokens of a path that hold bytes `begin` to `end` of its text as those of a label."""
        stop = 0
        for token in path:
            start, stop = stop, stop + len(self.vocabulary.pieces[token])
            if start < end and stop > begin:
                state.label_tokens |= {token}
            state = state.next_state(token)

    def _tokenize(self, before: str, text: str, after: str) -> list[int]:
        """The tokens of `text` where it stands between `before` and `after`."""
        tokens = self.vocabulary.tokenize(before + text + after)
        edges = [0, *accumulate(len(self.vocabulary.pieces[token]) for token in tokens)]
        start, stop = len(before.encode()), len((before + text).encode())
        if start not in edges or stop not in edges:
            raise PerceptionError(
                f"the model's vocabulary has a token that crosses the edge of {text!r} in "
                f"{before + text + after!r}: it cannot write answers of this form"
            )
        return tokens[edges.index(start) : edges.index(stop)]


_LABEL, _NUMBER = "\ue000", "\ue001"
_OBJECT = (_LABEL, (_NUMBER, _NUMBER, _NUMBER, _NUMBER))
"""An object with placeholders for label and numbers."""

_ANY_NAME = "object"
"""An example of a label, for the tokenization of the text around an open label."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """A text between two decisions, the text around it, and the state after it."""

    before: str
    text: str
    after: str
    target: State


def _step(number: str, dialect: Dialect) -> float:
    """The rounding step of a number, normalized; one decimal may be two without the zero at their end."""
    decimals = min(max(len(number.partition(".")[2]), 2), dialect.decimals)
    return 10.0**-decimals / dialect.coordinate_range


def _trie(paths: Iterable[tuple[Sequence[int], State]]) -> State:
    """The state from which each path of tokens leads to its target."""
    state = State()
    longer: dict[int, list[tuple[Sequence[int], State]]] = {}
    for path, target in paths:
        if len(path) == 1:
            state.transitions[path[0]] = target
        else:
            longer.setdefault(path[0], []).append((path[1:], target))
    for token, rests in longer.items():
        onward = _trie(rests)
        if token in state.transitions:  # one path is the beginning of another: 100 and 1000
            onward.transitions.update(state.transitions[token].transitions)
        state.transitions[token] = onward
    return state


def _follow(state: State, path: Iterable[int]) -> State:
    """The state after a path of tokens."""
    for token in path:
        state = state.next_state(token)
    return state


def _set_tokens_to_end(start: State, end: State) -> None:
    """Set `tokens_to_end` of all states between start and end, by a breadth-first search backwards."""
    predecessors: dict[State, list[State]] = {start: []}
    waiting = [start]
    while waiting:
        state = waiting.pop()
        for successor in state.successors():
            if successor not in predecessors:
                predecessors[successor] = []
                waiting.append(successor)
            predecessors[successor].append(state)
    frontier, visited, distance = {end}, {end}, 0
    while frontier:
        for state in frontier:
            state.tokens_to_end = distance
        frontier = {source for state in frontier for source in predecessors[state]} - visited
        visited |= frontier
        distance += 1


def _open_label(names: NameTokens, exits: State) -> State:
    """The state before a label of any text, which ends with a transition of `exits`."""
    state = exits
    inner = np.concatenate((exits.allowed_tokens, names.inner))  # shared: a megabyte for 128,000 tokens
    for _ in range(MAX_LABEL_TOKENS - 1):
        state = _LabelState(names, inner, exits.transitions, state)
    return _LabelState(names, names.first, {}, state)


class _LabelState(State):
    """Between two characters of an open label: `exits` end it, other allowed tokens lead to `onward`."""

    def __init__(
        self, names: NameTokens, allowed: NDArray[np.intp], exits: dict[int, State], onward: State
    ) -> None:
        super().__init__()
        self.transitions = exits
        self._partial = names.partial
        self._allowed = allowed
        self._onward = onward
        self._inside = cache(lambda partial: _PartialCharacter(names, partial, onward))

    @cached_property
    def allowed_tokens(self) -> NDArray[np.intp]:
        return self._allowed

    def next_state(self, token: int) -> State:
        if token in self.transitions:
            return self.transitions[token]
        partial = self._partial.get(token)
        return self._inside(partial) if partial else self._onward

    def successors(self) -> Iterable[State]:
        return (*self.transitions.values(), self._onward)


class _PartialCharacter(State):
    """Inside a character of an open label, after its first bytes; the whole character leads to `onward`."""

    def __init__(self, names: NameTokens, partial: bytes, onward: State) -> None:
        super().__init__()
        self._onward = onward
        self._partial = names.continuations(partial)
        self._inside = cache(lambda partial: _PartialCharacter(names, partial, onward))
        self.tokens_to_end = 1 + onward.tokens_to_end

    @cached_property
    def allowed_tokens(self) -> NDArray[np.intp]:
        return np.fromiter(self._partial, dtype=np.intp)

    def next_state(self, token: int) -> State:
        partial = self._partial[token]
        return self._inside(partial) if partial else self._onward
