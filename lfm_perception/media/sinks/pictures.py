# SPDX-License-Identifier: Apache-2.0
"""Sink of independent pictures: each one annotated and its scene as JSON, and a page with all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_perception.media import images
from lfm_perception.media.page import drawing, write_page
from lfm_perception.media.report import counted
from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.media.staging import write_json
from lfm_perception.scene_json import scene_to_json

PICTURES, GALLERY = "pictures", "index.html"

BROWSER_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""Kinds of image files that browsers show; others are written as PNG."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A picture on the page: its file from the page's folder, its name and what was found."""

    file: str
    name: str
    objects: str
    caption: str


class PicturesSink(Sink, file=PICTURES, of="pictures"):
    """A folder with the annotated pictures under their own names, and a `.json` beside each."""

    def write(self, annotated: AnnotatedFrame) -> None:
        assert annotated.scene is not None, "every picture is inferred"
        path = self._path / picture_name(annotated.frame.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(annotated.image, path.suffix.lower()))
        write_json(Path(f"{path}.json"), scene_to_json(annotated.scene, annotated.index))


class GallerySink(Sink, file=GALLERY, of="pictures"):
    """A page that shows the annotated pictures, which lie in the folder beside it."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._entries: list[_Entry] = []

    def write(self, annotated: AnnotatedFrame) -> None:
        scene, name = annotated.scene, annotated.frame.file
        assert scene is not None, "every picture is inferred"
        found = counted(Counter(detection.label for detection in scene.detections))
        file = f"{PICTURES}/{picture_name(name)}"
        self._entries.append(_Entry(file, name, found or "no objects", scene.caption or ""))

    def finish(self, summary: Mapping[str, Any]) -> None:
        with drawing("the page"):
            facts = {
                "source": summary["source"],
                "images": len(self._entries),
                "detections": counted(summary["detections_by_label"]) or "none",
            }
            write_page(self._path, "pictures.html", about=summary, entries=self._entries, facts=facts)


def picture_name(file: str) -> str:
    """The name of the annotated image: the same, with `.png` added where browsers do not show its kind."""
    return file if file.lower().endswith(BROWSER_SUFFIXES) else f"{file}.png"
