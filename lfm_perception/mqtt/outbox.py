# SPDX-License-Identifier: Apache-2.0
"""A bounded queue of messages in a file, which outlives the process: SQLite, with a write-ahead log."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from lfm_perception.errors import PerceptionError, os_reason
from lfm_perception.files import check_new_file, open_file, real_path

MAX_PAYLOAD = 2000
"""Maximum size of a message, bytes."""

PAGE_BYTES, LOG_BYTES = 4096, 1 << 20
"""Size of a page of the database, and size to which SQLite truncates its write-ahead log, bytes."""

_SQLITE_HEADER = b"SQLite format 3\0"
_TABLE = "messages (number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL)"

DAMAGED = ".damaged"
"""Suffix of the name under which a damaged file is kept."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that waits. Numbers ascend, and are not used twice."""

    number: int
    topic: str
    payload: bytes


class Outbox:
    """Messages that wait to be sent, the oldest first. For any thread; one process at a time.

    A message is in the file when `add` returns: `kill -9` loses none, a power failure may lose the last ones.
    Beyond `max_messages` or `max_bytes` of payload the oldest messages are dropped. `dropped` counts them,
    and those that could not be written. The file itself never grows beyond twice `max_bytes`. A damaged file
    is renamed, and the queue begins empty; any other file is refused and left as it is.

    Raises PerceptionError when the file cannot be used.
    """

    def __init__(self, path: Path, max_messages: int, max_bytes: int) -> None:
        self._path, self._max_messages, self._max_bytes = real_path(path), max_messages, max_bytes
        self._lock = threading.Lock()
        self.dropped = 0
        self.problem = ""
        """Why the last message could not be stored; empty where it could."""
        check_new_file(path)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            self._move_aside(error)
            self._db = self._open()
        number, size = self._db.execute("SELECT count(*), total(length(payload)) FROM messages").fetchone()
        self.waiting, self._bytes = int(number), int(size)

    def _open(self) -> sqlite3.Connection:
        """The database, checked. Raises sqlite3.DatabaseError for a damaged one."""
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
            with open_file(self._path) as file:
                head = file.read(len(_SQLITE_HEADER))
        except OSError as error:
            raise PerceptionError(f"the queue {self._path} cannot be opened: {os_reason(error)}") from error
        if head.strip(b"\0") and head != _SQLITE_HEADER:
            raise self._not_a_queue()
        limit = 2 * self._max_bytes + (64 * PAGE_BYTES)
        if self._path.stat().st_size > limit:
            raise sqlite3.DatabaseError(f"it is larger than {limit} bytes")
        db = sqlite3.connect(self._path, timeout=0.5, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            tables = db.execute("SELECT sql FROM sqlite_master WHERE name != 'sqlite_sequence'").fetchall()
            if tables not in ([], [(f"CREATE TABLE {_TABLE}",)]):
                raise self._not_a_queue()
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
            db.execute(f"PRAGMA max_page_count = {limit // PAGE_BYTES}")
            db.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            strange = db.execute(
                "SELECT count(*) FROM messages WHERE typeof(topic) != 'text' OR typeof(payload) != 'blob' "
                "OR length(payload) > ?",
                (MAX_PAYLOAD,),
            ).fetchone()[0]
            if found != "ok" or strange:
                raise sqlite3.DatabaseError(f"{strange} rows are no messages" if strange else found)
        except BaseException as error:
            db.close()
            if not isinstance(error, sqlite3.OperationalError):
                raise
            # the disk or another process, not damage
            if "locked" in str(error):
                raise PerceptionError(
                    f"the queue {self._path} is in use: another forward runs, or give another --queue"
                ) from error
            raise PerceptionError(f"the queue {self._path} cannot be used: {error}") from error
        return db

    def _not_a_queue(self) -> PerceptionError:
        return PerceptionError(f"{self._path} is no queue of forward, but another file: give another --queue")

    def _move_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = self._path.with_name(self._path.name + DAMAGED)
        try:
            self._path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as reason:
            raise PerceptionError(
                f"the queue {self._path} is damaged ({error}): {os_reason(reason)}"
            ) from reason
        logging.getLogger(__name__).warning(
            "the queue %s is damaged (%s): it is kept as %s, and begins empty", self._path, error, aside.name
        )

    def add(self, topic: str, payload: bytes) -> None:
        """Store a message of at most `MAX_PAYLOAD` bytes; never raises for a full disk."""
        with self._lock:
            try:
                with closing(self._db.cursor()) as cursor:
                    cursor.execute("BEGIN")
                    dropped, freed = self._make_room(cursor, len(payload))
                    cursor.execute("INSERT INTO messages (topic, payload) VALUES (?, ?)", (topic, payload))
                    cursor.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                self.dropped += 1
                self.problem = f"the queue {self._path} cannot be written: {error}"
                return
            self.dropped += dropped
            self.waiting += 1 - dropped
            self._bytes += len(payload) - freed
            self.problem = ""

    def _make_room(self, cursor: sqlite3.Cursor, size: int) -> tuple[int, int]:
        """Drop the oldest messages as far as the limits ask for it. Returns their number and their bytes."""
        dropped = freed = 0
        while self.waiting - dropped and (
            self.waiting - dropped >= self._max_messages or self._bytes - freed + size > self._max_bytes
        ):
            number, length = cursor.execute(
                "SELECT number, length(payload) FROM messages ORDER BY number LIMIT 1"
            ).fetchone()
            cursor.execute("DELETE FROM messages WHERE number = ?", (number,))
            dropped, freed = dropped + 1, freed + length
        return dropped, freed

    def after(self, number: int, count: int) -> list[Message]:
        """The `count` oldest messages after this number; 0 begins with the oldest of all."""
        with self._lock:
            try:
                rows = self._db.execute(
                    "SELECT number, topic, payload FROM messages WHERE number > ? ORDER BY number LIMIT ?",
                    (number, count),
                ).fetchall()
            except sqlite3.Error as error:
                self.problem = f"the queue {self._path} cannot be read: {error}"
                return []
        return [Message(*row) for row in rows]

    def remove(self, message: Message) -> None:
        """Forget a message that was sent; one that was dropped meanwhile is gone already."""
        with self._lock:
            try:
                removed = self._db.execute(
                    "DELETE FROM messages WHERE number = ?", (message.number,)
                ).rowcount
            except sqlite3.Error as error:  # it will be sent once more
                self.problem = f"the queue {self._path} cannot be written: {error}"
                return
            self.waiting -= removed
            self._bytes -= removed * len(message.payload)

    def close(self) -> None:
        """Close the file; the messages stay in it."""
        with self._lock:
            self._db.close()
