"""Labels in the format of COCO: `instances.json` with, beside or in annotations/ next to the images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels import base
from lfm_perception.media import images
from lfm_perception.media.bags import is_bag
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame

FILES = ("instances.json", "_annotations.coco.json")

ASPECT_TOLERANCE = 0.02
"""Relative tolerance between the aspect ratio of an image and the one in its labels."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of a COCO file; `width` and `height` in pixels."""

    name: str
    width: int
    height: int
    truth: base.Truth


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The content of a COCO file."""

    images: tuple[CocoImage, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def read_coco(file: Path) -> CocoFile:
    """Read and check a COCO file; annotations of crowds are omitted.

    Raises PerceptionError when it cannot be read or is malformed.
    """
    content = base.parsed(file, json.loads, "labels")
    if not isinstance(content, dict):
        raise PerceptionError(f"labels {file} are not COCO's: an object with images, annotations, categories")
    categories, sizes = _by_id(file, content, "categories"), _by_id(file, content, "images")
    for number, category in categories.items():
        if not isinstance(category.get("name"), str) or not category["name"].strip():
            raise PerceptionError(f"labels {file}: category {number} has no name")
    for number, image in sizes.items():
        if not isinstance(image.get("file_name"), str) or not all(
            isinstance(image.get(side), int) and image[side] > 0 for side in ("width", "height")
        ):
            raise PerceptionError(f"labels {file}: image {number} needs file_name, width and height (pixels)")
    names = {number: category["name"].strip() for number, category in categories.items()}
    truth: dict[Any, list[Annotation | None]] = {number: [] for number in sizes}
    for index, entry in enumerate(_entries(file, content, "annotations")):
        where = f"labels {file}: annotation {entry.get('id', index)}"
        annotation = _annotation(entry, sizes, names, where)
        truth[entry["image_id"]].append(annotation)
    if not sizes:
        raise PerceptionError(f"labels {file} list no images")
    crowds = sum(found.count(None) for found in truth.values())
    return CocoFile(
        tuple(
            CocoImage(image["file_name"], image["width"], image["height"], tuple(filter(None, truth[number])))
            for number, image in sizes.items()
        ),
        tuple(dict.fromkeys(names.values())),
        (f"{crowds} boxes of crowds were left out",) if crowds else (),
    )


def _annotation(
    entry: Mapping[str, Any], sizes: Mapping[Any, Mapping[str, Any]], names: Mapping[Any, str], where: str
) -> Annotation | None:
    """The annotation, checked; None for a crowd."""
    number, category, bbox = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not isinstance(number, (int, str)) or number not in sizes:
        raise PerceptionError(f"{where} belongs to image {number}, which is not listed")
    if not isinstance(category, (int, str)) or category not in names:
        raise PerceptionError(f"{where} has category {category}, which has no name")
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, (int, float)) for v in bbox)):
        raise PerceptionError(f"{where} needs a bbox [x, y, width, height], got {bbox!r}")
    if entry.get("iscrowd"):
        return None
    width, height = sizes[number]["width"], sizes[number]["height"]
    x, y, w, h = bbox
    sides = (x / width, y / height, (x + w) / width, (y + h) / height)
    return Annotation(names[category], base.clipped_box(sides, where))


def _entries(file: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PerceptionError(f"labels {file} are not COCO's: {key!r} is no list of objects")
    return entries


def _by_id(file: Path, content: Mapping[str, Any], key: str) -> dict[Any, dict[str, Any]]:
    by_id: dict[Any, dict[str, Any]] = {}
    for entry in _entries(file, content, key):
        number = entry.get("id")
        if not isinstance(number, (int, str)) or number in by_id:
            raise PerceptionError(f"labels {file}: {key} need an id of their own, got {number!r}")
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
    missing = [image.name for image in coco.images if not (folder / image.name).is_file()]
    if missing:
        raise PerceptionError(f"{labels} labels images that are not in {folder}: {base.listed(missing)}")
    labelled = {(folder / image.name).resolve() for image in coco.images}
    left = sum(path.resolve() not in labelled for path in image_files(str(folder)))
    notes = (*coco.notes, *([f"{left} images without labels were left out"] if left else []))
    name = f"images {folder}, labels {labels}"
    yield base.LabelledSource(name, coco.labels, len(coco.images), _images(folder, coco, labels), notes)


def _images(folder: Path, coco: CocoFile, labels: str) -> Iterator[base.LabelledImage]:
    for index, image in enumerate(coco.images):
        pixels = images.read(folder / image.name)
        height, width = pixels.shape[:2]
        if abs(width * image.height / (height * image.width) - 1.0) > ASPECT_TOLERANCE:
            raise PerceptionError(
                f"image {folder / image.name} is {width} x {height} pixels, but its labels in {labels} "
                f"are for {image.width} x {image.height}"
            )
        yield base.LabelledImage(image.name, Frame(pixels, index), image.truth)


base.register(
    base.LabelFormat(
        "COCO: instances.json",
        lambda source, labels: not is_bag(source) and labels.endswith(".json"),
        _find,
        _open,
    )
)
