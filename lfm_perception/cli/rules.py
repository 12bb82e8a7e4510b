# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception rules`: checks rule files, and replays films with the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from lfm_perception.cli import options
from lfm_perception.cli.run import run
from lfm_perception.errors import PerceptionError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _options() -> None:
    """Rules over tracks: zones, lines and conditions that give events, without code."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Rule file.")],
    settings: options.SettingsFile = None,
    labels: Annotated[str | None, typer.Option(help="Labels that are detected: `person,red box`.")] = None,
) -> None:
    """Check a rule file, and list its rules; each problem is printed with its line and column.

    With settings or labels, it is also checked that labels, attributes and standing questions are those that
    perception asks for.
    """
    from lfm_perception.rules import Known, read_rules

    known = Known.of(options.load_settings(settings, None, labels=labels)) if settings or labels else None
    found = read_rules(file, known)
    table = Table(box=None, pad_edge=False)
    for head in ("rule", "event for", "for (s)", "end after (s)", "cooldown (s)"):
        table.add_column(head)
    for rule in found.rules:
        about = "each object" if rule.of_objects else "the scene"
        moment = ", a moment" if rule.momentary else ""
        times = (f"{seconds:g}" for seconds in (rule.for_s, rule.end_after_s, rule.cooldown_s))
        table.add_row(rule.name, about + moment, *times)
    if found.rules:
        options.show_table(table)
    for problem in found.problems:
        print(f"{file}:{problem.line}:{problem.column}: {problem.about}: {problem.sentence}")
    if found.problems:
        count = len(found.problems)
        raise PerceptionError(f"{file}: {count} entr{'y' if count == 1 else 'ies'} cannot be used, see above")
    counts = {"rule": len(found.rules), "zone": len(found.zones), "line": len(found.lines)}
    said = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())
    print(f"{file}: {said}")


@app.command()
def replay(
    source: options.Source,
    rules: Annotated[Path, typer.Option(help="Rule file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; `out/NAME` by default.")] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    labels: Annotated[str | None, typer.Option(help="Labels to detect: `person,red box`.")] = None,
    seconds: options.Seconds = None,
    topic: options.Topic = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the results of an earlier run.")] = False,
    seed: options.Seed = 0,
) -> None:
    """Run a film through perception and rules: its events, a page with their timeline, and the film drawn.

    The same as `run --rules`, which has more options. Images are the frames of one film.
    """
    run(
        source, out, settings, set_, labels=labels, seconds=seconds, topic=topic, film=True, force=force,
        seed=seed, rules=rules,
    )  # fmt: skip
