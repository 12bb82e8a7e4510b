# SPDX-License-Identifier: Apache-2.0
"""Sink of the page: the video or the pictures of a run, its figures, and the latency of its inferences."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lfm_perception.downscaling import downscale_to_side
from lfm_perception.media import images
from lfm_perception.media.latency import latency_section
from lfm_perception.media.page import Picture, Section, data_uri, drawing, video_source, write_report
from lfm_perception.media.report import counted, rows
from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.media.sinks.events import events_section
from lfm_perception.media.sinks.overlay import VIDEO
from lfm_perception.media.sinks.pictures import PICTURES, picture_name
from lfm_perception.scene import Scene, Usage

if TYPE_CHECKING:
    from lfm_perception.rules import Event

PAGE = "index.html"

MAX_EMBEDDED, THUMBNAIL = 300, 560
"""Maximum number of pictures inside the page, others being shown from their files; longer side, pixels."""

MAX_OPINIONS = 100
"""Maximum number of second opinions in the page."""


class PageSink(Sink, file=PAGE):
    """One page about the run. Pictures are shown small, linked to the whole ones in the folder beside it."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._inference_s: list[float] = []
        self._usages: dict[str, list[Usage]] = {"detect": [], "caption": []}
        self._pictures: list[Picture] = []
        self._events: list[Event] | None = None
        self._first_ns: int | None = None
        self._last_ns = 0

    def write(self, annotated: AnnotatedFrame) -> None:
        self._last_ns = annotated.frame.stamp_ns
        self._first_ns = self._last_ns if self._first_ns is None else self._first_ns
        if annotated.events is not None:
            self._events = self._events or []
            self._events += annotated.events
        scene = annotated.scene
        if scene is None:
            return
        self._inference_s.append(annotated.inference_s)
        self._usages["detect"].append(scene.usage)
        if scene.caption_usage is not None:
            self._usages["caption"].append(scene.caption_usage)
        if name := scene.file:
            file = quote(os.fsencode(f"{PICTURES}/{picture_name(name)}"))  # names of files need not be text
            shown = file
            if len(self._pictures) < MAX_EMBEDDED:
                small = downscale_to_side(annotated.image, THUMBNAIL)
                shown = data_uri("image/jpeg", images.encode(small, ".jpg"))
            self._pictures.append(Picture(shown, f"{name}: {_objects(scene)}", file))

    def finish(self, summary: Mapping[str, Any]) -> None:
        with drawing("the page"):
            video = self._path.with_name(VIDEO)
            top = Section("", video=video_source(video) if video.exists() else "", facts=rows(summary))
            sections = [top, latency_section(self._inference_s, self._usages)]
            title = "Tracked objects"
            if self._events is not None:
                rules = summary.get("events_by_rule", ())
                first_ns = self._first_ns or 0
                sections.insert(1, events_section(self._events, first_ns, self._last_ns, rules))
            if outcomes := (summary.get("second_opinion") or {}).get("outcomes"):
                sections.insert(-1, opinions_section(outcomes))
            if summary.get("pictures"):
                title = "Detected objects"
                sections.insert(1, Section("Pictures", pictures=self._pictures, large=True))
            write_report(self._path, title, sections, summary)


def opinions_section(outcomes: Sequence[Mapping[str, Any]]) -> Section:
    """What the adviser answered about the crops, by `opinion.schema.json`."""
    left = len(outcomes) - MAX_OPINIONS
    return Section(
        "Second opinions",
        notes=[f"The first {MAX_OPINIONS} of {len(outcomes)}; summary.json holds all."] if left > 0 else [],
        heads=("track", "question", "answer", "confidence", "source"),
        rows=[
            (
                f"{each['label']} #{each['track_id']}",
                each["question"],
                f"none: {each['problem']}" if each["problem"] else each["answer"],
                "" if each["confidence"] is None else f"{each['confidence']:.2f}",
                each["source"],
            )
            for each in outcomes[:MAX_OPINIONS]
        ],
        texts=True,
    )


def _objects(scene: Scene) -> str:
    """The objects of a picture, and its caption on a line of its own."""
    found = counted(Counter(detection.label for detection in scene.detections)) or "no objects"
    return f"{found}\n{scene.caption}" if scene.caption else found
