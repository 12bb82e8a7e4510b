# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception memory`: searches what a node has kept, deletes it, and tells what there is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfm_perception.cli import options

if TYPE_CHECKING:
    from lfm_perception.memory import MemoryStore

app = typer.Typer(no_args_is_help=True)

File = Annotated[
    str | None, typer.Option("--path", metavar="FILE", help="File of the memory, instead of memory.path.")
]


@app.callback()
def _options() -> None:
    """Captions, events and counts that a node with `memory.enabled` keeps."""


@contextmanager
def _opened(path: str | None, settings: Path | None, changes: list[str] | None) -> Iterator[MemoryStore]:
    from lfm_perception.memory import MemoryStore

    more: dict[str, object] = {} if path is None else {"memory.path": path}
    with closing(MemoryStore(options.load_settings(settings, changes, more=more).memory)) as store:
        yield store


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="Words that an entry must all have; none: every entry.")] = "",
    since: Annotated[str, typer.Option(help="Age (`10m`, `2h`, `7d`), or date and time.")] = "",
    until: Annotated[str, typer.Option(help="Age, or date and time.")] = "",
    kind: Annotated[str, typer.Option(help="`caption`, `event` or `count`.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of entries.")] = 20,
    thumbnails: Annotated[Path | None, typer.Option(help="Folder for the thumbnails of the entries.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each entry as a JSON object.")] = False,
    path: File = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
) -> None:
    """Search a memory, also while its node runs; the newest entry is printed first."""
    from dataclasses import replace

    from lfm_perception.memory import MemoryQuestion
    from lfm_perception.memory.question import ago_text, entry_to_json, time_text

    now_ns = time.time_ns()
    query = MemoryQuestion(words, words, since, until, kind).query(now_ns)
    with _opened(path, settings, set_) as store:
        entries = store.search(replace(query, limit=limit))
    if thumbnails is not None:
        thumbnails.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        if as_json:
            print(json.dumps(entry_to_json(entry, now_ns), ensure_ascii=False))
        else:
            age = ago_text(now_ns - entry.kept_ns)
            options.tell(f"{time_text(entry.kept_ns)}  {age:>15}  {entry.kind:7}  {entry.text}")
        if thumbnails is not None and entry.thumbnail:
            (thumbnails / f"{entry.kept_ns}.jpg").write_bytes(entry.thumbnail)
    if not entries and not as_json:
        options.tell("no entry is found")


@app.command()
def delete(
    before: Annotated[
        str | None, typer.Option(help="Delete what was kept before this: age (`10m`), or date and time.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every entry.")] = False,
    path: File = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
) -> None:
    """Delete entries, also while the node runs; their text is gone from the file."""
    from lfm_perception.memory.question import moment_ns

    if everything == (before is not None):
        raise typer.BadParameter("give either --before or --all")
    before_ns = None if before is None else moment_ns(before, time.time_ns())
    with _opened(path, settings, set_) as store:
        options.tell(f"{store.delete(before_ns)} entries are deleted from {store.path}")


@app.command()
def info(path: File = None, settings: options.SettingsFile = None, set_: options.Changes = None) -> None:
    """Tell how many entries a memory has, since when, and its size."""
    from lfm_perception.memory.question import time_text

    with _opened(path, settings, set_) as store:
        found = store.info()
    rows = [("file", str(store.path)), ("size", f"{found.file_bytes / 1e6:.1f} MB")]
    rows += [(f"entries: {kind}", str(count)) for kind, count in found.entries.items()] or [
        ("entries", "none")
    ]
    for name, time_ns in (("oldest", found.oldest_ns), ("newest", found.newest_ns)):
        rows.append((name, "none" if time_ns is None else time_text(time_ns)))
    options.show_rows(rows)
