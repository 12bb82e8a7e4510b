# SPDX-License-Identifier: Apache-2.0
"""Model files that cannot work are refused by name before llama.cpp reads them."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_load import FIND, SMALL, noise

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.engine.gguf import read_header
from lfm_perception.engine.gguf_checks import check_pair
from lfm_perception.errors import PerceptionError
from lfm_perception.settings import Settings


def open_pair(model: Path, mmproj: Path, checksums: dict[str, str] | None = None) -> None:
    files = {"model.path": str(model), "mmproj.path": str(mmproj)}
    LlamaVlm(Settings().with_values({**files, **(checksums or {})})).close()


Damage = Callable[[Path], None]


def cut(share: float) -> Damage:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(100_000))


def random_bytes_after_the_magic(path: Path) -> None:
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + np.random.default_rng(0).bytes(100_000))


def zeros_after_the_magic(path: Path) -> None:
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100_000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("role", ["model", "mmproj"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut(0.001), "damaged or cut short"),
        (cut(0.5), "damaged or cut short"),
        (cut(0.99), "damaged or cut short"),
        (last_byte, "damaged or cut short"),
        (random_bytes, "not a GGUF file"),
        (random_bytes_after_the_magic, "damaged or cut short"),
        (zeros_after_the_magic, "not"),
        (empty, "is empty"),
        (missing, "no such file"),
        (directory, "is not a file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    demo_model: tuple[Path, Path], tmp_path: Path, role: str, damage: Damage, words: str
) -> None:
    copies = {part: tmp_path / f"{part}.gguf" for part in ("model", "mmproj")}
    for source, copy in zip(demo_model, copies.values(), strict=True):
        shutil.copy(source, copy)
    damage(copies[role])
    with pytest.raises(PerceptionError, match=words) as refusal:
        open_pair(copies["model"], copies["mmproj"])
    assert str(copies[role]) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_opened_is_refused(demo_model: tuple[Path, Path]) -> None:
    with pytest.raises(PerceptionError, match=r"cannot open .*/inside: not a directory"):
        open_pair(demo_model[0] / "inside", demo_model[1])


def test_swapped_files_are_refused(demo_model: tuple[Path, Path]) -> None:
    with pytest.raises(PerceptionError, match=r"swap model\.path and mmproj\.path"):
        open_pair(demo_model[1], demo_model[0])


def test_a_text_model_in_place_of_the_mmproj_is_refused(demo_model: tuple[Path, Path]) -> None:
    with pytest.raises(PerceptionError, match="not the vision part of an LFM2-VL"):
        open_pair(demo_model[0], demo_model[0])


def test_a_text_only_model_is_refused(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    text_only = tmp_path / "text.gguf"
    text_only.write_bytes(demo_model[0].read_bytes().replace(b"<|image_start|>", b"<|reserved_498>"))
    with pytest.raises(PerceptionError, match=r"no special token <\|image_start\|>: it is not an LFM2-VL"):
        open_pair(text_only, demo_model[1])


def test_another_architecture_is_refused(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(demo_model[0].read_bytes().replace(b"lfm2", b"lfm3", 1))
    with pytest.raises(PerceptionError, match=r"of architecture lfm3, .* run it on a server"):
        open_pair(other, demo_model[1])


@pytest.mark.parametrize("role", ["model", "mmproj"])
def test_checksums_are_compared(demo_model: tuple[Path, Path], role: str) -> None:
    right = hashlib.sha256(demo_model[("model", "mmproj").index(role)].read_bytes()).hexdigest()
    open_pair(*demo_model, {f"{role}.sha256": right.upper()})
    with pytest.raises(PerceptionError, match=r"has SHA-256 .* expected 0000"):
        open_pair(*demo_model, {f"{role}.sha256": "0" * 64})


def changed(source: Path, target: Path, key: str, value: bytes) -> Path:
    """A copy of a GGUF file with the bytes of a metadata value, after its type, replaced."""
    data = bytearray(source.read_bytes())
    begin = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
    data[begin : begin + len(value)] = value
    target.write_bytes(data)
    return target


NUMBERS = {
    "clip.vision.patch_size": (0, 1, 7, 17, 2**31),
    "clip.vision.embedding_length": (0, 1, 191, 2**31 - 1),
    "clip.vision.feed_forward_length": (0, 64, 513),
    "clip.vision.block_count": (0, 8, 2**32 - 1),
    "clip.vision.projection_dim": (0, 64, 2**32 - 1),
    "clip.vision.attention.head_count": (0, 7, 2**32 - 1),
    "clip.vision.projector.scale_factor": (0, 1, 3, 64, 2**32 - 1),
}


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_that_contradict_the_tensors_are_refused(
    demo_model: tuple[Path, Path], tmp_path: Path, key: str
) -> None:
    for value in NUMBERS[key]:
        mmproj = changed(demo_model[1], tmp_path / "mmproj.gguf", key, struct.pack("<I", value))
        with pytest.raises(PerceptionError, match=r"mmproj\.gguf"):
            check_pair(demo_model[0], mmproj)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_none_is_refused(
    demo_model: tuple[Path, Path], tmp_path: Path, value: float
) -> None:
    number = struct.pack("<f", value)
    mmproj = changed(demo_model[1], tmp_path / "v.gguf", "clip.vision.attention.layer_norm_epsilon", number)
    with pytest.raises(PerceptionError, match="layer_norm_epsilon is"):
        check_pair(demo_model[0], mmproj)
    model = changed(demo_model[0], tmp_path / "m.gguf", "lfm2.attention.layer_norm_rms_epsilon", number)
    with pytest.raises(PerceptionError, match="layer_norm_rms_epsilon is"):
        check_pair(model, demo_model[1])


def test_a_count_of_layers_that_are_not_there_is_refused(
    demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    for count in (0, 7, 513, 2**31 - 1, 2**32 - 1):
        model = changed(demo_model[0], tmp_path / "m.gguf", "lfm2.block_count", struct.pack("<I", count))
        with pytest.raises(PerceptionError, match=f"lfm2.block_count is {count}"):
            check_pair(model, demo_model[1])


def test_values_of_another_type_are_refused(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    for key, kind in read_header(demo_model[1]).types.items():
        if key.startswith("clip.") and kind == 4:
            data = bytearray(demo_model[1].read_bytes())
            begin = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
            data[begin : begin + 4] = struct.pack("<I", 5)
            (tmp_path / "mmproj.gguf").write_bytes(data)
            with pytest.raises(PerceptionError, match=f"{key} has GGUF type 5, not 4"):
                check_pair(demo_model[0], tmp_path / "mmproj.gguf")


def test_a_header_with_any_byte_changed_never_ends_the_process(
    demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    """Changed where the numbers of the vision file stand, and given to the engine in a process of its own."""
    rng = np.random.default_rng(0)
    source = demo_model[1].read_bytes()
    header = source[: source.index(b"v.blk.0")]
    copies = []
    for number in range(40):
        data = bytearray(source)
        for place in rng.integers(24, len(header), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        copies.append(tmp_path / f"{number}.gguf")
        copies[-1].write_bytes(data)
    command = [sys.executable, "-c", OPEN_ALL, str(demo_model[0]), *map(str, copies)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


OPEN_ALL = """
import sys
import numpy as np
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import stack
from lfm_perception.image_plan import ImagePlan
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.questions import FramePlan
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.questions import CAPTION, ask

for mmproj in sys.argv[2:]:
    try:
        with LlamaVlm(Settings().with_values({"model.path": sys.argv[1], "mmproj.path": mmproj})) as vlm:
            for size in ((128, 96), (256, 256)):
                image = np.zeros((*size[::-1], 3), np.uint8)
                vlm.describe(Frame(image, 0), ask(CAPTION), FramePlan(ImagePlan(*size), 3))
    except PerceptionError as error:
        print(error)
"""


@pytest.mark.parametrize(("role", "tensor"), [("model", "token_embd_norm.weight"), ("mmproj", "mm.2.bias")])
def test_weights_that_are_not_numbers_are_reported(
    demo_model: tuple[Path, Path], tmp_path: Path, role: str, tensor: str
) -> None:
    copies = {part: tmp_path / f"{part}.gguf" for part in ("model", "mmproj")}
    for source, copy in zip(demo_model, copies.values(), strict=True):
        shutil.copy(source, copy)
    fill_with_nan(copies[role], tensor)
    files = {f"{part}.path": str(copy) for part, copy in copies.items()}
    error = pytest.raises(PerceptionError, match="NaN or infinity")
    with LlamaVlm(Settings().with_values(files)) as engine, error:
        engine.describe(noise(), FIND, SMALL)


def fill_with_nan(path: Path, tensor: str) -> None:
    found = read_header(path).tensors[tensor]
    with path.open("r+b") as file:
        file.seek(found.offset)
        file.write(struct.pack("<f", float("nan")) * (found.size // 4))
