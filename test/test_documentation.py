# SPDX-License-Identifier: Apache-2.0
"""What `make docs` writes: pages agree with parameters, topics, modules and measured results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from demo_model import card
from documentation import figures
from documentation.marks import MARK, fill
from documentation.pages import DOCS, ROOT
from PIL import Image

from lfm_perception.demo import MODEL_DIR
from lfm_perception.provenance import sha256


def test_another_result_changes_the_figures_of_the_readme(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    before = figures.texts(tmp_path)
    for name, path in {
        "engine": ("results", 4, "rows", "all, right draft", "decode_calls"),
        "tracking": ("metrics", "sparse-late", "lfm_perception", "hota"),
        "node": ("camera", "figures", "track_age_ms", "p95"),
    }.items():
        file = tmp_path / "benchmarks" / "results" / f"{name}.json"
        found = json.loads(file.read_text(encoding="utf-8"))
        at = found
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] *= 3
        file.write_text(json.dumps(found), encoding="utf-8")
    after = figures.texts(tmp_path)
    shown = {mark["name"] for mark in MARK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))}
    changed = {name for name in before if before[name] != after[name]}
    assert {"engine/calls/draft", "tracking/sparse-late/hota", "node/track-age-p95-ms"} <= changed & shown


def test_a_marked_place_is_filled_within_its_line_or_over_several() -> None:
    page = "about <!-- node/ms -->1<!-- end --> ms\n\n<!-- rows -->\n<!-- end -->\n"
    filled = fill(page, {"node/ms": "2", "rows": "a\nb"}, "page.md")
    assert filled == "about <!-- node/ms -->2<!-- end --> ms\n\n<!-- rows -->\n\na\nb\n\n<!-- end -->\n"
    assert fill(filled, {"node/ms": "2", "rows": "a\nb"}, "page.md") == filled


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("about <!-- nothing -->1<!-- end -->", "there is no figure nothing"),
        ("in\n<!-- node/ms -->1<!-- end --> ms", "begins its line"),
        ("- <!-- node/ms -->1<!-- end --> ms", "begins its line"),
    ],
)
def test_a_place_that_cannot_be_filled_is_an_error(page: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fill(page, {"node/ms": "2"}, "page.md")


def test_the_results_of_the_demo_model_are_those_of_the_files_that_ship() -> None:
    measured = card.read()
    assert {name: about["sha256"] for name, about in measured["files"].items()} == {
        path.name: sha256(path) for path in MODEL_DIR.glob("*.gguf")
    }
    measured["quantizations"]["Q4_0"]["trials"]["easy"]["f1"] = 0.123
    assert "| easy | 200 | 0.123 |" in card.text(measured)


def test_the_animation_is_one_and_small_enough_for_a_readme() -> None:
    file = DOCS / "images" / "demo.webp"
    with Image.open(file) as animation:
        assert animation.n_frames > 20  # type: ignore[attr-defined]  # of Pillow's animations
    assert file.stat().st_size < 2_000_000
