# SPDX-License-Identifier: Apache-2.0
"""Pulling a model from a hub that cuts, hangs and lies."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from computer import MMPROJ, MODEL, NAME, REPO, Computer, registry_text
from hub import COMMIT, Hub

from lfm_perception.settings import Settings


def test_a_pulled_model_runs_by_the_settings_it_comes_with(
    computer: Computer, files: dict[str, bytes], tmp_path: Path
) -> None:
    outcome = computer.pull()
    assert outcome.code == 0, outcome.err
    assert COMMIT in outcome.out
    stored = computer.store.find(NAME)
    assert [path.read_bytes() for path in stored.files] == list(files.values())
    assert computer.models("path", NAME).out.splitlines() == [str(path) for path in stored.files]
    mine = tmp_path / "mine.yaml"
    mine.write_text(computer.models("settings", NAME).out)
    settings = Settings.load(mine)
    assert (settings.model.path, settings.mmproj.path) == tuple(map(str, stored.files))
    assert settings.model.sha256 == hashlib.sha256(files[MODEL]).hexdigest()
    assert settings.dialect.name == "bbox_2d"
    listed = computer.models("list").out
    assert any(line.split()[0] == NAME and "yes" in line for line in listed.splitlines() if line)
    asked = len(computer.hub.asked)
    assert "already stored" in computer.pull().out
    assert len(computer.hub.asked) == asked


def test_a_pull_cut_five_times_ends_with_the_right_file(computer: Computer, files: dict[str, bytes]) -> None:
    cut = len(files[MODEL]) // 7
    computer.hub.faults[MODEL].cuts = [cut] * 5
    outcome = computer.pull()
    assert outcome.code == 0, outcome.err
    assert computer.store.find(NAME).files[0].read_bytes() == files[MODEL]
    begins = [begin for name, begin in computer.hub.asked if name == MODEL]
    assert begins == [cut * count for count in range(6)]


def test_a_pull_killed_five_times_resumes(computer: Computer, files: dict[str, bytes]) -> None:
    computer.hub.faults[MMPROJ].pause_s = 0.02
    part = computer.store.root / f".{NAME}.unfinished" / f"{hashlib.sha256(files[MMPROJ]).hexdigest()}.part"
    for round_ in range(1, 6):
        process = computer.start("pull", "demo", "--accept-license")
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < len(files[MMPROJ]) * round_ // 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert computer.final_names() == []
    computer.hub.faults[MMPROJ].pause_s = 0.0
    assert computer.pull().code == 0
    assert [path.read_bytes() for path in computer.store.find(NAME).files] == list(files.values())
    begins = [begin for name, begin in computer.hub.asked if name == MMPROJ]
    assert begins == sorted(begins)
    assert begins[-1] > 0


def test_incomplete_files_never_have_their_final_name(computer: Computer, files: dict[str, bytes]) -> None:
    for name in files:
        computer.hub.faults[name].pause_s = 0.01
    process = computer.start("pull", "demo", "--accept-license")
    whole = {Path(name).name: len(content) for name, content in files.items()}
    looked = 0
    while process.poll() is None:
        found = {path.name: path.stat().st_size for path in computer.store.root.glob("[!.]*/*.gguf")}
        assert found in ({}, whole)
        looked += 1
    assert looked > 20
    process.communicate()
    assert process.returncode == 0
    assert sorted(computer.final_names()) == sorted(whole)


def test_a_hub_without_ranges_is_loaded_from_the_start_again(
    computer: Computer, files: dict[str, bytes]
) -> None:
    computer.hub.faults[MODEL].cuts = [len(files[MODEL]) // 2]
    computer.hub.faults[MODEL].ranges = False
    assert computer.pull().code == 0
    assert computer.store.find(NAME).files[0].read_bytes() == files[MODEL]


def test_a_request_to_a_hub_that_hangs_is_repeated(computer: Computer, files: dict[str, bytes]) -> None:
    computer.hub.faults[MODEL].stalls = 1
    assert computer.pull().code == 0
    assert computer.store.find(NAME).files[0].read_bytes() == files[MODEL]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("log-in page", "the answer for demo.gguf is not the file (it has 26 bytes, not"),
        ("empty range", "the answer for demo.gguf is not the file (it has 0 bytes, not"),
        ("one byte of unknown length", "demo.gguf does not come, 3000"),
        ("compressed", "the answer for demo.gguf is not the file (it is encoded as 'gzip')"),
        ("longer", "the answer for demo.gguf is not the file (it has"),
        ("endless", "demo.gguf arrived with SHA-256"),
        ("trickle", "demo.gguf does not come,"),
        ("other range", "the answer for demo.gguf is not the file (it is the range 'bytes 7-"),
        ("no such range", "the hub cannot be reached or broke off (Client error '416"),
        ("redirect to itself", "the hub cannot be reached or broke off (Exceeded maximum allowed redirects"),
    ],
)
def test_an_answer_that_is_not_the_file_ends_the_pull_in_seconds(
    computer: Computer, files: dict[str, bytes], answer: str, said: str
) -> None:
    part = computer.store.root / f".{NAME}.unfinished" / f"{hashlib.sha256(files[MODEL]).hexdigest()}.part"
    part.parent.mkdir()
    part.write_bytes(files[MODEL][:300_000])
    computer.hub.faults[MODEL].answer = answer
    computer.environment["HF_HUB_DOWNLOAD_TIMEOUT"] = "1"
    computer.environment["HF_TOKEN"] = "hf_secret"
    outcome = computer.pull()
    assert outcome.sentence.startswith(said)
    assert len(outcome.sentence) <= 300
    assert "hf_secret" not in outcome.out + outcome.err
    assert len(computer.hub.asked) <= 20
    assert not part.exists() or part.stat().st_size <= len(files[MODEL])
    assert computer.final_names() == []


def test_the_token_is_sent_to_the_hub_only(computer: Computer) -> None:
    computer.environment["HF_TOKEN"] = "hf_secret"
    assert computer.pull().code == 0
    assert computer.hub.tokens == {"127.0.0.1": "Bearer hf_secret", "localhost": ""}


def test_a_damaged_transfer_is_detected_and_leaves_no_model(
    computer: Computer, files: dict[str, bytes]
) -> None:
    computer.hub.faults[MODEL].flip = len(files[MODEL]) // 3
    said = computer.pull().sentence
    assert said.startswith(f"{MODEL} arrived with SHA-256 ")
    assert said.endswith("it was damaged on the way, pull again")
    assert computer.final_names() == []
    computer.hub.faults[MODEL].flip = None
    assert computer.pull().code == 0


def test_a_hub_that_has_another_file_than_is_pinned_is_refused(
    computer: Computer, files: dict[str, bytes]
) -> None:
    computer.hub.etags[MODEL] = "0" * 64
    assert f"the hub has another {MODEL} than is pinned" in computer.pull().sentence
    assert computer.hub.asked == []
    assert computer.final_names() == []


def test_an_unpinned_file_is_pulled_only_at_a_given_revision(
    computer: Computer, files: dict[str, bytes]
) -> None:
    computer.describe(registry_text(files, pinned=False))
    assert "demo.gguf of demo-Q4_0 is not pinned yet" in computer.pull().sentence
    outcome = computer.pull("--revision", "main")
    assert outcome.code == 0, outcome.err
    assert f"{MODEL} of {REPO} at {COMMIT}, SHA-256 {hashlib.sha256(files[MODEL]).hexdigest()}" in outcome.out
    assert computer.store.find(NAME).source == f"{REPO}@{COMMIT}"


def test_a_file_without_a_checksum_is_not_pulled(computer: Computer, files: dict[str, bytes]) -> None:
    computer.describe(registry_text(files, pinned=False))
    computer.hub.etags[MODEL] = "a" * 40
    assert "the hub states no SHA-256 of demo.gguf" in computer.pull("--revision", "main").sentence


def test_missing_access_repository_revision_and_file_are_named(
    computer: Computer, files: dict[str, bytes]
) -> None:
    text = registry_text(files)
    computer.hub.gated = True
    assert f"the hub restricts access to {REPO}" in computer.pull().sentence
    computer.hub.gated = False
    assert "has no such revision" in computer.pull("--revision", "b" * 40).sentence
    computer.describe(text.replace(REPO, "somebody/else"))
    assert "the hub has no repository somebody/else" in computer.pull().sentence
    computer.describe(text.replace('"demo.gguf"', '"gone.gguf"'))
    assert f"the hub's {REPO} has no such file" in computer.pull().sentence
    assert computer.final_names() == []


def test_an_unreachable_hub_and_offline_mode_are_named(computer: Computer) -> None:
    computer.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert "the hub cannot be reached or broke off" in computer.pull().sentence
    computer.environment["HF_HUB_OFFLINE"] = "1"
    assert computer.pull().sentence.startswith("HF_HUB_OFFLINE is set")


def test_a_proxy_is_respected(computer: Computer) -> None:
    del computer.environment["NO_PROXY"]
    computer.environment["HTTP_PROXY"] = "http://127.0.0.1:9"
    assert "the hub cannot be reached" in computer.pull().sentence


def test_a_file_of_another_family_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    other = files[MODEL].replace(b"lfm2", b"lfm9")
    with Hub(REPO, {**files, MODEL: other}) as hub:
        computer = Computer(tmp_path / "hf", hub)
        computer.describe(registry_text(hub.files))
        assert "is a model of architecture 'lfm9', not 'lfm2'" in computer.pull().sentence
        assert computer.final_names() == []


def test_a_full_disk_is_reported_and_received_bytes_are_kept(
    computer: Computer, files: dict[str, bytes]
) -> None:
    size = len(files[MODEL]) // 2

    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    assert "cannot write to" in computer.pull(before=limit_file_size).sentence
    assert computer.final_names() == []
    assert computer.pull().code == 0
    assert (MODEL, size) in computer.hub.asked


def test_a_disk_too_small_is_found_before_the_pull(computer: Computer, files: dict[str, bytes]) -> None:
    pinned = json.loads(registry_text(files, pinned=False))
    computer.describe(json.dumps(pinned))
    computer.hub.files[MODEL] = _Huge(files[MODEL])
    said = computer.pull("--revision", "main").sentence
    assert "GB free and" in said
    assert computer.hub.asked == []


class _Huge(bytes):
    """Bytes that claim to be more than any disk holds."""

    def __len__(self) -> int:
        return 1 << 60


def test_a_store_that_cannot_be_created_is_named(computer: Computer, tmp_path: Path) -> None:
    computer.environment["HF_HOME"] = str(tmp_path / "file" / "hf")
    (tmp_path / "file").write_text("in the way")
    assert "there is no model 'demo'" in computer.pull().sentence
    outcome = computer.models("pull", "LFM2.5-VL-450M", "--accept-license")
    assert "cannot write to" in outcome.sentence
    assert "not a directory" in outcome.sentence


def test_the_license_is_shown_and_accepted_once(computer: Computer) -> None:
    refused = computer.models("pull", "demo")
    assert refused.sentence == (
        "the Free License 1 has not been accepted here: read it and give --accept-license"
    )
    assert "Do what you like." in refused.out
    assert computer.hub.asked == []
    assert "Do what you like." in computer.pull().out
    shutil.rmtree(computer.store.root / NAME)
    again = computer.models("pull", "demo")
    assert again.code == 0, again.err
    assert "Do what you like." not in again.out


def test_two_pulls_of_a_model_do_not_mix(computer: Computer, files: dict[str, bytes]) -> None:
    computer.hub.faults[MODEL].held = True
    computer.environment["HF_HUB_DOWNLOAD_TIMEOUT"] = "60"
    first = computer.start("pull", "demo", "--accept-license")
    deadline = time.monotonic() + 60
    while not computer.hub.asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert f"{NAME} is being pulled by another process" in computer.pull().sentence
    computer.hub.faults[MODEL].held = False
    first.communicate(timeout=60)
    assert first.returncode == 0
    computer.store.find(NAME).check()
