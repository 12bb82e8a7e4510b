# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: draft tokens for the next batch, and how many of them pay.

A batch of tokens costs little more than one token. So draft tokens are decoded in the same batch as the known
ones, and verified against the logits of that batch. A rejected draft costs some time; it never changes the
answer, for every token is sampled from the logits after the true tokens before it.

Draft tokens of a box answer come from a draft (the objects that the tracker predicts, with their boxes) and
from the form of the answer: most often there is a further object, and a coordinate begins with 0. Draft
tokens of free text are looked up in the previous answer to the same question (prompt-lookup decoding).

The length of a proposal follows from the acceptance rate at each state of the automaton, which is also
learned where nothing was proposed, from the measured batch cost, and from the cost of a token that is left
out: next to nothing where a long batch will decode it, a batch of its own otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lfm_perception.engine.grammar import Grammar, State
from lfm_perception.engine.kv_cache import BLOCK_TOKENS, MAX_BATCH_TOKENS, MAX_OUTPUTS, MAX_ROLLBACK
from lfm_perception.geometry import Box
from lfm_perception.questions import Draft

_INITIAL_ACCEPTANCE_RATE = 0.75
"""Acceptance rate of a state where no draft token has been verified yet."""

_SMOOTHING = 1 / 12
"""Weight of the latest observation in every moving average: a few frames."""

_MIN_PATH_PROBABILITY = 0.02
"""Probability of all draft tokens together below which a proposal is not extended."""

Proposal = tuple[list[int], list[int]]
"""Draft tokens for the next batch, and the indices of those after which a decision follows."""

TokenPath = Mapping[State, int]
"""The tokens in which an object is written, by the states in which they are chosen."""

_Place = tuple[State, bool]
"""A state of the automaton, and whether there was no draft."""

_DraftRun = tuple[list[int], float, list[float]]
"""A draft token with the forced tokens after it, its acceptance rate, and the seconds that the last 0, 1, ..
of these tokens cost when they are left out of the batch."""


class Speculator:
    """Proposes draft tokens for the answers of one grammar and learns their acceptance rates.

    `batch_cost(n)` are the seconds of a batch of n tokens.
    """

    def __init__(self, grammar: Grammar, batch_cost: Callable[[int], float]) -> None:
        self.grammar = grammar
        self.acceptance_rate = _INITIAL_ACCEPTANCE_RATE
        """Moving average over all decisions with a draft token, proposed or not."""
        self._batch_cost = batch_cost
        self._marginal_cost = (batch_cost(2 * BLOCK_TOKENS) - batch_cost(BLOCK_TOKENS)) / BLOCK_TOKENS
        self._acceptance_rates: dict[_Place, float] = {}
        self._solo_shares: dict[_Place, float] = {}
        self._verified: list[tuple[_Place, int]] = []  # since the last proposal, with the tokens of each
        self._cost_per_token = 0.0  # expected seconds in the last proposed batch
        names = grammar.labels or ("object", "area")
        one, other = (names[0], Box(0.1, 0.2, 0.3, 0.4)), (names[-1], Box(0.5, 0.6, 0.7, 0.8))
        path, second = self._path(one), self._path(other)
        self._common_path = {state: token for state, token in path.items() if second.get(state) == token}
        """Draft tokens without a draft: those in which all objects agree."""
        self._first_object, self._empty = _fork(grammar, [one], [])
        self._next_object, self._close = _fork(grammar, [one, one], [one])

    def start(self, draft: Draft | None) -> DraftState:
        """The state of a draft at the beginning of an answer; objects end early where the grammar does."""
        self._verified.clear()
        paths = None if draft is None else tuple(self._path(found) for found in draft)
        return DraftState(paths, (0.0,) * len(draft or ()))

    def draft(self, state: State, draft: DraftState) -> int | None:
        """The draft token in a state, None where there is none."""
        if draft.paths is None:
            return self._common_path.get(state)
        if state is self._first_object and not draft.paths:
            return self._empty
        if state is self._next_object and len(draft.paths) < 2:
            return self._close
        return (draft.current or self._common_path).get(state)

    def advance(self, state: State, token: int, draft: DraftState) -> DraftState:
        """The state of the draft after a token."""
        if not draft.paths:
            return draft
        return draft.without_current() if state is self._next_object else draft.after(state, token)

    def verify(self, state: State, token: int, draft: DraftState) -> None:
        """Learn from a decision whether the draft token is accepted."""
        place = state, draft.paths is None
        if (draft_token := self.draft(state, draft)) is not None:
            accepted = draft_token == token
            _observe(self._acceptance_rates, place, accepted, _INITIAL_ACCEPTANCE_RATE)
            self.acceptance_rate += _SMOOTHING * (accepted - self.acceptance_rate)
        self._verified.append((place, len(_forced(state, token)[0])))

    def propose(self, state: State, draft: DraftState, known: int, room: int) -> Proposal:
        """The draft tokens that save most time on average.

        Args:
            state: where the draft tokens begin.
            draft: state of the draft there.
            known: tokens that are decoded in the batch in any case, before the draft tokens.
            room: most draft tokens.
        """
        verified, self._verified = self._verified, []
        for place, count in verified[:-1]:  # their tokens were in the last batch, as accepted drafts
            self._learn_deferred_cost(place, count)
        runs = self._draft_runs(state, draft)
        proposal, self._cost_per_token = _best_proposal(runs, self._batch_cost, known, room)
        for place, count in verified[-1:]:
            self._learn_deferred_cost(place, count)
        return proposal

    def _draft_runs(self, state: State, draft: DraftState) -> Iterator[_DraftRun]:
        """The draft from a state on, as long as it is not improbable."""
        probability = 1.0
        for _ in range(MAX_OUTPUTS - 1):
            token = self.draft(state, draft)
            if token is None or probability <= _MIN_PATH_PROBABILITY:
                return
            place = state, draft.paths is None
            rate = self._acceptance_rates.get(place, _INITIAL_ACCEPTANCE_RATE)
            solo_share = self._solo_shares.get(place, 1.0)
            probability *= rate
            draft = self.advance(state, token, draft)
            tokens, state = _forced(state, token)
            if not state.allowed_tokens.size:
                return
            yield tokens, rate, [self._deferred_cost(count, solo_share) for count in range(len(tokens) + 1)]

    def _deferred_cost(self, tokens: int, solo_share: float) -> float:
        """Seconds of tokens that are decoded later: in a batch of their own or in a longer one."""
        if not tokens:
            return 0.0
        return solo_share * self._batch_cost(tokens) + (1.0 - solo_share) * self._marginal_cost * tokens

    def _learn_deferred_cost(self, place: _Place, tokens: int) -> None:
        """Learn from the last batch which share of a batch of their own the tokens after a decision cost."""
        least, most = self._deferred_cost(tokens, 0.0), self._deferred_cost(tokens, 1.0)
        if least < most and place in self._acceptance_rates:
            share = min(max((self._cost_per_token * tokens - least) / (most - least), 0.0), 1.0)
            _observe(self._solo_shares, place, share, 1.0)

    def _path(self, found: tuple[str, Box]) -> TokenPath:
        path: dict[State, int] = {}
        for state, token in self.grammar.path([found, found]):  # as the first object, and as a further one
            path.setdefault(state, token)
        return path


def _best_proposal(
    runs: Iterable[_DraftRun], batch_cost: Callable[[int], float], known: int, room: int
) -> tuple[Proposal, float]:
    """The beginning of the draft with the greatest expected gain.

    Returns: the proposal, and the expected seconds per known or accepted token of its batch.
    """
    tokens: list[int] = []
    decisions: list[int] = []
    best, best_gain, best_accepted = (0, 0), 0.0, 0.0
    probability, saved, accepted = 1.0, 0.0, 0.0  # of all tokens so far; expected seconds and tokens
    rejections: deque[tuple[int, float]] = deque()  # index in the batch, expected seconds to decode again
    rollback = 0.0  # expected seconds of the rejections that need a checkpoint
    for run, acceptance_rate, deferred in runs:
        begin = known + len(tokens)
        again = batch_cost(begin + len(run)) - batch_cost(len(run))
        rejections.append((begin, probability * (1.0 - acceptance_rate) * again))
        probability *= acceptance_rate
        most = min(len(run), room - len(tokens), MAX_BATCH_TOKENS - begin)
        for count in range(1, most + 1):
            while rejections and begin + count - rejections[0][0] > MAX_ROLLBACK:
                rollback += rejections.popleft()[1]
            value = saved + probability * (deferred[-1] - deferred[len(run) - count])
            gain = value - rollback - (batch_cost(begin + count) - batch_cost(known))
            if gain > best_gain:
                best = len(tokens) + count, len(decisions) + (count == len(run))
                best_gain, best_accepted = gain, accepted + probability * count
        tokens += run
        if most < len(run):
            break
        saved += probability * deferred[-1]
        accepted += probability * len(run)
        decisions.append(len(tokens) - 1)
    cost_per_token = batch_cost(known + best[0]) / max(1.0, known + best_accepted)
    return (tokens[: best[0]], decisions[: best[1]]), cost_per_token


class TextSpeculator:
    """Proposes draft tokens of free text from the previous answer to the same question."""

    def __init__(self, batch_cost: Callable[[int], float]) -> None:
        self.acceptance_rate = _INITIAL_ACCEPTANCE_RATE
        self._batch_cost = batch_cost
        self._previous: tuple[int, ...] = ()

    def remember(self, tokens: Sequence[int]) -> None:
        """Keep an answer for the drafts of the next one."""
        self._previous = tuple(tokens)

    def draft(self, tokens: Sequence[int]) -> int | None:
        """The draft token after these tokens of the answer, None where there is none."""
        return next(iter(self._previous[self._match(tokens) :]), None)

    def verify(self, tokens: Sequence[int], token: int) -> None:
        """Learn from the token after these whether the draft token is accepted."""
        if (draft_token := self.draft(tokens)) is not None:
            self.acceptance_rate += _SMOOTHING * ((draft_token == token) - self.acceptance_rate)

    def propose(self, tokens: Sequence[int], known: int, room: int) -> Proposal:
        """See `Speculator.propose`. Every token is a decision; all can be rolled back."""
        begin = self._match(tokens)
        most = min(room, MAX_ROLLBACK, MAX_BATCH_TOKENS - known, len(self._previous) - begin)
        best, best_gain, saved = 0, 0.0, 0.0
        for count in range(1, most + 1):
            saved += self.acceptance_rate**count * self._batch_cost(1)
            gain = saved - (self._batch_cost(known + count) - self._batch_cost(known))
            if gain > best_gain:
                best, best_gain = count, gain
        return list(self._previous[begin : begin + best]), list(range(best))

    def _match(self, tokens: Sequence[int]) -> int:
        """Index in the previous answer after the longest match of the last tokens, nearest to their count."""
        if not tokens:
            return 0
        ends = [index + 1 for index, token in enumerate(self._previous) if token == tokens[-1]]
        return max(
            ends,
            key=lambda end: (self._match_length(tokens, end), -abs(end - len(tokens))),
            default=len(self._previous),
        )

    def _match_length(self, tokens: Sequence[int], end: int) -> int:
        pairs = zip(reversed(tokens), reversed(self._previous[:end]), strict=False)
        return next((count for count, (token, previous) in enumerate(pairs) if token != previous), end)


@dataclass(frozen=True, slots=True)
class DraftState:
    """The objects of a draft that are not written yet; `paths` is None without a draft.

    `distances` from the tokens written of the current object to each path.
    """

    paths: tuple[TokenPath, ...] | None
    distances: tuple[float, ...]

    @property
    def current(self) -> TokenPath | None:
        """The path nearest to the current object."""
        return self.paths[self._nearest] if self.paths else None

    def after(self, state: State, token: int) -> DraftState:
        """After a token of the current object."""
        pairs = zip(self.paths or (), self.distances, strict=True)
        return replace(
            self, distances=tuple(distance + _distance(state, token, path) for path, distance in pairs)
        )

    def without_current(self) -> DraftState:
        """After the end of the current object."""
        done = self._nearest
        left = tuple(path for index, path in enumerate(self.paths or ()) if index != done)
        return DraftState(left, (0.0,) * len(left))

    @property
    def _nearest(self) -> int:
        return self.distances.index(min(self.distances))


def _distance(state: State, token: int, path: TokenPath) -> float:
    """0 for the path's own token, else the distance of the coordinates, or 1."""
    expected = path.get(state, token)
    if expected == token:
        return 0.0
    if token in state.coordinates and expected in state.coordinates:
        return abs(state.coordinates[token] - state.coordinates[expected])
    return 1.0


def _observe(averages: dict[_Place, float], place: _Place, value: float, initial: float) -> None:
    """Update the moving average of a place."""
    average = averages.get(place, initial)
    averages[place] = average + _SMOOTHING * (value - average)


def _forced(state: State, token: int) -> tuple[list[int], State]:
    """The token with the forced ones after it, and the next state with a decision, or the final state."""
    run = [token]
    state = state.next_state(token)
    while state.allowed_tokens.size == 1:
        run.append(int(state.allowed_tokens[0]))
        state = state.next_state(run[-1])
    return run, state


def _fork(
    grammar: Grammar, longer: Sequence[tuple[str, Box]], shorter: Sequence[tuple[str, Box]]
) -> tuple[State, int]:
    """The state in which two answers diverge, and the token of the shorter one there."""
    pairs = zip(grammar.path(longer), grammar.path(shorter), strict=False)
    return next((state, token) for (_, other), (state, token) in pairs if token != other)
