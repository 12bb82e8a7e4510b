# SPDX-License-Identifier: Apache-2.0
"""The table of the program's commands, from the first sentence of each one's help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from documentation.marks import table
from lfm_perception.cli.application import app


def text() -> str:
    return table(("command", "does"), _rows(get_command(app), "lfm-perception"))


def _rows(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """A row for each command; a group stands for those in it."""
    for key, each in getattr(command, "commands", {}).items():
        yield from _rows(each, f"{name} {key}")
    if not hasattr(command, "commands"):
        sentence = " ".join(command.help.split("\n\n")[0].split()).partition(". ")[0]
        yield f"`{name}`", sentence.removesuffix(".")
