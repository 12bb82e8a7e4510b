# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception models`: lists, pulls, verifies and names models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.progress import DownloadColumn, TaskID, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from lfm_perception.cli import options
from lfm_perception.cli.job import progress_bar
from lfm_perception.errors import PerceptionError
from lfm_perception.models.registry import License, Model, Registry
from lfm_perception.models.store import Store

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name that `models list` shows.")]


@app.callback()
def _options() -> None:
    """Pull, verify and name the models of the LFM2-VL family.

    Models are stored in the folder `lfm_perception` of HF_HOME, ~/.cache/huggingface by default. Running a
    model needs no network and no registry, only the paths that `models path` prints.
    """


@app.command("list")
def list_models() -> None:
    """List the models that can be pulled by name, and those on this computer."""
    store = Store()
    registry, stored = store.registry(), store.names()
    table = Table(box=None, pad_edge=False)
    for head in ("model", "size", "pinned", "stored", "boxes", "license", "source"):
        table.add_column(head, justify="right" if head == "size" else "left", no_wrap=head == "model")
    for model in registry:
        files = (model.file, model.mmproj(None))
        pinned = all(file.pinned for file in files)
        table.add_row(
            model.name,
            _megabytes(sum(file.size for file in files)) if pinned else "",
            "yes" if pinned else "not yet",
            "yes" if model.name in stored else "",
            _boxes(model),
            model.license.key if model.license else "",
            model.repo,
        )
    damaged = []
    for name in (name for name in stored if name not in registry):
        if problem := store.damage(name):
            damaged.append(problem)
            continue
        found = store.find(name)
        size = _megabytes(found.model.size + found.mmproj.size)
        table.add_row(name, size, "yes", "yes", "", "", found.source)
    for name in registry.servers:
        table.add_row(name, "", "", "needs a server", "", "", "")
    options.show_table(table)
    print(*_remarks(registry), *damaged, sep="\n")


@app.command()
def pull(
    name: Name,
    mmproj: Annotated[str | None, typer.Option(help="Quantization of the vision file: `F16`.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit or branch of the hub's repository instead of the pinned one.")
    ] = None,
    accept_license: Annotated[bool, typer.Option("--accept-license", help="Accept the license.")] = False,
) -> None:
    """Download a model and verify every byte.

    An interrupted pull resumes. HF_HOME, HF_ENDPOINT, HF_TOKEN and HTTPS_PROXY are respected.
    """
    from lfm_perception.models.hub import pull as pull_model

    store = Store()
    model = store.registry().find(name)
    if model.name in store.names():
        print(f"{model.name} is already stored; lfm-perception models verify {model.name} checks it")
        return
    if model.license and not store.accepted(model.license):
        _agree(model.name, model.license, accept_license)
        store.accept(model.license)
    with progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bars:
        tasks: dict[str, TaskID] = {}

        def show(file: str, received: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=size)
            bars.update(tasks[file], completed=received)

        pulled = pull_model(model, store, mmproj=mmproj, revision=revision, notify=print, on_progress=show)
    options.tell(f"{pulled.name} is in {pulled.folder}")
    print(f"to run it: lfm-perception run VIDEO --model {pulled.name}; for the node, see models settings")


def _agree(name: str, terms: License, accepted: bool) -> None:
    """Show the license's notice and ask for consent. Raises PerceptionError without it."""
    print(f"{name} is under the {terms.title}, {terms.text}\n{terms.notice}")
    if not accepted and not sys.stdin.isatty():
        raise PerceptionError(
            f"the {terms.title} has not been accepted here: read it and give --accept-license"
        )
    if not accepted and not typer.confirm("Do you accept it?"):
        raise PerceptionError(f"the {terms.title} was not accepted, so nothing was pulled")


@app.command()
def verify(names: Annotated[list[str] | None, typer.Argument(help="Only these models.")] = None) -> None:
    """Compare every byte of the models on this computer with the files that were pulled or added."""
    store = Store()
    problems = {store.find(name).name: store.problem(name) for name in names or store.names()}
    for name, problem in problems.items():
        options.tell(f"{name}: {problem or 'unchanged'}")
    if changed := [name for name, problem in problems.items() if problem]:
        raise PerceptionError(f"changed and unusable: {', '.join(changed)}")


@app.command()
def path(name: Name) -> None:
    """Print the paths of the language model and the vision file, one per line."""
    for file in Store().find(name).files:
        print(file)


@app.command()
def settings(name: Name) -> None:
    """Print the settings of a model: its files, their checksums, and the recommended values.

    In a file they serve the ROS node (params_file:=FILE) and the command line (--settings FILE).
    """
    from lfm_perception.settings import ANY_NODE, ROS_PARAMETERS

    groups: dict[str, dict[str, object]] = {}
    for key, value in Store().find(name).values().items():
        group, _, key = key.partition(".")
        groups.setdefault(group, {})[key] = value
    nodes = {ANY_NODE: {ROS_PARAMETERS: groups}}
    print(yaml.safe_dump(nodes, sort_keys=False, allow_unicode=True), end="")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The new name; letters, digits, '.', '_' and '-'.")],
    model: Annotated[Path, typer.Argument(help="GGUF file of the language model.")],
    mmproj: Annotated[Path, typer.Argument(help="GGUF file of the vision tower and projector.")],
    like: Annotated[str | None, typer.Option(help="Registry model whose settings apply.")] = None,
) -> None:
    """Give a name to a model of your own. Its files stay in place."""
    store = Store()
    registry = store.registry()
    if name in registry:
        raise PerceptionError(f"the registry has a model {name!r} already: choose another name")
    added = store.add(name, model, mmproj, "added", registry.find(like).settings if like else {})
    print(f"{added.name} is added; its files stay in place and must not change")


def _boxes(model: Model) -> str:
    """The dialect of a model for which its vendor documents one."""
    documented = model.settings.get("model.grounding") == "documented"
    return str(model.settings.get("detect.dialect", "bbox")) if documented else "not documented"


def _remarks(registry: Registry) -> Iterator[str]:
    """What to know before choosing a model, a sentence each."""
    yield "boxes: the dialect that the vendor documents; of a model without one, measure boxes before use"
    for note in dict.fromkeys(model.note for model in registry if model.note):
        names = [model.name for model in registry if model.note == note]
        yield f"{', '.join(names)}: {note}"
    yield from (f"{name} needs a server: {reason}" for name, reason in registry.servers.items())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
