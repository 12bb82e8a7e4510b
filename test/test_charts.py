# SPDX-License-Identifier: Apache-2.0
"""Charts and pages with labels of any kind, and what a drawing that fails costs."""

from __future__ import annotations

import base64
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pages import svg_text
from rich.table import Table

from lfm_perception.cli import options
from lfm_perception.evaluation.compare import compare, table, write_compare_page
from lfm_perception.media import charts
from lfm_perception.media.charts import (
    Line,
    Span,
    bar_panels,
    bars,
    curves,
    histogram,
    lines,
    matrix,
    reliability_chart,
    stacked,
    timeline,
)
from lfm_perception.media.page import Chart

LABELS = (r"$\badcommand{x$", "$", "$x", "a_b^c", "[/b]", "<b>&", "_hidden", "猫", "ロ" * 100, "%s {0}", "")


def texts(chart: Chart) -> str:
    return svg_text(chart.source)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_drawn_as_it_is_and_never_as_a_formula(label: str) -> None:
    names = (label, label)
    for chart in (
        bars("A", {label: [1.0, 2.0], "B": [0.5, 0.0]}, [label, "box"], label),
        stacked("A", {label: [1.0, 2.0], "B": [0.5, 0.0]}, [label, "box"], label),
        curves("A", [Line([0.0, 1.0], [0.0, 1.0], label=label), Line([0.0], [1.0], label="B")], names),
        lines("A", [Line([0.0, 1.0], [1.0, 2.0], label=label)], names),
        timeline("A", {label: [Span(0.0, 1.0, label)]}, names),
        histogram("A", [1.0, 2.0], label, label),
        reliability_chart("A", [(0.5, 0.4, 3)], label),
    ):
        assert label[:40] in texts(chart)
    assert label[:20] in texts(matrix("A", [[1, 0], [0, 2]], [label, "box"], names))


def test_a_value_without_neighbours_is_a_dot() -> None:
    nan = float("nan")

    def marks(*values: float) -> int:
        chart = lines("A", [Line([*map(float, range(len(values)))], values)], ("x", "y"))
        return base64.b64decode(chart.source.partition(",")[2]).count(b"<use ")

    assert marks(0.5, nan, 0.5, 0.5) == marks(0.5, 0.5, 0.5, 0.5) + 1
    assert marks(nan, 0.5, nan, 0.5) == marks(0.5, 0.5, 0.5, 0.5) + 2


def test_a_text_at_a_point_without_a_line_has_no_dot() -> None:
    line = Line([0.0, 1.0], [0.4, 0.6])
    dots = [
        base64.b64decode(lines("A", drawn, ("x", "y")).source.partition(",")[2]).count(b"<use ")
        for drawn in ([line], [line, Line([0.5], [0.5], text="", width=0.0)])
    ]
    assert dots[0] == dots[1]


def test_every_chart_names_its_axes_and_its_parts() -> None:
    drawn = texts(stacked("A", {"encode": [1.0], "decode": [2.0]}, ["detect"], "mean time (ms)"))
    assert all(name in drawn for name in ("encode", "decode", "detect", "mean time (ms)", "3.000"))
    drawn = texts(histogram("A", [float(value) for value in range(1, 101)], "latency (ms)", "inferences"))
    assert all(name in drawn for name in ("p50: 50", "p95: 95", "p99: 99", "latency (ms)", "inferences"))
    drawn = texts(
        bar_panels("A", {"sparse": {"ours": 60.0, "SORT": 40.0}, "every": {"ours": 90.0}}, "HOTA (%)")
    )
    assert all(name in drawn for name in ("sparse", "every", "ours", "SORT", "60", "40", "90", "HOTA (%)"))


def test_a_panel_with_too_many_bars_is_refused() -> None:
    with pytest.raises(AssertionError, match="too many bars"):
        bar_panels("A", {"a": {str(index): 1.0 for index in range(7)}}, "x")


# Machado et al., A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009; severity 1.0
DEFICIENCIES = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritanopia": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_neighbouring_colours_differ_for_every_reader(deficiency: str) -> None:
    """At least 15 of the 100 steps of lightness, or as much in another direction of CIELAB."""
    seen = [lab(DEFICIENCIES[deficiency] @ linear(colour)) for colour in charts.COLOURS[:4]]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 15.0, distances


def linear(colour: str) -> NDArray[np.float64]:
    """The linear red, green and blue of a hexadecimal colour."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255.0
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear red, green and blue."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ rgb, 0.0, None) / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_a_chart_that_cannot_be_drawn_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert bars("A", {"A": [1.0, 2.0, 3.0]}, ["x", "y"], "more bars than names").source == ""
    assert "a chart could not be drawn; the figures are complete" in caplog.text


def test_reports_are_compared_though_their_charts_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fake Figure stands for a fault of matplotlib that no label is known to provoke."""
    report = {"kind": "bench", "latency_s": {"inference": {"p50": 1.0}}, "camera": "[/b]"}
    for name in ("A.json", "B.json"):
        (tmp_path / name).write_text(json.dumps(report))
    monkeypatch.setattr("matplotlib.figure.Figure", lambda **_: 1 / 0)
    reports = compare(tmp_path / "A.json", tmp_path / "B.json")
    write_compare_page(tmp_path / "page.html", *reports)
    assert "latency (ms).inference.p50" in (tmp_path / "page.html").read_text().replace("<wbr>", "")
    options.show_table(table(*reports))
    assert "latency (ms).inference.p50" in capsys.readouterr().out


def test_a_label_in_a_table_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Table("label", title="[/i]")
    shown.add_row("[/b]")
    options.show_table(shown)
    assert "[/b]" in capsys.readouterr().out
