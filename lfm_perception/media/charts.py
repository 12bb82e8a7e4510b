"""Plots as SVG, for pages: bars and curves."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lfm_perception.errors import PerceptionError
from lfm_perception.media.page import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b6ea5", "#e0803c", "#4f9d69", "#b0508a", "#8a7cc2", "#c2a23a", "#5aa7b8", "#a0584c")
INK, QUIET, RULE = "#1a1d23", "#697080", "#d9dce2"
WIDE = 9.6
"""Inches, of which a page shows 100 pixels each."""

BAR = 0.24
"""Inches that a bar takes."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: the reader's computer has those of every language
    "svg.hashsalt": "lfm_perception",  # the same plot is the same file
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


def need_charts() -> None:
    """Raises PerceptionError where plots cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PerceptionError(
            "reports are drawn with matplotlib, which is missing: pip install 'lfm_perception[eval]'"
        ) from error


def bars(series: Mapping[str, Sequence[float]], names: Sequence[str], axis: str, alt: str) -> str:
    """For each name one horizontal bar of each series, with its value; `axis` says what is measured."""
    most = max((value for values in series.values() for value in values), default=0.0)
    height = 0.9 + BAR * len(names) * (len(series) + 0.7)

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(series.items()):
            places = [row * (len(series) + 0.7) + index for row in range(len(names))]
            drawn = axes.barh(places, values, height=0.86, color=COLOURS[index % len(COLOURS)], label=name)
            axes.bar_label(drawn, [_short(value) for value in values], padding=3, color=QUIET, fontsize=9)
        middle = (len(series) - 1) / 2
        axes.set_yticks([row * (len(series) + 0.7) + middle for row in range(len(names))], names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0.0, 1.12 * most if most else 1.0)
        axes.set_xlabel(axis)
        axes.invert_yaxis()
        if len(series) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(series))

    return _drawn(WIDE, height, draw, alt)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    axes_names: tuple[str, str],
    alt: str,
    *,
    diagonal: bool = False,
) -> str:
    """Lines in the unit square, by name: values to the right and upwards. `diagonal`: equal values."""

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot((0, 1), (0, 1), color=RULE, linewidth=2)
        for index, (name, (across, up)) in enumerate(lines.items()):
            bold = index == 0 and len(lines) > 1
            axes.plot(
                across,
                up,
                color=INK if bold else COLOURS[(index - (len(lines) > 1)) % len(COLOURS)],
                linewidth=2.4 if bold else 1.5,
                marker="o" if diagonal else None,
                label=name,
            )
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        if len(lines) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return _drawn(6.2 if len(lines) > 1 else 4.6, 4.0, draw, alt)


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.0f}"


def _drawn(width: float, height: float, draw: Callable[[Axes], None], alt: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's font has it
        figure: Figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return drawing(text.getvalue(), alt)
