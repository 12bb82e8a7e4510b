"""Labels in the format of COCO: `instances.json` with, beside or in annotations/ next to the images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels.base import (
    FORMATS,
    LabelFormat,
    LabelledImage,
    LabelledSource,
    Truth,
    clipped_box,
    image_folder,
    listed,
)
from lfm_perception.media import images
from lfm_perception.media.bags import is_bag
from lfm_perception.media.images import reason
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
    truth: Truth


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
    content = _Content(file)
    names = content.categories()
    sizes = content.by_id("images")
    for number, image in sizes.items():
        if not isinstance(image.get("file_name"), str) or not all(
            isinstance(image.get(side), int) and image[side] > 0 for side in ("width", "height")
        ):
            raise PerceptionError(f"labels {file}: image {number} needs file_name, width and height (pixels)")
    truth: dict[Any, list[Annotation]] = {number: [] for number in sizes}
    crowds = 0
    for index, entry in enumerate(content.lists["annotations"]):
        number, annotation = _annotation(
            entry, sizes, names, f"labels {file}: annotation {entry.get('id', index)}"
        )
        crowds += annotation is None
        if annotation is not None:
            truth[number].append(annotation)
    if not sizes:
        raise PerceptionError(f"labels {file} list no images")
    return CocoFile(
        tuple(
            CocoImage(image["file_name"], image["width"], image["height"], tuple(truth[number]))
            for number, image in sizes.items()
        ),
        tuple(dict.fromkeys(names.values())),
        (f"{crowds} boxes of crowds were left out",) if crowds else (),
    )


def _annotation(
    entry: dict[str, Any], sizes: dict[Any, dict[str, Any]], names: dict[Any, str], where: str
) -> tuple[Any, Annotation | None]:
    """The image's id and the annotation, which is None for a crowd."""
    number, category = entry.get("image_id"), entry.get("category_id")
    if not isinstance(number, (int, str)) or number not in sizes:
        raise PerceptionError(f"{where} belongs to image {number}, which is not listed")
    if not isinstance(category, (int, str)) or category not in names:
        raise PerceptionError(f"{where} has category {category}, which has no name")
    bbox = entry.get("bbox")
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, (int, float)) for v in bbox)):
        raise PerceptionError(f"{where} needs a bbox [x, y, width, height], got {bbox!r}")
    if entry.get("iscrowd"):
        return number, None
    width, height = sizes[number]["width"], sizes[number]["height"]
    x, y, w, h = bbox
    box = clipped_box((x / width, y / height, (x + w) / width, (y + h) / height), where)
    return number, Annotation(names[category], box)


class _Content:
    """The three lists of objects of a COCO file."""

    def __init__(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PerceptionError(f"labels {file} cannot be read: {reason(error)}") from error
        if not isinstance(content, dict):
            raise PerceptionError(
                f"labels {file} are not COCO's: an object with images, annotations, categories"
            )
        self.file = file
        self.lists: dict[str, list[dict[str, Any]]] = {}
        for key in ("images", "annotations", "categories"):
            entries = content.get(key)
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise PerceptionError(f"labels {file} are not COCO's: {key!r} is no list of objects")
            self.lists[key] = entries

    def by_id(self, key: str) -> dict[Any, dict[str, Any]]:
        """The objects of a list by their ids, which must be unique."""
        by_id: dict[Any, dict[str, Any]] = {}
        for entry in self.lists[key]:
            number = entry.get("id")
            if not isinstance(number, (int, str)) or number in by_id:
                raise PerceptionError(f"labels {self.file}: {key} need an id of their own, got {number!r}")
            by_id[number] = entry
        return by_id

    def categories(self) -> dict[Any, str]:
        """Names of the categories by id."""
        names = {number: entry.get("name") for number, entry in self.by_id("categories").items()}
        for number, name in names.items():
            if not isinstance(name, str) or not name.strip():
                raise PerceptionError(f"labels {self.file}: category {number} has no name")
        return {number: str(name).strip() for number, name in names.items()}


def _find(source: Path) -> list[str]:
    if is_bag(source):
        return []
    places = [source / name for name in FILES]
    places += [source.parent / FILES[0]]
    places += sorted((source / "annotations").glob("instances*.json"))
    places += sorted((source.parent / "annotations").glob("instances*.json"))
    return [str(place) for place in places if place.is_file()]


@contextmanager
def _open(source: Path, labels: str, _: str | None) -> Iterator[LabelledSource]:
    folder, coco = image_folder(source), read_coco(Path(labels))
    missing = [image.name for image in coco.images if not (folder / image.name).is_file()]
    if missing:
        raise PerceptionError(f"{labels} labels images that are not in {folder}: {listed(missing)}")
    labelled = {(folder / image.name).resolve() for image in coco.images}
    left = sum(path.resolve() not in labelled for path in image_files(str(folder)))
    notes = (*coco.notes, *([f"{left} images without labels were left out"] if left else []))
    name = f"images {folder}, labels {labels}"
    yield LabelledSource(name, coco.labels, len(coco.images), _images(folder, coco, labels), notes)


def _images(folder: Path, coco: CocoFile, labels: str) -> Iterator[LabelledImage]:
    for index, image in enumerate(coco.images):
        pixels = images.read(folder / image.name)
        height, width = pixels.shape[:2]
        if abs(width * image.height / (height * image.width) - 1.0) > ASPECT_TOLERANCE:
            raise PerceptionError(
                f"image {folder / image.name} is {width} x {height} pixels, but its labels in {labels} "
                f"are for {image.width} x {image.height}"
            )
        yield LabelledImage(image.name, Frame(pixels, index), image.truth)


def _accepts(source: Path, labels: str) -> bool:
    return not is_bag(source) and labels.endswith(".json")


FORMATS.append(LabelFormat("COCO: instances.json", _accepts, _find, _open))
