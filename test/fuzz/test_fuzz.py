# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzz test, and special files in the place of every file that is read."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from readers import READERS, Reader

from lfm_perception.errors import PerceptionError
from lfm_perception.text import MAX_SENTENCE

INPUTS = 1_500
"""Inputs of the short run, over all readers."""

OF_FILES = [reader for reader in READERS if reader.file]

SPECIAL = ("pipe", "device", "folder", "loop of links", "nothing", "no permission")


@pytest.mark.usefixtures("untraced")
def test_thousands_of_mutated_inputs_fail_in_a_sentence_within_limits(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--inputs", str(INPUTS)]
    process = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout + process.stderr
    found = json.loads(out.read_text())
    assert (found["inputs"], found["failures"]) == (INPUTS, 0)
    print(f"{found['inputs']} inputs in {found['seconds']} s")
    silent = [name for name, each in found["readers"].items() if not each["refused"] and name != "answers"]
    assert not silent, "readers that refuse nothing"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_each_reader_accepts_what_its_inputs_are_mutations_of(reader: Reader, tmp_path: Path) -> None:
    valid, read = reader.by_hand()[0], reader.prepare(tmp_path)
    if reader.file:
        (tmp_path / reader.file).write_bytes(valid)
    if reader.name in ("server errors", "parameter values"):
        pytest.skip("its inputs are errors, or choose values at random")
    read(tmp_path / reader.file if reader.file else valid)


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("reader", OF_FILES, ids=lambda reader: reader.name)
def test_a_special_file_is_refused_at_once(reader: Reader, special: str, tmp_path: Path) -> None:
    read = reader.prepare(tmp_path)
    file = tmp_path / reader.file
    file.unlink(missing_ok=True)
    if special == "pipe":
        os.mkfifo(file)
    elif special == "device":
        file.symlink_to("/dev/zero")
    elif special == "folder":
        file.mkdir()
    elif special == "loop of links":
        file.symlink_to(file.name)
    elif special == "no permission":
        file.write_bytes(b"")
        file.chmod(0)
    process = multiprocessing.get_context("fork").Process(target=_refused, args=(read, file))
    process.start()
    process.join(20.0)
    process.kill()
    assert process.exitcode == 0


def _refused(read: object, file: Path) -> None:
    try:
        read(file)  # type: ignore[operator]
    except PerceptionError as error:
        os._exit(0 if len(str(error)) <= MAX_SENTENCE else 3)
    except BaseException as error:
        print(repr(error))
        os._exit(2)
    os._exit(0)
