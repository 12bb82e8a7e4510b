# SPDX-License-Identifier: Apache-2.0
"""A limit on what rosbags decompresses: 64 kB of Zstandard can hold gigabytes."""

from __future__ import annotations

import io
import shutil
import tempfile
from types import SimpleNamespace
from typing import Any

from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]
from rosbags.rosbag2 import reader, storage_mcap

from lfm_perception.errors import PerceptionError
from lfm_perception.scene import MAX_PIXELS

MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)
"""Maximum size of a message, and of a chunk of messages: an image of 4 channels of 16 bits."""

MIN_FREE_BYTES = 1 << 28
"""Room that stays on the disk of temporary files, where rosbags decompresses whole files."""

_zstd: Any = vars(reader).get("zstd")  # other versions of rosbags may call it otherwise


def limit() -> None:
    """Have rosbags refuse messages and chunks that are larger than `MAX_BYTES`. May be called twice."""
    if _zstd is None or not hasattr(storage_mcap, "DECOMPRESSORS"):
        return
    setattr(reader, "zstd", SimpleNamespace(decompress=unpacked_zstd, open=_FittingFile))  # noqa: B010
    storage_mcap.DECOMPRESSORS.update(
        zstd=lambda data, size: unpacked_zstd(data),
        lz4=lambda data, size: _unpacked(LZ4FrameDecompressor(), data),
    )


class _FittingFile(io.RawIOBase):
    """A compressed file, read decompressed as far as there is room for it among the temporary files."""

    def __init__(self, file: Any, mode: str) -> None:
        self._content = _zstd.open(file, mode)
        self._room = shutil.disk_usage(tempfile.gettempdir()).free - MIN_FREE_BYTES

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._content.read(size)
        self._room -= len(block)
        if self._room < 0:
            raise PerceptionError(
                f"decompressed, it does not fit into {tempfile.gettempdir()}: set TMPDIR to a larger disk"
            )
        return block

    def close(self) -> None:
        self._content.close()
        super().close()


def unpacked_zstd(data: bytes) -> bytes:
    """The content of a Zstandard frame. Raises PerceptionError when it is cut off or too large."""
    return _unpacked(_zstd.ZstdDecompressor(), data)


def _unpacked(decompressor: Any, data: bytes) -> bytes:
    content: bytes = decompressor.decompress(data, max_length=MAX_BYTES)
    if not decompressor.eof:
        raise PerceptionError(f"a compressed piece of it is cut off, or larger than {MAX_BYTES >> 20} MB")
    return content
