# SPDX-License-Identifier: Apache-2.0
"""The store of models: verify, add, list, run without a hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from computer import NAME, Computer


def test_verify_finds_one_flipped_byte(computer: Computer) -> None:
    assert computer.pull().code == 0
    assert f"{NAME}: unchanged" in computer.here("verify").out
    vision = computer.store.find(NAME).files[1]
    content = bytearray(vision.read_bytes())
    content[-1000] ^= 1
    vision.write_bytes(content)
    outcome = computer.here("verify")
    assert outcome.sentence == f"changed and unusable: {NAME}"
    assert f"{vision} has changed: its SHA-256 is" in outcome.out
    vision.write_bytes(content[:-1])
    assert "bytes, expected" in computer.here("verify", NAME).out
    vision.unlink()
    assert f"cannot read {vision}: no such file" in computer.here("verify").out


def test_a_model_of_ones_own_gets_a_name_and_stays_in_place(
    computer: Computer, demo_model: tuple[Path, Path]
) -> None:
    outcome = computer.here("add", "mine", *demo_model, "--like", "LFM2.5-VL-3B")
    assert outcome.code == 0, outcome.err
    stored = computer.store.find("mine")
    assert stored.files == demo_model
    assert stored.settings["detect.dialect"] == "bbox_2d"
    stored.check()
    assert computer.final_names() == []
    taken = computer.here("add", "mine", *demo_model).sentence
    assert taken.startswith("there is already a model 'mine'")
    assert "the registry has a model 'demo' already" in computer.here("add", "demo", *demo_model).sentence
    assert "a model's name consists of letters" in computer.here("add", "../mine", *demo_model).sentence


def test_files_that_are_no_model_are_not_added(
    computer: Computer, demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    swapped = computer.here("add", "mine", demo_model[1], demo_model[0]).sentence
    assert "swap model.path and mmproj.path" in swapped
    assert "no such file" in computer.here("add", "mine", tmp_path / "gone.gguf", demo_model[1]).sentence
    assert computer.store.names() == []


def test_a_model_that_is_not_stored_has_a_remedy(computer: Computer) -> None:
    assert computer.here("path", "demo-Q4_0").sentence == (
        "the model 'demo-Q4_0' is not on this computer (available: none): "
        "lfm-perception models pull demo-Q4_0"
    )


def test_a_damaged_record_is_named(computer: Computer, demo_model: tuple[Path, Path]) -> None:
    assert computer.here("add", "mine", *demo_model).code == 0
    record = computer.store.root / "mine" / "model.json"
    for text in ("", "[]", "{}", record.read_text().replace('"size": ', '"size": "'), '{"model": 1}'):
        record.write_text(text)
        assert f"{record} is damaged" in computer.here("path", "mine").sentence


def test_running_a_model_needs_no_hub(
    computer: Computer, demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = yaml.safe_dump({"model": {"path": str(demo_model[0])}, "mmproj": {"path": str(demo_model[1])}})
    (tmp_path / "mine.yaml").write_text(settings)
    code = "import sys; sys.modules['huggingface_hub'] = None; from lfm_perception.cli import main; main()"
    words = ["run", "demo", "--frames", "1", "--out", str(tmp_path / "out")]
    process = subprocess.run(
        [sys.executable, "-c", code, *words, "--settings", str(tmp_path / "mine.yaml")],
        stdin=subprocess.DEVNULL,
        env=computer.environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert computer.hub.asked == []
