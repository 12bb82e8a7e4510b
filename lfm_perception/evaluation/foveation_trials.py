# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval fovea`: whole frames and regions at several budgets, as a table and a curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.table import Table

from lfm_perception.evaluation.foveation import (
    INFERENCE_S,
    SIZES,
    FoveaFigures,
    ImageSequence,
    SequenceRun,
    figures,
    run_sequence,
    sized_objects,
)
from lfm_perception.evaluation.object_size import BOUNDS, SizedObjects, size_advice
from lfm_perception.evaluation.tables import new_table
from lfm_perception.media.charts import COLOURS, Line, bars, lines
from lfm_perception.media.page import Section
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

WHOLE_FRAMES, FOVEATED = "whole frames", "foveated"

SAME_RECALL = 0.1
"""Difference of the recall of equally large objects, in whole frames and in regions, that says nothing."""

FREQUENT = 5.0
"""Share of the objects, in per cent, from which on a class of size is drawn."""

COLUMNS = (
    "tokens", "HOTA", "precision", "recall",
    *(f"{low}-{high} px" for low, high in pairwise(SIZES)), f">{SIZES[-1]} px",
    "first p90", "tokens/s", "ms/s",
)  # fmt: skip

OnProgress = Callable[[], object]


@dataclass(frozen=True, slots=True)
class FoveaTrials:
    """Figures by plan and limit of image tokens; objects by size in pictures of whole frames and regions."""

    results: Mapping[tuple[str, int], FoveaFigures]
    whole: SizedObjects
    regions: SizedObjects

    @classmethod
    def run(
        cls,
        sequences: Iterable[ImageSequence],
        vlm_of: Callable[[ImageSequence], Vlm],
        settings: Settings,
        budgets: Sequence[int],
        on_progress: OnProgress = lambda: None,
    ) -> FoveaTrials:
        """Runs every sequence under every plan. Raises PerceptionError when the model fails."""
        runs: dict[tuple[str, int], list[SequenceRun]] = {}
        for sequence in sequences:
            for tokens in budgets:
                for name, mode in ((WHOLE_FRAMES, "off"), (FOVEATED, "on")):
                    planned = settings.with_values({**limited(settings, tokens), "fovea.mode": mode})
                    runs.setdefault((name, tokens), []).append(
                        run_sequence(sequence, vlm_of(sequence), planned)
                    )
                    on_progress()
        whole, regions = sized_objects([run for each in runs.values() for run in each])
        return cls({plan: figures(each) for plan, each in runs.items()}, whole, regions)

    def table(self) -> Table:
        """One row for each plan and budget."""
        table = new_table("", COLUMNS, caption="recall by object size in pixels of the frame; first track, s")
        for row in self._rows():
            table.add_row(*row)
        return table

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for (name, tokens), each in self.results.items():
            per_s = (each.image_tokens + each.answer_tokens) / INFERENCE_S
            values = each.hota, each.precision, each.recall, *each.recall_by_size, each.first_detection_p90_s
            texts = ["-" if value is None else f"{value:.1f}" for value in values]
            rows.append((name, str(tokens), *texts, f"{per_s:.0f}", f"{each.compute_ms / INFERENCE_S:.0f}"))
        return rows

    def remarks(self) -> list[str]:
        """What the figures say about `fovea.mode` with this model."""
        gains = {
            tokens: self.results[FOVEATED, tokens].hota - self.results[WHOLE_FRAMES, tokens].hota
            for _, tokens in self.results
        }
        listed = ", ".join(f"{gain:+.1f} at {tokens}" for tokens, gain in gains.items())
        return [
            f"HOTA of regions over whole frames, by image tokens: {listed}.",
            self._sight(),
            size_advice(self.regions.smallest_seen()),
        ]

    def as_json(self) -> dict[str, Any]:
        """All figures, ready for `json.dumps`."""
        return {
            "sizes_px": SIZES,
            "results": [
                {"plan": name, "max_tokens": tokens, **each.as_json()}
                for (name, tokens), each in self.results.items()
            ],
            "picture_sizes_px": BOUNDS,
            "recall_by_picture_size": {
                "whole frames": self.whole.recall(),
                "regions": self.regions.recall(),
            },
            "remarks": self.remarks(),
        }

    def sections(self) -> Iterator[Section]:
        """The sections of the page: both plans by budget, and what the model sees."""
        yield Section(
            "By plan and limit of image tokens",
            notes=[PLANS_NOTE],
            heads=("", *COLUMNS),
            rows=self._rows(),
            charts=[
                lines(
                    title,
                    [
                        Line(*points(self.results, plan, value), colour, plan, marker=marker, dashes=dashes)
                        for plan, colour, marker, dashes in LOOKS
                    ],
                    (TOKEN_AXIS, f"{title} (%)"),
                    top=100.0,
                )
                for title, value in panels(self.results)
            ],
        )
        recalls = {WHOLE_FRAMES: self.whole.recall(), "regions": self.regions.recall()}
        series = {
            name: [math.nan if each is None else each for each in recall] for name, recall in recalls.items()
        }
        names = [f"{low:g} to {high:g} px" for low, high in pairwise(BOUNDS)] + [
            f"{BOUNDS[-1]:g} px and more"
        ]
        chart = bars("Recall by size in the resized image", series, names, "recall (0 to 1)")
        yield Section("What the model sees", notes=self.remarks(), charts=[chart])

    def _sight(self) -> str:
        """Whether the model sees by picture pixels or by the size relative to the picture."""
        pairs = zip(self.whole.recall(), self.regions.recall(), strict=True)
        gains = [regions - whole for whole, regions in pairs if whole is not None and regions is not None]
        if not gains:
            return "Too few objects are equally large in whole frames and in regions to compare the two."
        gain = float(np.mean(gains))
        difference = f"recall of equally large objects differs by {gain:+.2f} in regions"
        if abs(gain) <= SAME_RECALL:
            return f"The model sees by picture pixels: {difference}."
        return f"The model judges partly by relative size, and its gains are less believable: {difference}."


def limited(settings: Settings, tokens: int) -> dict[str, object]:
    """The changes that limit an image to `tokens` and leave out what is not compared."""
    return {
        "image.max_tokens": tokens,
        "image.min_tokens": min(settings.image.min_tokens, tokens),
        "image.max_tiles": 1,
        "caption.enabled": False,
    }


PLANS_NOTE = (
    f"A frame is inferred every {1000 * INFERENCE_S:.0f} ms, and its answer known as much later. HOTA, "
    "precision and recall of the tracks at every frame, and recall by object size in pixels of the frame, in "
    "per cent; first p90: seconds until 90% of the new objects have a track; tokens and milliseconds of "
    "compute per second."
)
TOKEN_AXIS = "image and answer tokens per second"
LOOKS = ((WHOLE_FRAMES, COLOURS[0], "o", "-"), (FOVEATED, COLOURS[1], "s", "--"))
"""Colour, marker and dashes of each plan."""

Results = Mapping[tuple[str, int], FoveaFigures]


def points(
    results: Results, plan: str, value: Callable[[FoveaFigures], float]
) -> tuple[list[float], list[float]]:
    """Tokens per second of a plan in rising order, and the value at each."""
    found = sorted(
        ((each.image_tokens + each.answer_tokens) / INFERENCE_S, value(each))
        for (name, _), each in results.items()
        if name == plan
    )
    return [tokens for tokens, _ in found], [figure for _, figure in found]


def panels(results: Results) -> Sequence[tuple[str, Callable[[FoveaFigures], float]]]:
    """Title of each curve, and its value in per cent.

    Small objects are those of the smallest frequent class that begins above 0 pixels.
    """
    shares = next(iter(results.values())).share_by_size
    small = next((row for row in range(1, len(SIZES) - 1) if shares[row] >= FREQUENT), len(SIZES) - 2)
    return (
        ("HOTA", lambda each: each.hota),
        (
            f"recall of {SIZES[small]} to {SIZES[small + 1]} px",
            lambda each: each.recall_by_size[small] or 0.0,
        ),
        ("precision", lambda each: each.precision),
    )
