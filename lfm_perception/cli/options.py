# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and the settings they make."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.text import MAX_TEXT, safe_line

if TYPE_CHECKING:
    from rich.table import Table

    from lfm_perception.media.run import Limits
    from lfm_perception.settings import Settings

DEVICES = {"cpu": 0, "gpu": -1, "cuda": -1}
"""Values of --device with the number of layers on the GPU; -1: all."""

PIPE_WIDTH = 10_000
"""Width of tables that are not shown on a terminal, characters: nothing is cut or wrapped."""

DEMO_SECONDS = 10.0
"""Default duration of a run on the demo world, which has no end of its own; seconds."""

Source = Annotated[
    str,
    typer.Argument(
        help="`demo`, a video, an image, a folder or pattern of images, a camera (`0`, `/dev/video0`), "
        "a rosbag2 (folder, .mcap or .db3), a stream (`rtsp://`, `http://`, `https://`) or `-` for a stream "
        "on standard input."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results; created if missing.")]
OptionalOut = Annotated[Path | None, typer.Option(help="Folder for the results; created if missing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the results of an earlier run.")]
Frames = Annotated[int | None, typer.Option(min=1, help="Maximum number of frames to read.")]
Seconds = Annotated[
    float | None, typer.Option(min=0.001, help="Maximum duration, in seconds of the source's own time.")
]
Labels = Annotated[str | None, typer.Option(help="Labels to detect: `person,red box`.")]
Topic = Annotated[str | None, typer.Option(help="Image topic, for a bag with several.")]
Annotations = Annotated[
    str | None,
    typer.Option(
        help="COCO file, folder of YOLO files, file of YOLO names, or topic of detections in a bag, if the "
        "ground truth is not in the usual place."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(min=0.01, max=1000.0, help="Frame rate of a folder of images, 10 Hz by default."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the demo world and of sampling.")]
SettingsFile = Annotated[Path | None, typer.Option(help="YAML file of settings.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: `image.max_tokens=64`. Repeatable."),
]


class WarningPrinter(logging.Handler):
    """Prints what the package logs on standard error, also above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, and the traceback of an exception."""
        print(f"lfm-perception: warning: {self.format(record)}", file=sys.stderr)


def tell(text: str) -> None:
    """Print a line with names of files or models in it, which may hold control characters."""
    print(safe_line(text, MAX_TEXT))


def check_folder(out: Path | None) -> None:
    """Refuse a folder that cannot be written before anything is measured."""
    from lfm_perception.media.staging import staged

    if out:
        with staged(out):
            pass


def show_table(table: Table) -> None:
    """Print a table: as wide as the terminal allows, or whole and plain into a pipe or a file.

    Labels and file names are not read as rich's markup: `[/b]` is a text.
    """
    if sys.stdout.isatty():
        Console(markup=False).print(table)
        return
    text = io.StringIO()
    Console(file=text, markup=False, width=PIPE_WIDTH, color_system=None).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def show_rows(rows: Iterable[Sequence[str]]) -> None:
    """Print rows of a name, a value and possibly a remark, as a table."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    for column, style in zip(table.columns, ("bold", None), strict=False):
        column.style = style or ""
    show_table(table)


def _show_comparison(reports: tuple[Path, Path] | None) -> None:
    if reports:
        from lfm_perception.evaluation.compare import compare, table

        show_table(table(*compare(*reports)))
        raise typer.Exit


Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        metavar="A.json B.json",
        callback=_show_comparison,
        is_eager=True,
        help="Show two results side by side without measuring. `eval compare` also writes a page.",
    ),
]


def load_settings(
    file: Path | None,
    changes: Sequence[str] | None,
    *,
    labels: str | None = None,
    seed: int = 0,
    more: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of a file (default: none) with the options applied.

    Raises:
        PerceptionError: The file or a setting is invalid.
    """
    from lfm_perception.backends import log_warning
    from lfm_perception.files import parse_yaml
    from lfm_perception.settings import Settings

    values: dict[str, object] = {**(more or {}), **({"sampling.seed": seed} if seed else {})}
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"{shown(change)} is not KEY=VALUE", param_hint="--set")
        try:
            values[key.strip()] = parse_yaml(text)
        except PerceptionError as error:
            raise typer.BadParameter(
                f"the value of {shown(change)} is not valid YAML", param_hint="--set"
            ) from error
    if labels is not None:
        values["detect.labels"] = split(labels)
        if " " in labels.strip() and "," not in labels:
            log_warning(f"--labels {shown(labels)} is one label: separate several by commas")
    return (Settings.load(file) if file else Settings()).with_values(values)


def shortcuts(
    model: str | None, mmproj: Path | None, conf: float | None, device: str | None
) -> dict[str, object]:
    """The settings of the options that have names of their own. Raises PerceptionError."""
    values: dict[str, object] = {}
    if model is not None:
        values = _of_model(model, mmproj)
    elif mmproj is not None:
        values["mmproj.path"] = str(mmproj)
    if conf is not None:
        values["detect.min_score"] = conf
    if device is not None:
        if device not in DEVICES:
            raise PerceptionError(f"--device must be one of {', '.join(DEVICES)}, got {shown(device)}")
        values["engine.n_gpu_layers"] = DEVICES[device]
    return values


def _of_model(model: str, mmproj: Path | None) -> dict[str, object]:
    """The settings of a GGUF file, or of a model that has been pulled or added under this name."""
    path = Path(model)
    if path.name == model and path.suffix != ".gguf" and not path.exists():
        from lfm_perception.models.store import Store

        files = {"mmproj.path": str(mmproj), "mmproj.sha256": ""} if mmproj else {}
        return {**Store().find(model).values(), **files}
    return {"model.path": model, "mmproj.path": str(mmproj or _mmproj_beside(path))}


def _mmproj_beside(model: Path) -> Path:
    if not model.is_file():
        raise PerceptionError(f"there is no model {model}: give the path of a GGUF file")
    found = sorted(model.parent.glob("mmproj*.gguf"))
    if len(found) != 1:
        raise PerceptionError(f"{model.parent} holds {len(found)} files mmproj*.gguf: name one with --mmproj")
    return found[0]


def default_out(source: str) -> Path:
    """`out/NAME`, with the name of the source."""
    name = "stdin" if source == "-" else re.sub(r"^\w+://([^/@]*@)?", "", source.rstrip("/"))
    name = Path(name).stem if "://" not in source else name
    return Path("out", re.sub(r"[^\w.-]+", "_", name).strip("._") or "images")


def check_new(out: Path, results: Iterable[str], *, force: bool) -> None:
    """Refuse to replace the results of an earlier run, files of these names, unless that is wanted."""
    if not force and any((out / name).exists() for name in results):
        raise PerceptionError(
            f"{out} holds the results of an earlier run: add --force to replace them, or --out"
        )


def limits(source: str, frames: int | None, seconds: float | None) -> Limits:
    """The limits of a run; without any, the demo world runs for `DEMO_SECONDS`."""
    from lfm_perception.media.run import Limits
    from lfm_perception.media.sources.demo import DEMO

    endless = source == DEMO and frames is None and seconds is None
    return Limits(frames, DEMO_SECONDS if endless else seconds)


def split(text: str) -> list[str]:
    """The non-empty parts of a comma-separated text."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_apart(source: str, out: Path) -> None:
    """Refuse results that would replace the source, or be read as part of it the next time."""
    from lfm_perception.files import real_path
    from lfm_perception.media.sinks import RESULTS

    read, written = real_path(Path(source)), real_path(out)
    results = {written / name for name in RESULTS}
    if read == written or results & {read, *read.parents}:
        raise PerceptionError(
            f"the results would mix with the source {source}: choose a folder other than {out}"
        )


NODE = "node"
"""The source that is the running node; `node:/cam1/perception` names it."""


def node_name(source: str) -> str | None:
    """The full name of the running node that a source names; None for other sources.

    Raises:
        PerceptionError: no node can have this name.
    """
    if source != NODE and not source.startswith(f"{NODE}:"):
        return None
    name = source.partition(":")[2] or "/perception"
    if not re.fullmatch(r"[\w/]+", name):
        raise PerceptionError(f"{shown(name)} cannot name a node: write {NODE}:/cam1/perception")
    return name


def refuse_for_node(given: Mapping[str, object]) -> None:
    """Refuse options that mean nothing for a running node: those with a value other than their default."""
    useless = [name for name, value in given.items() if value]
    if useless:
        *others, last = useless
        names = f"{', '.join(others)} and {last}" if others else last
        raise typer.BadParameter(
            f"a running node has its own settings and reads its own camera: leave out {names}",
            param_hint=NODE,
        )


def require_ros() -> None:
    """Raise PerceptionError when ROS 2 is missing, before an import fails."""
    if find_spec("rclpy") is None or find_spec("vision_msgs") is None:
        raise PerceptionError(
            "this command needs ROS 2 (rclpy, vision_msgs): source a ROS distribution, "
            "or run make environment on x86-64"
        )
