# SPDX-License-Identifier: Apache-2.0
"""Models by name: a validated registry, pulls that end with the right file or none, verified checksums."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hub import COMMIT, Hub

from lfm_perception.backends import open_vlm
from lfm_perception.doctor import check_engine, check_model
from lfm_perception.errors import PerceptionError
from lfm_perception.models.registry import SHIPPED, Registry
from lfm_perception.models.store import Store, check_files
from lfm_perception.settings import Settings

REPO = "somebody/demo-GGUF"
MODEL, MMPROJ = "demo.gguf", "vision/mmproj-demo.gguf"
NAME = "demo-Q4_0"


def registry_text(files: dict[str, bytes], *, pinned: bool = True) -> str:
    """A team's registry with one model."""

    def entry(name: str) -> dict[str, object]:
        sha256 = hashlib.sha256(files[name]).hexdigest()
        pins = {"revision": COMMIT, "bytes": len(files[name]), "sha256": sha256}
        return {"file": name, **(pins if pinned else {})}

    model = {
        "repo": REPO,
        "license": "free",
        "settings": {"detect.dialect": "bbox_2d"},
        "files": {"Q4_0": entry(MODEL)},
        "mmproj": {"F16": entry(MMPROJ)},
    }
    terms = {"title": "Free License 1", "notice": "Do what you like.", "text": "see LICENSE"}
    return json.dumps({"licenses": {"free": terms}, "models": {"demo": model}})


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The sentence of an error, on one line at any terminal width."""
        assert self.code == 1, self.out + self.err
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("lfm-perception: ")]
        return line.removeprefix("lfm-perception: ")


class Computer:
    """A computer with a store of models and a hub it can reach."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.hub = hub
        self.store = Store(home / "lfm_perception")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_HOME": str(home),
            "HF_ENDPOINT": hub.address,
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def describe(self, text: str) -> None:
        """Write the user's registry."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        self.store.user_registry.write_text(text)

    def start(self, *words: str | Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", "from lfm_perception.cli import main; main()", "models"]
        return subprocess.Popen(
            [*program, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            preexec_fn=before,
        )

    def models(self, *words: str | Path, before: Callable[[], None] | None = None) -> Outcome:
        process = self.start(*words, before=before)
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out, err)

    def pull(self, *words: str, before: Callable[[], None] | None = None) -> Outcome:
        return self.models("pull", "demo", "--accept-license", *words, before=before)

    def final_names(self) -> list[str]:
        """Model files under their final names in the store."""
        return sorted(path.name for path in self.store.root.glob("[!.]*/*.gguf"))


@pytest.fixture
def files(demo_model: tuple[Path, Path]) -> dict[str, bytes]:
    return {MODEL: demo_model[0].read_bytes(), MMPROJ: demo_model[1].read_bytes()}


@pytest.fixture
def computer(tmp_path: Path, files: dict[str, bytes]) -> Iterator[Computer]:
    with Hub(REPO, files) as hub:
        computer = Computer(tmp_path / "hf", hub)
        computer.describe(registry_text(files))
        yield computer


# --- the registry ----------------------------------------------------------------------------------


def test_the_registry_names_the_family() -> None:
    registry = Registry(SHIPPED)
    families = [
        "LFM2.5-VL-450M",
        "LFM2.5-VL-1.6B",
        "LFM2.5-VL-3B",
        "LFM2.5-VL-450M-Extract",
        "LFM2.5-VL-1.6B-Extract",
        "LFM2-VL-450M",
        "LFM2-VL-1.6B",
        "LFM2-VL-3B",
    ]
    for family in families:
        model = registry.find(family)
        assert model.name.startswith(f"{family}-Q")
        assert model.repo == f"LiquidAI/{family}-GGUF"
        assert model.license is not None
        assert model.license.key == "lfm1.0"
        assert {"image.min_tokens", "model.grounding"} <= model.settings.keys()
        Settings().with_values(model.settings)
    assert registry.find("LFM2.5-VL-3B").settings["detect.dialect"] == "bbox_2d"
    assert registry.find("LFM2.5-VL-450M").settings["image.min_tokens"] == 32


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("LFM2.5-VL-450M", {"image.min_tokens": 32, "sampling.min_p": 0.15}),
        ("LFM2.5-VL-3B", {"image.resample": "bicubic", "image.min_tiles": 1, "sampling.temperature": 0.2}),
        ("LFM2-VL-450M", {"image.thumbnail": False}),
        ("LFM2-VL-1.6B", {"image.pixel_tolerance": 1.5, "image.thumbnail": True}),
        ("LFM2.5-VL-450M-Extract", {"sampling.temperature": 0.0}),
    ],
)
def test_each_model_has_the_values_of_its_own_processor_and_card(
    name: str, values: dict[str, object]
) -> None:
    settings = Settings().with_values(Registry(SHIPPED).find(name).settings).values()
    assert {key: settings[key] for key in values} == values


def test_a_documented_dialect_and_every_value_of_processor_and_sampling_has_a_source() -> None:
    for model in Registry(SHIPPED):
        documented = model.settings["model.grounding"] == "documented"
        assert documented == (model.name.startswith(("LFM2.5-VL-450M-Q", "LFM2.5-VL-3B-Q"))), model.name
        named = {key for key in model.settings if key.startswith(("image.", "sampling."))}
        assert named | ({"detect.dialect"} if documented else set()) <= model.sources.keys(), model.name


def test_a_model_that_only_a_server_can_run_says_so() -> None:
    with pytest.raises(PerceptionError, match=r"LFM3-VL-2B cannot be pulled: .* lfm3 .* run it on a server"):
        Registry(SHIPPED).find("LFM3-VL-2B")


def test_a_pin_is_whole_or_absent() -> None:
    for model in Registry(SHIPPED):
        for file in (model.file, *model.mmprojs.values()):
            assert bool(file.revision) == bool(file.size) == bool(file.sha256) == file.pinned


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"models": {', '"models": {"demo": {}, ', "'demo' is given twice"),
        ('"repo": "somebody/demo-GGUF"', '"repo": "demo"', "models.demo.repo must be ORGANIZATION/NAME"),
        ('"license": "free"', '"license": "fee"', "models.demo.license 'fee' is not described"),
        ('"settings"', '"seetings"', "models.demo.seetings is unknown: known are 'repo',"),
        ('"bbox_2d"', '"bbox_3d"', "models.demo.settings: detect.dialect must be one of bbox, bbox_2d"),
        ('"sha256": "', '"sha256": "g', "models.demo.files.Q4_0.sha256 must be 64 hexadecimal"),
        ('"bytes": ', '"bytes": -', "models.demo.files.Q4_0.bytes must be a whole number above 0, got -"),
        (f'"revision": "{COMMIT}", ', "", "models.demo.files.Q4_0 has bytes and sha256 alone"),
        ('"demo.gguf"', '"../demo.gguf"', "models.demo.files.Q4_0.file must be the path of a .gguf file"),
        ('"demo": {', '"a demo": {', "models: a name consists of letters, digits, '.', '_' and '-', got"),
        ('"settings": {', '"sources": {"image.max_tokens": "a guess"}, "settings": {',
         "models.demo.sources names 'image.max_tokens', which 'settings' does not hold"),
        ('"models": {', '"servers": {"big": 7}, "models": {', "servers.big must be text, got 7"),
        ('"models"', '"model"', "model is unknown: known are 'licenses', 'models'"),
        ("}", "", "not valid JSON, line 1, column"),
    ],
)  # fmt: skip
def test_a_registry_edited_wrongly_is_one_sentence(
    tmp_path: Path, files: dict[str, bytes], old: str, new: str, said: str
) -> None:
    mine = tmp_path / "registry.json"
    text = registry_text(files)
    assert old in text
    mine.write_text(text.replace(old, new, 1))
    with pytest.raises(PerceptionError) as caught:
        Registry(SHIPPED, mine)
    assert str(caught.value).startswith(f"{mine}: {said}")


def test_two_models_of_one_name_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    mine = tmp_path / "registry.json"
    mine.write_text(registry_text(files).replace('"demo": {', '"LFM2.5-VL-450M": {'))
    with pytest.raises(PerceptionError, match=r"gives a second model the name 'LFM2.5-VL-450M-Q4_0'"):
        Registry(SHIPPED, mine)


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(PerceptionError, match=r"did you mean 'LFM2\.5-VL-450M'\?"):
        Registry(SHIPPED).find("LFM2.5-VL-450")


# --- a pull ----------------------------------------------------------------------------------------


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


# --- the store -------------------------------------------------------------------------------------


def test_verify_finds_one_flipped_byte(computer: Computer) -> None:
    assert computer.pull().code == 0
    assert f"{NAME}: unchanged" in computer.models("verify").out
    vision = computer.store.find(NAME).files[1]
    content = bytearray(vision.read_bytes())
    content[-1000] ^= 1
    vision.write_bytes(content)
    outcome = computer.models("verify")
    assert outcome.sentence == f"changed and unusable: {NAME}"
    assert f"{vision} has changed: its SHA-256 is" in outcome.out
    vision.write_bytes(content[:-1])
    assert "bytes, expected" in computer.models("verify", NAME).out
    vision.unlink()
    assert f"cannot read {vision}: no such file" in computer.models("verify").out


def test_a_model_of_ones_own_gets_a_name_and_stays_in_place(
    computer: Computer, demo_model: tuple[Path, Path]
) -> None:
    outcome = computer.models("add", "mine", *demo_model, "--like", "LFM2.5-VL-3B")
    assert outcome.code == 0, outcome.err
    stored = computer.store.find("mine")
    assert stored.files == demo_model
    assert stored.settings["detect.dialect"] == "bbox_2d"
    stored.check()
    assert computer.final_names() == []
    taken = computer.models("add", "mine", *demo_model).sentence
    assert taken.startswith("there is already a model 'mine'")
    assert "the registry has a model 'demo' already" in computer.models("add", "demo", *demo_model).sentence
    assert "a model's name consists of letters" in computer.models("add", "../mine", *demo_model).sentence


def test_files_that_are_no_model_are_not_added(
    computer: Computer, demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    swapped = computer.models("add", "mine", demo_model[1], demo_model[0]).sentence
    assert "swap model.path and mmproj.path" in swapped
    assert "no such file" in computer.models("add", "mine", tmp_path / "gone.gguf", demo_model[1]).sentence
    assert computer.store.names() == []


def test_a_model_that_is_not_stored_has_a_remedy(computer: Computer) -> None:
    assert computer.models("path", "demo-Q4_0").sentence == (
        "the model 'demo-Q4_0' is not on this computer (available: none): "
        "lfm-perception models pull demo-Q4_0, or models add"
    )


def test_a_damaged_record_is_named(computer: Computer, demo_model: tuple[Path, Path]) -> None:
    assert computer.models("add", "mine", *demo_model).code == 0
    record = computer.store.root / "mine" / "model.json"
    for text in ("", "[]", "{}", record.read_text().replace('"size": ', '"size": "'), '{"model": 1}'):
        record.write_text(text)
        assert f"{record} is damaged" in computer.models("path", "mine").sentence


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


# --- files on which llama.cpp aborts ---------------------------------------------------------------


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
