# SPDX-License-Identifier: Apache-2.0
"""Charts for pages: bars and lines, drawn by matplotlib as SVG. Each function returns a data URI."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lfm_perception.media.page import data_uri, drawing
from lfm_perception.text import safe_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b6ea5", "#e0803c", "#4f9d69", "#b0508a", "#8a7cc2", "#c2a23a", "#5aa7b8", "#a0584c")
INK, QUIET, RULE = "#1a1d23", "#697080", "#d9dce2"
WIDE = 9.6
"""Width of a chart in inches, of which a page shows 100 pixels each."""

BAR = 0.24
"""Height of a bar in inches."""

MAX_HEIGHT = 300.0
"""Maximum height of a chart in inches, at which 500 labels with two bars each are still legible."""

MAX_LABEL = 50
"""Maximum length of a label that is drawn, characters."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: the reader's computer has fonts for every language
    "svg.hashsalt": "lfm_perception",  # the same chart gives the same file
    "text.parse_math": False,  # a label with dollar signs is no formula
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef1",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; NaN breaks it. `marker` as in matplotlib; without `label` no legend entry."""

    x: Sequence[float]
    y: Sequence[float]
    colour: str = COLOURS[0]
    label: str = ""
    width: float = 1.5
    marker: str = ""


def bars(series: Mapping[str, Sequence[float]], names: Sequence[str], axis: str) -> str:
    """For each name one horizontal bar of each series, with its value; `axis` names the quantity.

    NaN stands for a value that was not measured, and leaves a gap.
    """
    most = max((value for values in series.values() for value in values if value == value), default=0.0)
    pitch = len(series) + 0.7

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(series.items()):
            places = [row * pitch + index for row in range(len(names))]
            drawn = axes.barh(places, values, height=0.86, color=COLOURS[index % len(COLOURS)])
            drawn.set_label(safe_line(name, MAX_LABEL))
            texts = [f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}" for value in values]
            texts = ["" if text == "nan" else text for text in texts]
            axes.bar_label(drawn, texts, padding=3, color=QUIET, fontsize=9)
        labels = [safe_line(name, MAX_LABEL) for name in names]
        axes.set_yticks([row * pitch + (len(series) - 1) / 2 for row in range(len(names))], labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0.0, 1.12 * most if most else 1.0)
        axes.set_xlabel(safe_line(axis, MAX_LABEL))
        axes.invert_yaxis()
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(series))

    return _drawn(WIDE, 0.9 + BAR * len(names) * pitch, draw)


def lines(
    drawn: Sequence[Line], axes_names: tuple[str, str], *, height: float = 2.2, top: float | None = None
) -> str:
    """Lines over time, from zero upwards; `top` is the end of the upright axis, open if None."""

    def draw(axes: Axes) -> None:
        _plot(axes, drawn, axes_names)
        axes.set_xlim(left=0.0)
        axes.set_ylim(0.0, top)

    return _drawn(WIDE, height, draw)


def curves(drawn: Sequence[Line], axes_names: tuple[str, str], *, diagonal: bool = False) -> str:
    """Lines in the unit square; `diagonal` also draws the line of equal values."""

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot((0, 1), (0, 1), color=RULE, linewidth=2)
        _plot(axes, drawn, axes_names)
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.02)
        if len(drawn) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _drawn(6.2 if len(drawn) > 1 else 4.6, 4.0, draw)


def _plot(axes: Axes, drawn: Sequence[Line], axes_names: tuple[str, str]) -> None:
    for line in drawn:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            linewidth=line.width,
            marker=line.marker or None,
            markersize=3 if not line.width else None,
            label=safe_line(line.label, MAX_LABEL) or None,
        )
    axes.set_xlabel(safe_line(axes_names[0], MAX_LABEL))
    axes.set_ylabel(safe_line(axes_names[1], MAX_LABEL))


def _drawn(width: float, height: float, draw: Callable[[Axes], None]) -> str:
    """The chart as a data URI; empty, with a warning in the log, when it cannot be drawn."""
    from matplotlib import rc_context  # takes half a second, which only pages should cost
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    with drawing("a chart"), rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs, which the reader's font has, and of long labels
        figure: Figure = Figure(figsize=(width, min(height, MAX_HEIGHT)), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        figure.savefig(text, format="svg", metadata={"Date": None})
        return data_uri("image/svg+xml", text.getvalue().encode())
    return ""
