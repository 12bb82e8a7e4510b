# SPDX-License-Identifier: Apache-2.0
"""Commands in wordings that no model was trained on, compared with the calls that they mean."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from lfm_perception.commands import REFUSAL, TOOLS, Command, check_probability
from lfm_perception.demo import commands as demo
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.tables import new_table
from lfm_perception.media.charts import bars
from lfm_perception.media.page import Section
from lfm_perception.scene import Answer
from lfm_perception.settings import Settings
from lfm_perception.vlm import CommandVlm

NO_TOOL, NOT_ALLOWED = "(no tool does it)", "(tool not allowed)"
"""Kinds of commands that are to be refused: by the model, or because the tool is not allowed."""

ALL_CALLS, ALL_REFUSALS = "(all calls)", "(all refusals)"
"""Kinds of reports on all commands that mean a call, and on all that are to be refused."""

COLUMNS = ("given", "right tool", "right call")

MAX_MISTAKES = 30
"""Maximum number of wrong calls on the page."""

KINDS_NOTE = (
    "Commands for each tool, commands that no tool can do, and those for a tool that is not allowed, in "
    "English wordings that the demo model was not trained on. Right tool: share of the calls of the right "
    "tool, or of right refusals; right call: of those with the right arguments too."
)


@dataclass(frozen=True, slots=True)
class CommandTrial:
    """A command of a kind: a tool, `NO_TOOL` or `NOT_ALLOWED`. `meant`, `answered`: a call, or `REFUSAL`."""

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


def run_commands(
    vlm: CommandVlm, count: int, seed: int = 0, settings: Settings | None = None
) -> Iterator[CommandTrial]:
    """Give this number of commands of each kind. Of the settings, `commands.min_probability` counts."""
    rng = random.Random(f"commands {seed}")
    labels, tools = Settings().detect.labels, tuple(TOOLS)
    minimum = (settings or Settings()).commands.min_probability
    for kind in (*TOOLS, NO_TOOL, NOT_ALLOWED):
        for _ in range(count):
            allowed, tool = tools, kind if kind in TOOLS else ""
            if kind == NOT_ALLOWED:
                tool = rng.choice(tools)
                allowed = tuple(name for name in tools if name != tool)
            said = demo.command(rng, tool)
            command = Command(said.text, allowed, labels)
            answered = _carried_out(command, vlm.command(command), minimum)
            meant = REFUSAL
            if tool in allowed:
                meant = said.answer.removeprefix(demo.CALL_START).removesuffix(demo.CALL_END)
            yield CommandTrial(kind, said.text, meant, answered)


def _carried_out(command: Command, answer: Answer, min_probability: float) -> str:
    """The call that is carried out, or `REFUSAL`."""
    try:
        command.parse(answer.text)
        check_probability(answer, min_probability)
    except PerceptionError:
        return REFUSAL
    return answer.text


def evaluate_commands(trials: Iterable[CommandTrial]) -> list[CommandReport]:
    """Compare the calls, by kind of command and in all."""
    groups: defaultdict[str, list[CommandTrial]] = defaultdict(list)
    in_all: defaultdict[str, list[CommandTrial]] = defaultdict(list)
    for trial in trials:
        groups[trial.kind].append(trial)
        in_all[ALL_REFUSALS if trial.meant == REFUSAL else ALL_CALLS].append(trial)
    return [
        CommandReport(
            kind,
            len(group),
            sum(_tool(trial.answered) == _tool(trial.meant) for trial in group) / len(group),
            sum(trial.answered == trial.meant for trial in group) / len(group),
        )
        for kind, group in (*groups.items(), *in_all.items())
    ]


def table(reports: Sequence[CommandReport]) -> Table:
    """One row for each kind of command."""
    shown = new_table("command for", COLUMNS)
    for row in _rows(reports):
        shown.add_row(*row)
    return shown


def sections(trials: Sequence[CommandTrial]) -> Iterator[Section]:
    """The sections of the page: accuracy by kind of command, and wrong calls."""
    reports = evaluate_commands(trials)
    series = {
        "right tool": [each.right_tool for each in reports],
        "right call": [each.correct for each in reports],
    }
    names = [each.kind for each in reports]
    yield Section(
        "By kind of command",
        notes=[KINDS_NOTE],
        heads=("command for", *COLUMNS),
        rows=_rows(reports),
        charts=[bars("Accuracy by kind of command", series, names, "share of the commands (0 to 1)")],
    )
    wrong = [
        (each.kind, each.words, each.meant, each.answered) for each in trials if each.answered != each.meant
    ]
    some = f"The first {MAX_MISTAKES} of {len(wrong)}."
    notes = [some] if len(wrong) > MAX_MISTAKES else [] if wrong else ["None."]
    heads = ("command for", "command", "call that it means", "call of the model")
    yield Section(f"Wrong calls: {len(wrong)}", notes, heads=heads, rows=wrong[:MAX_MISTAKES], texts=True)


def _rows(reports: Sequence[CommandReport]) -> list[tuple[str, ...]]:
    return [
        (each.kind, str(each.commands), f"{each.right_tool:.3f}", f"{each.correct:.3f}") for each in reports
    ]


def _tool(call: str) -> str:
    return REFUSAL if call == REFUSAL else call.partition("(")[0]
