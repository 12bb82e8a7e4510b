# SPDX-License-Identifier: Apache-2.0
"""A command, all calls that it may mean, and the strict parser of a call.

A call is the text `[name(argument=value, ...)]`; values are JSON: texts in double quotes, numbers, and lists
of texts. The calls of a command form a tree of `Step`s, whose branches `engine/calls.py` decides one by one.
The parser stands by itself, so that a call is checked twice: against the schemas, and against the slots.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lfm_perception.commands import slots
from lfm_perception.commands.tools import REFUSAL, TOOLS, Tool, check_tools, tool_list
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.questions import check_prompt_text
from lfm_perception.scene import Answer

MAX_COMMAND_LENGTH = 300
"""Maximum length of a command, characters."""

MAX_CALL_LENGTH = 4000
"""Maximum length of a call, characters."""

MAX_ITEMS = 8
"""Maximum number of items of a list: each is decided among all values."""

_NUMBERS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "integer": ((int,), "a whole number"),
    "seconds": ((int, float), "a number"),
    "share": ((int, float), "a number"),
}
"""The slots of numbers: the types of their values, and what they are called."""

_HEAD = re.compile(r"\[([a-z_]+)\(")


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool. `texts` are the JSON texts of its arguments by name, for a list one of each item."""

    tool: str
    arguments: Mapping[str, Any]
    texts: Mapping[str, str | tuple[str, ...]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One way on in a call that is being built.

    `decided` is the text of the call up to its next decision, all of it where `following` is None.
    """

    decided: str
    following: Callable[[], Iterator[Step]] | None = None

    @property
    def example(self) -> str:
        """The text of a whole call that begins with what is decided."""
        return self.decided if self.following is None else next(self.following()).example


@dataclass(frozen=True, slots=True)
class Command:
    """An operator's command, and what it may concern.

    Args:
        words: in any language; the model sees nothing else but the tools.
        allowed: names of the tools that it may call. The model chooses among all tools: one that saw these
            alone would take the nearest of them for whatever the operator wants.
        labels: names that an argument may have although the operator did not say them.
        alerts: names of alerts, likewise.

    Raises:
        PerceptionError: for blank, long and unsafe words, and tools that do not exist or are none.
    """

    words: str
    allowed: tuple[str, ...]
    labels: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.words) > MAX_COMMAND_LENGTH:
            raise PerceptionError(
                f"a command of {len(self.words)} characters is longer than {MAX_COMMAND_LENGTH}: shorten it"
            )
        check_prompt_text("a command", self.words)
        check_tools(self.allowed)
        if not self.allowed:
            raise PerceptionError("no tool is allowed: name some in commands.allowed")

    @property
    def system(self) -> str:
        """The text of the system turn."""
        return tool_list(TOOLS)

    def steps(self) -> Iterator[Step]:
        """The first steps of all calls."""
        for name, tool in TOOLS.items():
            yield from self._argument(tool, {}, f"[{name}(")

    def parse(self, text: str) -> Call | None:
        """The call in a model's answer; None for `REFUSAL`.

        Raises:
            PerceptionError: the text is neither, or the call is not one of this command's, or not allowed.
        """
        if text == REFUSAL:
            return None
        call = parse_call(text)
        if call.tool not in self.allowed:
            raise PerceptionError(
                f"the command means {call.tool}, which is not in commands.allowed: {', '.join(self.allowed)}"
            )
        earlier: dict[str, str] = {}
        for name, given in call.texts.items():
            allowed = slots.values(TOOLS[call.tool].parameters[name], self, earlier)
            items = (given,) if isinstance(given, str) else given
            for number, each in enumerate(items):
                if each not in allowed:
                    raise PerceptionError(f"{name} {shown(each)} does not stand in the command")
                if number and each not in slots.left((each,), items[:number], self):
                    raise PerceptionError(f"{name} {each} is the same words as an item before it")
            if isinstance(given, str):
                earlier[name] = given
        return call

    def _argument(self, tool: Tool, earlier: Mapping[str, str], head: str) -> Iterator[Step]:
        """The steps after `head`, with the JSON texts of the arguments before it."""
        name = [*tool.parameters, None][len(earlier)]
        if name is None:
            yield Step(f"{head})]")
            return
        slot = tool.parameters[name]
        values = slots.values(slot, self, earlier)
        opening = f"{head}{', ' if earlier else ''}{name}="
        if slot == "labels":
            yield from self._items(f"{opening}[", values, ())
            return
        is_last = len(earlier) + 1 == len(tool.parameters)
        for value in values:
            if is_last:
                yield Step(f"{opening}{value})]")
                continue

            def following(value: str = value) -> Iterator[Step]:
                return self._argument(tool, {**earlier, name: value}, f"{opening}{value}")

            yield Step(f"{opening}{value}, ", following)

    def _items(self, head: str, items: list[str], chosen: tuple[str, ...]) -> Iterator[Step]:
        """The steps at the next item of a list, which is a tool's only argument."""
        for item in slots.left(items, chosen, self):
            yield Step(f"{head}{item}])]")
            now_chosen = (*chosen, item)
            is_full = len(now_chosen) == MAX_ITEMS
            if not is_full and next(slots.left(items, now_chosen, self), None):

                def following(item: str = item, chosen: tuple[str, ...] = now_chosen) -> Iterator[Step]:
                    return self._items(f"{head}{item}, ", items, chosen)

                yield Step(f"{head}{item}, ", following)


def check_probability(answer: Answer, minimum: float) -> None:
    """Raise PerceptionError where a model's call has less than the minimum probability."""
    probability = answer.probabilities[0]
    if probability < minimum:
        raise PerceptionError(
            f"it is not clear what is meant: the call has a probability of {probability:.3f}, less than "
            f"commands.min_probability {minimum:g}; say it in other words"
        )


def parse_call(text: str) -> Call:
    """The call that a text is, of any tool. Nothing is evaluated.

    Raises:
        PerceptionError: the text is no call of the form above, or not of the tool's schema.
    """
    if len(text) > MAX_CALL_LENGTH:
        raise PerceptionError(f"a call of {len(text)} characters is longer than {MAX_CALL_LENGTH}")
    head = _HEAD.match(text)
    if head is None or head.group(1) not in TOOLS:
        raise PerceptionError(f"a call is [tool(argument=value, ...)] of a known tool, got {shown(text)}")
    tool, end = TOOLS[head.group(1)], head.end()
    arguments: dict[str, Any] = {}
    texts: dict[str, str | tuple[str, ...]] = {}
    for number, (name, slot) in enumerate(tool.parameters.items()):
        begin = f"{', ' if number else ''}{name}="
        if not text.startswith(begin, end):
            raise PerceptionError(f"{tool.name} takes ({', '.join(tool.parameters)}), got {shown(text)}")
        end += len(begin)
        try:
            arguments[name], after = _JSON.raw_decode(text, end)
        except (ValueError, RecursionError) as error:
            raise PerceptionError(f"the value of {name} is no JSON: {shown(text)}") from error
        texts[name] = _checked(name, slot, arguments[name], text[end:after])
        end = after
    if text[end:] != ")]":
        raise PerceptionError(f"{tool.name} takes ({', '.join(tool.parameters)}), got {shown(text)}")
    return Call(tool.name, arguments, texts)


def _checked(name: str, slot: str, value: Any, text: str) -> str | tuple[str, ...]:
    """The JSON text of an argument, or of each item of a list. Raises PerceptionError for another type."""
    if slot == "labels":
        if (
            not isinstance(value, list)
            or not 0 < len(value) <= MAX_ITEMS
            or not all(isinstance(item, str) for item in value)
            or len(set(value)) < len(value)
        ):
            raise PerceptionError(f"{name} must be 1 to {MAX_ITEMS} different texts, got {shown(value)}")
        return tuple(json.dumps(item, ensure_ascii=False) for item in value)
    kinds, kind = _NUMBERS.get(slot, ((str,), "text"))
    if type(value) not in kinds:
        raise PerceptionError(f"{name} must be {kind}, got {shown(value)}")
    return text
