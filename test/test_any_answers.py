# SPDX-License-Identifier: Apache-2.0
"""Any text at all is read without an error, in time proportional to its length."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.answers import Parsed, parse
from lfm_perception.questions import BBOX, BBOX_2D

_FUZZ_FILE = Path(__file__).parents[1] / "benchmarks" / "parser_fuzz.py"
_spec = importlib.util.spec_from_file_location("parser_fuzz", _FUZZ_FILE)
assert _spec is not None
assert _spec.loader is not None
parser_fuzz = importlib.util.module_from_spec(_spec)
sys.modules["parser_fuzz"] = parser_fuzz
_spec.loader.exec_module(parser_fuzz)

json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-2000, 2000) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["label", "bbox", "x1", "y1", "x2", "y2", "objects", "person"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


def check(text: str, parsed: Parsed) -> None:
    assert not list(parser_fuzz.faults(parsed, text)), text


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    check(text, parse(text, BBOX, labels=["person"]))


@given(st.text(alphabet="[]{}(),:\"'\\“” \n.-+0123456789eElabxy_NaN|<>", max_size=200))
def test_any_text_of_structure_is_read_without_an_error(text: str) -> None:
    check(text, parse(text, BBOX, labels=["person"]))
    check(text, parse(text, BBOX_2D))


@given(json_like)
def test_any_json_is_read_without_an_error(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)):
        check(text, parse(text, BBOX))


def test_ten_thousand_broken_answers_are_read_without_an_error() -> None:
    for number, text in enumerate(parser_fuzz.broken_answers(10_000, seed=1)):
        parsed = parse(text, (BBOX, BBOX_2D)[number % 2], labels=parser_fuzz.LABELS[: number % 4])
        if parsed.objects or number % 16 == 0:
            check(text, parsed)


NASTY = (
    *(
        "[",
        "{",
        "[{",
        "]",
        "}",
        '"',
        "'",
        '{"',
        '"\\',
        '[\\"',
        "['a ",
        '["[',
        "“[",
        "(,",
        "\\",
        " ",
        ",",
        "-",
    ),
    *("[1,", "1", "1.", "1e", "a ", '{"a":', "{{a:", '{"x1":1,', '"label":"a",', '{"label":"', "[[1,2],"),
    *('{"label":"a","bbox":[', "[0.1,0.2,0.3,0.4,"),
)


@pytest.mark.parametrize("piece", NASTY)
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    """Four times the text may take ten times as long, not sixteen, in one of five tries: other work on the
    machine disturbs a measurement. 100 kB nested to any depth are read.
    """

    def seconds(size: int) -> float:
        text = "[{" + piece * (size // len(piece))
        start = time.process_time()
        parse(text, BBOX, labels=["person"])
        return time.process_time() - start

    assert any(seconds(100_000) < 10 * seconds(25_000) + 0.05 for _ in range(5))
