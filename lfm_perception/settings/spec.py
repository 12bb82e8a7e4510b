# SPDX-License-Identifier: Apache-2.0
"""The specification of one parameter, and the check of a value against it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.text import is_safe

MAX_TEXT = 10_000
"""Maximum length of a text, characters."""

MAX_LIST = 100_000
"""Maximum length of a list of texts, characters with one between two texts."""

Value = bool | int | float | str | tuple[str, ...]
T = TypeVar("T", bool, int, float, str, tuple[str, ...])


def parameter(
    default: T,
    description: str,
    allowed: tuple[float, float] | tuple[str, ...] = (),
    unit: str = "",
    *,
    read_only: str = "",
    fixed: bool = False,
    mappings: bool = False,
) -> T:
    """A dataclass field that is a parameter, see `ParameterSpec`.

    Args:
        allowed: minimum and maximum of a number, or the choices of a text.
    """
    about: dict[str, Any] = {"description": description, "unit": unit, "read_only": read_only, "fixed": fixed}
    about["mappings"] = mappings
    if isinstance(default, str):
        about["choices"] = allowed
    elif allowed:
        about["minimum"], about["maximum"] = allowed
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter, as tables, YAML comments, ROS parameters and error messages need it.

    `description` is a noun phrase; `unit` and range are not repeated in it. `minimum` and `maximum` are
    inclusive and set for numbers only, `choices` for text with a fixed set of values. `read_only` is the
    reason why the parameter cannot change while the node runs; empty: it can. `fixed`: over ROS it can be set
    at the start only (by a parameter file, launch or the command line), because other processes must not.
    `mappings`: the texts of a list are mappings in YAML or JSON; YAML files may hold the mappings themselves.
    """

    name: str
    kind: type
    default: Value
    description: str = ""
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    read_only: str = ""
    fixed: bool = False
    mappings: bool = False

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        return self.name.partition(".")[2]

    @property
    def allowed(self) -> str:
        """The allowed values as text: `a whole number from 1 to 10`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind in (int, float):
            noun = "a whole number" if self.kind is int else "a number"
            unit = f" {self.unit}" if self.unit else ""
            return f"{noun} from {self.minimum:.10g} to {self.maximum:.10g}{unit}"
        return {bool: "true or false", str: "text", tuple: "a list of texts"}[self.kind]

    def check(self, value: object) -> Value:
        """The value in this parameter's type.

        Raises:
            PerceptionError: naming parameter, range and value.
        """
        given = value
        # YAML reads a bare on and off as true and false
        if isinstance(value, bool) and {"on", "off"} <= set(self.choices):
            value = "on" if value else "off"
        if type(value) is int and str(value) in self.choices:
            value = str(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 2**53 else math.inf
        if self.kind is tuple and isinstance(value, list):
            value = tuple(map(_as_text, value)) if self.mappings else tuple(value)
        self._check_length(value)
        if not self._fits(value):
            texts = value if isinstance(value, tuple) else (value,)
            unsafe = any(isinstance(text, str) and not is_safe(text) for text in texts)
            printable = " without control characters" if unsafe else ""
            raise PerceptionError(f"{self.name} must be {self.allowed}{printable}, got {shown(given)}")
        return value  # type: ignore[return-value]

    def _check_length(self, value: object) -> None:
        texts = [item for item in value if isinstance(item, str)] if isinstance(value, tuple) else [value]
        length = sum(len(text) + 1 for text in texts if isinstance(text, str)) - 1
        limit = MAX_TEXT if isinstance(value, str) else MAX_LIST
        if length > limit:
            raise PerceptionError(f"{self.name} has {length} characters, more than {limit}: shorten it")

    def _fits(self, value: object) -> bool:
        if type(value) is not self.kind:
            return False
        if isinstance(value, (int, float)) and self.minimum is not None and self.maximum is not None:
            return self.minimum <= value <= self.maximum
        if isinstance(value, tuple):
            return all(isinstance(item, str) and is_safe(item) for item in value)
        if isinstance(value, str):
            return is_safe(value) and (not self.choices or value in self.choices)
        return True


def _as_text(item: object) -> object:
    """A mapping as JSON text; anything else, and a mapping that JSON cannot hold, as it is."""
    if isinstance(item, Mapping):
        with suppress(TypeError, ValueError, RecursionError):
            return json.dumps(item, ensure_ascii=False, allow_nan=False)
    return item


def specs_of(group: str, defaults: Any) -> dict[str, ParameterSpec]:
    """The specifications of a group's parameters by their keys; `defaults` is the group's default value."""
    values = {entry: getattr(defaults, entry.name) for entry in fields(defaults)}
    return {
        entry.name: ParameterSpec(f"{group}.{entry.name}", type(default), default, **entry.metadata)
        for entry, default in values.items()
    }
