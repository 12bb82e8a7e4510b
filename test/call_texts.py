# SPDX-License-Identifier: Apache-2.0
"""Texts that are nearly tool calls, for fuzz tests."""

from __future__ import annotations

import random


def mutated_call(rng: random.Random, text: str) -> str:
    """The text with some characters replaced, removed or repeated, or with a part of another call."""
    pieces = [
        "[",
        "]",
        "(",
        ")",
        '"',
        "=",
        ",",
        "\\",
        "\x00",
        "9" * 30,
        "e",
        "-",
        "NaN",
        "{}",
        "👍",
        "\ud800",
    ]
    pieces += [
        "__import__('os')",
        "reset",
        "set_labels",
        "[" * 500,
        "lambda: 0",
        'f"{1}"',
        "<|tool_call_end|>",
    ]
    for _ in range(rng.randint(0, 4)):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(pieces) + text[place + rng.choice((0, 0, 1, 5)) :]
    return text
