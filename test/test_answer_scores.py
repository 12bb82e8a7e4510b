# SPDX-License-Identifier: Apache-2.0
"""Spans of an answer's text, and scores from the probabilities of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from answer_texts import CONE, PERSON
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.answers import TokenLogProb, parse, score
from lfm_perception.questions import BBOX


@pytest.mark.parametrize(
    "text",
    [
        f"[{PERSON}, {CONE}]",
        f"```\n[{CONE}, {PERSON}]".replace("[0.1, 0.2, 0.3, 0.4]", "[0.3, 0.4, 0.1, 0.2]"),
        '{"person": [["0.1", 0.2, 0.3, 0.4]], "cone": {"y2": 0.8, "x2": 0.7, "x1": 0.5, "y1": 0.6}}',
    ],
)
def test_spans_lead_back_to_the_text(text: str) -> None:
    for found in parse(text, BBOX).objects:
        sides = [float(text[start:end]) for start, end in found.number_spans]
        assert sides == [found.box.x1, found.box.y1, found.box.x2, found.box.y2]
        assert found.label_span is not None
        assert text[slice(*found.label_span)] == found.label
        assert text[found.opening[1] - 1] in "[{"


def tokens_of(text: str, log_probs: dict[str, float], size: int = 2) -> list[TokenLogProb]:
    """Tokens of `size` characters; those inside a given piece of text have its log-probability."""
    spans = {(text.index(piece), text.index(piece) + len(piece)): value for piece, value in log_probs.items()}
    return [
        TokenLogProb(at, at + size, sum(v for (a, b), v in spans.items() if a < at + size and at < b))
        for at in range(0, len(text), size)
    ]


def test_the_score_is_opening_times_mean_label_times_mean_number() -> None:
    text = f"[{PERSON}]"
    (found,) = parse(text, BBOX).objects
    tokens = [TokenLogProb(at, at + 1, 0.0) for at in range(len(text))]

    def at(piece: str, *log_probs: float) -> None:
        start = text.index(piece)
        for offset, log_prob in enumerate(log_probs):
            tokens[start + offset] = TokenLogProb(start + offset, start + offset + 1, log_prob)

    assert score(found, tokens) == 1.0
    at("{", math.log(0.9))
    assert score(found, tokens) == pytest.approx(0.9)
    at("person", *[math.log(0.8)] * 6)
    assert score(found, tokens) == pytest.approx(0.9 * 0.8)
    at("0.3", *[math.log(0.5)] * 3)
    assert score(found, tokens) == pytest.approx(0.9 * 0.8 * 0.5**0.25)
    at('"bbox"', -9.0, -9.0)  # syntax says nothing about the object
    assert score(found, tokens) == pytest.approx(0.9 * 0.8 * 0.5**0.25)


def test_a_token_counts_where_it_overlaps_and_once_in_each_part() -> None:
    text = f"[{PERSON}]"
    (found,) = parse(text, BBOX).objects
    whole = [TokenLogProb(0, len(text), math.log(0.5))]
    assert score(found, whole) == pytest.approx(0.5**3)
    assert score(found, []) == 1.0


@given(st.lists(st.floats(-20.0, 0.0), min_size=1, max_size=60))
def test_a_score_is_a_probability(log_probs: Sequence[float]) -> None:
    text = f"[{PERSON}, {CONE}]"
    size = -(-len(text) // len(log_probs))
    tokens = [TokenLogProb(i * size, (i + 1) * size, value) for i, value in enumerate(log_probs)]
    for detection in parse(text, BBOX).scored(tokens):
        assert 0.0 <= detection.score <= 1.0
