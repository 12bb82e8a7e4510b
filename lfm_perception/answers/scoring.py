# SPDX-License-Identifier: Apache-2.0
"""Scoring: token log-probabilities become an object's confidence and the spread of its coordinates."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from lfm_perception.answers.collector import ParsedObject, Span
from lfm_perception.geometry import Box
from lfm_perception.scene import CoordinateStd, Detection


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of a coordinate under the probabilities of its last token, normalized."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """Natural logarithm of the probability of one answer token, which spans text[start:end].

    `spread` is set where the token ends a coordinate and the grammar allowed more than one token.
    """

    start: int
    end: int
    log_prob: float
    spread: Spread | None = None


def scored_detection(found: ParsedObject, tokens: Sequence[TokenLogProb], means: bool) -> Detection:
    """The object with its score and, where all four sides have a spread, their standard deviations."""
    box, std = found.box, None
    spreads = [spread for span in found.number_spans if (spread := _spread(tokens, span)) is not None]
    if len(spreads) == 4:
        std = CoordinateStd(*(spread.std for spread in spreads))
        x1, y1, x2, y2 = (spread.mean for spread in spreads)
        if means and x1 < x2 and y1 < y2:
            box = Box(x1, y1, x2, y2)
    return Detection(found.label, box, score(found, tokens), std, found.phrase)


def score(found: ParsedObject, tokens: Sequence[TokenLogProb]) -> float:
    """Uncalibrated confidence of one object, 0 to 1; ranks objects.

    P(opening) x geometric mean of P(label tokens) x geometric mean of P(number tokens): that there is one
    more object, its label, its place. A token counts in each part that its span overlaps; a part without
    tokens counts 1.

    Args:
        found: An object of the answer.
        tokens: Those of the whole answer in the order of the text; forced tokens have log-probability 0.
    """
    opening = sum(_log_probs(tokens, (found.opening,)))
    label = _mean(_log_probs(tokens, (found.label_span,) if found.label_span else ()))
    numbers = _mean(_log_probs(tokens, sorted(found.number_spans)))
    return math.exp(min(0.0, opening + label + numbers))


def _spread(tokens: Sequence[TokenLogProb], span: Span) -> Spread | None:
    """The spread of the token that ends the number in this span."""
    index = bisect_left(tokens, span[1], key=lambda token: token.end)
    return tokens[index].spread if index < len(tokens) and tokens[index].end == span[1] else None


def _log_probs(tokens: Sequence[TokenLogProb], spans: Sequence[Span]) -> list[float]:
    """Log-probabilities of the tokens that overlap any of the spans (ascending), each token once."""
    found: list[float] = []
    index = 0
    for start, end in spans:
        index = max(index, bisect_right(tokens, start, key=lambda token: token.end))
        while index < len(tokens) and tokens[index].start < end:
            found.append(tokens[index].log_prob)
            index += 1
    return found


def _mean(log_probs: Sequence[float]) -> float:
    return sum(log_probs) / len(log_probs) if log_probs else 0.0
