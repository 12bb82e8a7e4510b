# SPDX-License-Identifier: Apache-2.0
"""The application of the command line: its commands, and how their errors are told."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

import lfm_perception
from lfm_perception.cli import drift, evaluate, memory, models, rules
from lfm_perception.cli.ask import ask
from lfm_perception.cli.bench import bench
from lfm_perception.cli.demo import demo
from lfm_perception.cli.doctor import doctor
from lfm_perception.cli.forward import forward
from lfm_perception.cli.mcp import mcp
from lfm_perception.cli.options import WarningPrinter
from lfm_perception.cli.record import record
from lfm_perception.cli.replay import replay
from lfm_perception.cli.run import run
from lfm_perception.errors import PerceptionError, os_reason

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (run, ask, mcp, record, demo, replay, bench, doctor, forward):
    app.command()(command)
app.add_typer(evaluate.app, name="eval")
app.add_typer(memory.app, name="memory")
app.add_typer(models.app, name="models")
app.add_typer(rules.app, name="rules")
app.add_typer(drift.app, name="drift")
_WARNINGS = WarningPrinter()


def run_application(arguments: Sequence[str] | None) -> None:
    """Run the command line and exit; None: the arguments of the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    logging.getLogger(lfm_perception.__name__).addHandler(_WARNINGS)
    try:
        _COMMAND(arguments, prog_name="lfm-perception")
    except PerceptionError as error:
        print(f"lfm-perception: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # a path that is too long or may not be entered, whichever code opens it
        if error.filename is None:
            raise
        said = PerceptionError(f"{error.filename}: {os_reason(error)}")
        print(f"lfm-perception: {said}", file=sys.stderr)
        raise SystemExit(1) from None


def _show_version(requested: bool) -> None:
    if requested:
        print(f"lfm-perception {lfm_perception.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Detect, track and describe objects in camera images with a vision-language model."""


_COMMAND = get_command(app)  # while the interruption of imports is quiet: it takes as long as one
