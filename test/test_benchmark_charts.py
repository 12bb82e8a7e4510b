# SPDX-License-Identifier: Apache-2.0
"""The charts of the benchmarks show the results that lie beside them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from pages import charts_of, svg_text

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def charts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_charts", BENCHMARKS / "charts.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["engine", "quality_speed", "tracking"])
def test_the_chart_shows_the_present_results(charts: ModuleType, name: str) -> None:
    """Every text of the chart drawn anew, apart from the version of matplotlib, is in the one that ships."""
    results = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    shipped = (BENCHMARKS / "results" / f"{name}.svg").read_text()
    texts = [text.strip() for text in ElementTree.fromstring(shipped).itertext() if text.strip()]
    drawn = svg_text(charts.CHARTS[name](results).source)
    missing = [text for text in texts if text not in drawn and "atplotlib" not in text]
    assert not missing, f"{missing}: run make docs"
    assert len(texts) > 20


def test_engine_variants_have_public_names_and_trackers_are_compared_by_protocol(charts: ModuleType) -> None:
    shipped = (BENCHMARKS / "results" / "engine.svg").read_text()
    for name in (
        "naive",
        "prefix cache",
        "forced tokens",
        *(f"speculative, {d} draft" for d in ("right", "no")),
    ):
        assert f">{name}<" in shipped
    shipped = (BENCHMARKS / "results" / "tracking.svg").read_text()
    for name in (*charts.PEERS, "sparse-late", "jittered", "HOTA (%)"):
        assert f">{name}<" in shipped


def test_the_page_holds_all_charts(
    charts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in charts.CHARTS:
        (tmp_path / f"{name}.json").write_text((BENCHMARKS / "results" / f"{name}.json").read_text())
    page = tmp_path / "out" / "page.html"
    monkeypatch.setattr("sys.argv", ["charts.py", "--results", str(tmp_path), "--page", str(page)])
    charts.main()
    assert len(charts_of(page)) == len(list(tmp_path.glob("*.svg"))) == 3
