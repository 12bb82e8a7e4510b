# SPDX-License-Identifier: Apache-2.0
"""Charts for pages, drawn by matplotlib as SVG: one function for each kind of chart.

Everywhere time runs to the right, names stand one below the other with their values to the right, and shares
and positions grow upwards. The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_perception.media.page import Chart, data_uri, drawing
from lfm_perception.text import safe_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#5d3a9b", "#8a8a00")
DASHES = ("-", "--", "-.", ":")
INK, QUIET, RULE = "#1a1d23", "#5d6473", "#c3c8d1"
NARROW, WIDE = 4.9, 7.2
"""Widths of charts in inches: half a page, or more. A phone shows them smaller."""

BAR = 0.22
"""Height of a bar in inches."""

MAX_HEIGHT = 300.0
"""Maximum height of a chart in inches, at which 500 labels with two bars each are still legible."""

MAX_LABEL, MAX_NARROW_LABEL = 50, 22
"""Maximum length of a label that is drawn, and of one in a narrow chart of bars, characters."""

MAX_PANEL_BARS = 6
"""Maximum number of bars in a panel."""

PERCENTILES = (50, 95, 99)
"""Percentiles that a histogram names."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: the reader's computer has fonts for every language
    "svg.hashsalt": "lfm_perception",  # the same chart gives the same file
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": QUIET,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; NaN breaks it, and a point alone is a dot. Without width, no line is drawn.

    `marker` and `dashes` are as in matplotlib. Without `label` it has no entry in the legend;
    `text` stands at its first point.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[0]
    label: str = ""
    width: float = 1.5
    marker: str = ""
    dashes: str = "-"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time on a timeline, seconds, and what took place in it."""

    start_s: float
    seconds: float
    part: str


def bars(
    title: str,
    series: Mapping[str, Sequence[float]],
    names: Sequence[str],
    axis: str,
    *,
    errors: Mapping[str, Sequence[float]] | None = None,
) -> Chart:
    """For each name one horizontal bar of each series, with its value; `axis` names the quantity.

    NaN stands for a value that was not measured, and leaves a gap. `errors` are half lengths of error bars.
    """
    pitch = len(series) + 0.7

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(series.items()):
            places = [row * pitch + index for row in range(len(names))]
            _bars(axes, places, values, COLOURS[index % len(COLOURS)], name, (errors or {}).get(name))
        _name_rows(axes, names, [row * pitch + (len(series) - 1) / 2 for row in range(len(names))])
        axes.set_ylim(pitch * len(names) - 1.0, -0.7)
        ends = [
            value + error
            for name, values in series.items()
            for value, error in zip(values, (errors or {}).get(name, [0.0] * len(values)), strict=True)
        ]
        _quantity(axes, ends, axis)
        if len(series) > 1:
            _legend(axes, len(series))

    wide = max(map(len, names), default=0) > MAX_NARROW_LABEL
    return _chart(title, wide, 0.9 + BAR * len(names) * pitch, draw)


def bar_panels(
    title: str, panels: Mapping[str, Mapping[str, float]], axis: str, *, emphasis: str = "", columns: int = 2
) -> Chart:
    """One panel of at most `MAX_PANEL_BARS` named bars for each entry, all on the same scale.

    The bars named `emphasis` are darker.
    """
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))

    def draw(figure: Figure) -> None:
        drawn = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for axes in drawn[len(panels) :]:
            axes.set_visible(False)
        for axes, (panel, values) in zip(drawn, panels.items(), strict=False):
            places = [names.index(name) for name in values]
            colours = [COLOURS[0 if name == emphasis else 5] for name in values]
            _bars(axes, places, list(values.values()), colours, panel)
            axes.set_title(safe_line(panel, MAX_LABEL))
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        first = figure.axes[0]
        first.set_yticks(range(len(names)), [safe_line(name, MAX_LABEL) for name in names])
        first.invert_yaxis()
        _quantity(first, [value for panel in panels.values() for value in panel.values()], "")
        for axes in figure.axes[max(len(panels) - columns, 0) : len(panels)]:
            axes.set_xlabel(safe_line(axis, MAX_LABEL))
            axes.tick_params(labelbottom=True)

    assert all(len(panel) <= MAX_PANEL_BARS for panel in panels.values()), (
        "too many bars to be read at a glance"
    )
    return _figure(title, True, rows * (0.75 + BAR * 1.15 * len(names)), draw)


def stacked(title: str, parts: Mapping[str, Sequence[float]], names: Sequence[str], axis: str) -> Chart:
    """For each name one horizontal bar that is composed of parts, with its total."""
    values = np.array(list(parts.values()), dtype=np.float64)

    def draw(axes: Axes) -> None:
        left = np.zeros(len(names))
        for index, (part, row) in enumerate(zip(parts, values, strict=True)):
            axes.barh(
                range(len(names)), row, 0.7, left, color=COLOURS[index], label=safe_line(part, MAX_LABEL)
            )
            left += row
        for place, total in enumerate(left):
            axes.text(total, place, f" {_text(total)}", va="center", color=QUIET, fontsize=9)
        _name_rows(axes, names, list(range(len(names))))
        _quantity(axes, left.tolist(), axis)
        _legend(axes, len(parts))

    wide = max(map(len, names), default=0) > MAX_NARROW_LABEL
    return _chart(title, wide, 1.2 + BAR * 1.6 * len(names), draw)


def histogram(title: str, values: Sequence[float], axis: str, counted: str) -> Chart:
    """Counts of the values in equal bins, with p50, p95 and p99; `counted` names what is counted."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        axes.hist(values, bins=min(40, max(5, round(len(values) ** 0.5 * 2))), color=COLOURS[5])
        for percentile, colour, dashes in zip(
            PERCENTILES, (COLOURS[0], COLOURS[1], COLOURS[3]), DASHES, strict=False
        ):
            value = float(np.percentile(values, percentile))
            label = f"p{percentile}: {_text(value)}"
            axes.axvline(value, color=colour, linestyle=dashes, linewidth=2, label=label)
        axes.set_xlim(left=0.0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _name_axes(axes, (axis, counted))
        _legend(axes, len(PERCENTILES))

    return _chart(title, False, 3.0, draw)


def timeline(title: str, rows: Mapping[str, Sequence[Span]], axes_names: tuple[str, str]) -> Chart:
    """A row of spans for each name, the first on top, over time."""
    parts = list(dict.fromkeys(span.part for spans in rows.values() for span in spans))

    def draw(axes: Axes) -> None:
        for index, part in enumerate(parts):
            there = [
                (row, span) for row, spans in enumerate(rows.values()) for span in spans if span.part == part
            ]
            axes.barh(
                [row for row, _ in there],
                [span.seconds for _, span in there],
                0.7,
                [span.start_s for _, span in there],
                color=RULE if index == 0 else COLOURS[index - 1],
                label=safe_line(part, MAX_LABEL),
            )
        _name_rows(axes, list(rows), list(range(len(rows))))
        axes.set_xlim(left=0.0)
        _name_axes(axes, axes_names)
        _legend(axes, len(parts))

    return _chart(title, True, 1.2 + 0.3 * len(rows), draw)


def matrix(
    title: str, counts: Sequence[Sequence[int]], names: Sequence[str], axes_names: tuple[str, str]
) -> Chart:
    """A square table of counts as colours: rows are on the upright axis, and names are those of both axes."""
    shares = np.array(counts, dtype=np.float64)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1.0)

    def draw(axes: Axes) -> None:
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        for row, column in np.ndindex(shares.shape):
            ink = "white" if shares[row, column] > 0.55 else INK
            axes.text(
                column, row, str(counts[row][column] or ""), ha="center", va="center", color=ink, fontsize=9
            )
        shown = [safe_line(name, MAX_NARROW_LABEL) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), shown)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        _name_axes(axes, axes_names)

    return _chart(title, len(names) > 8, 1.6 + 0.34 * len(names), draw)


def lines(
    title: str,
    drawn: Sequence[Line],
    axes_names: tuple[str, str],
    *,
    height: float = 3.0,
    top: float | None = None,
) -> Chart:
    """Lines over time, from zero upwards; `top` is the end of the upright axis, open if None."""

    def draw(axes: Axes) -> None:
        _plot(axes, drawn, axes_names)
        axes.set_xlim(left=0.0)
        axes.set_ylim(0.0, top)
        _legend(axes, sum(bool(line.label) for line in drawn))

    return _chart(title, height > 3.0, height, draw)


def curves(title: str, drawn: Sequence[Line], axes_names: tuple[str, str]) -> Chart:
    """Lines in the unit square."""

    def draw(axes: Axes) -> None:
        _plot(axes, drawn, axes_names)
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.02)
        _legend(axes, sum(bool(line.label) for line in drawn))

    return _chart(title, False, 4.4, draw)


def reliability_chart(
    title: str,
    points: Sequence[tuple[float, float, int]],
    counted: str,
    axes_names: tuple[str, str] = ("confidence", "precision"),
) -> Chart:
    """Precision over confidence, for points (confidence, precision, count), with the counts below.

    `counted` names what is counted.
    """
    confidences, precisions, counts = (list(column) for column in zip(*points, strict=True))

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
        upper.plot((0, 1), (0, 1), color=RULE, linewidth=2, label="perfect calibration")
        upper.plot(confidences, precisions, color=COLOURS[0], marker="o", label="measured", clip_on=False)
        upper.set(xlim=(0.0, 1.0), ylim=(0.0, 1.02), ylabel=axes_names[1])
        _legend(upper, 2)
        places = lower.bar(confidences, counts, 0.05, color=COLOURS[5])
        lower.bar_label(
            places, [str(count) for count in counts], fontsize=8, color=QUIET, rotation=90, padding=2
        )
        lower.set_ylim(0.0, 2.0 * max(counts))
        _name_axes(lower, (axes_names[0], counted))

    return _figure(title, False, 4.4, draw)


def _bars(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[float],
    colour: str | Sequence[str],
    name: str,
    errors: Sequence[float] | None = None,
) -> None:
    drawn = axes.barh(places, values, height=0.86, color=colour, xerr=errors, ecolor=INK)
    drawn.set_label(safe_line(name, MAX_LABEL))
    axes.bar_label(drawn, [_text(value) for value in values], padding=3, color=QUIET, fontsize=9)


def _text(value: float) -> str:
    return "" if value != value else f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _name_rows(axes: Axes, names: Sequence[str], places: Sequence[float]) -> None:
    axes.set_yticks(places, [safe_line(name, MAX_LABEL) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()


def _quantity(axes: Axes, values: Sequence[float], axis: str) -> None:
    """The axis of a quantity, with room for the values that stand at the ends of the bars."""
    low, high = (choose((value for value in values if value == value), default=0.0) for choose in (min, max))
    room = 0.18 * (max(high, 0.0) - min(low, 0.0))
    axes.set_xlim(low - room if low < 0.0 else 0.0, max(high, 0.0) + room or 1.0)
    axes.set_xlabel(safe_line(axis, MAX_LABEL))


def _name_axes(axes: Axes, names: tuple[str, str]) -> None:
    axes.set_xlabel(safe_line(names[0], MAX_LABEL))
    axes.set_ylabel(safe_line(names[1], MAX_LABEL))


def _legend(axes: Axes, entries: int) -> None:
    """The legend above the chart, where it covers nothing."""
    if entries:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncol=min(entries, 3), columnspacing=1.2)


def _plot(axes: Axes, drawn: Sequence[Line], axes_names: tuple[str, str]) -> None:
    for line in drawn:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            linewidth=line.width,
            linestyle=line.dashes,
            marker=line.marker or None,
            markersize=3 if not line.width else None,
            clip_on=not (line.marker and line.width),  # the last marker of a curve may lie on the edge
            label=safe_line(line.label, MAX_LABEL) or None,
        )
        if line.width and not line.marker:
            known = np.isfinite([np.nan, *line.y, np.nan])
            alone = known[1:-1] & ~known[:-2] & ~known[2:]  # no line leads through these points
            axes.plot(np.array(line.x)[alone], np.array(line.y)[alone], "o", color=line.colour, markersize=4)
        if line.text:
            axes.text(line.x[0], line.y[0], line.text, color=line.colour, fontsize=8, clip_on=True)
    _name_axes(axes, axes_names)


def _chart(title: str, wide: bool, height: float, draw: Callable[[Axes], None]) -> Chart:
    return _figure(title, wide, height, lambda figure: draw(figure.add_subplot()))


def _figure(title: str, wide: bool, height: float, draw: Callable[[Figure], None]) -> Chart:
    """The chart; without a picture, and with a warning in the log, when it cannot be drawn."""
    from matplotlib import rc_context  # takes half a second, which only pages should cost
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    text = io.StringIO()
    with drawing("a chart"), rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs, which the reader's font has, and of long labels
        size = (WIDE if wide else NARROW, min(height, MAX_HEIGHT))
        figure: Figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        for label in figure.findobj(Text):
            label.set_parse_math(False)  # one with dollar signs is no formula
        figure.savefig(text, format="svg", metadata={"Date": None})
        return Chart(title, data_uri("image/svg+xml", text.getvalue().encode()), wide)
    return Chart(title, "", wide)
