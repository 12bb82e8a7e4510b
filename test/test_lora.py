# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters: what they change in the answers, and what is refused before llama.cpp sees it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.settings import Settings

LAYER = "blk.0.ffn_down.weight"
INNER, WIDTH, RANK = 768, 192, 4
"""The sides of that weight in the demo model, and of the adapter."""


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_adapter(path: Path, *, layer: str = LAYER, kind: str = "lora", strength: float = 1.0) -> Path:
    """A GGUF with one low-rank change of `layer`, random and of that strength."""
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.float32]] = {
        f"{layer}.lora_a": random.normal(size=(RANK, INNER)).astype(np.float32),
        f"{layer}.lora_b": strength * random.normal(size=(WIDTH, RANK)).astype(np.float32),
    }
    values = {"general.architecture": "lfm2", "general.type": "adapter", "adapter.type": kind}
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values) + 1)
    for key, value in values.items():
        header += text(key) + struct.pack("<I", 8) + text(value)
    header += text("adapter.lora.alpha") + struct.pack("<If", 6, float(RANK))
    data = b""
    for name, tensor in tensors.items():
        header += text(name) + struct.pack("<IQQIQ", 2, *reversed(tensor.shape), 0, len(data))
        data += tensor.tobytes()
    path.write_bytes(header + b"\0" * (-len(header) % 32) + data)
    return path


def answer(values: dict[str, object]) -> str:
    """What the demo model says about a frame of the demo world, at temperature 0."""
    frame = World(seed=2, width=256, height=192).snapshot(0).frame
    plan = plan_image(frame.width, frame.height, ImageLimits(32, 64, 1, True, True))
    with LlamaVlm(Settings().with_values({"sampling.temperature": 0.0, **values})) as vlm:
        return vlm.describe(frame, detect(BBOX, ("person", "box")), FramePlan(plan, 64)).text


def test_an_adapter_changes_the_answer_as_strongly_as_its_scale(tmp_path: Path) -> None:
    plain = answer({})
    strong = write_adapter(tmp_path / "strong.gguf")
    assert answer({"lora.path": str(strong)}) != plain
    assert answer({"lora.path": str(strong), "lora.scale": 0.0}) == plain
    none = write_adapter(tmp_path / "none.gguf", strength=0.0)
    assert answer({"lora.path": str(none)}) == plain


def refusal(**values: object) -> str:
    with pytest.raises(PerceptionError) as caught:
        answer({f"lora.{key}": value for key, value in values.items()})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_adapter_of_the_model_is_refused(tmp_path: Path, demo_model: tuple[Path, Path]) -> None:
    assert "no such file" in refusal(path=str(tmp_path / "gone.gguf"))
    assert f"{demo_model[0]} is not a LoRA adapter of an LFM2 model" in refusal(path=str(demo_model[0]))
    other = write_adapter(tmp_path / "other.gguf", layer="blk.99.ffn_down.weight")
    assert "changes blk.99.ffn_down.weight, which demo-vl-Q4_0.gguf does not have" in refusal(path=str(other))
    another = write_adapter(tmp_path / "another.gguf", kind="alora")
    assert "adapter.type 'alora'" in refusal(path=str(another))
    wrong_sides = write_adapter(tmp_path / "sides.gguf", layer="blk.0.ffn_up.weight")
    assert f"llama.cpp cannot apply {wrong_sides}" in refusal(path=str(wrong_sides))


def test_the_checksum_of_an_adapter_is_compared(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "mine.gguf")
    digest = hashlib.sha256(adapter.read_bytes()).hexdigest()
    assert answer({"lora.path": str(adapter), "lora.sha256": digest})
    assert "expected 0000" in refusal(path=str(adapter), sha256="0" * 64)
