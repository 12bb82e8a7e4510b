# SPDX-License-Identifier: Apache-2.0
"""`eval commands`: commands in words, compared with the calls that they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lfm_perception.cli.application import app
from lfm_perception.commands import REFUSAL, TOOLS, Command
from lfm_perception.evaluation.demo_commands import (
    ALL_CALLS,
    ALL_REFUSALS,
    NO_TOOL,
    NOT_ALLOWED,
    CommandTrial,
    evaluate_commands,
    run_commands,
)
from lfm_perception.scene import Answer
from lfm_perception.settings import Settings

KINDS = {*TOOLS, NO_TOOL, NOT_ALLOWED, ALL_CALLS, ALL_REFUSALS}


class Refuser:
    """A model that refuses everything."""

    def command(self, command: Command) -> Answer:
        assert command.parse(REFUSAL) is None
        return Answer(REFUSAL, probabilities=(1.0,))


def test_a_model_that_refuses_everything_is_right_about_what_no_tool_does() -> None:
    model: Any = Refuser()
    reports = {report.kind: report for report in evaluate_commands(run_commands(model, 5))}
    assert set(reports) == KINDS
    right = {kind for kind, report in reports.items() if report.correct == 1.0}
    assert right == {NO_TOOL, NOT_ALLOWED, ALL_REFUSALS}
    assert {kind: each.commands for kind, each in reports.items() if each.commands != 5} == {
        ALL_CALLS: 5 * len(TOOLS),
        ALL_REFUSALS: 10,
    }


def test_a_call_of_a_tool_that_is_not_allowed_is_a_refusal() -> None:
    class Obedient:
        """A model that resets whatever is said."""

        def command(self, command: Command) -> Answer:
            return Answer("[reset()]", probabilities=(1.0,))

    model: Any = Obedient()
    answered = {trial.answered for trial in run_commands(model, 40) if trial.kind == NOT_ALLOWED}
    assert answered == {"[reset()]", REFUSAL}


def test_an_improbable_call_is_a_refusal() -> None:
    class Unsure:
        """A model that takes everything for a reset, and is not sure of it."""

        def command(self, command: Command) -> Answer:
            return Answer("[reset()]", probabilities=(0.4,))

    model: Any = Unsure()
    for minimum, answered in ((0.4, "[reset()]"), (0.41, REFUSAL)):
        settings = Settings().with_values({"commands.min_probability": minimum})
        trials = run_commands(model, 1, settings=settings)
        assert next(trial.answered for trial in trials if trial.kind == "reset") == answered


def test_a_wrong_argument_is_a_right_tool_and_no_right_call() -> None:
    call = "[set_token_budget(tokens=64)]"
    trials = [
        CommandTrial("set_token_budget", "64 of 128", call, call),
        CommandTrial("set_token_budget", "64 of 128", call, "[set_token_budget(tokens=128)]"),
    ]
    reports = evaluate_commands(trials)
    assert [(each.kind, each.right_tool, each.correct) for each in reports] == [
        ("set_token_budget", 1.0, 0.5),
        (ALL_CALLS, 1.0, 0.5),
    ]


def test_the_command_measures_every_kind_and_writes_the_figures(tmp_path: Path) -> None:
    options = ["--count", "1", "--set", "engine.isolation=thread", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["eval", "commands", *options])
    assert result.exit_code == 0, result.output
    assert "set_labels" in result.output
    assert set(json.loads((tmp_path / "commands.json").read_text())["kinds"]) == KINDS
    page = (tmp_path / "commands.html").read_text()
    for title in ("Accuracy by kind of command", "Wrong calls: ", "Setup"):
        assert title in page
