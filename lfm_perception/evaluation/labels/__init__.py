# SPDX-License-Identifier: Apache-2.0
"""Labelled images: ground truth in the formats of COCO and YOLO, and in a rosbag2.

Each module of this package registers one format; a new format is a new module. Labels are read and checked
as a whole before the first image.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.labels.base import FORMATS, LabelledImage, LabelledSource
from lfm_perception.media.bags import is_bag

__all__ = ["LabelledImage", "LabelledSource", "open_labelled"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


@contextmanager
def open_labelled(
    source: Path, labels: str | None = None, *, topic: str | None = None
) -> Iterator[LabelledSource]:
    """Open a folder of images, or a bag, with its labels.

    Args:
        source: the folder, or the bag.
        labels: a COCO file, a folder of YOLO files, a file of YOLO names, or a topic of the bag; searched in
            the usual places if None.
        topic: the image topic, for a bag that has several.

    Raises:
        PerceptionError: there are no labels, they are malformed, or they belong to other images.
    """
    if not source.exists():
        raise PerceptionError(f"there is no {source}: give a folder of images with labels, or a rosbag2")
    if not is_bag(source):
        if topic is not None:
            raise PerceptionError(f"a topic ({topic}) can be chosen in a bag only, and {source} is none")
        if not source.is_dir():
            raise PerceptionError(f"{source} is neither a folder of images nor a rosbag2")
        if labels is not None and not Path(labels).exists():
            raise PerceptionError(f"there are no labels {labels}")
    if labels is not None:
        found = [(each, labels) for each in FORMATS if each.accepts(source, labels)]
    else:
        found = [(each, place) for each in FORMATS for place in each.find(source)]
        if not found:
            forms = "; ".join(each.description for each in FORMATS)
            raise PerceptionError(f"{source} has no labels ({forms}): give their location with --annotations")
        if len(found) > 1:
            places = ", ".join(place for _, place in found)
            raise PerceptionError(
                f"{source} has labels in several places, choose one with --annotations: {places}"
            )
    chosen, place = found[0]
    with chosen.open(source, place, topic) as opened:
        yield opened
