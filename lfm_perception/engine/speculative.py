# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding: draft tokens for the next batch, and how many of them are worth their cost.

A batch of tokens costs little more than one token. So draft tokens are decoded in the same batch as the last
accepted ones, and verified against the logits of that batch. A rejected draft costs some time; it never
changes the answer, because every token is sampled from the logits after the accepted tokens.

Draft tokens of a box answer come from a draft (the objects that the tracker predicts, with their boxes) and
from the syntax of the answer: most often there is a further object, and a coordinate begins with 0. Where a
draft token is rejected, the logits behind it show the model's next decisions after nearly the same text:
these decisions replace the draft (Jacobi decoding: Song et al., "Accelerating feedforward computation
via parallel nonlinear equation solving", 2021; Santilli et al., "Accelerating transformer inference for
translation via parallel decoding", 2023). `speculative_text` does the same for free text.

The length of a proposal follows from the acceptance rate at each state of the automaton, which is also
learned where nothing was proposed, from the measured batch cost, and from the cost of a token that is left
out: almost none where a long batch will decode it anyway, else that of a batch of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lfm_perception.engine.grammar import Grammar, State
from lfm_perception.engine.kv_cache import BLOCK_TOKENS, MAX_BATCH_TOKENS, MAX_OUTPUTS, MAX_ROLLBACK, Logits
from lfm_perception.geometry import Box
from lfm_perception.questions import Draft

INITIAL_ACCEPTANCE_RATE = 0.75
"""Acceptance rate assumed in a state where no draft token has been verified yet."""

SMOOTHING = 1 / 12
"""Weight of the latest observation in every moving average, which covers a few frames."""

_MIN_PATH_PROBABILITY = 0.02
"""Probability of all draft tokens together below which a proposal is not extended."""

Proposal = tuple[list[int], list[int]]
"""Draft tokens for the next batch, and the indices of those after which a decision follows."""

TokenPath = Mapping[State, int]
"""The tokens in which an object is written, by the states in which they are chosen."""

_RateKey = tuple[State, Literal["none", "predicted", "corrected"]]
"""Key of the learned averages: a state of the automaton, and the source of its draft token."""

_Candidate = tuple[int, _RateKey]

Corrections = tuple[tuple[State, int], ...]
"""States of coming decisions, each with the token that the model prefers behind a rejected draft."""


@dataclass(frozen=True, slots=True)
class _DraftRun:
    """A draft token with the forced tokens after it.

    `corrected_rate` is the acceptance rate that it has once its logits behind a rejection have corrected it.
    `deferred_s`: cost in seconds of leaving the last 0, 1, .. tokens out of the batch.
    """

    tokens: list[int]
    acceptance_rate: float
    corrected_rate: float
    deferred_s: list[float]


class Speculator:
    """Proposes draft tokens for the answers of one grammar and learns their acceptance rates.

    `batch_cost(n)`: seconds of a batch of n tokens with logits after one. `output_cost`: seconds of the
    logits after one more.
    """

    def __init__(
        self, grammar: Grammar, batch_cost: Callable[[int], float], output_cost: float = 0.0
    ) -> None:
        self.grammar = grammar
        self._output_cost = output_cost
        self._batch_cost = batch_cost
        self._marginal_cost = (batch_cost(2 * BLOCK_TOKENS) - batch_cost(BLOCK_TOKENS)) / BLOCK_TOKENS
        self._acceptance_rates: dict[_RateKey, float] = {}
        self._solo_shares: dict[_RateKey, float] = {}
        self._verified: list[tuple[_RateKey, int]] = []  # since the last proposal, with the tokens of each
        self._cost_per_token = 0.0  # expected seconds in the last proposed batch
        names = grammar.labels or ("object", "area")
        one, other = (names[0], Box(0.1, 0.2, 0.3, 0.4)), (names[-1], Box(0.5, 0.6, 0.7, 0.8))
        path, second = self._path(one) or {}, self._path(other) or {}
        self._common_path = {state: token for state, token in path.items() if second.get(state) == token}
        """Draft tokens without a draft: those in which all objects agree."""
        self._first_object, _, self._empty = _fork(grammar, [one], [])
        _, self._another, self._close = _fork(grammar, [one, one], [one])

    def start(self, draft: Draft | None) -> DraftState:
        """The state of a draft at the beginning of an answer, without objects that no answer can hold."""
        self._verified.clear()
        paths = tuple(path for found in draft or () if (path := self._path(found)))
        return DraftState(None if draft is None or (draft and not paths) else paths, (0.0,) * len(paths))

    def draft(self, state: State, draft: DraftState) -> _Candidate | None:
        """The likeliest draft token in a state, None where there is none."""
        return max(self._candidates(state, draft), key=lambda each: self._rate(each[1]), default=None)

    def _candidates(self, state: State, draft: DraftState) -> Iterator[_Candidate]:
        if (corrected := draft.correction(state)) is not None:
            yield corrected, (state, "corrected")
        if (predicted := self._predicted(state, draft)) is not None:
            yield predicted, (state, "none" if draft.paths is None else "predicted")

    def _rate(self, key: _RateKey) -> float:
        return self._acceptance_rates.get(key, INITIAL_ACCEPTANCE_RATE)

    def _predicted(self, state: State, draft: DraftState) -> int | None:
        """The draft token from the expected objects, or from the syntax of the answer."""
        if draft.paths is None:
            return self._common_path.get(state)
        if state is self._first_object and not draft.paths:
            return self._empty
        token = (draft.current or self._common_path).get(state)
        if token == self._another and self._may_end_object(state) and len(draft.paths) < 2:
            return self._close
        return token

    def _may_end_object(self, state: State) -> bool:
        """Whether an object may end here; where its label comes last, an open label may also go on."""
        return self._another in state.transitions and self._close in state.transitions

    def advance(self, state: State, token: int, draft: DraftState) -> DraftState:
        """The state of the draft after a token."""
        draft = draft.past_correction(state)
        if not draft.paths:
            return draft
        if token in (self._another, self._close) and self._may_end_object(state):
            return draft.without_current()
        return draft.after(state, token)

    def verify(self, state: State, token: int, draft: DraftState) -> bool | None:
        """Learn from a decision. Returns: whether the draft token is accepted, None where there was none."""
        chosen = self.draft(state, draft)
        for candidate, key in self._candidates(state, draft):
            _observe(self._acceptance_rates, key, candidate == token, INITIAL_ACCEPTANCE_RATE)
        key = chosen[1] if chosen else (state, "none")
        self._verified.append((key, len(_forced(state, token)[0])))
        return chosen and chosen[0] == token

    def correct(
        self, state: State, draft: DraftState, tokens: Sequence[int], logits: Mapping[int, Logits]
    ) -> DraftState:
        """The draft after a rejection, corrected by what the model preferred behind it (Jacobi iteration).

        Args:
            state: where the draft was rejected.
            draft: its state after the token that was sampled instead.
            tokens: the rejected tokens.
            logits: by their number in these tokens, after the tokens before.
        """
        corrections = list[tuple[State, int]]()
        for index in range(1, len(tokens) + 1):
            state = state.next_state(tokens[index - 1])
            allowed = state.allowed_tokens
            if index in logits and allowed.size:
                corrections.append((state, int(allowed[logits[index][allowed].argmax()])))
        return replace(draft, corrections=(*corrections, *draft.corrections[len(corrections) :]))

    def propose(self, state: State, draft: DraftState, known: int, room: int) -> Proposal:
        """The draft tokens that save most time on average.

        Args:
            state: where the draft tokens begin.
            draft: state of the draft there.
            known: number of tokens that the batch decodes in any case, before the draft tokens.
            room: maximum number of draft tokens.
        """
        verified, self._verified = self._verified, []
        for key, count in verified[:-1]:  # their tokens were in the last batch, as accepted drafts
            self._learn_deferred_cost(key, count)
        runs = self._draft_runs(state, draft)
        proposal, self._cost_per_token = _best_proposal(
            runs, self._batch_cost, self._output_cost, known, room
        )
        for key, count in verified[-1:]:
            self._learn_deferred_cost(key, count)
        return proposal

    def _draft_runs(self, state: State, draft: DraftState) -> Iterator[_DraftRun]:
        """The draft from a state on, until its acceptance becomes improbable."""
        accepted, corrected = 1.0, 0.0
        for _ in range(MAX_OUTPUTS - 1):
            candidate = self.draft(state, draft)
            if candidate is None or accepted + corrected <= _MIN_PATH_PROBABILITY:
                return
            token, key = candidate
            rate, corrected_rate = self._rate(key), self._rate((state, "corrected"))
            solo_share = self._solo_shares.get(key, 1.0)
            corrected = corrected * corrected_rate + accepted * (1.0 - rate)
            accepted *= rate
            draft = self.advance(state, token, draft)
            tokens, state = _forced(state, token)
            if not state.allowed_tokens.size:
                return
            deferred_s = [self._deferred_cost(count, solo_share) for count in range(len(tokens) + 1)]
            yield _DraftRun(tokens, rate, corrected_rate, deferred_s)

    def _deferred_cost(self, tokens: int, solo_share: float) -> float:
        """Seconds of tokens that are decoded later: in a batch of their own or in a longer one."""
        if not tokens:
            return 0.0
        return solo_share * self._batch_cost(tokens) + (1.0 - solo_share) * self._marginal_cost * tokens

    def _learn_deferred_cost(self, key: _RateKey, tokens: int) -> None:
        """Learn from the last batch the cost of a decision's tokens, as a share of a batch of their own."""
        least, most = self._deferred_cost(tokens, 0.0), self._deferred_cost(tokens, 1.0)
        if least < most and key in self._acceptance_rates:
            share = min(max((self._cost_per_token * tokens - least) / (most - least), 0.0), 1.0)
            _observe(self._solo_shares, key, share, 1.0)

    def _path(self, found: tuple[str, Box]) -> TokenPath | None:
        """The path of an object, as the first and as a further one; None where no answer can hold it."""
        path: dict[State, int] = {}
        end = self.grammar.start
        for state, token in self.grammar.path([found, found]):
            path.setdefault(state, token)
            end = state.next_state(token)
        return None if end.allowed_tokens.size else path


def _best_proposal(
    runs: Iterable[_DraftRun],
    batch_cost: Callable[[int], float],
    output_cost: float,
    known: int,
    room: int,
) -> tuple[Proposal, float]:
    """The beginning of the draft with the greatest expected gain.

    Returns: the proposal, and the expected seconds per known or accepted token of its batch.
    """
    tokens: list[int] = []
    decisions: list[int] = []
    best, best_gain, best_accepted = (0, 0), 0.0, 0.0
    probability, saved, accepted = 1.0, 0.0, 0.0  # of all tokens so far; expected seconds and tokens
    corrected = 0.0  # probability that a rejection came before, and all corrections since are accepted
    rejections: deque[tuple[int, float]] = deque()  # index in the batch, expected seconds to decode again
    rollback = 0.0  # expected seconds of the rejections that need a checkpoint
    for run in runs:
        begin, length = known + len(tokens), len(run.tokens)
        again = batch_cost(begin + length) - batch_cost(length)
        rejections.append((begin, probability * (1.0 - run.acceptance_rate) * again))
        improvement = corrected * max(0.0, run.corrected_rate - run.acceptance_rate)
        corrected = corrected * run.corrected_rate + probability * (1.0 - run.acceptance_rate)
        probability *= run.acceptance_rate
        most = min(length, room - len(tokens), MAX_BATCH_TOKENS - begin)
        for count in range(1, most + 1):
            while rejections and begin + count - rejections[0][0] > MAX_ROLLBACK:
                rollback += rejections.popleft()[1]
            value = saved + probability * (run.deferred_s[-1] - run.deferred_s[length - count])
            gain = value - rollback - (batch_cost(begin + count) - batch_cost(known))
            if count == length:
                gain -= (1.0 - probability) * output_cost
            if gain > best_gain:
                best = len(tokens) + count, len(decisions) + (count == length)
                best_gain, best_accepted = gain, accepted + probability * count
        tokens += run.tokens
        if most < length:
            break
        saved += (probability + improvement) * run.deferred_s[-1] - (1.0 - probability) * output_cost
        accepted += probability * length
        decisions.append(len(tokens) - 1)
    cost_per_token = batch_cost(known + best[0]) / max(1.0, known + best_accepted)
    return (tokens[: best[0]], decisions[: best[1]]), cost_per_token


@dataclass(frozen=True, slots=True)
class DraftState:
    """The objects of a draft that are not written yet; `paths` is None without a draft.

    `distances`: from the tokens of the current object so far to each path.
    """

    paths: tuple[TokenPath, ...] | None
    distances: tuple[float, ...]
    corrections: Corrections = ()

    def correction(self, state: State) -> int | None:
        """The corrected token for a state, None where there is none."""
        return next((token for corrected, token in self.corrections if corrected is state), None)

    def past_correction(self, state: State) -> DraftState:
        """Without the correction for a state, and those before it."""
        for index, (corrected, _) in enumerate(self.corrections):
            if corrected is state:
                return replace(self, corrections=self.corrections[index + 1 :])
        return self

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
        return replace(self, paths=left, distances=(0.0,) * len(left))

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


def _observe(averages: dict[_RateKey, float], key: _RateKey, value: float, initial: float) -> None:
    """Update the moving average of a key."""
    average = averages.get(key, initial)
    averages[key] = average + SMOOTHING * (value - average)


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
) -> tuple[State, int, int]:
    """The state in which two answers diverge, and the tokens of the longer and of the shorter one there."""
    pairs = zip(grammar.path(longer), grammar.path(shorter), strict=False)
    return next((state, other, token) for (_, other), (state, token) in pairs if token != other)
