# SPDX-License-Identifier: Apache-2.0
"""The file of the memory: entries in SQLite with full-text search, encrypted by SQLCipher.

An entry's id is the time at which it was kept, so that searches newest first and retention are ranges of ids.
Deleted text is gone from the file: pages are overwritten (`secure_delete`), the search index has no
tombstones (`secure-delete` of FTS5), and the rollback journal, unlike a write-ahead log, keeps no copies.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import open_file, real_path, user_path
from lfm_perception.memory.key import read_key
from lfm_perception.settings import MemorySettings
from lfm_perception.stamps import NANOSECONDS, from_seconds, to_seconds
from lfm_perception.text import safe_line, safe_text

KINDS = ("caption", "event", "count")

APPLICATION_ID, VERSION = 0x6C666D6D, 1
"""Numbers in the file's header that tell a memory from other databases (`lfmm`), and its format."""

BUSY_S = 5.0
"""Longest wait for another process that reads or writes the file."""

MAX_DELETED = 5000
"""Maximum number of entries that one transaction deletes, so that no process waits long."""

CHUNK = 1000
"""Number of oldest entries that are deleted at a time where room is needed."""

ROOM = 1 / 8
"""Share of `max_bytes` that is kept free for the next transaction and for merges of the search index."""

CLOCK_TOLERANCE_NS = NANOSECONDS
"""Time by which an entry may be ahead of the clock; beyond it, the clock was set back after it was kept."""

MAX_QUERY = 200
"""Maximum length of a search text, characters."""

MAX_ID = (1 << 63) - 1
MAX_TEXT, MAX_DATA = 2000, 4000
"""Longest text and JSON of an entry, characters."""

_REASONS = {
    "readonly": "it was removed or replaced while it was in use, or cannot be written: make it writable, and "
    "configure the node again",
    "locked": f"another process has held it for {BUSY_S:.0f} s: wait, or end that process",
}
"""The meaning of SQLite's error messages for a memory, by a word in the message."""

_SQLITE_HEADER = b"SQLite format 3\0"
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_SCHEMA = (
    "CREATE TABLE entries "
    "(id INTEGER PRIMARY KEY, kind TEXT, stamp_ns INTEGER, text TEXT, data TEXT, thumbnail BLOB)",
    "CREATE VIRTUAL TABLE words USING fts5"
    "(kind, text, content='', columnsize=0, tokenize='porter unicode61 remove_diacritics 2')",
)
_PRAGMAS = (
    "hard_heap_limit = 256000000",
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "secure_delete = ON",
    "temp_store = MEMORY",
    "synchronous = FULL",
    "journal_mode = TRUNCATE",
)
_SHADOW_TABLES = ("words_data", "words_idx", "words_config")


@dataclass(frozen=True, slots=True)
class Entry:
    """A caption, an event of a rule or the counts of labels (`KINDS`), kept at `kept_ns` by the wall clock.

    `stamp_ns` is the stamp of the frame, `text` what is searched, `data` JSON and `thumbnail` JPEG.
    """

    kind: str
    text: str
    stamp_ns: int
    kept_ns: int = 0
    data: str = ""
    thumbnail: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", safe_line(self.text, MAX_TEXT))
        object.__setattr__(self, "data", safe_text(self.data, MAX_DATA))


@dataclass(frozen=True, slots=True)
class Query:
    """All `words`, within a time by the wall clock (inclusive), of one kind; the newest `limit` entries."""

    words: str = ""
    since_ns: int = 0
    until_ns: int = MAX_ID
    kind: str = ""
    limit: int = 20


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Entries by kind, the time of the oldest and the newest one, and the size of the file."""

    entries: Mapping[str, int]
    oldest_ns: int | None
    newest_ns: int | None
    file_bytes: int


class MemoryStore:
    """An open memory. For one thread at a time; other processes may read and write the same file.

    Args:
        create: make the file where there is none.

    Raises:
        PerceptionError: by every method, when the file cannot be used: a wrong key, another format, damage, a
            full disk, a process that does not let go of it.
    """

    def __init__(self, settings: MemorySettings, *, create: bool = False) -> None:
        if find_spec("sqlcipher3") is None:
            raise PerceptionError("memory needs the package sqlcipher3: pip install 'lfm_perception[memory]'")
        self._settings, self.path = settings, real_path(user_path(settings.path))
        key = read_key(settings) if settings.encrypted else ""
        self._opened_s = uptime_s()
        self._check_file(create)
        from sqlcipher3 import dbapi2  # costs nothing without memory

        self._sqlite: Any = dbapi2
        with self._telling():
            self._database = dbapi2.connect(
                str(self.path), timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._telling():
                self._configure(key, create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    def write(self, entries: Sequence[Entry], now_ns: int) -> None:
        """Delete what is too old or too much, and add entries, in one transaction.

        Args:
            entries: with their `kept_ns`, at most a few hundred.
            now_ns: the wall clock.
        """
        with self._transaction():
            self._delete_expired(now_ns)
            self._make_room()
            newest = self._oldest_and_newest()[1] or 0
            for entry in entries:
                newest = max(entry.kept_ns, newest + 1)
                self._database.execute(
                    "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
                    (newest, entry.kind, entry.stamp_ns, entry.text, entry.data, entry.thumbnail or None),
                )
                self._database.execute(
                    "INSERT INTO words (rowid, kind, text) VALUES (?, ?, ?)",
                    (newest, entry.kind, _spaced(entry.text)),
                )

    def search(self, query: Query) -> list[Entry]:
        """The entries that a query finds, newest first."""
        match, times = _match(query), (query.since_ns, query.until_ns, query.limit)
        by_words = "words CROSS JOIN entries ON entries.id = words.rowid WHERE words MATCH ? AND words.rowid"
        source, order = (by_words, "words.rowid") if match else ("entries WHERE id", "id")
        with self._telling():
            rows = self._database.execute(
                f"SELECT entries.* FROM {source} BETWEEN ? AND ? ORDER BY {order} DESC LIMIT ?",
                (match, *times) if match else times,
            )
            return [_entry(row) for row in rows]

    def delete(self, before_ns: int | None) -> int:
        """Delete the entries that were kept before a time, or all of them. Returns their number."""
        deleted = 0
        while True:
            with self._transaction():
                count = self._delete_range(-1, MAX_ID if before_ns is None else before_ns)
            deleted += count
            if count < MAX_DELETED:
                return deleted

    def info(self) -> MemoryInfo:
        """What the memory holds."""
        with self._telling():
            counts = dict(self._database.execute("SELECT kind, count(*) FROM entries GROUP BY kind"))
            return MemoryInfo(counts, *self._oldest_and_newest(), self.path.stat().st_size)

    def oldest_ns(self) -> int | None:
        """The time at which the oldest entry was kept; None in an empty memory."""
        with self._telling():
            oldest: int | None = self._oldest_and_newest()[0]
            return oldest

    # --- opening ---------------------------------------------------------------------------------------

    def _check_file(self, create: bool) -> None:
        """Make the file where there is none, and refuse one that is no memory before SQLite opens it."""
        try:
            if create:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with open_file(self.path) as file:
                head = file.read(len(_SQLITE_HEADER))
        except FileNotFoundError as error:
            raise PerceptionError(
                f"there is no memory {self.path}: see memory.path, and memory.enabled of the node"
            ) from error
        except OSError as error:
            raise PerceptionError(f"memory {self.path} cannot be opened: {os_reason(error)}") from error
        if head and self._settings.encrypted == (head == _SQLITE_HEADER):
            state, value = ("not encrypted", "false") if self._settings.encrypted else ("encrypted", "true")
            raise PerceptionError(
                f"memory {self.path} is {state}, or no memory: set memory.encrypted {value}, "
                "or name another file"
            )

    def _configure(self, key: str, create: bool) -> None:
        run = self._database.execute
        if key:
            run("PRAGMA cipher_log_level = NONE")
            run("PRAGMA key = '{}'".format(key.replace("'", "''")))
        self._database.create_function("spaced", 1, _spaced, deterministic=True)
        try:
            for pragma in _PRAGMAS:
                run(f"PRAGMA {pragma}")
            run("SELECT count(*) FROM sqlite_master").fetchone()
        except self._sqlite.DatabaseError as error:
            if key and "not a database" in str(error):
                source = self._settings.key_file or f"${self._settings.key_variable}"
                raise PerceptionError(
                    f"memory {self.path} cannot be decrypted: check the key in {source}; or it is damaged"
                ) from error
            raise
        if create:
            if not self._one("SELECT count(*) FROM sqlite_master"):
                run("PRAGMA auto_vacuum = FULL")
            with self._transaction():
                if not self._one("SELECT count(*) FROM sqlite_master"):
                    for statement in _SCHEMA:
                        run(statement)
                    run("INSERT INTO words (words, rank) VALUES ('secure-delete', 1)")
                    run(f"PRAGMA application_id = {APPLICATION_ID}")
                    run(f"PRAGMA user_version = {VERSION}")
        found = self._one("PRAGMA application_id"), self._one("PRAGMA user_version")
        tables = set(run("SELECT type, sql FROM sqlite_master WHERE name NOT IN (?, ?, ?)", _SHADOW_TABLES))
        if found != (APPLICATION_ID, VERSION) or tables != {("table", sql) for sql in _SCHEMA}:
            raise PerceptionError(
                f"{self.path} is no memory of this version of lfm_perception: name another memory.path"
            )

    # --- transactions ----------------------------------------------------------------------------------

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors of the database as sentences."""
        try:
            yield
        except (self._sqlite.Error, OSError, OverflowError, ValueError) as error:
            reason = next((said for word, said in _REASONS.items() if word in str(error)), error)
            raise PerceptionError(f"memory {self.path}: {reason}") from error
        except MemoryError as error:  # for an entry of gigabytes, by its size in a damaged file
            raise PerceptionError(f"memory {self.path} is damaged, or this computer lacks memory") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._telling():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(self._sqlite.Error):
                    self._database.execute("ROLLBACK")
                raise

    def _one(self, statement: str, *values: object) -> Any:
        row = self._database.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def _delete_range(self, after_ns: int, before_ns: int, limit: int = MAX_DELETED) -> int:
        """Delete the oldest entries after one time and before another. Returns their number."""
        oldest, newest = self._oldest_and_newest()
        if oldest is None or newest < after_ns or oldest >= before_ns:
            return 0
        if after_ns < oldest and newest < before_ns and limit == MAX_DELETED:  # all: a thousand times faster
            count = self._one("SELECT count(*) FROM entries")
            self._database.execute("INSERT INTO words (words) VALUES ('delete-all')")
            self._database.execute("DELETE FROM entries")
            return int(count)
        chosen = "FROM entries WHERE id > ? AND id < ?"
        beyond = self._one(f"SELECT id {chosen} ORDER BY id LIMIT 1 OFFSET ?", after_ns, before_ns, limit)
        times = after_ns, beyond or before_ns
        self._database.execute(
            f"INSERT INTO words (words, rowid, kind, text) SELECT 'delete', id, kind, spaced(text) {chosen}",
            times,
        )
        return int(self._database.execute(f"DELETE {chosen}", times).rowcount)

    def _oldest_and_newest(self) -> tuple[Any, Any]:
        return self._one("SELECT min(id) FROM entries"), self._one("SELECT max(id) FROM entries")

    def _delete_expired(self, now_ns: int) -> None:
        """Delete entries that are too old, and those that are ahead of a clock that was set back."""
        max_age_ns = from_seconds(self._settings.max_age)
        _, newest = self._oldest_and_newest()
        if newest is None:
            return
        ahead_ns = newest - now_ns
        if ahead_ns > max_age_ns and uptime_s() - self._opened_s < self._settings.max_age:
            raise PerceptionError(
                f"the clock is {to_seconds(ahead_ns):.0f} s behind the newest entry of the memory: "
                "nothing is kept until it is set; if it is right, lfm-perception memory delete --all"
            )
        if ahead_ns > CLOCK_TOLERANCE_NS:
            self._delete_range(now_ns + CLOCK_TOLERANCE_NS, newest + 1, MAX_ID)
        self._delete_range(-1, now_ns - max_age_ns)

    def _make_room(self) -> None:
        """Delete the oldest entries while less than `ROOM` is free."""
        limit = (1 - ROOM) * self._settings.max_bytes / int(self._one("PRAGMA page_size"))
        for _ in range(MAX_DELETED // CHUNK):
            used = int(self._one("PRAGMA page_count")) - int(self._one("PRAGMA freelist_count"))
            if used <= limit or not self._delete_range(-1, MAX_ID, CHUNK):
                break


def uptime_s() -> float:
    """Seconds since the computer started, suspended ones included: setting the clock changes nothing."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _spaced(text: str) -> str:
    """The text with spaces around each ideograph, which makes it a word of the search."""
    return _IDEOGRAPH.sub(r" \g<0> ", text)


def _match(query: Query) -> str:
    """The query in the language of FTS5; empty: any words and any kind."""
    if len(query.words) > MAX_QUERY:
        raise PerceptionError(f"a search has at most {MAX_QUERY} characters, not {len(query.words)}")
    words = [word for word in _spaced(safe_line(query.words)).split() if any(map(str.isalnum, word))]
    if query.words and not words:
        raise PerceptionError(f"there is no word in {shown(query.words)}: give words to search for")
    terms = [("text", word) for word in words] + ([("kind", query.kind)] if query.kind else [])
    return " AND ".join('{} : "{}"'.format(column, term.replace('"', '""')) for column, term in terms)


def _entry(row: Sequence[Any]) -> Entry:
    """An entry of a file, whose values may have any type."""
    kept_ns, kind, stamp_ns, text, data, thumbnail = row
    return Entry(
        str(kind), str(text), int(stamp_ns or 0), kept_ns, str(data or ""),
        thumbnail if isinstance(thumbnail, bytes) else b"",
    )  # fmt: skip
