# SPDX-License-Identifier: Apache-2.0
"""Checks of model files before llama.cpp opens them.

llama.cpp says little about a file that it cannot use, and aborts the process on a vision file whose numbers
contradict each other. So a pair of files that would not work is refused here, in one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from lfm_perception.engine.gguf import STRING, Header, read_header
from lfm_perception.engine.native import llama_cpp
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.provenance import sha256 as file_sha256

_UINT32, _INT32, _FLOAT32, _BOOL = 4, 5, 6, 7  # GGUF types


def check_pair(model: Path, mmproj: Path, *, model_sha256: str = "", mmproj_sha256: str = "") -> None:
    """Refuse a pair of files that does not make an LFM2-VL model. Empty checksums are not compared.

    Raises PerceptionError that names the file, the problem and the way out.
    """
    language, vision = _read_whole(model), _read_whole(mmproj)
    _check_sha256(model, model_sha256)
    _check_sha256(mmproj, mmproj_sha256)
    if language.architecture == "clip" and vision.architecture == "lfm2":
        raise PerceptionError(
            f"{model} is the vision file and {mmproj} the language model: swap model.path and mmproj.path"
        )
    if language.architecture == "lfm3":
        raise PerceptionError(
            f"{model} is of architecture lfm3, which llama.cpp b11960 or newer runs and llama-cpp-python "
            "here does not: run it on a server and choose engine.backend openai"
        )
    if language.architecture != "lfm2":
        raise PerceptionError(
            f"{model} is a model of architecture {shown(language.architecture)}, not 'lfm2': "
            f"give the language model of an LFM2-VL"
        )
    projector = vision.metadata.get("clip.projector_type")
    if vision.architecture != "clip" or projector != "lfm2":
        raise PerceptionError(
            f"{mmproj} is not the vision part of an LFM2-VL (architecture {shown(vision.architecture)}, "
            f"projector {shown(projector)}): give the mmproj file that belongs to {model.name}"
        )
    _check_language(language)
    _check_vocabulary(language)
    _check_vision(vision)
    hidden_size = language.metadata.get("lfm2.embedding_length")
    projected = vision.metadata.get("clip.vision.projection_dim")
    if hidden_size != projected:
        raise PerceptionError(
            f"{mmproj} projects to a width of {shown(projected)}, but {model} has {shown(hidden_size)}: "
            f"the two belong to different models"
        )


def check_adapter(adapter: Path, model: Path, *, sha256: str = "") -> None:
    """Refuse a file that is no LoRA adapter of this language model. An empty checksum is not compared.

    Raises PerceptionError that names the problem and the way out.
    """
    header = read_header(adapter)
    _check_sha256(adapter, sha256)
    file_type, adapter_type = header.metadata.get("general.type"), header.metadata.get("adapter.type")
    if (file_type, adapter_type) != ("adapter", "lora") or header.architecture != "lfm2":
        raise PerceptionError(
            f"{adapter} is not a LoRA adapter of an LFM2 model (general.type {shown(file_type)}, "
            f"adapter.type {shown(adapter_type)}, architecture {shown(header.architecture)}): "
            "convert it with llama.cpp's convert_lora_to_gguf.py"
        )
    tensors = read_header(model).tensors
    for name in header.tensors:
        target, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or target not in tensors:
            raise PerceptionError(
                f"{adapter} changes {target or name}, which {model.name} does not have: "
                "it belongs to another model"
            )


def _read_whole(path: Path) -> Header:
    """The header of a file that is not one part of several."""
    header = read_header(path)
    parts = header.metadata.get("split.count", 0)
    if parts and parts != 1:
        raise PerceptionError(
            f"{path} is one of {shown(parts)} parts of a split model: merge it with "
            "llama-gguf-split --merge FIRST_PART MERGED.gguf, and give the merged file"
        )
    return header


def _check_sha256(path: Path, expected: str) -> None:
    if not expected:
        return
    if (found := file_sha256(path)) != expected.lower():
        raise PerceptionError(
            f"{path} has SHA-256 {found}, expected {expected.lower()}: "
            f"it is another or a damaged file, download it again"
        )


def _check_language(header: Header) -> None:
    """Refuse a language model that llama.cpp would load and then abort the process on."""
    _check_epsilon(header, "lfm2.attention.layer_norm_rms_epsilon")
    _check_vectors(header)
    layers = header.metadata.get("lfm2.block_count")
    if not isinstance(layers, int) or f"blk.{layers - 1}.attn_norm.weight" not in header.tensors:
        raise _unusable(header, f"lfm2.block_count is {shown(layers)}")


def _check_vocabulary(header: Header) -> None:
    """Refuse a vocabulary on which llama.cpp would abort the process, as far as it is plainly visible."""
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise _unusable(header, f"tokenizer.ggml.model is {shown(kind)}, not 'gpt2'")
    tokens, merges = (header.texts.get(f"tokenizer.ggml.{name}", ()) for name in ("tokens", "merges"))
    count = len(tokens)
    embeddings = _outputs(header, "token_embd.weight")
    if count != embeddings:
        raise _unusable(header, f"it has {count} tokens and the embeddings of {embeddings}")
    if header.metadata.get("lfm2.vocab_size", count) != count:
        raise _unusable(header, f"it has {count} tokens, not lfm2.vocab_size")
    if len(set(tokens)) < count:
        raise _unusable(header, "its vocabulary has repeated tokens")
    for name in ("token_type", "scores"):
        if header.lengths.get(f"tokenizer.ggml.{name}", count) != count:
            raise _unusable(header, f"tokenizer.ggml.{name} does not have {count} entries")
    if not merges or not all(b" " in merge[1:-1] for merge in merges):
        raise _unusable(header, "tokenizer.ggml.merges are not pairs of tokens")
    try:
        b"\n".join(tokens + merges).decode()
    except UnicodeDecodeError as error:
        raise _unusable(header, "its vocabulary is not UTF-8") from error
    for key, value in header.metadata.items():
        is_token = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        if is_token and not (isinstance(value, int) and 0 <= value < count):
            raise _unusable(header, f"{shown(key)} is {shown(value)}, and it has {count} tokens")


def _check_vision(header: Header) -> None:
    """Refuse a vision tower and projector whose sizes, types and tensors do not agree."""
    for key, type_ in _VISION_TYPES.items():
        if header.types.get(key, type_) != type_:
            raise _unusable(header, f"{key} has GGUF type {header.types[key]}, not {type_}")
    for key in ("clip.has_audio_encoder", "clip.has_gen_audio_encoder"):
        if header.metadata.get(key):
            raise _unusable(header, f"{key} is true, and sound is not supported")
    width, heads = _size(header, "embedding_length"), _size(header, "attention.head_count")
    if width % heads:
        raise _unusable(header, f"its width of {width} cannot be divided among {heads} heads")
    for key, expected in (("attention.head_count_kv", heads), ("attention.head_dim", width // heads)):
        if header.metadata.get(f"clip.vision.{key}", expected) != expected:
            raise _unusable(header, f"clip.vision.{key} is not {expected}")
    _check_epsilon(header, "clip.vision.attention.layer_norm_epsilon")
    _check_vectors(header)
    for key in ("clip.vision.image_mean", "clip.vision.image_std"):
        triple = header.metadata.get(key)
        if not isinstance(triple, tuple) or len(triple) != 3 or not all(map(math.isfinite, triple)):
            raise _unusable(header, f"{key} is {shown(triple)}, not three numbers")
    _check_vision_shapes(header, width)


def _check_vision_shapes(header: Header, width: int) -> None:
    for name, shape in _vision_shapes(header, width):
        tensor = header.tensors.get(name)
        if tensor is None and name.endswith(".weight"):
            raise _unusable(header, f"it has no tensor {name}")
        if tensor is not None and tensor.shape != shape:
            raise _unusable(header, f"tensor {name} has the shape {tensor.shape}, not {shape}")


def _check_epsilon(header: Header, key: str) -> None:
    epsilon = header.metadata.get(key)
    if not isinstance(epsilon, float) or not 0.0 <= epsilon < 1.0:
        raise _unusable(header, f"{key} is {shown(epsilon)}")


def _check_vectors(header: Header) -> None:
    for name, tensor in header.tensors.items():
        needs_f32 = len(tensor.shape) == 1 or name == "v.position_embd.weight"
        if needs_f32 and tensor.element_type != llama_cpp.GGML_TYPE_F32:
            raise _unusable(
                header, f"tensor {name} has element type {tensor.element_type}, not 32-bit floats"
            )


def _keys(names: str, type_: int) -> dict[str, int]:
    return dict.fromkeys(names.split(), type_)


_VISION_TYPES = {
    **_keys("general.name general.description clip.projector_type", STRING),
    **_keys("clip.vision.projector_type clip.vision.mm_patch_merge_type", STRING),
    **_keys("clip.has_vision_encoder clip.has_audio_encoder clip.has_gen_audio_encoder", _BOOL),
    **_keys("clip.use_gelu clip.use_silu", _BOOL),
    **_keys("clip.minicpmv_version", _INT32),
    **_keys("clip.minicpmv_query_num clip.vision.image_size clip.vision.patch_size", _UINT32),
    **_keys("clip.vision.embedding_length clip.vision.feed_forward_length", _UINT32),
    **_keys("clip.vision.block_count clip.vision.projection_dim", _UINT32),
    **_keys("clip.vision.attention.head_count clip.vision.attention.head_count_kv", _UINT32),
    **_keys("clip.vision.attention.head_dim clip.vision.projector.scale_factor", _UINT32),
    **_keys("clip.vision.attention.layer_norm_epsilon", _FLOAT32),
}
"""The GGUF types of the values that llama.cpp reads from an LFM2-VL vision file."""


def _vision_shapes(header: Header, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of vision tower and projector with the shapes that follow from the file's sizes."""
    patch, inner = _size(header, "patch_size"), _size(header, "feed_forward_length")
    merged = width * _size(header, "projector.scale_factor") ** 2
    projected = _size(header, "projection_dim")
    yield "v.patch_embd.weight", (patch, patch, 3, width)
    yield "v.patch_embd.bias", (width,)
    yield "v.position_embd.weight", (width, math.isqrt(_outputs(header, "v.position_embd.weight")) ** 2)
    yield from _linear("mm.1", merged, _outputs(header, "mm.1.weight"))
    yield from _linear("mm.2", _outputs(header, "mm.1.weight"), projected)
    for layer in range(_size(header, "block_count")):
        block = f"v.blk.{layer}"
        for name in ("ln1", "ln2"):
            yield f"{block}.{name}.weight", (width,)
            yield f"{block}.{name}.bias", (width,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            yield from _linear(f"{block}.{name}", width, width)
        yield from _linear(f"{block}.ffn_up", width, inner)
        yield from _linear(f"{block}.ffn_down", inner, width)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (inputs, outputs)
    yield f"{name}.bias", (outputs,)


def _size(header: Header, key: str) -> int:
    value = header.metadata.get(f"clip.vision.{key}")
    if not isinstance(value, int) or not 0 < value < 2**31:
        raise _unusable(header, f"clip.vision.{key} is {shown(value)}")
    return value


def _outputs(header: Header, name: str) -> int:
    """The second dimension of a tensor, which no metadata value states."""
    tensor = header.tensors.get(name)
    return tensor.shape[1] if tensor and len(tensor.shape) > 1 else 0


def _unusable(header: Header, reason: str) -> PerceptionError:
    return PerceptionError(f"{header.path} cannot work, {reason}: download it again")
