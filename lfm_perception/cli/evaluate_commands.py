# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval commands`: commands in words, compared with the calls that they mean."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from lfm_perception.cli import options
from lfm_perception.cli.job import progress_bar
from lfm_perception.errors import PerceptionError


def commands(
    count: Annotated[int, typer.Option(min=1, help="Number of commands of each kind.")] = 50,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the commands.")] = 0,
) -> None:
    """Give the model commands in words, and compare its calls with those that the words mean.

    Commands for each tool, commands that no tool can do, and those for a tool that is not allowed, in English
    wordings that the demo model was not trained on. With `--out` it writes `commands.html` and
    `commands.json`.
    """
    from dataclasses import asdict

    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.demo_commands import evaluate_commands, run_commands, sections, table
    from lfm_perception.evaluation.reports import provenance, write_results
    from lfm_perception.vlm import CommandVlm

    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    with closing(open_vlm(chosen)) as vlm, progress_bar(MofNCompleteColumn()) as progress:
        if not isinstance(vlm, CommandVlm):
            raise PerceptionError(f"engine.backend {chosen.engine.backend} takes no commands: choose llama")
        trials = list(progress.track(run_commands(vlm, count, seed, chosen)))
    reports = evaluate_commands(trials)
    options.show_table(table(reports))
    if out:
        kinds = {report.kind: asdict(report) for report in reports}
        found = {**provenance(chosen), "seed": seed, "kinds": kinds}
        options.tell(write_results(out, "commands", "Commands in words", sections(trials), found))
