# SPDX-License-Identifier: Apache-2.0
"""Sampling: temperature, min_p, top_k and the repetition penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fake_models import ANYTHING, GREEDY, ScriptedModel, decode

from lfm_perception.engine.decoding import (
    Sampler,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import Logits
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX
from lfm_perception.settings import SamplingSettings, Settings


def draws(settings: SamplingSettings, logits: Sequence[float], count: int) -> list[int]:
    """First draws of `count` fresh samplers with different seeds."""
    row = np.array(logits, dtype=np.float32)
    return [Sampler(replace(settings, seed=seed)).sample(row)[0] for seed in range(count)]


def test_temperature_0_takes_the_likeliest() -> None:
    assert set(draws(GREEDY, [0.0, 1.0, 0.9], 50)) == {1}


def test_sampling_follows_the_softmax() -> None:
    drawn = draws(ANYTHING, [math.log(0.7), math.log(0.2), math.log(0.1)], 4000)
    shares = np.bincount(drawn) / len(drawn)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_min_p_leaves_out_what_is_unlikely_beside_the_likeliest() -> None:
    drawn = draws(replace(ANYTHING, min_p=0.15), [math.log(0.7), math.log(0.2), math.log(0.1)], 1000)
    assert set(drawn) == {0, 1}


def test_a_low_temperature_sharpens_after_min_p() -> None:
    drawn = draws(SamplingSettings(temperature=0.1), [1.0, 0.9, -5.0], 4000)
    assert np.mean(np.equal(drawn, 0)) == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.03)


def test_the_penalty_turns_to_another_token_of_about_the_same_logit() -> None:
    sampler = Sampler(replace(GREEDY, repeat_penalty=1.05))
    logits = np.array([10.0, 9.8, -1.0], dtype=np.float32)
    assert [sampler.sample(logits)[0] for _ in range(3)] == [0, 1, 0]


def test_the_penalty_never_acts_on_decisions_of_a_grammar() -> None:
    sampler = Sampler(replace(GREEDY, repeat_penalty=2.0))
    logits = np.array([10.0, 9.8, -1.0], dtype=np.float32)
    assert [sampler.sample(logits, np.array([0, 1]))[0] for _ in range(3)] == [0, 0, 0]
    assert sampler.sample(logits)[0] == 0  # and remembers none of them


def test_top_k_leaves_out_all_but_the_likeliest() -> None:
    drawn = draws(replace(ANYTHING, top_k=2), [0.0, 0.3, 0.2, 0.1], 300)
    assert set(drawn) == {1, 2}
    assert set(draws(replace(ANYTHING, top_k=9), [0.0, 0.3, 0.2, 0.1], 300)) == {0, 1, 2, 3}
    assert set(draws(replace(ANYTHING, top_k=1), [0.0, 0.3, 0.3, 0.1], 50)) <= {1, 2}


def test_a_penalty_ends_no_answer_early_and_changes_no_digit(vocabulary: Vocabulary) -> None:
    """The model is scripted: it prefers the same object four times, each time by little."""

    class Wavering(ScriptedModel):
        def after(self, tokens: Sequence[int]) -> Logits:
            logits = super().after(tokens) / 20.0  # a lead of 1 logit
            logits += np.float32(10.0)
            return logits

    text = BBOX.answer([("box", Box(0.111, 0.222, 0.333 + at / 100, 0.444)) for at in range(4)])
    grammar = Grammar(vocabulary, BBOX, ("box", "person"))
    sampler = Sampler(Settings().with_values({"sampling.repeat_penalty": 2.0}).box_sampling)
    assert decode(grammar, Wavering(vocabulary, text), sampler, 1000).text == text
    assert (
        decode(grammar, Wavering(vocabulary, text), Sampler(replace(GREEDY, repeat_penalty=2.0)), 1000).text
        == text
    )


def test_the_same_seed_samples_the_same() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    first, second = (Sampler(replace(ANYTHING, seed=7)) for _ in range(2))
    assert [first.sample(row) for row in logits] == [second.sample(row) for row in logits]


def test_only_allowed_tokens_are_sampled() -> None:
    logits = np.array([9.0, 1.0, 5.0, 2.0], dtype=np.float32)
    assert Sampler(GREEDY).sample(logits, np.array([1, 3]))[0] == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(PerceptionError, match="NaN or infinity"):
        Sampler(GREEDY).sample(np.array([1.0, bad, 0.0], dtype=np.float32))
