# SPDX-License-Identifier: Apache-2.0
"""Frame sources: the demo world, videos, images, cameras and rosbag2 recordings.

Each module of this package registers one kind of source; a new kind is a new module.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bit_depth import AUTO
from lfm_perception.media.images import SUFFIXES
from lfm_perception.media.sources.base import KINDS, Rejects, Source, SourceOptions, accepted

__all__ = ["Source", "open_source"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)


@contextmanager
def open_source(
    text: str,
    *,
    topic: str | None = None,
    rate: float | None = None,
    seed: int = 0,
    bit_depth: str = AUTO,
    is_sequence: bool = False,
) -> Iterator[Source]:
    """Open the source that `text` names: `demo`, a camera index, or the path of a file, folder or pattern.

    Damaged frames and frames whose stamps are rejected are passed over and counted in `Source.rejects`.

    Args:
        text: one of the forms above.
        topic: the image topic, for a bag that has several.
        rate: images per second, for images.
        seed: seed of the demo world.
        bit_depth: the parameter `image.bit_depth`, for 16-bit images.
        is_sequence: whether images are the frames of one video, and not independent pictures.

    Raises:
        PerceptionError: there is no such source, it cannot be read, or an option does not apply to it.
    """
    kind = next((each for each in KINDS if each.matches(text)), None) if text.strip() else None
    accepts = kind.accepts if kind else {"topic", "rate"}
    if topic is not None and "topic" not in accepts:
        raise PerceptionError(f"a topic ({topic}) can be chosen in a bag only, and {text} is none")
    if rate is not None and "rate" not in accepts:
        raise PerceptionError(f"a rate ({rate:g}) can be given to images only, and {text} brings its own")
    if kind is not None:
        rejects = Rejects()
        with kind.open(text, SourceOptions(topic, rate, seed, bit_depth, rejects, is_sequence)) as source:
            yield replace(source, frames=accepted(source, rejects), rejects=rejects)
    elif text and Path(text).is_dir():
        raise PerceptionError(f"folder {text} holds neither images ({' '.join(SUFFIXES)}) nor a rosbag2")
    elif os.path.lexists(text):
        raise PerceptionError(f"{text} is no file that can be read: a pipe, a device or a link to nothing")
    else:
        *others, last = (each.description for each in KINDS)
        missing = f"there is no {text}" if text.strip() else "the source is blank"
        raise PerceptionError(f"{missing}: give {', '.join(others)} or {last}")
