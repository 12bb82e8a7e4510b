# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding in llama.cpp gives the tokens of plain decoding, with the same probabilities."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import exact_decoding


@pytest.mark.parametrize("threads", [1, 2])
def test_drafts_of_every_kind_change_no_token(threads: int) -> None:
    found = exact_decoding.compare(44, threads, 7, lambda _: None)
    assert found.different.total() == 0
    assert found.log_prob_difference < 1e-5
    assert min(found.answers.values()) >= 4
    assert found.accepted > 100
    assert found.rejected > 100
