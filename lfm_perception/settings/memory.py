# SPDX-License-Identifier: Apache-2.0
"""Parameters of the memory (`memory/`)."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.settings.spec import parameter


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Memory of captions, events and counts, which can be searched; nothing is kept by default."""

    enabled: bool = parameter(False, "keeping of captions, events and counts", fixed=True)
    path: str = parameter("~/.local/share/lfm_perception/memory.db", "file of the memory", fixed=True)
    encrypted: bool = parameter(True, "encryption of the file, which needs a key", fixed=True)
    key_variable: str = parameter(
        "LFM_PERCEPTION_MEMORY_KEY", "environment variable LFM_PERCEPTION_* with the key", fixed=True
    )
    key_file: str = parameter(
        "",
        "file with the key, which only its owner may read; empty: the key is in the environment",
        fixed=True,
    )
    max_age: float = parameter(86_400.0, "age after which entries are deleted", (1.0, 1e8), "s", fixed=True)
    max_bytes: int = parameter(
        256_000_000,
        "maximum size of the file; the oldest entries are deleted before it is reached",
        (16_000_000, 1_000_000_000_000),
        "bytes",
        fixed=True,
    )
    thumbnails: bool = parameter(False, "small images beside captions and events", fixed=True)
