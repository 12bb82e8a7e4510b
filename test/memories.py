# SPDX-License-Identifier: Apache-2.0
"""Settings and entries of a memory, for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lfm_perception.memory import Entry, MemoryStore, Query
from lfm_perception.settings import MemorySettings, Settings
from lfm_perception.stamps import NANOSECONDS as S

KEY = "it's a key of many characters"
NOW = 1_790_000_000 * S


def settings(path: Path, **values: object) -> MemorySettings:
    """Those of a memory that is not encrypted, unless `values` say otherwise."""
    more = {f"memory.{name}": value for name, value in values.items()}
    return Settings().with_values({"memory.path": str(path), "memory.encrypted": False, **more}).memory


def entry(text: str, kept_ns: int = NOW, kind: str = "event", data: str = "{}") -> Entry:
    return Entry(kind, text, kept_ns - S // 10, kept_ns, data)


def texts(store: MemoryStore, words: str = "", **values: Any) -> list[str]:
    """The texts of the entries that a search finds."""
    return [found.text for found in store.search(Query(words, **values))]
