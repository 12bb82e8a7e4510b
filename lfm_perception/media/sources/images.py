# SPDX-License-Identifier: Apache-2.0
"""Images of a folder, a glob pattern or a single file as a source: independent pictures, or a sequence."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfm_perception.media import images
from lfm_perception.media.bags import is_bag
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.sources.base import Source, SourceKind, SourceOptions, register
from lfm_perception.scene import Frame
from lfm_perception.stamps import from_seconds

RATE = 10.0
"""Default rate, images per second: the files of a folder carry no time stamps."""


def image_files(text: str) -> list[Path]:
    """The image files that a path or pattern names, in natural order (2 before 10)."""
    path = Path(text)
    if path.is_dir():
        found = list(path.iterdir())
    elif path.exists():
        found = [path]
    else:
        found = [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207 - takes absolute patterns
        return sorted((file for file in found if file.is_file()), key=_natural)
    return sorted((f for f in found if f.suffix.lower() in images.SUFFIXES and f.is_file()), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


@contextmanager
def _open(text: str, options: SourceOptions) -> Iterator[Source]:
    paths, rate = image_files(text), options.rate or RATE
    yield Source(
        f"images {text}", _frames(paths, rate, options), rate, len(paths), pictures=not options.is_sequence
    )


def _frames(paths: list[Path], rate: float, options: SourceOptions) -> Iterator[Frame]:
    depth = BitDepth(options.bit_depth)
    top = os.path.commonpath([path.parent for path in paths])
    for index, path in enumerate(paths):
        with options.rejects.passing_over():
            image = images.read(path, depth if options.is_sequence else BitDepth(options.bit_depth))
            yield Frame(image, from_seconds(index / rate), file=os.path.relpath(path, top))


def _matches(text: str) -> bool:
    return not is_bag(Path(text)) and bool(image_files(text))


register(SourceKind(2, "a folder or pattern of images", _matches, _open, frozenset({"rate"})))
