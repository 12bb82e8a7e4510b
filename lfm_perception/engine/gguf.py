"""Looking into GGUF files before llama.cpp does.

llama.cpp says little about a file that it cannot use, and a vision file whose numbers contradict each
other ends the process. So the headers are read here first, every length against the size of the file,
and a pair that would not work is refused in one sentence.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lfm_perception.engine.native import libggml, llama_cpp
from lfm_perception.errors import PerceptionError
from lfm_perception.provenance import sha256

Value = bool | int | float | str | tuple[float, ...] | None
"""A metadata value. Arrays of numbers are tuples up to 64 entries; longer ones and texts are None."""

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SHORT_ARRAY = 64
_DEFAULT_ALIGNMENT = 32
_MOST_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape with the fastest dimension first, element type, and where in the file its bytes lie."""

    shape: tuple[int, ...]
    kind: int
    begin: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself. `kinds` are the GGUF types of the values."""

    path: Path
    values: Mapping[str, Value]
    kinds: Mapping[str, int]
    tensors: Mapping[str, Tensor]

    @property
    def architecture(self) -> Value:
        return self.values.get("general.architecture")


def check_pair(model: Path, mmproj: Path, *, model_sha256: str = "", mmproj_sha256: str = "") -> None:
    """Refuse a pair of files that does not make an LFM2-VL model. Empty checksums are not compared.

    Raises PerceptionError with what is wrong, in which file, and what to do.
    """
    language, vision = read(model), read(mmproj)
    _check_sha256(model, model_sha256)
    _check_sha256(mmproj, mmproj_sha256)
    if language.architecture == "clip" and vision.architecture == "lfm2":
        raise PerceptionError(
            f"{model} is the vision file and {mmproj} the language model: swap model.path and mmproj.path"
        )
    if language.architecture != "lfm2":
        raise PerceptionError(
            f"{model} is a model of architecture {language.architecture!r}, not 'lfm2': "
            f"give the language model of an LFM2-VL"
        )
    projector = vision.values.get("clip.projector_type")
    if vision.architecture != "clip" or projector != "lfm2":
        raise PerceptionError(
            f"{mmproj} is not the vision part of an LFM2-VL (architecture {vision.architecture!r}, "
            f"projector {projector!r}): give the mmproj file that belongs to {model.name}"
        )
    _check_language(language)
    _check_vision(vision)
    width = language.values.get("lfm2.embedding_length")
    projected = vision.values.get("clip.vision.projection_dim")
    if width != projected:
        raise PerceptionError(
            f"{mmproj} projects to a width of {projected}, but {model} has {width}: "
            f"the two belong to different models"
        )


def check_adapter(adapter: Path, model: Path, *, sha256: str = "") -> None:
    """Refuse a file that is no LoRA adapter of this language model. An empty checksum is not compared.

    Raises PerceptionError with what is wrong, and what to do.
    """
    header = read(adapter)
    _check_sha256(adapter, sha256)
    kind = (header.values.get("general.type"), header.values.get("adapter.type"))
    if kind != ("adapter", "lora") or header.architecture != "lfm2":
        raise PerceptionError(
            f"{adapter} is not a LoRA adapter of an LFM2 model (general.type {kind[0]!r}, adapter.type "
            f"{kind[1]!r}, architecture {header.architecture!r}): convert it with llama.cpp's "
            "convert_lora_to_gguf.py"
        )
    tensors = read(model).tensors
    for name in header.tensors:
        changed, _, half = name.rpartition(".")
        if half not in ("lora_a", "lora_b") or changed not in tensors:
            raise PerceptionError(
                f"{adapter} changes {changed or name}, which {model.name} does not have: "
                "it belongs to another model"
            )


def read(path: Path) -> Header:
    """The header of a GGUF file, whose tensors all lie inside the file.

    Raises PerceptionError when the file cannot be opened, is not GGUF, or is damaged or cut short.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for a writer
        raise PerceptionError(f"{path} is not a file: give the path of a GGUF file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except OSError as error:
        raise PerceptionError(f"cannot open {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:  # mmap of an empty file
        raise PerceptionError(f"{path} is empty: download it again") from error


class _Reader:
    """Walks through the header once. Everything unbelievable is a damaged file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def header(self) -> Header:
        if self._data[:4] != b"GGUF":
            raise PerceptionError(f"{self._path} is not a GGUF file: it begins with {self._data[:4]!r}")
        try:
            return self._header()
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise self._damaged("its header ends early or makes no sense") from error

    def _header(self) -> Header:
        self._at = 4
        version = self._number("I")
        if version not in (2, 3):
            raise self._damaged(f"GGUF version {version} is not 2 or 3")
        tensor_count, value_count = self._number("Q"), self._number("Q")
        if max(tensor_count, value_count) > _MOST_ENTRIES:
            raise self._damaged(f"it claims {tensor_count} tensors and {value_count} values")
        kinds: dict[str, int] = {}
        values: dict[str, Value] = {}
        for _ in range(value_count):
            key = self._text()
            kinds[key] = self._number("I")
            values[key] = self._value(kinds[key])
        tensors = dict(self._tensor() for _ in range(tensor_count))
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._damaged(f"its alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        tensors = {name: replace(tensor, begin=start + tensor.begin) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            end = tensor.begin + tensor.size
            if end > len(self._data):
                raise self._damaged(f"it has {len(self._data)} bytes and tensor {name} ends at {end}")
        return Header(self._path, values, kinds, tensors)

    def _scalar(self, code: str) -> bool | int | float:
        value: bool | int | float
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _number(self, code: str) -> int:
        return int(self._scalar(code))

    def _text(self) -> str:
        return self._skip(self._number("Q")).decode()

    def _skip(self, length: int) -> bytes:
        if self._at + length > len(self._data):
            raise self._damaged("a text reaches beyond its end")
        begin, self._at = self._at, self._at + length
        return self._data[begin : self._at]

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise self._damaged(f"a value has the unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def _array(self) -> Value:
        kind, count = self._number("I"), self._number("Q")
        if kind == _STRING:
            if count * 8 > len(self._data):
                raise self._damaged("an array reaches beyond its end")
            for _ in range(count):
                length = self._number("Q")
                self._at += length
            return None
        if kind not in _SCALARS:
            raise self._damaged(f"an array has the unknown type {kind}")
        begin = self._at
        self._at += count * struct.calcsize(_SCALARS[kind])
        if self._at > len(self._data):
            raise self._damaged("an array reaches beyond its end")
        if count > _SHORT_ARRAY:
            return None
        return struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._data, begin)

    def _tensor(self) -> tuple[str, Tensor]:
        """A tensor by its name; it begins that many bytes after the start of the data."""
        name = self._text()
        dimensions = self._number("I")
        if not 1 <= dimensions <= 4:
            raise self._damaged(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        kind, offset = self._number("I"), self._number("Q")
        block, block_size = _block(kind)
        if not block or shape[0] % block:
            raise self._damaged(f"tensor {name} has an unknown element type {kind} or rows not made for it")
        return name, Tensor(shape, kind, offset, math.prod(shape) // block * block_size)

    def _damaged(self, how: str) -> PerceptionError:
        return PerceptionError(f"{self._path} is damaged or cut short, {how}: download it again")


def _block(kind: int) -> tuple[int, int]:
    """Elements and bytes of one block of a tensor's element type; 0 elements for an unknown one."""
    if kind >= llama_cpp.GGML_TYPE_COUNT:
        return 0, 0
    return int(libggml.ggml_blck_size(kind)), int(libggml.ggml_type_size(kind))


def _check_sha256(path: Path, expected: str) -> None:
    if not expected:
        return
    if (found := sha256(path)) != expected.lower():
        raise PerceptionError(
            f"{path} has SHA-256 {found}, expected {expected.lower()}: "
            f"it is another or a damaged file, download it again"
        )


def _check_language(header: Header) -> None:
    """Refuse what llama.cpp would take from a language model and then end the process on."""
    _check_epsilon(header, "lfm2.attention.layer_norm_rms_epsilon")
    _check_vectors(header)
    layers = header.values.get("lfm2.block_count")
    if not isinstance(layers, int) or f"blk.{layers - 1}.attn_norm.weight" not in header.tensors:
        raise _unusable(header, f"lfm2.block_count is {layers}")


def _check_vision(header: Header) -> None:
    """Refuse a tower and projector whose sizes, types and tensors do not agree."""
    for key, kind in _VISION_KINDS.items():
        if key in header.kinds and header.kinds[key] != kind:
            raise _unusable(header, f"{key} has GGUF type {header.kinds[key]}, not {kind}")
    for key in ("clip.has_audio_encoder", "clip.has_gen_audio_encoder"):
        if header.values.get(key):
            raise _unusable(header, f"{key} is true, and sound is not supported")
    width = _size(header, "embedding_length")
    heads = _size(header, "attention.head_count")
    if width % heads:
        raise _unusable(header, f"its width of {width} cannot be divided among {heads} heads")
    for key, expected in (("attention.head_count_kv", heads), ("attention.head_dim", width // heads)):
        if header.values.get(f"clip.vision.{key}", expected) != expected:
            raise _unusable(header, f"clip.vision.{key} is not {expected}")
    _check_epsilon(header, "clip.vision.attention.layer_norm_epsilon")
    _check_vectors(header)
    for key in ("clip.vision.image_mean", "clip.vision.image_std"):
        triple = header.values.get(key)
        if not isinstance(triple, tuple) or len(triple) != 3 or not all(map(math.isfinite, triple)):
            raise _unusable(header, f"{key} is {triple}, not three numbers")
    for name, shape in _vision_shapes(header, width):
        tensor = header.tensors.get(name)
        if tensor is None and name.endswith(".weight"):
            raise _unusable(header, f"it has no tensor {name}")
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise _unusable(header, f"tensor {name} has the shape {tensor.shape}, not {shape}")


def _check_epsilon(header: Header, key: str) -> None:
    epsilon = header.values.get(key)
    if not isinstance(epsilon, float) or not 0.0 <= epsilon < 1.0:
        raise _unusable(header, f"{key} is {epsilon}")


def _check_vectors(header: Header) -> None:
    for name, tensor in header.tensors.items():
        exact = len(tensor.shape) == 1 or name == "v.position_embd.weight"
        if exact and tensor.kind != llama_cpp.GGML_TYPE_F32:
            raise _unusable(header, f"tensor {name} has element type {tensor.kind}, not 32-bit floats")


_VISION_KINDS = {
    "general.name": _STRING,
    "general.description": _STRING,
    "clip.projector_type": _STRING,
    "clip.vision.projector_type": _STRING,
    "clip.vision.mm_patch_merge_type": _STRING,
    "clip.has_vision_encoder": _BOOL,
    "clip.has_audio_encoder": _BOOL,
    "clip.has_gen_audio_encoder": _BOOL,
    "clip.use_gelu": _BOOL,
    "clip.use_silu": _BOOL,
    "clip.minicpmv_version": _I32,
    "clip.minicpmv_query_num": _U32,
    "clip.vision.image_size": _U32,
    "clip.vision.patch_size": _U32,
    "clip.vision.embedding_length": _U32,
    "clip.vision.feed_forward_length": _U32,
    "clip.vision.block_count": _U32,
    "clip.vision.projection_dim": _U32,
    "clip.vision.attention.head_count": _U32,
    "clip.vision.attention.head_count_kv": _U32,
    "clip.vision.attention.head_dim": _U32,
    "clip.vision.attention.layer_norm_epsilon": _F32,
    "clip.vision.projector.scale_factor": _U32,
}
"""The GGUF types of the values that llama.cpp reads from an LFM2-VL vision file."""


def _vision_shapes(header: Header, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of the tower and projector with the shapes that follow from the file's sizes."""
    patch, inner = _size(header, "patch_size"), _size(header, "feed_forward_length")
    merged = width * _size(header, "projector.scale_factor") ** 2
    projected = _size(header, "projection_dim")
    yield "v.patch_embd.weight", (patch, patch, 3, width)
    yield "v.patch_embd.bias", (width,)
    yield "v.position_embd.weight", (width, math.isqrt(_second(header, "v.position_embd.weight")) ** 2)
    yield from _linear("mm.1", merged, _second(header, "mm.1.weight"))
    yield from _linear("mm.2", _second(header, "mm.1.weight"), projected)
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
    value = header.values.get(f"clip.vision.{key}")
    if not isinstance(value, int) or not 0 < value < 2**31:
        raise _unusable(header, f"clip.vision.{key} is {value}")
    return value


def _second(header: Header, name: str) -> int:
    """The second side of a tensor, which no other number in the file says."""
    tensor = header.tensors.get(name)
    return tensor.shape[1] if tensor and len(tensor.shape) > 1 else 0


def _unusable(header: Header, why: str) -> PerceptionError:
    return PerceptionError(f"{header.path} cannot work, {why}: download it again")
