# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding in llama.cpp gives the tokens of plain decoding, with the same probabilities."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("threads", [1, 2])
def test_drafts_of_every_kind_change_no_token(threads: int) -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "exact_decoding.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = benchmark  # its dataclasses look there for their types
    spec.loader.exec_module(benchmark)
    found = benchmark.compare(44, threads, 7, lambda _: None)
    assert found.different.total() == 0
    assert found.log_prob_difference < 1e-5
    assert min(found.answers.values()) >= 4
    assert found.accepted > 100
    assert found.rejected > 100
