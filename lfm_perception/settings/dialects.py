# SPDX-License-Identifier: Apache-2.0
"""Dialects that a settings file adds under `dialects`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.questions import BBOX, DIALECTS, Dialect, check_prompt_text
from lfm_perception.settings.spec import ParameterSpec
from lfm_perception.settings.validation import suggestion


def user_dialects(entry: object) -> tuple[Dialect, ...]:
    """The dialects of a mapping from name to the parts that differ from the built-in `bbox`.

    Raises:
        PerceptionError: naming the part that is wrong.
    """
    if entry is None:
        return ()
    if not isinstance(entry, Mapping):
        raise PerceptionError(f"dialects must be a mapping from name to dialect, got {shown(entry)}")
    return tuple(_user_dialect(name, parts) for name, parts in entry.items())


def _user_dialect(name: object, parts: object) -> Dialect:
    where = f"dialects.{name:.40}" if isinstance(name, str) else ""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise PerceptionError(f"a dialect's name must be letters, digits, '_' and '-', got {shown(name)}")
    if name in DIALECTS:
        raise PerceptionError(f"{where}: this name is built in, choose another")
    if not isinstance(parts, Mapping):
        raise PerceptionError(
            f"{where} must be a mapping with 'user' and the keys it changes, got {shown(parts)}"
        )
    known = [entry.name for entry in fields(Dialect) if entry.name != "name"]
    values: dict[str, Any] = {}
    for key, value in parts.items():
        if key not in known:
            raise PerceptionError(f"{where} has an unknown key {shown(key)}{suggestion(str(key), known)}")
        default = getattr(BBOX, key)
        spec = ParameterSpec(f"{where}.{key}", type(default), default, minimum=0, maximum=1_000_000)
        values[key] = spec.check(value)
        if key == "user" or (key == "system" and value):
            check_prompt_text(spec.name, values[key])
    if "user" not in values:
        raise PerceptionError(f"{where} lacks 'user', the text of the request with {{labels}} in it")
    return Dialect(name=name, **values)
