# SPDX-License-Identifier: Apache-2.0
"""Reads the actions of rules: the value under `actions`, of which `docs/rules.md` lists the keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.rules.reading import Steps, WrongError, as_mapping
from lfm_perception.rules.schema import Actions, ParameterChange, ParameterValue
from lfm_perception.text import is_safe
from lfm_perception.typed_questions import TypedQuestion

ROS_NAME = r"(?a)(?!.*__)/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*"
MAX_NAME, MAX_TEXT, MAX_VALUES = 200, 1000, 100
"""Maximum length of a name and of a text parameter, characters, and maximum number of values in a list."""


def read_actions(entry: object, path: Steps, language: str) -> Actions:
    """The actions of a rule. Raises `WrongError`.

    Args:
        language: of questions that name none.
    """
    readers: dict[str, Callable[[object, Steps], Any]] = {
        "publish_bool": _ros_name,
        "publish_text": _ros_name,
        "call_trigger": _ros_name,
        "call_set_bool": _ros_name,
        "set_parameter": _parameter_change,
        "snapshot": _switch,
        "clip": _switch,
        "second_opinion": _words,
        "ask": lambda value, steps: _question(value, steps, language),
    }
    given = as_mapping(entry, path, tuple(readers), "actions")
    return Actions(**{key: readers[key](value, (*path, key)) for key, value in given.items()})


def _ros_name(value: object, path: Steps) -> str:
    if not (isinstance(value, str) and len(value) <= MAX_NAME and re.fullmatch(ROS_NAME, value)):
        raise WrongError(path, f"{path[-1]} takes a ROS name such as dock/alarm, got {shown(value)}")
    return value


def _switch(value: object, path: Steps) -> bool:
    if not isinstance(value, bool):
        raise WrongError(path, f"{path[-1]} is true or false, got {shown(value)}")
    return value


def _words(value: object, path: Steps) -> str:
    if not (isinstance(value, str) and 0 < len(value.strip()) <= MAX_TEXT and is_safe(value)):
        raise WrongError(
            path, f"{path[-1]} takes a question of at most {MAX_TEXT} characters, got {shown(value)}"
        )
    return value


def _question(value: object, path: Steps, language: str) -> TypedQuestion:
    """A question in words or as a mapping; the track is that of the event."""
    if isinstance(value, Mapping) and "track" in value:
        raise WrongError(
            (*path, "track"), "the question is about the track of the event: leave the track out"
        )
    try:
        if isinstance(value, str):
            return TypedQuestion(value, language=language)
        return TypedQuestion.from_mapping(value, language)
    except PerceptionError as error:
        raise WrongError(path, str(error)) from error


def _parameter_change(entry: object, path: Steps) -> ParameterChange:
    given = as_mapping(entry, path, ("node", "name", "value", "end"), "set_parameter")
    name = given.get("name")
    if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()):
        raise WrongError(path, f"set_parameter needs the `name` of a parameter, got {shown(name)}")
    if "value" not in given:
        raise WrongError(path, "set_parameter needs a `value`")
    return ParameterChange(
        name,
        value=_value(given["value"], (*path, "value")),
        end=_value(given["end"], (*path, "end")) if "end" in given else None,
        node=_ros_name(given["node"], (*path, "node")) if "node" in given else "",
    )


def _value(value: Any, path: Steps) -> ParameterValue:
    """A value that a ROS parameter can have: a truth value, a number, a text, or a list of one of them."""
    values: list[Any] = value if isinstance(value, list) else [value]
    kinds = {type(each) for each in values}
    if len(kinds) != 1 or not kinds <= {bool, int, float, str} or len(values) > MAX_VALUES:
        raise WrongError(
            path, f"a parameter is true, a number, a text, or a list of one kind, got {shown(value)}"
        )
    for each in values:
        if isinstance(each, str) and not (len(each) <= MAX_TEXT and is_safe(each)):
            raise WrongError(path, f"the text of a parameter has at most {MAX_TEXT} printable characters")
        if isinstance(each, (int, float)) and not -(2**63) <= each < 2**63:  # nor is NaN
            raise WrongError(path, f"no parameter can have the value {shown(each)}")
    return tuple(values) if isinstance(value, list) else value
