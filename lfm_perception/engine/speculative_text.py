# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding of free text: drafts from the previous answer (prompt lookup), corrected behind
rejections as in `speculative`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lfm_perception.engine.kv_cache import MAX_BATCH_TOKENS, MAX_ROLLBACK, Logits
from lfm_perception.engine.speculative import INITIAL_ACCEPTANCE_RATE, SMOOTHING, Proposal


class TextSpeculator:
    """Proposes draft tokens of free text from the previous answer to the same question."""

    def __init__(self, batch_cost: Callable[[int], float], output_cost: float = 0.0) -> None:
        self._output_cost = output_cost
        self._acceptance_rates = {
            "looked up": INITIAL_ACCEPTANCE_RATE,
            "corrected": INITIAL_ACCEPTANCE_RATE,
        }
        self._batch_cost = batch_cost
        self._previous: tuple[int, ...] = ()
        self._corrected: tuple[int, tuple[int, ...]] = 0, ()
        """Number of the first corrected token in the answer, and the tokens."""

    def remember(self, tokens: Sequence[int]) -> None:
        """Keep an answer for the drafts of the next one."""
        self._previous, self._corrected = tuple(tokens), (0, ())

    def verify(self, tokens: Sequence[int], token: int) -> bool | None:
        """Learn from the next token. Returns: whether the draft token is accepted, None without one."""
        drafts = self._drafts(tokens)
        for source, draft in drafts.items():
            self._acceptance_rates[source] += SMOOTHING * (
                (draft[0] == token) - self._acceptance_rates[source]
            )
        return self._likeliest(drafts)[1][0] == token if drafts else None

    def correct(self, tokens: Sequence[int], logits: Mapping[int, Logits]) -> None:
        """Correct the draft after a rejection by the tokens that the model preferred behind it.

        Args:
            tokens: the answer, which ends with the token that was sampled instead.
            logits: see `Speculator.correct`.
        """
        self._corrected = len(tokens), tuple(int(logits[index].argmax()) for index in sorted(logits))

    def propose(self, tokens: Sequence[int], known: int, room: int) -> Proposal:
        """See `Speculator.propose`. Every token is a decision; all can be rolled back."""
        rate, draft = self._likeliest(self._drafts(tokens))
        most = min(room, MAX_ROLLBACK, MAX_BATCH_TOKENS - known, len(draft))
        best, best_gain, saved = 0, 0.0, 0.0
        for count in range(1, most + 1):
            saved += rate**count * self._batch_cost(1) - (1.0 - rate**count) * self._output_cost
            gain = saved - (self._batch_cost(known + count) - self._batch_cost(known))
            if gain > best_gain:
                best, best_gain = count, gain
        return list(draft[:best]), list(range(best))

    def _likeliest(self, drafts: Mapping[str, Sequence[int]]) -> tuple[float, Sequence[int]]:
        """The acceptance rate and the tokens of the draft that is accepted most often."""
        return max(
            ((self._acceptance_rates[source], draft) for source, draft in drafts.items()), default=(0.0, ())
        )

    def _drafts(self, tokens: Sequence[int]) -> dict[str, Sequence[int]]:
        """The tokens that are expected after these, by source."""
        begin, corrected = self._corrected
        since = tuple(tokens[begin:])
        corrected = corrected[len(since) :] if since == corrected[: len(since)] else ()
        drafts = {"looked up": self._previous[self._match(tokens) :], "corrected": corrected}
        return {source: draft for source, draft in drafts.items() if draft}

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
