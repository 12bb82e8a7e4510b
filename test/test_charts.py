# SPDX-License-Identifier: Apache-2.0
"""Charts and pages with labels of any kind, and what a drawing that fails costs."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.table import Table

from lfm_perception.cli import options
from lfm_perception.evaluation.compare import compare, table, write_compare_page
from lfm_perception.media import charts
from lfm_perception.media.charts import Line, bars, curves, lines

LABELS = (r"$\badcommand{x$", "$", "$x", "a_b^c", "[/b]", "<b>&", "_hidden", "猫", "ロ" * 100, "%s {0}", "")


def texts(uri: str) -> str:
    """The text of a chart. Raises when it is no valid SVG."""
    svg = base64.b64decode(uri.partition(",")[2])
    return " ".join(ElementTree.fromstring(svg).itertext())


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_drawn_as_it_is_and_never_as_a_formula(label: str) -> None:
    for uri in (
        bars({label: [1.0, 2.0], "B": [0.5, 0.0]}, [label, "box"], label),
        curves([Line([0.0, 1.0], [0.0, 1.0], label=label), Line([0.0], [1.0], label="B")], (label, label)),
        lines([Line([0.0, 1.0], [1.0, 2.0], label=label)], (label, label)),
    ):
        assert label[:40] in texts(uri)


def test_a_chart_that_cannot_be_drawn_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert bars({"A": [1.0, 2.0, 3.0]}, ["x", "y"], "more bars than names") == ""
    assert "a chart could not be drawn; the figures are complete" in caplog.text


def test_reports_are_compared_though_their_charts_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fake Figure stands for a fault of matplotlib that no label is known to provoke."""
    report = {"kind": "bench", "latency_ms": {"inference": {"p50": 1.0}}, "camera": "[/b]"}
    for name in ("A.json", "B.json"):
        (tmp_path / name).write_text(json.dumps(report))
    monkeypatch.setattr("matplotlib.figure.Figure", lambda **_: 1 / 0)
    reports = compare(tmp_path / "A.json", tmp_path / "B.json")
    write_compare_page(tmp_path / "page.html", *reports)
    assert "latency_ms.inference.p50" in (tmp_path / "page.html").read_text()
    options.show_table(table(*reports))
    assert "latency_ms.inference.p50" in capsys.readouterr().out


def test_a_label_in_a_table_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Table("label", title="[/i]")
    shown.add_row("[/b]")
    options.show_table(shown)
    assert "[/b]" in capsys.readouterr().out


def test_the_style_reads_no_formulas() -> None:
    assert charts.STYLE["text.parse_math"] is False
