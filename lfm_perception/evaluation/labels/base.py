# SPDX-License-Identifier: Apache-2.0
"""Labelled images, and the registry of label formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.files import MAX_TEXT_BYTES, read_text
from lfm_perception.geometry import Box
from lfm_perception.media import images
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.sources.base import Rejects
from lfm_perception.media.sources.images import image_files
from lfm_perception.questions import check_prompt_text
from lfm_perception.scene import Frame, Image
from lfm_perception.text import MAX_LABEL, is_safe

ROUNDING = 0.005
"""Distance of a box beyond the edge of its image that is not worth a note, in image sizes."""

FARTHEST = 1.0
"""Distance beyond the edge from which a box is taken to be in other units, in image sizes."""

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
    """Labelled images in order. `labels`: all labels that occur; `omissions` is counted while they are read.

    The boxes refer to the image as it is shown, with its EXIF orientation.
    """

    name: str
    labels: tuple[str, ...]
    count: int
    images: Iterator[LabelledImage]
    omissions: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> tuple[str, ...]:
        """Omissions so far, one sentence each."""
        return tuple(f"{count} {omission}" for omission, count in self.omissions.items() if count)


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


def parsed(file: Path, parse: Callable[[str], Any], what: str, limit: int = MAX_TEXT_BYTES) -> Any:
    """The content of a text file. Raises PerceptionError when it cannot be read or parsed."""
    try:
        return parse(read_text(file, limit))
    except PerceptionError as error:
        raise PerceptionError(f"{what} {file}: {error}") from error


def label_name(text: object, where: str) -> str:
    """The name of a class, without spaces around it. Raises PerceptionError when it cannot be asked for."""
    if not isinstance(text, str) or not text.strip() or not is_safe(text) or len(text) > MAX_LABEL:
        raise PerceptionError(f"{where} has no name that can be requested, got {shown(text)}")
    check_prompt_text(where, text)
    return " ".join(text.split())


def read_image(path: Path, depth: BitDepth, damage: Rejects, omissions: Counter[str]) -> Image | None:
    """The image of a file; None for one that cannot be read, which is counted.

    Raises PerceptionError when there are too many of them.
    """
    with damage.passing_over():
        image = images.read(path, depth)
        damage.good()
        return image
    omissions["images cannot be read and were left out"] += 1
    return None


def image_folder(source: Path) -> Path:
    """The folder of the images: the source itself, or its folder `images`."""
    inner = source / "images"
    return inner if inner.is_dir() and not image_files(str(source)) else source


def clipped_box(sides: Sequence[float], where: str, omissions: Counter[str]) -> Box | None:
    """The box with normalized sides `xyxy`, clipped to the image; None without area in it. Both are counted.

    Raises PerceptionError for a box that is not in these units; `where` names it.
    """
    # a comparison with NaN is false
    if not all(-FARTHEST <= side <= 1.0 + FARTHEST for side in sides):
        shown_sides = ", ".join(f"{side:.4g}" for side in sides)
        raise PerceptionError(f"{where} has a box far outside its image: ({shown_sides}) of 0 to 1")
    x1, y1, x2, y2 = (min(max(side, 0.0), 1.0) for side in sides)
    if x2 <= x1 or y2 <= y1:
        omissions["boxes without area in their image were left out"] += 1
        return None
    if not all(-ROUNDING <= side <= 1.0 + ROUNDING for side in sides):
        omissions["boxes beyond the edge of their image were clipped"] += 1
    return Box(x1, y1, x2, y2)


def listed(names: Iterable[str]) -> str:
    """The first few names, and the number of the others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return ", ".join(ordered[:LISTED]) + more
