# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval wordings` on labelled images of the demo world, with the demo model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from labelled import SIZE, scenes, write_yolo

from lfm_perception.cli import main
from lfm_perception.demo.bodies import LABELS

MINE = """
detect: {dialect: mine}
dialects:
  mine: {user: "Where is {labels}?", label_key: name, keys: [name, bbox]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with YOLO labels, and one that shows nothing."""
    root = write_yolo(tmp_path_factory.mktemp("labelled"), scenes(2))
    cv2.imwrite(str(root / "images" / "2.png"), np.full((SIZE, SIZE, 3), 90, np.uint8))
    (root / "mine.yaml").write_text(MINE)
    return root


def run(*words: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--set", "engine.isolation=thread"])
    return ended.value.code


def test_dialects_are_compared_on_labelled_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--dialect", "bbox", "--dialect", "mine", "--settings", folder / "mine.yaml")
    assert run("eval", "wordings", folder, *asked, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[:3]] == ["dialect", "bbox", "mine"]
    assert "bbox is best" in said
    assert "Images: 3." in said
    written = json.loads((tmp_path / "out" / "wordings.json").read_text())
    assert (written["images"], written["labels"]) == (3, list(LABELS))
    best, other = written["wordings"]["bbox"], written["wordings"]["mine"]
    assert best["f1"] > 0.9
    assert best["standard_error"] < 0.1, "an image without objects or detections is right"
    assert other["behind_best"] == pytest.approx(best["f1"] - other["f1"], abs=1e-3)
    page = (tmp_path / "out" / "wordings.html").read_text()
    for title in ("F1 by dialect, with its standard error", "Median latency by dialect", "Setup"):
        assert title in page


def test_a_folder_that_cannot_be_written_is_refused_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run("eval", "wordings", folder, "--out", tmp_path / "file") == 1
    assert "cannot write to" in capsys.readouterr().err
