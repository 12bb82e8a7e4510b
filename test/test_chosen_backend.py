# SPDX-License-Identifier: Apache-2.0
"""Every command that asks a model asks the backend of the settings, and never another."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfm_perception.backends.recorded import FORMAT, VERSION
from lfm_perception.cli import main
from lfm_perception.doctor import check_engine
from lfm_perception.settings import Settings


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording that knows no frame: whoever asks it says so."""
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
    return path


COMMANDS = {
    "eval demo": ("eval", "demo", "--scenes", "1", "--trial", "easy"),
    "eval tracking demo": ("eval", "tracking", "demo", "--seeds", "1", "--seconds", "2"),
    "bench": ("bench", "--seconds", "1", "--out", "{out}"),
    "run": ("run", "demo", "--frames", "1", "--out", "{out}"),
    "record": ("record", "demo", "--frames", "1", "--out", "{out}"),
    "eval detection": ("eval", "detection", "{images}", "--out", "{out}"),
    "eval wordings": ("eval", "wordings", "{images}"),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one labelled image."""
    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((64, 64, 3), 90, np.uint8))
    (folder / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "classes.txt").write_text("box\n")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_asks_the_backend_of_its_settings_and_says_what_boxes_to_expect(
    name: str, recording: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(out=tmp_path / "out", images=images) for word in COMMANDS[name]]
    values = ("engine.backend=recorded", f"recorded.path={recording}", "model.grounding=undocumented")
    with pytest.raises(SystemExit) as ended:
        main([*words, *(word for value in values for word in ("--set", value))])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"is not in {recording}" in said
    assert (
        said.count("lfm-perception: warning: answers in answers.jsonl: its vendor documents no prompt") == 1
    )
    assert "Traceback" not in said


def test_the_doctor_judges_the_backend_of_the_settings(recording: Path) -> None:
    values = {"engine.backend": "recorded", "recorded.path": str(recording)}
    findings = {each.about: each for each in check_engine(Settings().with_values(values))}
    assert [each for each in findings.values() if each.is_problem] == []
    assert findings["llama.cpp"].skipped
    assert findings["model"].found == f"{recording}, 0 answers"
    assert findings["inference"].found.startswith("ready after")
    values = {"engine.backend": "openai", "openai.url": "http://127.0.0.1:9/v1"}
    findings = {each.about: each for each in check_engine(Settings().with_values(values))}
    assert findings["llama.cpp"].skipped
    assert "127.0.0.1:9/v1 cannot be reached" in findings["inference"].found
    assert "openai.url" in findings["inference"].remedy
