"""Pictures and what is truly there: labels in the forms of COCO and YOLO, and in a rosbag2.

    COCO   instances.json with, beside or in annotations/ next to the images; boxes in pixels
    YOLO   for each image a .txt of `class cx cy w h`, beside it or under labels/ instead of images/; the
           names in data.yaml or classes.txt; an image without a .txt shows nothing
    bag    a topic of vision_msgs/Detection2DArray, or a COCO file whose `file_name`s are stamps in ns

Labels are read and checked as a whole before the first picture is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.geometry import Box
from lfm_perception.media import images
from lfm_perception.media.bags import is_bag, open_bag, typestore
from lfm_perception.media.images import reason
from lfm_perception.media.sources import open_source
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame

BOXES_TYPE = "vision_msgs/msg/Detection2DArray"
USUAL_TOPIC = "ground_truth"
"""Last part of the topic that is taken where a bag has several of boxes."""

BEYOND = 0.005
"""Rounding in a file of labels: a box may leave the image by this much, and is then cut."""

SHAPE = 0.02
"""Width over height of an image may differ by this share from what its labels say."""

COCO_FILES = ("instances.json", "_annotations.coco.json")
YOLO_NAMES = ("data.yaml", "dataset.yaml", "classes.txt")
NAMED = 3
"""Files that an error names before it counts the others."""

Truth = tuple[Annotation, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and all that is there; `name` is what reports call it."""

    name: str
    frame: Frame
    truth: Truth


@dataclass(frozen=True, slots=True)
class LabelledSource:
    """Labelled pictures in order. `labels`: all names there are; `notes`: what was left out, and why."""

    name: str
    labels: tuple[str, ...]
    count: int
    pictures: Iterator[Labelled]
    notes: tuple[str, ...] = ()


@contextmanager
def open_labelled(
    source: Path, labels: str | None = None, *, topic: str | None = None
) -> Iterator[LabelledSource]:
    """Open a folder of images, or a bag, with its labels.

    `labels`: a COCO file, a folder of YOLO files, a YAML file of YOLO names, or the topic of boxes in a bag;
    found where it usually lies if not given. `topic` chooses among the image topics of a bag. Raises
    PerceptionError when there are no labels, when they are malformed, or do not belong to the pictures.
    """
    if not source.exists():
        raise PerceptionError(f"there is no {source}: give a folder of images with labels, or a rosbag2")
    if is_bag(source):
        with _bag(source, labels, topic) as opened:
            yield opened
        return
    if topic is not None:
        raise PerceptionError(f"a topic ({topic}) can be chosen in a bag only, and {source} is none")
    if not source.is_dir():
        raise PerceptionError(f"{source} is neither a folder of images nor a rosbag2")
    yield _folder(source, labels)


def _folder(folder: Path, labels: str | None) -> LabelledSource:
    pictures = folder if image_files(str(folder)) or not (folder / "images").is_dir() else folder / "images"
    given = Path(labels) if labels is not None else None
    if given is not None and not given.exists():
        raise PerceptionError(f"there are no labels {given}")
    if given is not None and given.suffix == ".json":
        return _coco_folder(pictures, given)
    if given is not None:
        return _yolo_folder(pictures, given)
    coco, yolo = _coco_files(folder), _yolo_labels(pictures)
    if len(coco) + (yolo is not None) > 1:
        found = ", ".join(map(str, [*coco, *([yolo] if yolo else [])]))
        raise PerceptionError(f"{folder} has labels in several places, choose one with --labels: {found}")
    if coco:
        return _coco_folder(pictures, coco[0])
    if yolo is not None:
        return _yolo_folder(pictures, yolo)
    raise PerceptionError(
        f"{folder} has no labels: it needs COCO's (instances.json) or YOLO's (a .txt for each image, the "
        f"names in data.yaml or classes.txt); say where they are with --labels"
    )


def _box(sides: Sequence[float], where: str) -> Box:
    """The box, with what rounding put outside cut off. Raises PerceptionError when it is none."""
    x1, y1, x2, y2 = sides
    shown = ", ".join(f"{side:.4g}" for side in sides)
    if not all(-BEYOND <= side <= 1.0 + BEYOND for side in sides):
        raise PerceptionError(f"{where} has a box outside its image: ({shown}) of 0 to 1")
    if x2 <= x1 or y2 <= y1:
        raise PerceptionError(f"{where} has a box without area: ({shown}) of 0 to 1")
    return Box(*(min(max(side, 0.0), 1.0) for side in sides))


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


# --- COCO ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _CocoImage:
    """An image as a COCO file has it; `width` and `height` in pixels."""

    name: str
    width: int
    height: int
    truth: Truth


@dataclass(frozen=True, slots=True)
class _Coco:
    images: tuple[_CocoImage, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def _coco_files(folder: Path) -> list[Path]:
    places = [folder / name for name in COCO_FILES]
    places += [folder.parent / COCO_FILES[0]]
    places += sorted((folder / "annotations").glob("instances*.json"))
    places += sorted((folder.parent / "annotations").glob("instances*.json"))
    return [place for place in places if place.is_file()]


def _coco_folder(folder: Path, file: Path) -> LabelledSource:
    coco = _read_coco(file)
    missing = [image.name for image in coco.images if not (folder / image.name).is_file()]
    if missing:
        raise PerceptionError(f"{file} labels images that are not in {folder}: {_some(missing)}")
    labelled = {(folder / image.name).resolve() for image in coco.images}
    left = sum(path.resolve() not in labelled for path in image_files(str(folder)))

    def read() -> Iterator[Labelled]:
        for index, image in enumerate(coco.images):
            picture = images.read(folder / image.name)
            height, width = picture.shape[:2]
            if abs(width * image.height / (height * image.width) - 1.0) > SHAPE:
                raise PerceptionError(
                    f"image {folder / image.name} is {width} x {height} pixels, but its labels in {file} "
                    f"are for {image.width} x {image.height}"
                )
            yield Labelled(image.name, Frame(picture, index), image.truth)

    notes = [f"{left} images without labels were left out"] if left else []
    return LabelledSource(
        f"images {folder}, labels {file}", coco.labels, len(coco.images), read(), (*coco.notes, *notes)
    )


def _read_coco(file: Path) -> _Coco:
    """The file, checked; annotations of crowds are left out."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PerceptionError(f"labels {file} cannot be read: {reason(error)}") from error
    if not isinstance(content, dict):
        raise PerceptionError(f"labels {file} are not COCO's: an object with images, annotations, categories")
    lists = {key: content.get(key) for key in ("images", "annotations", "categories")}
    for key, entries in lists.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise PerceptionError(f"labels {file} are not COCO's: {key!r} is no list of objects")
    names = _by_id(lists["categories"], "categories", file)
    for number, named in names.items():
        if not isinstance(named.get("name"), str) or not named["name"].strip():
            raise PerceptionError(f"labels {file}: category {number} has no name")
    sizes = _by_id(lists["images"], "images", file)
    for number, image in sizes.items():
        if not isinstance(image.get("file_name"), str) or not all(
            isinstance(image.get(side), int) and image[side] > 0 for side in ("width", "height")
        ):
            raise PerceptionError(f"labels {file}: image {number} needs file_name, width and height (pixels)")
    truth: dict[Any, list[Annotation]] = {number: [] for number in sizes}
    crowds = 0
    for index, entry in enumerate(lists["annotations"] or []):
        where = f"labels {file}: annotation {entry.get('id', index)}"
        number, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(number, (int, str)) or number not in sizes:
            raise PerceptionError(f"{where} belongs to image {number}, which is not listed")
        if not isinstance(category, (int, str)) or category not in names:
            raise PerceptionError(f"{where} has category {category}, which has no name")
        box = entry.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box)):
            raise PerceptionError(f"{where} needs a bbox [x, y, width, height], got {box!r}")
        if entry.get("iscrowd"):
            crowds += 1
            continue
        wide, high = sizes[number]["width"], sizes[number]["height"]
        x, y, w, h = box
        sides = _box((x / wide, y / high, (x + w) / wide, (y + h) / high), where)
        truth[number].append(Annotation(names[category]["name"].strip(), sides))
    if not sizes:
        raise PerceptionError(f"labels {file} list no images")
    return _Coco(
        tuple(
            _CocoImage(image["file_name"], image["width"], image["height"], tuple(truth[number]))
            for number, image in sizes.items()
        ),
        tuple(dict.fromkeys(named["name"].strip() for named in names.values())),
        (f"{crowds} boxes of crowds were left out",) if crowds else (),
    )


def _by_id(entries: Any, what: str, file: Path) -> dict[Any, dict[str, Any]]:
    by_id: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        number = entry.get("id")
        if not isinstance(number, (int, str)) or number in by_id:
            raise PerceptionError(f"labels {file}: {what} need an id of their own, got {number!r}")
        by_id[number] = entry
    return by_id


# --- YOLO ------------------------------------------------------------------------------------------


def _yolo_labels(pictures: Path) -> Path | None:
    """The folder with the .txt files of these pictures, if there are any."""
    return next((place for place in _label_folders(pictures) if _label_files(place)), None)


def _label_folders(pictures: Path) -> list[Path]:
    """Beside the images, or where the last `images` in their path is `labels`."""
    folders = [pictures]
    parts = list(pictures.resolve().parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        folders.append(Path(*parts[:last], "labels", *parts[last + 1 :]))
    return folders


def _label_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.txt") if file.name not in YOLO_NAMES)


def _yolo_folder(pictures: Path, given: Path) -> LabelledSource:
    """`given` is the folder of the .txt files, or the file of the names."""
    if given.is_dir():
        folder, names_file = given, _names_file(given, pictures)
    else:
        folder, names_file = _yolo_labels(pictures) or pictures, given
    names = _read_names(names_file)
    files = {file.stem: file for file in _label_files(folder)}
    found = image_files(str(pictures))
    if not files or not found:
        missing = f"images in {pictures}" if files else f"labels (.txt) in {folder}"
        raise PerceptionError(f"there are no {missing}")
    if missing_images := sorted(set(files) - {path.stem for path in found}):
        listed = _some(f"{stem}.txt" for stem in missing_images)
        raise PerceptionError(f"{folder} has labels of images that are not in {pictures}: {listed}")
    truth = {stem: _read_yolo(file, names, names_file) for stem, file in files.items()}

    def read() -> Iterator[Labelled]:
        for index, path in enumerate(found):
            yield Labelled(path.name, Frame(images.read(path), index), truth.get(path.stem, ()))

    empty = sum(path.stem not in files for path in found)
    notes = (f"{empty} images have no .txt and are taken to show nothing",) if empty else ()
    labels = tuple(dict.fromkeys(names.values()))
    return LabelledSource(f"images {pictures}, labels {folder}", labels, len(found), read(), notes)


def _names_file(folder: Path, pictures: Path) -> Path:
    """The file of the names: in the folder of the labels or of the images, or up to two above."""
    places = [folder, pictures, folder.parent, pictures.parent, folder.resolve().parent.parent]
    found = [place / name for place in places for name in YOLO_NAMES if (place / name).is_file()]
    if not found:
        raise PerceptionError(
            f"the classes of the labels in {folder} have no names: put them into data.yaml (names: [...]) "
            f"or classes.txt (one a line) beside them"
        )
    return found[0]


def _read_names(file: Path) -> dict[int, str]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".txt":
            listed: Any = [line.strip() for line in text.strip().splitlines()]
        else:
            content = yaml.safe_load(text)
            listed = content.get("names") if isinstance(content, dict) else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PerceptionError(f"the names in {file} cannot be read: {reason(error)}") from error
    names = dict(enumerate(listed)) if isinstance(listed, list) else listed
    if not isinstance(names, dict) or not all(
        isinstance(number, int) and isinstance(name, str) and name.strip() for number, name in names.items()
    ):
        raise PerceptionError(f"{file} holds no names of classes: `names: [person, box]` or one a line")
    return {number: name.strip() for number, name in names.items()}


def _read_yolo(file: Path, names: Mapping[int, str], names_file: Path) -> Truth:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PerceptionError(f"labels {file} cannot be read: {reason(error)}") from error
    truth = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {file}"
        try:
            kind, x, y, w, h = map(float, line.split())
        except ValueError as error:
            raise PerceptionError(f"{where} is not `class cx cy w h`: {line.strip()[:60]!r}") from error
        if kind not in names:
            raise PerceptionError(f"{where} has class {kind:g}, which has no name in {names_file}")
        box = _box((x - w / 2, y - h / 2, x + w / 2, y + h / 2), where)
        truth.append(Annotation(names[int(kind)], box))
    return tuple(truth)


# --- bags ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _PixelBox:
    """A box of a message, in pixels."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    def within(self, frame: Frame, where: str) -> Annotation:
        wide, high = frame.width, frame.height
        sides = (self.x1 / wide, self.y1 / high, self.x2 / wide, self.y2 / high)
        return Annotation(self.label, _box(sides, where))


@contextmanager
def _bag(path: Path, labels: str | None, topic: str | None) -> Iterator[LabelledSource]:
    """The frames of a bag for whose stamps there are labels."""
    by_stamp: Mapping[int, Sequence[_PixelBox] | Truth]
    if labels is not None and labels.endswith(".json"):
        coco = _read_coco(Path(labels))
        by_stamp = {_stamp(image.name, labels): image.truth for image in coco.images}
        names, told, notes = coco.labels, f"labels {labels}", coco.notes
    else:
        chosen, by_stamp = _boxes_topic(path, labels)
        names = tuple(sorted({box.label for boxes in by_stamp.values() for box in boxes}))
        told, notes = f"labels on {chosen}", ()
    with open_source(str(path), topic=topic) as source:
        # a bag tells its stamps only by being read
        yield LabelledSource(
            f"{source.name}, {told}",
            names,
            min(len(by_stamp), source.count or len(by_stamp)),
            _matched(source.frames, by_stamp, f"{source.name}, {told}"),
            notes,
        )


def _matched(
    frames: Iterator[Frame], by_stamp: Mapping[int, Sequence[_PixelBox] | Truth], name: str
) -> Iterator[Labelled]:
    seen: Counter[bool] = Counter()
    for frame in frames:
        boxes = by_stamp.get(frame.stamp_ns)
        seen[boxes is not None] += 1
        if boxes is None:
            continue
        where = f"the message at {frame.stamp_ns} ns"
        truth = tuple(b.within(frame, where) if isinstance(b, _PixelBox) else b for b in boxes)
        yield Labelled(f"{frame.stamp_ns} ns", frame, truth)
    if not seen[True]:
        raise PerceptionError(
            f"none of the {seen[False]} images has a stamp for which there are labels ({name})"
        )


def _stamp(name: str, file: str) -> int:
    stem = Path(name).stem
    if not stem.isdecimal():
        raise PerceptionError(
            f"labels {file} of a bag: file_name must be the stamp of the image in nanoseconds, got {name!r}"
        )
    return int(stem)


def _boxes_topic(path: Path, labels: str | None) -> tuple[str, dict[int, list[_PixelBox]]]:
    """The topic of boxes that was asked for, or the only one, and its messages by stamp."""
    types = typestore()
    with open_bag(path) as reader:
        found = [c for c in reader.connections if c.msgtype == BOXES_TYPE and c.msgcount]
        topics = sorted({connection.topic for connection in found})
        usual = [topic for topic in topics if topic.rpartition("/")[2] == USUAL_TOPIC]
        if labels is not None and labels not in topics:
            there = f"only {', '.join(topics)}" if topics else "no topic of boxes at all"
            raise PerceptionError(f"bag {path} has no {BOXES_TYPE} on topic {labels}, {there}")
        if labels is None and not topics:
            raise PerceptionError(
                f"bag {path} has no labels: record a topic of {BOXES_TYPE}, or give a COCO file with --labels"
            )
        if labels is None and len(topics) > 1 and len(usual) != 1:
            raise PerceptionError(
                f"bag {path} has boxes on several topics, choose one with --labels: {', '.join(topics)}"
            )
        chosen = labels or (usual[0] if usual else topics[0])
        try:
            messages: list[Any] = [
                types.deserialize_cdr(raw, connection.msgtype)
                for connection, _, raw in reader.messages([c for c in found if c.topic == chosen])
            ]
        except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
            raise PerceptionError(f"topic {chosen} of bag {path} is damaged: {reason(error)}") from error
    by_stamp = {}
    for message in messages:
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        where = f"the message at {stamp_ns} ns on {chosen}"
        by_stamp[stamp_ns] = [_pixel_box(detection, where) for detection in message.detections]
    return chosen, by_stamp


def _pixel_box(detection: Any, where: str) -> _PixelBox:
    """The surest hypothesis of a message's detection, and its box."""
    if not detection.results:
        raise PerceptionError(f"{where} has a box without a name (results is empty)")
    surest = max(detection.results, key=lambda result: result.hypothesis.score).hypothesis
    centre, box = detection.bbox.center.position, detection.bbox
    return _PixelBox(
        surest.class_id,
        centre.x - box.size_x / 2,
        centre.y - box.size_y / 2,
        centre.x + box.size_x / 2,
        centre.y + box.size_y / 2,
    )
