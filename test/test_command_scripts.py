# SPDX-License-Identifier: Apache-2.0
"""Names in commands of other scripts than plain Latin letters, and names that end with a letter."""

from __future__ import annotations

import json

import pytest

from lfm_perception.commands import TOOLS, Command, slots


def names_in(words: str) -> list[str]:
    return [json.loads(each) for each in slots.values("name", Command(words, tuple(TOOLS)))]


@pytest.mark.parametrize(
    ("words", "name", "part"),
    [
        ("watch the cafe\u0301 door", "cafe\u0301 door", "cafe"),  # decomposed, as macOS writes it
        ("راقب الْمَرْكَبَة الآن", "الْمَرْكَبَة", "ال"),
        ("सिर्फ गाड़ी देखो", "गाड़ी", "ग"),
        ("フォークリフトを探して", "フォークリフト", "フォー"),
        ("지게차를 찾아", "지게차", "차를찾"),
        ("人と箱を検出して", "箱", "人箱"),
    ],
)
def test_a_word_is_neither_split_at_its_marks_nor_in_its_katakana(words: str, name: str, part: str) -> None:
    names = names_in(words)
    assert name in names
    assert part not in names


def test_a_name_may_end_with_the_letter_a_but_with_no_article() -> None:
    assert "gate A" in names_in("watch gate A and gate B")
    assert "gate a" not in names_in("watch gate a bit")
    assert "A" not in names_in("A person fell")
