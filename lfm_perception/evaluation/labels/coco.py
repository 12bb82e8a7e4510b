# SPDX-License-Identifier: Apache-2.0
"""Labels in the format of COCO: `instances.json` with, beside or in annotations/ next to the images.

Width and height in the file tell whether its boxes refer to an image as shown, with its EXIF orientation, or
as stored; where both have the same shape, they refer to the image as shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels import base
from lfm_perception.files import MAX_DATA_BYTES, parse_json, real_path
from lfm_perception.geometry import Box
from lfm_perception.media import images
from lfm_perception.media.bags import is_bag
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.sources.base import Rejects
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame, Image

FILES = ("instances.json", "_annotations.coco.json")

ASPECT_TOLERANCE = 0.02
"""Relative tolerance between the aspect ratio of an image and the one in its labels."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of a COCO file; `width` and `height` in pixels."""

    name: str
    width: float
    height: float
    truth: base.Truth


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The content of a COCO file; `omissions` counts what was left out of it."""

    images: tuple[CocoImage, ...]
    labels: tuple[str, ...]
    omissions: Counter[str]


def read_coco(file: Path) -> CocoFile:
    """Read and check a COCO file; annotations of crowds and those without area are left out.

    Raises PerceptionError when it cannot be read or is malformed.
    """
    content = base.parsed(file, parse_json, "labels", MAX_DATA_BYTES)
    if not isinstance(content, dict):
        raise PerceptionError(f"labels {file} are not COCO's: an object with images, annotations, categories")
    names = {
        number: base.label_name(category.get("name"), f"labels {file}: category {number}")
        for number, category in _by_id(file, content, "categories").items()
    }
    listed = _by_id(file, content, "images")
    sizes = {
        number: (_number(image.get("width")), _number(image.get("height")))
        for number, image in listed.items()
    }
    for number, image in listed.items():
        if not isinstance(image.get("file_name"), str) or not min(sizes[number]) > 0.0:
            raise PerceptionError(f"labels {file}: image {number} needs file_name, width and height (pixels)")
    truth: dict[int | str, list[Annotation]] = {number: [] for number in listed}
    omissions: Counter[str] = Counter()
    for index, entry in enumerate(_entries(file, content, "annotations")):
        where = f"labels {file}: annotation {shown(entry.get('id', index))}"
        image_id, category = _id(entry.get("image_id")), _id(entry.get("category_id"))
        if image_id not in sizes:
            raise PerceptionError(
                f"{where} belongs to image {shown(entry.get('image_id'))}, which is not listed"
            )
        if category not in names:
            raise PerceptionError(
                f"{where} has category {shown(entry.get('category_id'))}, which has no name"
            )
        if box := _box(entry, *sizes[image_id], where, omissions):
            truth[image_id].append(Annotation(names[category], box))
    if not sizes:
        raise PerceptionError(f"labels {file} list no images")
    return CocoFile(
        tuple(
            CocoImage(image["file_name"], *sizes[number], tuple(truth[number]))
            for number, image in listed.items()
        ),
        tuple(dict.fromkeys(names.values())),
        omissions,
    )


def _box(
    entry: Mapping[str, Any], width: float, height: float, where: str, omissions: Counter[str]
) -> Box | None:
    """The box of an annotation, normalized; None for a crowd or without area, which are counted."""
    bbox = entry.get("bbox")
    numbers = [_number(value) for value in bbox] if isinstance(bbox, list) else []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise PerceptionError(f"{where} needs a bbox [x, y, width, height], got {shown(bbox)}")
    if (crowd := entry.get("iscrowd")) and _number(crowd) != 0.0:  # some tools write "0"
        omissions["boxes of crowds were left out"] += 1
        return None
    x, y, w, h = numbers
    return base.clipped_box((x / width, y / height, (x + w) / width, (y + h) / height), where, omissions)


def _number(value: object) -> float:
    """A number, which some tools write as text; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def _id(value: object) -> int | str:
    """An id, which some tools write as text or with decimals: "3" and 3.0 are 3. Empty for anything else."""
    number = _number(value)
    if number.is_integer():
        return int(value) if isinstance(value, int) else int(number)
    return value if isinstance(value, str) else ""


def _entries(file: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PerceptionError(f"labels {file} are not COCO's: {key!r} is no list of objects")
    return entries


def _by_id(file: Path, content: Mapping[str, Any], key: str) -> dict[int | str, dict[str, Any]]:
    by_id: dict[int | str, dict[str, Any]] = {}
    for entry in _entries(file, content, key):
        number = _id(entry.get("id"))
        if number == "" or number in by_id:
            raise PerceptionError(
                f"labels {file}: {key} need an id of their own, got {shown(entry.get('id'))}"
            )
        by_id[number] = entry
    return by_id


def _find(source: Path) -> list[str]:
    places = [*(source / name for name in FILES), source.parent / FILES[0]]
    for folder in (source, source.parent):
        places += sorted((folder / "annotations").glob("instances*.json"))
    return [str(place) for place in places if place.is_file() and not is_bag(source)]


@contextmanager
def _open(source: Path, labels: str, _: str | None) -> Iterator[base.LabelledSource]:
    folder, coco = base.image_folder(source), read_coco(Path(labels))
    placed: dict[Path, CocoImage] = {}
    for image in coco.images:
        if (path := _place(folder, image.name)) and path not in placed:
            placed[path] = image
    if not placed:
        names = base.listed(image.name for image in coco.images)
        raise PerceptionError(f"{labels} labels images that are not in {folder}: {names}")
    labelled = {real_path(path) for path in placed}
    omissions = coco.omissions
    omissions["labelled images are missing"] = len(coco.images) - len(placed)
    omissions["images without labels were left out"] = sum(
        real_path(path) not in labelled for path in image_files(str(folder))
    )
    name = f"images {folder}, labels {labels}"
    found = _images(placed, labels, omissions)
    yield base.LabelledSource(name, coco.labels, len(placed), found, omissions)


def _place(folder: Path, name: str) -> Path | None:
    """The image of this name, which may be a path on another computer, also one with Windows."""
    slashed = name.replace("\\", "/")
    with suppress(OSError, ValueError):  # the name is too long or no path
        for path in (folder / name, folder / slashed, folder / slashed.rpartition("/")[2]):
            if path.is_file():
                return path
    return None


def _images(
    placed: Mapping[Path, CocoImage], labels: str, omissions: Counter[str]
) -> Iterator[base.LabelledImage]:
    depth, damage = BitDepth(), Rejects()
    for index, (path, image) in enumerate(placed.items()):
        if (pixels := base.read_image(path, depth, damage, omissions)) is None:
            continue
        if not _of_shape(pixels, image) and _of_shape(
            stored := images.read(path, depth, as_stored=True), image
        ):
            pixels = stored
            omissions["images are evaluated without their EXIF orientation, as their labels are"] += 1
        if not _of_shape(pixels, image):
            raise PerceptionError(
                f"image {path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but its labels in {labels} "
                f"are for {image.width:g} x {image.height:g}"
            )
        yield base.LabelledImage(image.name, Frame(pixels, index), image.truth)
    damage.check()


def _of_shape(pixels: Image, image: CocoImage) -> bool:
    height, width = pixels.shape[:2]
    return bool(abs(width * image.height / (height * image.width) - 1.0) <= ASPECT_TOLERANCE)


base.register(
    base.LabelFormat(
        "COCO: instances.json",
        lambda source, labels: not is_bag(source) and labels.endswith(".json"),
        _find,
        _open,
    )
)
