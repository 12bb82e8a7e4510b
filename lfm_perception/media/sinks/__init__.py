# SPDX-License-Identifier: Apache-2.0
"""Sinks: the results of a run, published together in one folder, or not at all.

Each module of this package registers its kinds of sinks; a new kind is a new module.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import av

from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.media.staging import Staging, staged, writing

__all__ = ["AnnotatedFrame", "Recording", "open_recording"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

RESULTS = tuple(Sink.KINDS)
"""Names in the folder of a run; a later run replaces them."""


@contextmanager
def open_recording(
    folder: Path, rate: float, *, optional: Collection[str] = (), pictures: bool = False
) -> Iterator[Recording]:
    """Open a recording in `folder`, which is created where missing. Without `finish` it leaves no trace.

    Args:
        folder: the folder of the results.
        rate: frames per second of the source.
        optional: additional results, by name.
        pictures: whether the frames are independent still images, not a video.

    Raises:
        PerceptionError: something cannot be written, here or in any method.
    """
    with staged(folder) as staging, ExitStack() as cleaning:
        recording = Recording(staging)
        cleaning.callback(recording.abort)
        with writing(folder):
            for name, kind in Sink.KINDS.items():
                if kind.media in ("", "pictures" if pictures else "video") and (
                    not kind.optional or name in optional
                ):
                    recording.sinks.append(kind(staging.path / name, rate))
        yield recording


class Recording:
    """The results of one run, published together; see `open_recording`."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self.sinks: list[Sink] = []

    def write(self, annotated: AnnotatedFrame) -> None:
        """Hand a frame to all sinks."""
        with writing(self._staging.folder):
            for sink in self.sinks:
                sink.write(annotated)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete the results and publish them; they replace those of an earlier run."""
        with writing(self._staging.folder):
            for sink in self.sinks:
                sink.finish(summary)
            self._staging.publish()

    def abort(self) -> None:
        """Release all files, finished or not."""
        for sink in self.sinks:
            with suppress(OSError, av.FFmpegError):  # the cause has been reported already
                sink.abort()
