"""`lfm-perception models`: what there is, what is here, and bringing the one to the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.progress import DownloadColumn, TaskID, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from lfm_perception.cli.job import progress_bar
from lfm_perception.errors import PerceptionError

if TYPE_CHECKING:
    from lfm_perception.models.registry import License, Registry
    from lfm_perception.models.store import Store

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name that `models list` shows.")]


@app.callback()
def _options() -> None:
    """Pull, check and name the models of the LFM2-VL family.

    Models are kept in the folder `lfm_perception` of HF_HOME, ~/.cache/huggingface by default. Running a
    model needs no network and no registry: only the paths that `models path` prints.
    """


@app.command("list")
def list_models() -> None:
    """Show the models that can be pulled by name, and those that are on this computer."""
    from lfm_perception.models.store import Store

    store = Store()
    registry = _registry(store)
    here = store.names()
    table = Table(box=None, pad_edge=False)
    for head in ("model", "size", "pinned", "here", "license", "from"):
        table.add_column(head, justify="right" if head == "size" else "left", no_wrap=head == "model")
    for model in registry:
        files = (model.file, model.mmproj(None))
        pinned = all(file.pinned for file in files)
        table.add_row(
            model.name,
            f"{sum(file.size for file in files) / 1e6:.0f} MB" if pinned else "",
            "yes" if pinned else "not yet",
            "yes" if model.name in here else "",
            model.license.key if model.license else "",
            model.repo,
        )
    for name in here:
        if name not in registry:
            stored = store.find(name)
            size = f"{(stored.model.size + stored.mmproj.size) / 1e6:.0f} MB"
            table.add_row(name, size, "yes", "yes", "", stored.source)
    Console().print(table)


@app.command()
def pull(
    name: Name,
    mmproj: Annotated[
        str | None, typer.Option(help="Quantization of the vision file, `F16` for example.")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="A commit or branch of the hub's repository instead of the pinned one."),
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the model's license without being asked.")
    ] = False,
) -> None:
    """Bring a model to this computer, checked to the last byte.

    A pull that was cut goes on where it was. HF_HOME, HF_ENDPOINT, HF_TOKEN and HTTPS_PROXY are respected.
    """
    from lfm_perception.models.hub import pull as pull_model
    from lfm_perception.models.store import Store

    store = Store()
    model = _registry(store).find(name)
    if model.name in store.names():
        print(f"{model.name} is here already; lfm-perception models verify {model.name} checks it")
        return
    if model.license and not store.accepted(model.license):
        _agree(model.name, model.license, accept_license)
        store.accept(model.license)
    with progress_bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=size)
            bars.update(tasks[file], completed=done)

        pulled = pull_model(model, store, mmproj=mmproj, revision=revision, tell=print, progress=progress)
    print(f"{pulled.name} is in {pulled.folder}")
    print(f"to run it: lfm-perception models settings {pulled.name} > {pulled.name}.yaml")


def _agree(name: str, terms: License, accepted: bool) -> None:
    """Show the license's notice and hear that it is accepted. Raises PerceptionError when it is not."""
    print(f"{name} is under the {terms.title}, {terms.text}\n{terms.notice}")
    if not accepted and not sys.stdin.isatty():
        raise PerceptionError(
            f"the {terms.title} has not been accepted here: read it and give --accept-license"
        )
    if not accepted and not typer.confirm("Do you accept it?"):
        raise PerceptionError(f"the {terms.title} was not accepted, so nothing was pulled")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Only these models.")] = None,
) -> None:
    """Compare every byte of the models on this computer with what was pulled or added."""
    from lfm_perception.models.store import Store

    store = Store()
    problems = {name: _problem(store, name) for name in names or store.names()}
    for name, problem in problems.items():
        print(f"{name}: {problem or 'as it came'}")
    if any(problems.values()):
        wrong = ", ".join(name for name, problem in problems.items() if problem)
        raise PerceptionError(f"not as they came, and not to be used: {wrong}")


def _problem(store: Store, name: str) -> str:
    """What is wrong with a model's files; nothing: an empty text."""
    try:
        store.find(name).check()
    except PerceptionError as error:
        return str(error)
    return ""


@app.command()
def path(name: Name) -> None:
    """Print where the language model and the vision file are, a line each."""
    from lfm_perception.models.store import Store

    for file in Store().find(name).files:
        print(file)


@app.command()
def settings(name: Name) -> None:
    """Print the settings that run a model: its files, their checksums, and what it works best with.

    As a file they serve the ROS node (params_file:=FILE) and the command line (--settings FILE).
    """
    from lfm_perception.models.store import Store
    from lfm_perception.settings import ANY_NODE, ROS_PARAMETERS

    stored = Store().find(name)
    groups: dict[str, dict[str, object]] = {}
    for role, file, entry in zip(
        ("model", "mmproj"), stored.files, (stored.model, stored.mmproj), strict=True
    ):
        groups[role] = {"path": str(file), "sha256": entry.sha256}
    for key, value in stored.settings.items():
        group, _, key = key.partition(".")
        groups.setdefault(group, {})[key] = value
    nodes = {ANY_NODE: {ROS_PARAMETERS: groups}}
    print(yaml.safe_dump(nodes, sort_keys=False, allow_unicode=True), end="")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The name it shall have; letters, digits, '.', '_' and '-'.")],
    model: Annotated[Path, typer.Argument(help="GGUF file of the language model.")],
    mmproj: Annotated[Path, typer.Argument(help="GGUF file of the vision tower and projector.")],
    like: Annotated[
        str | None, typer.Option(help="A model of the registry with whose settings it works best.")
    ] = None,
) -> None:
    """Give a model of your own a name. Its files stay where they are."""
    from lfm_perception.models.store import Store

    store = Store()
    registry = _registry(store)
    if name in registry:
        raise PerceptionError(f"the registry has a model {name!r} already: choose another name")
    added = store.add(name, model, mmproj, "added", registry.find(like).settings if like else {})
    print(f"{added.name} is known; its files stay where they are and must not change")


def _registry(store: Store) -> Registry:
    """The models of the package and of the team."""
    from lfm_perception.models.registry import SHIPPED, Registry

    mine = store.user_registry
    return Registry(SHIPPED, *([mine] if mine.exists() else []))
