# SPDX-License-Identifier: Apache-2.0
"""Sink of independent pictures: each one annotated, and its scene as JSON."""

from __future__ import annotations

from pathlib import Path

from lfm_perception.media import images
from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.media.staging import write_json
from lfm_perception.scene_json import scene_to_json

PICTURES = "pictures"

BROWSER_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Kinds of image files that browsers show; others are written as PNG."""


class PicturesSink(Sink, file=PICTURES, media="pictures"):
    """A folder with the annotated pictures under their own names, and a `.json` beside each."""

    def write(self, annotated: AnnotatedFrame) -> None:
        assert annotated.scene is not None, "every picture is inferred"
        path = self._path / picture_name(annotated.frame.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(annotated.image, path.suffix.lower()))
        write_json(Path(f"{path}.json"), scene_to_json(annotated.scene, annotated.index))


def picture_name(file: str) -> str:
    """The name of the annotated image: the same, with `.png` added where browsers do not show its kind."""
    return file if file.lower().endswith(BROWSER_SUFFIXES) else f"{file}.png"
