# SPDX-License-Identifier: Apache-2.0
"""The header of a GGUF file: metadata values and tensors, every length checked against the file's size.

Own code instead of the `gguf` package, which takes 92 ms for a header of the 450M model and does not check
lengths. The file is read, not mapped: a mapped file that is cut short while it is read ends the process.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lfm_perception.engine.native import libggml, llama_cpp
from lfm_perception.errors import PerceptionError, os_reason
from lfm_perception.files import open_file

Value = bool | int | float | str | tuple[float, ...] | None
"""A metadata value. Arrays of numbers are tuples up to 64 entries; longer ones, and texts, are None."""

STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""`struct` codes by GGUF type."""

_MAX_ARRAY_ENTRIES = 64
_DEFAULT_ALIGNMENT = 32
_MAX_ENTRIES = 100_000
_MAX_NAME_LENGTH = 63  # GGML_MAX_NAME

_MAX_HEADER_BYTES = 256 << 20
"""A vocabulary of a million tokens with its merges needs a tenth of it."""

_READ_BYTES = 1 << 20
"""Bytes read at once."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape with the fastest dimension first, ggml element type, offset and size in the file in bytes."""

    shape: tuple[int, ...]
    element_type: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata and tensors of a GGUF file.

    `types` are the GGUF types of the metadata values, `lengths` the numbers of entries of arrays, and `texts`
    the entries of arrays of texts, undecoded.
    """

    path: Path
    metadata: Mapping[str, Value]
    types: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    lengths: Mapping[str, int]
    texts: Mapping[str, tuple[bytes, ...]]

    @property
    def architecture(self) -> Value:
        return self.metadata.get("general.architecture")


def read_header(path: Path) -> Header:
    """The header of a GGUF file whose tensors all lie inside the file.

    Raises PerceptionError when the file cannot be opened, is not GGUF, or is damaged or cut short.
    """
    try:
        if path.exists() and not path.is_file():
            raise PerceptionError(f"{path} is not a file: give the path of a GGUF file")
        with open_file(path) as file:
            return _Reader(path, file).header()
    except OSError as error:
        raise PerceptionError(f"cannot open {path}: {os_reason(error)}") from error


class _Reader:
    """Reads the header in one pass. An implausible number means a damaged file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size
        self._data = bytearray()
        self._position = 0
        self._lengths: dict[str, int] = {}
        self._texts: dict[str, tuple[bytes, ...]] = {}

    def header(self) -> Header:
        if not self._size:
            raise PerceptionError(f"{self._path} is empty: download it again")
        magic = self._bytes(min(4, self._size), "its beginning")
        if magic != b"GGUF":
            raise PerceptionError(f"{self._path} is not a GGUF file: it begins with {magic!r}")
        try:
            return self._header()
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise self._damaged("its header ends early or makes no sense") from error

    def _header(self) -> Header:
        version = self._integer("I")
        if version not in (2, 3):
            raise self._damaged(f"GGUF version {version} is not 2 or 3")
        tensor_count, value_count = self._integer("Q"), self._integer("Q")
        if max(tensor_count, value_count) > _MAX_ENTRIES:
            raise self._damaged(f"it claims {tensor_count} tensors and {value_count} values")
        types: dict[str, int] = {}
        metadata: dict[str, Value] = {}
        for _ in range(value_count):
            key = self._string()
            types[key] = self._integer("I")
            metadata[key] = self._value(key, types[key])
        tensors = dict(self._tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._damaged(f"its alignment is {alignment!r}")
        start = -(-self._position // alignment) * alignment
        tensors = {name: replace(tensor, offset=start + tensor.offset) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            end = tensor.offset + tensor.size
            if end > self._size:
                raise self._damaged(f"it has {self._size} bytes and tensor {name} ends at {end}")
        return Header(self._path, metadata, types, tensors, self._lengths, self._texts)

    def _scalar(self, code: str) -> bool | int | float:
        value: bool | int | float
        begin = self._skip(struct.calcsize(code), "a number")
        (value,) = struct.unpack_from(f"<{code}", self._data, begin)
        return value

    def _integer(self, code: str) -> int:
        return int(self._scalar(code))

    def _bytes(self, length: int, name: str) -> bytes:
        begin = self._skip(length, name)
        return bytes(self._data[begin : self._position])

    def _string(self) -> str:
        return self._bytes(self._integer("Q"), "a text").decode()

    def _skip(self, length: int, name: str) -> int:
        """Advance by so many bytes, read from the file as needed. Returns: the position before them."""
        begin, self._position = self._position, self._position + length
        self._read_to(self._position, name)
        return begin

    def _read_to(self, end: int, name: str) -> None:
        if end > min(self._size, _MAX_HEADER_BYTES):
            raise self._damaged(f"{name} reaches beyond its end")
        while end > len(self._data):
            block = self._file.read(max(_READ_BYTES, end - len(self._data)))
            if not block:
                raise self._damaged("it became shorter while it was read")
            self._data += block

    def _value(self, key: str, type_: int) -> Value:
        if type_ == STRING:
            return self._string()
        if type_ == _ARRAY:
            return self._array(key)
        if type_ not in _SCALARS:
            raise self._damaged(f"a value has the unknown type {type_}")
        return self._scalar(_SCALARS[type_])

    def _array(self, key: str) -> Value:
        type_, count = self._integer("I"), self._integer("Q")
        if type_ != STRING and type_ not in _SCALARS:
            raise self._damaged(f"an array has the unknown type {type_}")
        entry_size = 8 if type_ == STRING else struct.calcsize(_SCALARS[type_])  # of a text: its length
        begin = self._skip(count * entry_size, "an array")
        self._lengths[key] = count
        if type_ == STRING:
            self._position = begin
            self._texts[key] = self._text_array(count)
        elif count <= _MAX_ARRAY_ENTRIES:
            return struct.unpack_from(f"<{count}{_SCALARS[type_]}", self._data, begin)
        return None

    def _text_array(self, count: int) -> tuple[bytes, ...]:
        """Inlined, because a vocabulary has 65,000 tokens and nearly as many merges."""
        unpack, texts, data, begin = struct.Struct("<Q").unpack_from, [], self._data, self._position
        for _ in range(count):
            if begin + 8 > len(data):
                self._read_to(begin + 8, "a text")
            end = begin + 8 + unpack(data, begin)[0]
            if end > len(data):
                self._read_to(end, "a text")
            texts.append(bytes(data[begin + 8 : end]))
            begin = end
        self._position = begin
        return tuple(texts)

    def _tensor(self) -> tuple[str, Tensor]:
        """A tensor by its name, with the offset from the start of the data."""
        name = self._string()
        if not name.isprintable() or len(name.encode()) > _MAX_NAME_LENGTH:
            raise self._damaged("a tensor has an impossible name")
        dimensions = self._integer("I")
        if not 1 <= dimensions <= 4:
            raise self._damaged(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self._integer("Q") for _ in range(dimensions))
        element_type, offset = self._integer("I"), self._integer("Q")
        block, block_size = _block(element_type)
        if not block or shape[0] % block:
            raise self._damaged(
                f"tensor {name} has an unknown element type {element_type} or rows not made for it"
            )
        return name, Tensor(shape, element_type, offset, math.prod(shape) // block * block_size)

    def _damaged(self, reason: str) -> PerceptionError:
        return PerceptionError(f"{self._path} is damaged or cut short, {reason}: download it again")


def _block(element_type: int) -> tuple[int, int]:
    """Elements and bytes of one block of an element type; 0 elements for an unknown one."""
    if element_type >= llama_cpp.GGML_TYPE_COUNT:
        return 0, 0
    return int(libggml.ggml_blck_size(element_type)), int(libggml.ggml_type_size(element_type))
