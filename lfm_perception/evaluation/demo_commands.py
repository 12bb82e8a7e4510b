# SPDX-License-Identifier: Apache-2.0
"""Commands in wordings that no model was trained on, compared with the calls that they mean."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lfm_perception.commands import REFUSAL, TOOLS, Command
from lfm_perception.demo import commands as demo
from lfm_perception.settings import Settings
from lfm_perception.vlm import CommandVlm

NO_TOOL, NOT_LISTED = "(no tool does it)", "(tool not listed)"
"""Kinds of commands that are to be refused."""


@dataclass(frozen=True, slots=True)
class CommandTrial:
    """A command of a kind: a tool, `NO_TOOL` or `NOT_LISTED`. `meant`, `answered`: a call, or `REFUSAL`."""

    kind: str
    words: str
    meant: str
    answered: str


@dataclass(frozen=True, slots=True)
class CommandReport:
    """Result of one kind of command: the share with the right tool, and with the right arguments too."""

    kind: str
    commands: int
    right_tool: float
    correct: float


def run_commands(vlm: CommandVlm, count: int, seed: int = 0) -> Iterator[CommandTrial]:
    """Give this number of commands of each kind."""
    rng = random.Random(f"commands {seed}")
    labels, tools = Settings().detect.labels, tuple(TOOLS)
    for kind in (*TOOLS, NO_TOOL, NOT_LISTED):
        for _ in range(count):
            listed, tool = tools, kind if kind in TOOLS else ""
            if kind == NOT_LISTED:
                tool = rng.choice(tools)
                listed = tuple(name for name in tools if name != tool)
            said = demo.command(rng, listed, True, tool)
            answered = vlm.command(Command(said.text, listed, labels)).text
            meant = said.answer.removeprefix(demo.CALL_START).removesuffix(demo.CALL_END)
            yield CommandTrial(kind, said.text, meant, answered)


def evaluate_commands(trials: Iterable[CommandTrial]) -> list[CommandReport]:
    """Compare the calls, by kind of command."""
    groups: defaultdict[str, list[CommandTrial]] = defaultdict(list)
    for trial in trials:
        groups[trial.kind].append(trial)
    return [
        CommandReport(
            kind,
            len(group),
            sum(_tool(trial.answered) == _tool(trial.meant) for trial in group) / len(group),
            sum(trial.answered == trial.meant for trial in group) / len(group),
        )
        for kind, group in groups.items()
    ]


def _tool(call: str) -> str:
    return REFUSAL if call == REFUSAL else call.partition("(")[0]
