# SPDX-License-Identifier: Apache-2.0
"""Two reports of the same kind side by side: every figure of both, and the differences of their setup."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.evaluation import bench, detection_page
from lfm_perception.evaluation.tables import new_table
from lfm_perception.files import parse_json, read_text
from lfm_perception.media.charts import bars
from lfm_perception.media.page import write_page
from lfm_perception.text import safe_line

ABOUT = ("kind", "source", "camera", "system", "seed", "labels", "model", "settings", "versions")
"""Keys of a report that are no figures."""

LOWER_IS_BETTER = {"latency_ms", "start_ms", "memory_mb", "second_half_slower", "watts", "throttled"}
LOWER_IS_BETTER |= {"calibration_error", "truncated", "rejects", "false_positives", "false_negatives"}
HIGHER_IS_BETTER = {
    "inferences_per_s",
    "true_positives",
    "success",
    "f1_at_75",
    "auroc",
    *detection_page.QUALITY[1:],
}
"""Names in a figure's path that decide which value is better; other figures are neutral."""

SHARES = {"f1_at_75", "success", *detection_page.QUALITY[1:]}
COUNTS = ("objects", "images")
"""Figures that are shares of 0 to 1, and the figures beside them that count what they are shares of."""

DRAWN = (
    ("Times of the stages", "latency_ms.", r"(\w+\.p(?:50|95))", "milliseconds"),
    ("Average precision by label", "figures.by_label.", r"(.+)\.ap_50", "AP50"),
    ("Degraded images", "stress.", r"([\w ]+)\.f1", "F1"),
    ("By language", "languages.", r"(\w+)\.f1", "F1"),
)
"""Charts: title, beginning of the figures' paths, the rest as a pattern with the bar's name, axis."""


MAX_REPORT_BYTES = 1 << 26
"""Maximum size of a report."""

MAX_DEPTH, MAX_SETUP = 10, 2000
"""Maximum depth of the figures in a report, and maximum length of a value of its setup."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report read back; `figures` and `about` (the setup) by path: keys joined by dots."""

    name: str
    kind: str
    figures: Mapping[str, float]
    about: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure of both reports; None where a report does not have it. `spread`: a difference by chance."""

    path: str
    first: float | None
    second: float | None
    spread: float = 0.0

    @property
    def verdict(self) -> str:
        """Whether the second is `better` or `worse`; empty within the spread or when neutral."""
        if self.first is None or self.second is None or abs(self.first - self.second) <= self.spread:
            return ""
        names = set(self.path.split("."))
        if not names & (LOWER_IS_BETTER | HIGHER_IS_BETTER):
            return ""
        lower_is_better = bool(names & LOWER_IS_BETTER)
        return "better" if (self.second < self.first) == lower_is_better else "worse"

    @property
    def brief(self) -> bool:
        """Whether it belongs to the short table: nothing by label, only the main figures of variants."""
        names = self.path.split(".")
        variant = names[0] in ("stress", "languages")
        return ".by_label." not in self.path and (not variant or names[-1] in ("f1", "ap_50", "success"))

    def cells(self) -> tuple[str, str, str, str, str]:
        """The row of the figure, in the order of `HEADS`."""
        change = ""
        if self.first is not None and self.second is not None and self.first != self.second:
            change = f"{self.second - self.first:+.4g}"
        return self.path, _text(self.first), _text(self.second), change, self.verdict


HEADS = ("", "A", "B", "change", "")


def compare(first: Path, second: Path) -> tuple[Report, Report]:
    """Read two reports. Raises PerceptionError when one cannot be read, or they are of different kinds."""
    reports = read_report(first), read_report(second)
    kinds = [report.kind for report in reports]
    if kinds[0] != kinds[1]:
        raise PerceptionError(
            f"{first} is a report of {kinds[0]} and {second} of {kinds[1]}: give two of a kind"
        )
    return reports


def read_report(path: Path) -> Report:
    """Read `bench.json` or `detection.json`. Raises PerceptionError when it cannot be read."""
    try:
        content = parse_json(read_text(path, MAX_REPORT_BYTES))
    except PerceptionError as error:
        raise PerceptionError(f"report {path}: {error}") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in (bench.KIND, detection_page.KIND):
        raise PerceptionError(f"{path} is no report: give bench.json or detection.json")
    figures = {
        ".".join(parts): float(value)
        for parts, value in _leaves({key: value for key, value in content.items() if key not in ABOUT})
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    about = {
        ".".join(parts): _brief(value)
        for parts, value in _leaves({key: content.get(key) for key in ABOUT})
        if value is not None
    }
    return Report(str(path), kind, figures, about)


def pairs(first: Report, second: Report) -> list[Pair]:
    """All figures of both reports, in the order of the first."""
    paths = dict.fromkeys((*first.figures, *second.figures))
    return [
        Pair(path, first.figures.get(path), second.figures.get(path), _spread(path, first, second))
        for path in paths
    ]


def _spread(path: str, first: Report, second: Report) -> float:
    """Twice the standard error of a difference of two shares, by the objects or images they are shares of."""
    group, _, name = path.rpartition(".")
    if name not in SHARES:
        return 0.0
    variance = 0.0
    for figures in (first.figures, second.figures):
        share = min(max(figures.get(path, 0.0), 0.0), 1.0)
        counted = (figures.get(f"{group}.{each}") for each in (("images",) if name == "success" else COUNTS))
        variance += share * (1.0 - share) / max(next((n for n in counted if n), 1.0), 1.0)
    return 2.0 * math.sqrt(variance)


def table(first: Report, second: Report) -> Table:
    """The short table, for the terminal."""
    shown = new_table(HEADS[0], HEADS[1:])
    shown.title, shown.title_justify = f"A: {first.name}\nB: {second.name}", "left"
    for pair in pairs(first, second):
        if pair.brief:
            shown.add_row(*pair.cells())
    return shown


def write_compare_page(path: Path, first: Report, second: Report) -> None:
    """Write the page to `path`."""
    compared = pairs(first, second)
    keys = dict.fromkeys((*first.about, *second.about))
    different = [
        (key, first.about.get(key, "-"), second.about.get(key, "-"))
        for key in keys
        if first.about.get(key) != second.about.get(key)
    ]
    write_page(
        path,
        "compare.html",
        about={},
        names=f"A: {first.name}, B: {second.name}",
        charts=_charts(compared),
        heads=HEADS,
        different=different,
        compared=[pair.cells() for pair in compared],
    )


def _charts(compared: Sequence[Pair]) -> dict[str, str]:
    charts = {}
    for title, start, pattern, axis in DRAWN:
        matches = ((re.fullmatch(start + pattern, pair.path), pair) for pair in compared)
        chosen = {found[1].replace(".", " "): pair for found, pair in matches if found}
        if chosen:
            series = {
                # nan leaves a gap where a report has no such figure
                "A": [math.nan if pair.first is None else pair.first for pair in chosen.values()],
                "B": [math.nan if pair.second is None else pair.second for pair in chosen.values()],
            }
            charts[title] = bars(series, list(chosen), axis)
    return charts


def _leaves(value: object, *parts: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values in nested objects, with their paths."""
    if isinstance(value, dict) and len(parts) < MAX_DEPTH:
        for key, each in value.items():
            yield from _leaves(each, *parts, str(key))
    else:
        yield parts, value


def _brief(value: object) -> str:
    """A value of the setup; lists of a report are short and flat, and one that is not is cut off."""
    return safe_line(json.dumps(value, ensure_ascii=False) if _is_flat(value) else shown(value), MAX_SETUP)


def _is_flat(value: object) -> bool:
    return not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(each, (dict, list)) for each in value)
    )


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
