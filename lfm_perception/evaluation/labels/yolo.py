"""Labels in the format of YOLO: for each image a .txt with lines of `class cx cy w h`.

The files lie beside the images or under labels/ instead of images/; the names of the classes in data.yaml
or classes.txt. An image without a .txt shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels import base
from lfm_perception.media import images
from lfm_perception.media.bags import is_bag
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame

NAMES_FILES = ("data.yaml", "dataset.yaml", "classes.txt")


def _find(source: Path) -> list[str]:
    if is_bag(source):
        return []
    folder = _labels_folder(base.image_folder(source))
    return [] if folder is None else [str(folder)]


def _labels_folder(image_dir: Path) -> Path | None:
    """The folder with the .txt files of these images, if there are any."""
    folders = [image_dir]
    parts = list(image_dir.resolve().parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        folders.append(Path(*parts[:last], "labels", *parts[last + 1 :]))
    return next((folder for folder in folders if _label_files(folder)), None)


def _label_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.txt") if file.name not in NAMES_FILES)


@contextmanager
def _open(source: Path, labels: str, _: str | None) -> Iterator[base.LabelledSource]:
    """`labels` is the folder of the .txt files, or the file of the names."""
    image_dir, given = base.image_folder(source), Path(labels)
    if given.is_dir():
        folder, names_file = given, _names_file(given, image_dir)
    else:
        folder, names_file = _labels_folder(image_dir) or image_dir, given
    names = _read_names(names_file)
    files = {file.stem: file for file in _label_files(folder)}
    found = image_files(str(image_dir))
    if not files or not found:
        missing = f"images in {image_dir}" if files else f"labels (.txt) in {folder}"
        raise PerceptionError(f"there are no {missing}")
    if without_image := set(files) - {path.stem for path in found}:
        raise PerceptionError(
            f"{folder} has labels of images that are not in {image_dir}: "
            f"{base.listed(f'{stem}.txt' for stem in without_image)}"
        )
    truth = {stem: _read_truth(file, names, names_file) for stem, file in files.items()}
    empty = sum(path.stem not in files for path in found)
    yield base.LabelledSource(
        f"images {image_dir}, labels {folder}",
        tuple(dict.fromkeys(names.values())),
        len(found),
        (
            base.LabelledImage(path.name, Frame(images.read(path), index), truth.get(path.stem, ()))
            for index, path in enumerate(found)
        ),
        (f"{empty} images have no .txt and are taken to show nothing",) if empty else (),
    )


def _names_file(folder: Path, image_dir: Path) -> Path:
    """The file of the names: in the folder of the labels or of the images, or up to two above."""
    places = [folder, image_dir, folder.parent, image_dir.parent, folder.resolve().parent.parent]
    found = [place / name for place in places for name in NAMES_FILES if (place / name).is_file()]
    if not found:
        raise PerceptionError(
            f"the classes of the labels in {folder} have no names: put them into data.yaml (names: [...]) "
            f"or classes.txt (one a line) beside them"
        )
    return found[0]


def _read_names(file: Path) -> dict[int, str]:
    if file.suffix == ".txt":
        content = base.parsed(
            file, lambda text: [line.strip() for line in text.strip().splitlines()], "names"
        )
    else:
        content = base.parsed(file, yaml.safe_load, "names")
        content = content.get("names") if isinstance(content, dict) else None
    names = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(names, dict) or not all(
        isinstance(number, int) and isinstance(name, str) and name.strip() for number, name in names.items()
    ):
        raise PerceptionError(f"{file} holds no names of classes: `names: [person, box]` or one a line")
    return {number: name.strip() for number, name in names.items()}


def _read_truth(file: Path, names: Mapping[int, str], names_file: Path) -> base.Truth:
    truth = []
    for number, line in enumerate(base.parsed(file, str.splitlines, "labels"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {file}"
        try:
            kind, x, y, w, h = map(float, line.split())
        except ValueError as error:
            raise PerceptionError(f"{where} is not `class cx cy w h`: {line.strip()[:60]!r}") from error
        if kind not in names:
            raise PerceptionError(f"{where} has class {kind:g}, which has no name in {names_file}")
        box = base.clipped_box((x - w / 2, y - h / 2, x + w / 2, y + h / 2), where)
        truth.append(Annotation(names[int(kind)], box))
    return tuple(truth)


def _accepts(source: Path, labels: str) -> bool:
    return not is_bag(source) and not labels.endswith(".json")


base.register(
    base.LabelFormat("YOLO: a .txt for each image, names in data.yaml or classes.txt", _accepts, _find, _open)
)
