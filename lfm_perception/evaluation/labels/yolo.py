# SPDX-License-Identifier: Apache-2.0
"""Labels in the format of YOLO: for each image a .txt with lines of `class cx cy w h`.

The files lie beside the images or under labels/ instead of images/; the names of the classes in data.yaml
or, by line, in classes.txt or CVAT's obj.names. An image without a .txt shows nothing; a .txt without an
image is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels import base
from lfm_perception.files import parse_yaml, real_path
from lfm_perception.media.bags import is_bag
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.sources.base import Rejects
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame

NAMES_FILES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")


def _find(source: Path) -> list[str]:
    if is_bag(source):
        return []
    folder = _labels_folder(base.image_folder(source))
    return [] if folder is None else [str(folder)]


def _labels_folder(image_dir: Path) -> Path | None:
    """The folder with the .txt files of these images, if there are any."""
    folders = [image_dir]
    parts = list(real_path(image_dir).parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        folders.append(Path(*parts[:last], "labels", *parts[last + 1 :]))
    stems = {path.stem for path in image_files(str(image_dir))}
    return next((folder for folder in folders if stems & _label_files(folder).keys()), None)


def _label_files(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.txt")) if file.name not in NAMES_FILES}


@contextmanager
def _open(source: Path, labels: str, _: str | None) -> Iterator[base.LabelledSource]:
    """`labels` is the folder of the .txt files, or the file of the names."""
    image_dir, given = base.image_folder(source), Path(labels)
    if given.is_dir():
        folder, names_file = given, _names_file(given, image_dir)
    else:
        folder, names_file = _labels_folder(image_dir) or image_dir, given
    names = _read_names(names_file)
    files, found = _label_files(folder), image_files(str(image_dir))
    stems = {path.stem for path in found}
    if not stems & files.keys():
        raise PerceptionError(f"there is no .txt in {folder} for any image of {image_dir}")
    omissions = Counter(
        {
            "images have no .txt and are taken to show nothing": len(stems - files.keys()),
            "files .txt without an image were left out": len(files.keys() - stems),
        }
    )
    truth = {
        stem: _read_truth(file, names, names_file, omissions) for stem, file in files.items() if stem in stems
    }
    name, labels_of_all = f"images {image_dir}, labels {folder}", tuple(dict.fromkeys(names.values()))
    yield base.LabelledSource(name, labels_of_all, len(found), _images(found, truth, omissions), omissions)


def _images(
    paths: Sequence[Path], truth: Mapping[str, base.Truth], omissions: Counter[str]
) -> Iterator[base.LabelledImage]:
    depth, damage = BitDepth(), Rejects()
    for index, path in enumerate(paths):
        if (image := base.read_image(path, depth, damage, omissions)) is not None:
            yield base.LabelledImage(path.name, Frame(image, index), truth.get(path.stem, ()))
    damage.check()


def _names_file(folder: Path, image_dir: Path) -> Path:
    """The file of the names: in the folder of the labels or of the images, or up to two above."""
    places = [folder, image_dir, folder.parent, image_dir.parent, real_path(folder).parent.parent]
    found = [place / name for place in places for name in NAMES_FILES if (place / name).is_file()]
    if not found:
        raise PerceptionError(
            f"the classes of the labels in {folder} have no names: put them into data.yaml (names: [...]) "
            f"or classes.txt (one a line) beside them"
        )
    return found[0]


def _read_names(file: Path) -> dict[int, str]:
    """The names by number; in a text file the number is that of the line, and a blank line has no name."""
    if file.suffix in (".txt", ".names"):
        lines = base.parsed(file, str.splitlines, "names")
        content: object = {number: line for number, line in enumerate(lines) if line.strip()}
    else:
        content = base.parsed(file, parse_yaml, "names")
        content = content.get("names") if isinstance(content, dict) else None
    names = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(names, dict) or not names or not all(type(number) is int for number in names):
        raise PerceptionError(f"{file} holds no names of classes: `names: [person, box]` or one a line")
    return {number: base.label_name(name, f"class {number} in {file}") for number, name in names.items()}


def _read_truth(
    file: Path, names: Mapping[int, str], names_file: Path, omissions: Counter[str]
) -> base.Truth:
    truth = []
    for number, line in enumerate(base.parsed(file, str.splitlines, "labels"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {file}"
        try:
            kind, x, y, w, h = map(float, line.split())
        except ValueError as error:
            raise PerceptionError(f"{where} is not `class cx cy w h`: {shown(line.strip())}") from error
        if kind not in names:
            raise PerceptionError(f"{where} has class {kind:g}, which has no name in {names_file}")
        sides = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        if box := base.clipped_box(sides, where, omissions):
            truth.append(Annotation(names[int(kind)], box))
    return tuple(truth)


def _accepts(source: Path, labels: str) -> bool:
    return not is_bag(source) and not labels.endswith(".json")


base.register(
    base.LabelFormat("YOLO: a .txt for each image, names in data.yaml or classes.txt", _accepts, _find, _open)
)
