"""Labelled images, and the registry of label formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.geometry import Box
from lfm_perception.media.images import reason
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame

ROUNDING = 0.005
"""Tolerance for boxes beyond the edge of their image, in image sizes; they are clipped."""

LISTED = 3
"""Number of names that a message lists before it counts the others."""

Truth = tuple[Annotation, ...]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and its ground truth; `name` is used in reports."""

    name: str
    frame: Frame
    truth: Truth


@dataclass(frozen=True, slots=True)
class LabelledSource:
    """Labelled images in order. `labels`: all labels that occur; `notes`: omissions, one sentence each."""

    name: str
    labels: tuple[str, ...]
    count: int
    images: Iterator[LabelledImage]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelFormat:
    """One format of labels.

    `accepts` decides whether this format reads the labels given for a source; `find` lists where labels of
    this format lie if none are given; `open` takes the source, the labels and an image topic (of a bag).
    """

    description: str
    accepts: Callable[[Path, str], bool]
    find: Callable[[Path], list[str]]
    open: Callable[[Path, str, str | None], AbstractContextManager[LabelledSource]]


FORMATS: list[LabelFormat] = []
register = FORMATS.append


def parsed(file: Path, parse: Callable[[str], Any], what: str) -> Any:
    """The content of a text file. Raises PerceptionError when it cannot be read or parsed."""
    try:
        return parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PerceptionError(f"{what} {file} cannot be read: {reason(error)}") from error


def image_folder(source: Path) -> Path:
    """The folder of the images: the source itself, or its folder `images`."""
    inner = source / "images"
    return inner if inner.is_dir() and not image_files(str(source)) else source


def clipped_box(sides: Sequence[float], where: str) -> Box:
    """The box with normalized sides `xyxy`, clipped to the image by at most `ROUNDING`.

    Raises PerceptionError for a box outside the image or without area; `where` names it.
    """
    x1, y1, x2, y2 = sides
    shown = ", ".join(f"{side:.4g}" for side in sides)
    if not all(-ROUNDING <= side <= 1.0 + ROUNDING for side in sides):
        raise PerceptionError(f"{where} has a box outside its image: ({shown}) of 0 to 1")
    if x2 <= x1 or y2 <= y1:
        raise PerceptionError(f"{where} has a box without area: ({shown}) of 0 to 1")
    return Box(*(min(max(side, 0.0), 1.0) for side in sides))


def listed(names: Iterable[str]) -> str:
    """The first few names, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return ", ".join(ordered[:LISTED]) + more
