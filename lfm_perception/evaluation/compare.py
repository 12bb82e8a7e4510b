# SPDX-License-Identifier: Apache-2.0
"""Two reports of the same kind side by side: every figure of both, and the differences of their setup.

A figure is called better or worse only where the difference exceeds its spread: twice the standard error of
the difference. Figures without a known standard error, such as those that were measured once, are only shown.
"""

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
from lfm_perception.media.latency import STANDARD_ERROR
from lfm_perception.media.page import Chart, Section, write_report
from lfm_perception.text import safe_line

ABOUT = ("kind", "source", "camera", "machine", "seed", "labels", "model", "settings", "versions")
"""Keys of a report that are no figures."""

LOWER_IS_BETTER = {"latency_s", "truncated", "rejects", "false_positives", "false_negatives"}
HIGHER_IS_BETTER = {
    "inferences_hz",
    "true_positives",
    "success",
    "f1_at_75",
    *detection_page.QUALITY[1:],
}
"""Names in a figure's path that decide which value is better; other figures are neutral."""

SHARES = {"f1_at_75", "success", *detection_page.QUALITY[1:]}
COUNTS = ("objects", "images")
"""Figures that are shares of 0 to 1, and the figures beside them that count what they are shares of."""

EVENTS = {"truncated", "rejects", "false_positives", "false_negatives", "true_positives"}
"""Names in the paths of numbers of events, whose variance is about their number."""

DRAWN = (
    ("Latency", r"(?:figures\.)?latency_s\.((?:\w+\.)?p(?:50|95))", "latency (ms)", 1e3),
    ("AP50 by label", r"figures\.by_label\.(.+)\.ap_50", "AP50 (0 to 1)", 1.0),
    ("F1 by object size", r"figures\.by_size\.(.+)\.f1", "F1 (0 to 1)", 1.0),
    ("F1 on degraded images", r"stress\.([\w ]+)\.f1", "F1 (0 to 1)", 1.0),
    ("F1 by language", r"languages\.(\w+)\.f1", "F1 (0 to 1)", 1.0),
)
"""Charts: title, pattern of the figures' paths with the bar's name, axis, scale."""

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
    """A figure of both reports; None where a report does not have it.

    `spread`: a difference that chance explains; None where it is not known.
    """

    path: str
    first: float | None
    second: float | None
    spread: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the second is `better` or `worse`; empty within the spread, without one, or if neutral."""
        if self.first is None or self.second is None or self.spread is None:
            return ""
        if abs(self.first - self.second) <= self.spread:
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
        variant = names[0] in ("stress", "languages") or "by_size" in names
        details = {"by_label", "thresholds", "fitted"} & set(names)
        return not details and (not variant or names[-1] in ("f1", "ap_50", "success"))

    @property
    def on_page(self) -> bool:
        """Whether it belongs to the page: all but the details of variants."""
        return self.brief or self.path.split(".")[0] not in ("stress", "languages")

    def cells(self) -> tuple[str, ...]:
        """The row of the figure, in the order of `HEADS`: times in milliseconds."""
        names = self.path.split(".")
        timed = next((name for name in names if name.endswith("_s") and not name.endswith("per_s")), "")
        scale = 1e3 if timed else 1.0
        path = self.path.replace(timed, f"{timed[:-2]} (ms)") if timed else self.path
        first, second, spread = (
            None if value is None else scale * value for value in (self.first, self.second, self.spread)
        )
        change = ""
        if first is not None and second is not None and first != second:
            by = second - first
            change = f"{by:+.3g}" if abs(by) < 1000.0 else f"{by:+.0f}"
        return (
            path,
            _text(first),
            _text(second),
            change,
            "" if spread is None else f"{spread:.3g}",
            self.verdict,
        )


HEADS = ("figure", "A", "B", "change", "spread", "B is")


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
        if STANDARD_ERROR not in path.split(".")
    ]


def _spread(path: str, first: Report, second: Report) -> float | None:
    """Twice the standard error of the difference of a figure, None where it is not known.

    Numbers of events of different numbers of images are no measure of either.
    """
    images = [report.figures.get("figures.images") for report in (first, second)]
    if EVENTS & set(path.split(".")) and images[0] != images[1]:
        return None
    variances = [_variance(path, report.figures) for report in (first, second)]
    known = [variance for variance in variances if variance is not None]
    return 2.0 * math.sqrt(sum(known)) if len(known) == len(variances) else None


def _variance(path: str, figures: Mapping[str, float]) -> float | None:
    """The squared standard error of a figure: as measured, or by the number of cases that it was made of."""
    group, _, name = path.rpartition(".")
    measured = figures.get(f"{group}.{STANDARD_ERROR}.{name}".removeprefix("."))
    if measured is not None:
        return measured**2
    value = figures.get(path)
    if value is None:
        return None
    if name in SHARES:
        share = min(max(value, 0.0), 1.0)
        counted = (figures.get(f"{group}.{each}") for each in (("images",) if name == "success" else COUNTS))
        return share * (1.0 - share) / max(next((n for n in counted if n), 1.0), 1.0)
    return max(value, 1.0) if EVENTS & {name, group.rpartition(".")[2]} else None


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
    sections = [
        Section("", facts=[("A", first.name), ("B", second.name)]),
        Section(
            "Charts",
            notes=["Error bars: the standard error, where it is known."],
            charts=[*_charts(compared, first, second)],
        ),
        Section(
            "Differences of the setup",
            [] if different else ["None."],
            heads=("", "A", "B"),
            rows=different,
            texts=True,
        ),
        Section("Figures", [SPREAD], heads=HEADS, rows=[pair.cells() for pair in compared if pair.on_page]),
    ]
    write_report(path, "Two runs side by side", sections, {})


SPREAD = (
    "Better or worse is a difference beyond the spread, which is twice its standard error: as measured "
    "within the runs for latencies, by the number of objects or images for shares, by their own number "
    "for counts of equally many images. Figures without a spread are only shown."
)


def _charts(compared: Sequence[Pair], first: Report, second: Report) -> Iterator[Chart]:
    for title, pattern, axis, scale in DRAWN:
        matches = ((re.fullmatch(pattern, pair.path), pair) for pair in compared)
        chosen = {found[1].replace(".", " "): pair for found, pair in matches if found}
        if chosen:
            # nan leaves a gap where a report has no such figure
            values = {
                "A": [math.nan if pair.first is None else scale * pair.first for pair in chosen.values()],
                "B": [math.nan if pair.second is None else scale * pair.second for pair in chosen.values()],
            }
            errors = {
                name: [
                    scale * math.sqrt(_variance(pair.path, report.figures) or 0.0) for pair in chosen.values()
                ]
                for name, report in (("A", first), ("B", second))
            }
            yield bars(title, values, list(chosen), axis, errors=errors)


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
