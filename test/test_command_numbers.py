# SPDX-License-Identifier: Apache-2.0
"""The numbers that a command says: as digits that stand alone, converted from their units."""

from __future__ import annotations

import pytest

from lfm_perception.commands.numbers import numbers


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("at most 128 tokens, or 64.", ["128", "64"]),
        ("tokens=64, a 32-token budget (16) or #8", ["64", "32", "16", "8"]),
        ("1,000 or 1.2.3 or v2 or 007 or 0x10", []),
        ("トークンを64に、32", ["64", "32"]),
        ("no number, or ６４", []),
    ],
)
def test_numbers_are_those_that_stand_alone(words: str, values: list[str]) -> None:
    assert numbers(words, "integer") == values


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1e309",
            "-5",
            "−5",
            "–5",
            "- 5",
            "minus 5",
            "+5",
            "1/2",
            "10-20",
            "10^9",
            "1 000",
            "1:30",
            "5_000",
        ),
        *("5k", "5 thousand", "2 million", "2½", "2 m", "2 days", "5万", "3分の1"),
    ],
)
def test_a_part_of_another_value_is_no_number(text: str) -> None:
    words = f"at most {text}"
    assert [numbers(words, slot) for slot in ("integer", "seconds", "share")] == [[], [], []]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("use 50 percent, 7 % or 12.5% or 0.3 of it", ["0.5", "0.07", "0.125", "0.3"]),
        ("100% or 1 per cent, or 1 pct", ["1", "0.01", "0.01"]),
        ("50％, 50﹪, 50٪", ["0.5", "0.5", "0.5"]),
        ("1 Prozent, 1 pour cent, 1 por ciento, 1 por cento", ["0.01"] * 4),
        ("50パーセント 50 퍼센트 50 بالمئة", ["0.5"] * 3),
        ("百分之50", []),
        ("50% and 0.4 min score in 2 seconds", ["0.5", "0.4"]),
    ],
)
def test_a_share_in_percent_is_divided_by_100(words: str, values: list[str]) -> None:
    assert numbers(words, "share") == values


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("within 0.5s, or a 5-second period", ["0.5", "5"]),
        ("500 ms, 500ms, 500 milliseconds", ["0.5"] * 3),
        ("every 2 minutes, 2 min. or 1.5 hours", ["120", "120", "5400"]),
        ("2 Minuten, 2 minutos, 2分ごと, 2分钟, 2분마다", ["120"] * 5),
        (
            "1 min 30 s, 1 minute and 30 seconds, 1 hour 2 minutes 3 seconds, 1分30秒",
            ["90", "90", "3723", "90"],
        ),
        ("2 minutes or 30 seconds", ["120", "30"]),
        ("30% or 5", ["5"]),
    ],
)
def test_a_time_is_converted_to_seconds(words: str, values: list[str]) -> None:
    assert numbers(words, "seconds") == values
