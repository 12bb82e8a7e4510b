# SPDX-License-Identifier: Apache-2.0
"""The interface of a sink, and the registry of all kinds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lfm_perception.scene import Frame, Image, Scene, Track

if TYPE_CHECKING:
    from lfm_perception.rules import Event


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedFrame:
    """A frame with its results: the tracks at its stamp and `image`, the annotated image (RGB).

    `scene` is the result of inference, which took `inference_s` seconds, None for a frame in between; `index`
    counts the source's frames. `events` of the rules began or ended at this frame; None without rules.
    """

    index: int
    frame: Frame
    tracks: Sequence[Track]
    image: Image
    scene: Scene | None = None
    inference_s: float = 0.0
    events: Sequence[Event] | None = None


class Sink:
    """Base of all sinks: one result of a run, in the file or folder `path`, which does not exist yet.

    Subclasses register themselves under the name of their result; an `optional` one is written on request,
    and one for the `media` "video" or "pictures" for these only. All annotated images of a video have the
    same size, of even width and height. `rate` is that of the source, frames per second. Errors of writing
    are those of the libraries; see `staging.writing`.
    """

    KINDS: ClassVar[dict[str, type[Sink]]] = {}
    optional: ClassVar[bool]
    media: ClassVar[str]

    def __init_subclass__(cls, *, file: str, optional: bool = False, media: str = "") -> None:
        cls.optional, cls.media = optional, media
        Sink.KINDS[file] = cls

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate

    def write(self, annotated: AnnotatedFrame) -> None:
        """Add a frame."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete the result; `summary` has the figures of the run."""

    def abort(self) -> None:
        """Release all files; the result cannot be read unless it was finished."""
