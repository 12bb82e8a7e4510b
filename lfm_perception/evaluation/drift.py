# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception drift`: the samples of a source, and their drift from a baseline as JSON and HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lfm_perception.drift import QUANTITIES, Baseline, DriftMonitor, Meter, QuantityDrift, Samples
from lfm_perception.errors import PerceptionError
from lfm_perception.files import MAX_DATA_BYTES, parse_json, read_text
from lfm_perception.media.charts import COLOURS, DASHES, Line, bars, lines
from lfm_perception.media.page import Section
from lfm_perception.media.run import Limits, limited
from lfm_perception.media.sinks.json_files import SCENES
from lfm_perception.media.sources import Source
from lfm_perception.perception import Perception
from lfm_perception.scene_json import scene_from_json
from lfm_perception.stamps import to_seconds

Stamped = Iterable[tuple[float, Samples]]
"""Samples of inferred frames, each with its stamp in seconds."""

BRIEF = "above the limit, but not at the ends of two blocks in a row"
"""Why a quantity has not drifted although its worst index is above its limit."""


def inferred_samples(
    source: Source, perception: Perception, every: int, limits: Limits, on_progress: Callable[[], bool]
) -> Iterator[tuple[float, Samples]]:
    """The samples of every `every`-th frame of a source, until it or `on_progress` ends them."""
    meter = Meter()
    for index, frame in enumerate(limited(source.frames, limits)):
        if index % every == 0:
            yield to_seconds(frame.stamp_ns), meter.measure(perception.infer(frame), frame)
        if not on_progress():
            return


def recorded_samples(folder: Path) -> Iterator[tuple[float, Samples]]:
    """The samples of the scenes that `lfm-perception run` wrote, which have no images.

    Raises PerceptionError for a line that is no scene.
    """
    meter, number = Meter(), 0
    try:
        for text in read_text(folder / SCENES, MAX_DATA_BYTES).splitlines():
            number += 1
            scene = scene_from_json(parse_json(text))
            yield to_seconds(scene.stamp_ns), meter.measure(scene, None)
    except PerceptionError as error:
        raise PerceptionError(f"{folder / SCENES}, line {number}: {error}") from error


@dataclass(slots=True)
class Course:
    """The course of drift over a recording: the stamps at the ends of its blocks, and the state at each."""

    stamps_s: list[float] = field(default_factory=list)
    states: list[Sequence[QuantityDrift]] = field(default_factory=list)

    @classmethod
    def of(cls, samples: Stamped, monitor: DriftMonitor) -> Course:
        """The course of these samples. Raises PerceptionError where they are shorter than one window."""
        course, first_s = cls(), None
        for stamp_s, each in samples:
            first_s = stamp_s if first_s is None else first_s
            if monitor.add(stamp_s, each):
                course.stamps_s.append(stamp_s - first_s)
                course.states.append(monitor.state)
        if not any(each.psi is not None for state in course.states for each in state):
            raise PerceptionError(
                "the source is shorter than drift.window, or has too few samples: use a longer recording, or "
                "a shorter window"
            )
        return course

    def worst(self, name: str) -> QuantityDrift | None:
        """The window in which a quantity is farthest from the baseline; None where it was never measured."""
        measured = [each for each in self.of_quantity(name) if each.psi is not None]
        return max(measured, key=lambda each: each.psi or 0.0, default=None)

    def of_quantity(self, name: str) -> list[QuantityDrift]:
        """The states of one quantity."""
        return [each for state in self.states for each in state if each.name == name]

    def to_json(self) -> dict[str, Any]:
        """The figures of each quantity, ready for `json.dumps`; times are seconds since the first sample."""
        found = {}
        for name in QUANTITIES:
            states, worst = self.of_quantity(name), self.worst(name)
            if worst is None:
                continue
            drifted = [at_s for at_s, each in zip(self.stamps_s, states, strict=True) if each.drifted]
            found[name] = {
                "psi": [None if each.psi is None else round(each.psi, 4) for each in states],
                "worst_psi": round(worst.psi or 0.0, 4),
                "limit": round(worst.limit, 4),
                "drifted_share": round(len(drifted) / len(states), 4),
                "first_drifted_s": round(drifted[0], 3) if drifted else None,
                "bins": worst.bins.titles,
                "baseline_counts": worst.expected.tolist(),
                "worst_counts": worst.found.tolist(),
            }
        return {"ends_s": [round(at_s, 3) for at_s in self.stamps_s], "quantities": found}

    def rows(self) -> list[tuple[str, ...]]:
        """The result for each quantity, for the terminal."""
        return [
            (
                name,
                f"worst PSI {entry['worst_psi']:.3f}",
                f"limit {entry['limit']:.3f}",
                _verdict(entry),
            )
            for name, entry in self.to_json()["quantities"].items()
        ]


def _verdict(entry: Mapping[str, Any]) -> str:
    if entry["first_drifted_s"] is not None:
        return f"drifted, first after {entry['first_drifted_s']:.0f} s"
    return f"no drift: {BRIEF}" if entry["worst_psi"] > entry["limit"] else "as in the baseline"


def drift_sections(course: Course, baseline: Baseline) -> Iterator[Section]:
    """The page: a table of all quantities, and for each the PSI over time and the worst window."""
    found = [each for name in QUANTITIES if (each := course.worst(name))]
    drifted = {name for name in QUANTITIES if any(each.drifted for each in course.of_quantity(name))}
    names = ", ".join(sorted(drifted)) or "nothing"
    rows = [
        (
            each.name, QUANTITIES[each.name].description, f"{each.psi:.3f}", f"{each.limit:.3f}",
            str(each.samples), QUANTITIES[each.name].remedy if each.name in drifted else "",
        )
        for each in found
    ]  # fmt: skip
    brief = ", ".join(
        each.name for each in found if each.name not in drifted and (each.psi or 0.0) > each.limit
    )
    missing = ", ".join(name for name in QUANTITIES if course.worst(name) is None)
    notes = [
        f"Drifted: {names}. The baseline is of {baseline.source}, over {baseline.seconds:.0f} s.",
        *([f"{BRIEF.capitalize()}, which is no drift: {brief}."] if brief else []),
        *([f"Not compared, without enough samples on both sides: {missing}."] if missing else []),
    ]
    heads = ("quantity", "description", "worst PSI", "limit", "samples", "remedy")
    yield Section("Drift", notes=notes, heads=heads, rows=rows, texts=True)
    for each in found:
        psi = [float("nan") if state.psi is None else state.psi for state in course.of_quantity(each.name)]
        ends_s = [0.0, course.stamps_s[-1]]
        limit = Line(ends_s, [each.limit] * 2, COLOURS[3], "limit", dashes=DASHES[1])
        over_time = lines(
            f"Stability index of {each.name}", [Line(course.stamps_s, psi, label="PSI"), limit],
            ("time (s)", "PSI"),
        )  # fmt: skip
        shares = {
            "baseline": (each.expected / max(each.expected.sum(), 1)).tolist(),
            "worst window": (each.found / each.found.sum()).tolist(),
        }
        yield Section(
            each.name.capitalize(),
            charts=[over_time, bars(f"Values of {each.name}", shares, each.bins.titles, "share")],
        )
