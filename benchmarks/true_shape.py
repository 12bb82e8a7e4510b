# SPDX-License-Identifier: Apache-2.0
"""GGUF files of LFM2.5-VL-450M in shape, with random weights, made on first use.

411 MB (a Q4_0 language model as published, a bf16 vision file), kept under
${XDG_CACHE_HOME:-~/.cache}/lfm_perception/true_shape. The answers are noise; sizes, times and memory
are real.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import Box
from lfm_perception.questions import CAPTION, DIALECTS
from lfm_perception.typed_questions import TypedQuestion

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lfm_perception" / "true_shape"

VOCABULARY = 65_536
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 1024, 4608, 16, 8
ATTENTION_LAYERS = (2, 5, 8, 10, 12, 14)
LAYERS = 16
TOWER_HIDDEN, TOWER_FEED_FORWARD, TOWER_HEADS, TOWER_LAYERS = 768, 3072, 12, 12
PROJECTOR_HIDDEN = 2560
GRID, PATCH, UNSHUFFLE = 16, 16, 2

LABELS = ("person", "box", "cone", "forklift", "pallet")
QUESTIONS = tuple(
    TypedQuestion(text, "yes_no")
    for text in (
        "Is the door open?", "Is there a forklift in front of the robot?", "Are there people in the aisle?",
        "Is anyone without a helmet?", "Is the pallet empty?", "Is the floor wet?",
        "Is there a box on the floor?", "Is the way to the exit free?", "Is the light on?",
        "Is there smoke or fire?", "Is the gate closed?",
    )
)  # fmt: skip


def files() -> tuple[Path, Path]:
    """The language model and the vision file; made when they are not there."""
    model, mmproj = FOLDER / "true-shape-2-Q4_0.gguf", FOLDER / "mmproj-true-shape-bf16.gguf"
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, write in ((model, _write_model), (mmproj, _write_mmproj)):
        if not path.exists():
            print(f"making {path}")
            unfinished = path.with_suffix(".part")
            write(unfinished)
            unfinished.rename(path)
    return model, mmproj


# --- the language model --------------------------------------------------------------------------------


def _write_model(path: Path) -> None:
    writer = gguf.GGUFWriter(str(path), "lfm2")
    writer.add_name("LFM2.5-VL-450M in shape, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(32_768)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KV_HEADS if layer in ATTENTION_LAYERS else 0 for layer in range(LAYERS)])
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_shortconv_l_cache(3)
    _add_tokenizer(writer)
    rng = np.random.default_rng(0)
    embedding = _q6_k(rng, VOCABULARY, HIDDEN)
    writer.add_tensor("token_embd.weight", embedding, raw_dtype=gguf.GGMLQuantizationType.Q6_K)
    for name, rows, columns in _matrices():
        writer.add_tensor(name, _q4_0(rng, rows, columns), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    for name, size in _norms():
        writer.add_tensor(name, np.ones(size, dtype=np.float32))
    for layer in sorted(set(range(LAYERS)) - set(ATTENTION_LAYERS)):
        writer.add_tensor(f"blk.{layer}.shortconv.conv.weight", _normal(rng, HIDDEN, 3))
    _finish(writer)


def _matrices() -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs."""
    head = HIDDEN // HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "ffn_gate.weight", FEED_FORWARD, HIDDEN
        yield block + "ffn_up.weight", FEED_FORWARD, HIDDEN
        yield block + "ffn_down.weight", HIDDEN, FEED_FORWARD
        if layer in ATTENTION_LAYERS:
            yield block + "attn_q.weight", HIDDEN, HIDDEN
            yield block + "attn_k.weight", KV_HEADS * head, HIDDEN
            yield block + "attn_v.weight", KV_HEADS * head, HIDDEN
            yield block + "attn_output.weight", HIDDEN, HIDDEN
        else:
            yield block + "shortconv.in_proj.weight", 3 * HIDDEN, HIDDEN
            yield block + "shortconv.out_proj.weight", HIDDEN, HIDDEN


def _norms() -> Iterator[tuple[str, int]]:
    yield "token_embd_norm.weight", HIDDEN
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm.weight", HIDDEN
        yield f"blk.{layer}.ffn_norm.weight", HIDDEN
        if layer in ATTENTION_LAYERS:
            yield f"blk.{layer}.attn_q_norm.weight", HIDDEN // HEADS
            yield f"blk.{layer}.attn_k_norm.weight", HIDDEN // HEADS


def _q4_0(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random blocks of 32 weights (scale, 16 bytes of nibbles) with standard deviation 1 / sqrt(columns)."""
    blocks = rng.integers(0, 256, (rows, columns // 32, 18), dtype=np.uint8)
    scale = np.float16(1.0 / (4.6 * columns**0.5))  # 4.6: standard deviation of a random nibble
    blocks[..., :2] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    return blocks.reshape(rows, -1)


def _q6_k(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random blocks of 256 weights (192 bytes of 6-bit numbers, 16 scales, their scale), as in `_q4_0`."""
    blocks = rng.integers(0, 256, (rows, columns // 256, 210), dtype=np.uint8)
    blocks[..., 192:208] = 8
    scale = np.float16(1.0 / (8 * 18.5 * columns**0.5))  # 18.5: standard deviation of 6 random bits
    blocks[..., 208:] = np.frombuffer(scale.tobytes(), dtype=np.uint8)
    return blocks.reshape(rows, -1)


# --- the vocabulary: LFM2's special tokens and pre-tokenizer, invented words ----------------------------

_NAMED = {
    0: "<|pad|>",
    1: "<|startoftext|>",
    2: "<|endoftext|>",
    6: "<|im_start|>",
    7: "<|im_end|>",
    396: "<image>",
    497: "<|img_thumbnail|>",
    498: "<|image_start|>",
    499: "<|image_end|>",
    **{
        397 + 10 * row + column: f"<|img_row_{row + 1}_col_{column + 1}|>"
        for row, column in product(range(10), repeat=2)
    },
}
_SPECIAL = 500
_PIECES = re.compile(r"[^\r\n\w]?[^\W\d_]+|\d{1,3}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    special = [_NAMED.get(index, f"<|reserved_{index}|>") for index in range(_SPECIAL)]
    letters = _byte_letters()
    words = dict.fromkeys(letters[byte] for byte in range(256))
    numbers = ("".join(digits) for length in (2, 3) for digits in product("0123456789", repeat=length))
    invented = (" " + "".join(parts) for parts in product("abcdefghijklmnopqrstuvwxyz", repeat=4))
    for text in (*_everyday(), *numbers, *invented):
        words["".join(letters[byte] for byte in text.encode())] = None
        if len(words) == VOCABULARY - _SPECIAL:
            break
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list([*special, *words])
    writer.add_token_types([gguf.TokenType.CONTROL] * _SPECIAL + [gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges([f"{letters[ord(' ')]} a"])  # whole words are found without merging
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(7)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)


def _everyday() -> list[str]:
    """The pieces of prompts and answers that are single tokens in the real vocabulary."""
    objects = [(label, Box(0.1, 0.2, 0.3, 0.4)) for label in LABELS]
    texts = ["user\n", "assistant\n", "system\n", CAPTION.user, "Yes", "No"]
    texts += [each.question.prompt.user for each in QUESTIONS]
    for dialect in DIALECTS.values():
        prompt = dialect.prompt(LABELS)
        texts += [prompt.user, prompt.system, dialect.answer(objects), dialect.answer([])]
    return [piece for text in texts for piece in _PIECES.findall(text)]


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for every byte, in which byte-level vocabularies are stored."""
    runs = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))
    others = iter(range(256, 512))
    return [chr(byte if any(byte in run for run in runs) else next(others)) for byte in range(256)]


# --- the vision file --------------------------------------------------------------------------------------


def _write_mmproj(path: Path) -> None:
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name("LFM2.5-VL-450M in shape, random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.LFM2)
    writer.add_vision_projection_dim(HIDDEN)
    writer.add_vision_image_size(GRID * PATCH)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(TOWER_HIDDEN)
    writer.add_vision_feed_forward_length(TOWER_FEED_FORWARD)
    writer.add_vision_block_count(TOWER_LAYERS)
    writer.add_vision_head_count(TOWER_HEADS)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_projector_scale_factor(UNSHUFFLE)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    rng = np.random.default_rng(1)
    patch = _normal(rng, TOWER_HIDDEN, 3 * PATCH * PATCH)
    writer.add_tensor("v.patch_embd.weight", patch.reshape(TOWER_HIDDEN, 3, PATCH, PATCH))
    writer.add_tensor("v.patch_embd.bias", np.zeros(TOWER_HIDDEN, dtype=np.float32))
    writer.add_tensor("v.position_embd.weight", _normal(rng, GRID * GRID, TOWER_HIDDEN))
    norms = (f"v.blk.{layer}.{name}" for layer in range(TOWER_LAYERS) for name in ("ln1", "ln2"))
    for name in ("v.post_ln", *norms):
        writer.add_tensor(f"{name}.weight", np.ones(TOWER_HIDDEN, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(TOWER_HIDDEN, dtype=np.float32))
    for name, outputs, inputs in _vision_layers():
        weights = _bfloats(_normal(rng, outputs, inputs))
        writer.add_tensor(f"{name}.weight", weights, raw_dtype=gguf.GGMLQuantizationType.BF16)
        writer.add_tensor(f"{name}.bias", np.zeros(outputs, dtype=np.float32))
    _finish(writer)


def _vision_layers() -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs."""
    for layer in range(TOWER_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            yield f"v.blk.{layer}.{name}", TOWER_HIDDEN, TOWER_HIDDEN
        yield f"v.blk.{layer}.ffn_up", TOWER_FEED_FORWARD, TOWER_HIDDEN
        yield f"v.blk.{layer}.ffn_down", TOWER_HIDDEN, TOWER_FEED_FORWARD
    yield "mm.1", PROJECTOR_HIDDEN, UNSHUFFLE**2 * TOWER_HIDDEN
    yield "mm.2", HIDDEN, PROJECTOR_HIDDEN


def _normal(rng: np.random.Generator, outputs: int, inputs: int) -> NDArray[np.float32]:
    return rng.standard_normal((outputs, inputs), dtype=np.float32) * np.float32(inputs**-0.5)


def _bfloats(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The upper halves of 32-bit floats, as bytes."""
    return np.ascontiguousarray(weights.view(np.uint16)[:, 1::2]).view(np.uint8)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
