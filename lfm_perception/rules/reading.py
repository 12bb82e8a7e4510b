# SPDX-License-Identifier: Apache-2.0
"""Checks of the single values of a rule file. Each value has a path of keys and indexes that leads to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from lfm_perception.errors import shown
from lfm_perception.settings.validation import suggestion

Steps = tuple[object, ...]
"""The keys and indexes that lead to a value from the top of a file."""

MAX_NAMES = 32
"""Maximum number of names in a list."""


class WrongError(Exception):
    """A value that is wrong; `path` leads to it. `hint` makes the end of the sentence, a suggestion."""

    def __init__(self, path: Steps, sentence: str, hint: Callable[[], str] = str) -> None:
        super().__init__(sentence)
        self.path, self.hint = path, hint


def as_mapping(entry: object, path: Steps, keys: Collection[str] | None, what: str) -> Mapping[str, Any]:
    """A mapping with these keys only; None: any text."""
    if not isinstance(entry, Mapping):
        raise WrongError(path, f"{what} must be a mapping, got {shown(entry)}")
    for key in entry:
        if not isinstance(key, str):
            raise WrongError((*path, key), f"a name must be text, got {shown(key)}: quote it")
        if keys is not None and key not in keys:
            raise WrongError((*path, key), f"{what} has no key {shown(key)}{suggestion(key, keys)}")
    return entry


def as_number(value: object, path: Steps, low: float, high: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise WrongError(path, f"expected a number, got {shown(value)}")
    if not low <= value <= high:
        raise WrongError(path, f"expected a number from {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def as_choice(value: object, path: Steps, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise WrongError(path, f"expected one of {', '.join(choices)}, got {shown(value)}")
    return value


def as_names(value: object, path: Steps) -> tuple[str, ...]:
    """A text or a list of texts, at least one."""
    names = [value] if isinstance(value, str) else value
    if (
        not isinstance(names, Sequence)
        or not names
        or not all(isinstance(each, str) and each for each in names)
    ):
        raise WrongError(path, f"expected a name or a list of names, got {shown(value)}")
    if len(names) > MAX_NAMES:
        raise WrongError(path, f"more than {MAX_NAMES} names")
    return tuple(dict.fromkeys(names))


def as_name(name: object, path: Steps, known: Collection[str] | None, what: str) -> str:
    """A name that must be known, where names of its kind are; None: any text."""
    if not isinstance(name, str):
        raise WrongError(path, f"expected the name of a {what}, got {shown(name)}")
    if known is not None and name not in known:
        raise WrongError(path, f"there is no {what} {shown(name)}", partial(suggestion, name, known))
    return name
