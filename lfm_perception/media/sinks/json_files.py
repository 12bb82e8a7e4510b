# SPDX-License-Identifier: Apache-2.0
"""Sinks of JSON: one line for each inferred frame, and the summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.media.staging import write_json
from lfm_perception.scene_json import scene_to_json

SCENES, SUMMARY = "scenes.jsonl", "summary.json"


class ScenesFile(Sink, file=SCENES):
    """Scenes as JSON, one line each; the format is `lfm_perception/scene.schema.json`."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def write(self, annotated: AnnotatedFrame) -> None:
        if annotated.scene is not None:
            record = scene_to_json(annotated.scene, annotated.index)
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._file.close()

    def abort(self) -> None:
        self._file.close()


class SummaryFile(Sink, file=SUMMARY):
    """The figures of the run."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        write_json(self._path, summary)
