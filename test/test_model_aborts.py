# SPDX-License-Identifier: Apache-2.0
"""Model files on which llama.cpp ends its process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from computer import Computer

from lfm_perception.backends import open_vlm
from lfm_perception.doctor import check_engine, check_model
from lfm_perception.errors import PerceptionError
from lfm_perception.models.store import check_files
from lfm_perception.settings import Settings


def replaced(path: Path, target: Path, old: bytes, new: bytes) -> Path:
    """A copy of a file with some bytes replaced once."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    target.write_bytes(content.replace(old, new, 1))
    return target


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0bert", "tokenizer.ggml.model is 'bert', not 'gpt2'"),
        (b"<|fim_mid|>", b"<|fim_pre|>", "repeated tokens"),
        (b"lfm2.vocab_size\x04\0\0\0\0\x0a", b"lfm2.vocab_size\x04\0\0\0\0\x0b", "it has 2560 tokens, not"),
        (b"eos_token_id\x04\0\0\0\x07\0", b"eos_token_id\x04\0\0\0\x07\xff", "and it has 2560 tokens"),
        (b"<|fim_mid|>", b"<|fim_\xff\xff\xff|>", "its vocabulary is not UTF-8"),
    ],
)
def test_a_damaged_vocabulary_is_refused_before_it_is_loaded(
    demo_model: tuple[Path, Path], tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    damaged = replaced(demo_model[0], tmp_path / "damaged.gguf", old, new)
    with pytest.raises(PerceptionError, match=said) as refusal:
        check_files(damaged, demo_model[1])
    assert str(damaged) in str(refusal.value)


def test_a_part_of_a_split_model_is_refused_with_the_command_that_merges_it(
    demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    content = demo_model[0].read_bytes()
    content = content.replace(b"\x11" + bytes(7) + b"general.file_type", b"\x0b" + bytes(7) + b"split.count")
    content = content.replace(
        b"\x12" + bytes(7) + b"LFM2-VL demo model", b"\x18" + bytes(7) + b"LFM2-VL demo model part1"
    )
    part = tmp_path / "part.gguf"
    part.write_bytes(content)
    with pytest.raises(PerceptionError, match="llama-gguf-split --merge"):
        check_files(part, demo_model[1])


@pytest.fixture
def unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of vocabularies, here and in new processes: no known file passes it and aborts."""
    code = (
        "import lfm_perception.engine.gguf_checks as checks\nchecks._check_vocabulary = lambda header: None\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("lfm_perception.engine.gguf_checks._check_vocabulary", lambda header: None)


@pytest.mark.usefixtures("unchecked")
def test_a_file_on_which_llama_cpp_aborts_is_named_with_its_checksum_everywhere(
    computer: Computer, demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    damaged = replaced(demo_model[0], tmp_path / "damaged.gguf", b"<|fim_mid|>", b"<|fim_pre|>")
    said = f"{damaged} (SHA-256 {hashlib.sha256(damaged.read_bytes()).hexdigest()}) makes llama.cpp end its"
    files = {"model.path": str(damaged), "mmproj.path": str(demo_model[1])}
    for isolation in ("thread", "process"):
        settings = Settings().with_values({**files, "engine.isolation": isolation})
        with pytest.raises(PerceptionError) as refusal:
            open_vlm(settings)
        assert str(refusal.value).startswith(said)
    assert check_model(settings).found.startswith(said)
    (problem,) = [each for each in check_engine(settings) if each.about == "llama.cpp"]
    assert problem.found.startswith(said)
    computer.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    assert computer.models("add", "mine", damaged, demo_model[1]).sentence.startswith(said)
    assert computer.store.names() == []


def test_the_shipped_files_are_known_and_not_loaded_twice(
    demo_model: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: Settings) -> None:
        raise AssertionError("a worker process was started")

    monkeypatch.setattr("lfm_perception.backends.supervisor.SupervisedVlm", fail)
    check_files(*demo_model)
