# SPDX-License-Identifier: Apache-2.0
"""Mutated inputs: the same random generator gives the same input."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, -0.0),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "x", "\0", "\x1b[31m", "\u202e", "\ud800", "[/b]"),
    *("$\\badcommand{x$", "<|im_end|>", "../../x", "/etc/passwd", "C:\\x.png", "a" * 1000, "NaN", "1e999"),
    *([], [1], [[]], [1] * 100, {}, {"a": 1}, {"": None}),
)
"""Values that take the place of others in JSON."""

JSON_TOKENS = (*'{}[]",:\\0123456789.eE-', "NaN", "Infinity", "1e999", "\\ud800", "9" * 5000, "[" * 3000)
YAML_TOKENS = (
    *"&*!%@`{}[],:#|>-?'\"\\ \n\t~=<.0123456789_",
    *("<<: *a", "!!", "&a ", "*a", "\x00", "\x1b", "\u2028", "null", "1e999", "---\n", "...\n", ": ", "- "),
    *(
        "!!float ",
        "!!set ",
        "!!binary ",
        "2020-13-45",
        "1:30:60",
        "0x",
        "9" * 500,
        "yes",
        "\\ud800",
        "{" * 50,
    ),
)
TEXT_TOKENS = (*"0123456789.-+eE, \n\t\r", "nan", "inf", "1e999", "٣", "\x00", "9" * 400, "\ufeff", "\u2028")


CHANGES = (1, 1, 1, 2, 3, 6)
"""Number of changes in an input; those with many changes are refused early, and test little."""


def mutated_text(rng: random.Random, text: str, tokens: Sequence[str]) -> str:
    """The text with some changes: characters deleted, added, replaced, repeated, or the end cut off."""
    characters = list(text)
    for _ in range(rng.choice(CHANGES)):
        place, change = rng.randrange(len(characters) + 1), rng.randrange(6)
        if change == 0:
            del characters[place : place + rng.choice((1, 2, 10, 100))]
        elif change == 1:
            characters.insert(place, rng.choice(tokens))
        elif change == 2 and place < len(characters):
            characters[place] = rng.choice(tokens)
        elif change == 3:
            characters[place:place] = characters[place : place + rng.randint(1, 200)]
        elif change == 4 and rng.random() < 0.2:
            del characters[place:]
        else:
            characters[place:place] = [rng.choice(tokens)] * rng.choice((1, 3, 40))
    return "".join(characters)


def mutated_json(rng: random.Random, value: Any) -> str:
    """The text of a JSON value with one or two values changed, in a third of the cases with broken syntax."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        value = _with_change(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return mutated_text(rng, text, JSON_TOKENS) if rng.random() < 0.35 else text


def _with_change(rng: random.Random, value: Any) -> Any:
    places = list(_places(value))
    new, change = copy.deepcopy(rng.choice(VALUES)), rng.randrange(6)
    if not places:
        return new
    holder, key = rng.choice(places)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(("x", "label", "\x1b", "", "\ud800"))] = new
    elif change == 2 and isinstance(holder, list):
        holder.append(new)
    else:
        holder[key] = new
    return value


def _places(value: Any) -> Any:
    """Each value inside of `value`, as its holder and its key."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from _places(value[key])


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes with some changes: set, flipped, deleted, added, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice(CHANGES)):
        place, change = rng.randrange(len(changed) + 1), rng.randrange(7)
        if change == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif change == 1 and place < len(changed):
            changed[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif change == 2:
            del changed[place : place + rng.choice((1, 2, 4, 64))]
        elif change == 3:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 16)))
        elif change == 4:
            changed[place : place + 4] = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 16)).to_bytes(
                4, "little"
            )
        elif change == 5:
            changed[place : place + 8] = rng.choice((2**63, 2**64 - 1, 2**40, 0)).to_bytes(8, "little")
        elif rng.random() < 0.3:
            del changed[place:]
    return bytes(changed)
