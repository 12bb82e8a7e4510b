# SPDX-License-Identifier: Apache-2.0
"""Parameters of the second opinion (`second_opinion/`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.settings.spec import parameter


@dataclass(frozen=True, slots=True)
class SecondOpinionSettings:
    """A second opinion about crops of tracks, of OCR, another model or a person; none by default."""

    allowed: bool = parameter(False, "consent to hand crops to the adviser; false: no crop leaves")
    cameras: tuple[str, ...] = parameter(
        (), "frame_ids of the cameras that consent, `*` for all; empty: none", fixed=True
    )
    adviser: str = parameter(
        "review",
        "adviser: an OCR engine, a person by files in a folder, or another model",
        ("ocr", "review", "vlm"),
        fixed=True,
    )
    folder: str = parameter("", "folder of the adviser review", fixed=True)
    model_settings: str = parameter(
        "", "settings file of the model that the adviser vlm asks, with its own engine.backend", fixed=True
    )
    ask_below: tuple[str, ...] = parameter(
        (), "confidence of a track below which the adviser is asked, by label: `box: 0.5`; 1: always"
    )
    question: str = parameter(
        "What is shown in the middle of the image?", "question about tracks of a low confidence"
    )
    repeat: float = parameter(
        60.0, "minimum time between two equal questions about one track", (0.1, 86_400.0), "s"
    )
    rate: float = parameter(10.0, "maximum number of crops per minute", (0.1, 600.0), "per minute")
    max_side: int = parameter(
        512, "maximum width and height of a crop; larger ones are shrunk", (32, 4096), "px"
    )
    max_bytes: int = parameter(
        100_000, "maximum size of a crop as JPEG, by a lower quality", (2_000, 10_000_000), "bytes"
    )
    timeout: float = parameter(
        30.0, "maximum time to an answer; later ones are not used", (0.1, 86_400.0), "s"
    )

    @property
    def limits(self) -> Mapping[str, float]:
        """`ask_below` by label. Raises PerceptionError for an entry that is none."""
        found: dict[str, float] = {}
        for entry in self.ask_below:
            label, _, limit = (part.strip() for part in entry.rpartition(":"))
            if not (label and re.fullmatch(r"0?\.[0-9]+|[01](\.0*)?", limit)):
                raise PerceptionError(
                    f"second_opinion.ask_below takes `label: confidence` from 0 to 1, got {shown(entry)}"
                )
            found[label] = float(limit)
        return found
