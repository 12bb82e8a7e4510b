# SPDX-License-Identifier: Apache-2.0
"""The thread of the memory: writes entries about once a second, and answers questions from them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from lfm_perception.errors import PerceptionError
from lfm_perception.memory.question import MemoryQuestion
from lfm_perception.memory.store import CLOCK_TOLERANCE_NS, Entry, MemoryStore, uptime_s
from lfm_perception.settings import MemorySettings
from lfm_perception.stamps import from_seconds, to_seconds

PERIOD_S = 0.8
"""Time between two transactions: an entry is on the disk within a second."""

MAX_BATCH = 500
"""Maximum number of entries in one transaction."""

MAX_WAITING = 5000
"""Maximum number of entries that wait to be written; a further one replaces the oldest, which is lost."""

MAX_QUESTIONS = 8
"""Maximum number of questions that wait for an answer; further ones are refused."""


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """Counts since the start: entries kept and lost, jumps of the clock; at present: entries waiting."""

    kept: int
    lost: int
    waiting: int
    clock_jumps: int
    problem: str


@dataclass(frozen=True, slots=True)
class _Asked:
    question: MemoryQuestion
    answer: Callable[[str], None]
    refuse: Callable[[str, str], None]


class MemoryWriter:
    """Owns an open store, on a thread of its own. Any thread may call any method; none waits for the disk.

    Entries that cannot be written, on a full disk for example, wait and are tried again.

    Args:
        thumbnail: the newest image as a small JPEG, once; empty where there is no new one.
        warn: called as `warn(kind, sentence)`.
        on_error: receives unexpected exceptions; the thread goes on.
    """

    def __init__(
        self,
        store: MemoryStore,
        settings: MemorySettings,
        thumbnail: Callable[[], bytes],
        warn: Callable[..., None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._store, self._settings, self._thumbnail = store, settings, thumbnail
        self._warn, self._on_error = warn, on_error
        self._changed = threading.Condition()
        self._waiting = deque[tuple[float, Entry]]()
        self._questions = deque[_Asked]()
        self._kept = self._lost = self._clock_jumps = 0
        self._problem = ""
        self._clock_offset_ns: int | None = None
        self._running = True
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Keep an entry, within a second."""
        with self._changed:
            self._waiting.append((uptime_s(), entry))
            self._lose_oldest()

    def ask(
        self, question: MemoryQuestion, answer: Callable[[str], None], refuse: Callable[[str, str], None]
    ) -> None:
        """Answer a question from what was written, soon, or refuse it as `refuse(question, reason)`."""
        with self._changed:
            room = self._running and len(self._questions) < MAX_QUESTIONS
            if room:
                self._questions.append(_Asked(question, answer, refuse))
                self._changed.notify_all()
        if not room:
            refuse(question.text, f"{MAX_QUESTIONS} questions wait for the memory")

    def status(self) -> WriterStatus:
        with self._changed:
            return WriterStatus(self._kept, self._lost, len(self._waiting), self._clock_jumps, self._problem)

    def close(self) -> None:
        """Write what waits, and close the store."""
        with self._changed:
            self._running = False
            self._changed.notify_all()
        self._thread.join()

    # --- thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            due_s, running = time.monotonic(), True
            while running:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._questions or not self._running, max(0.0, due_s - time.monotonic())
                    )
                    running = self._running
                    asked = self._questions.popleft() if self._questions else None
                if asked is not None:  # first: a write may wait for another process
                    self._try(lambda asked=asked: self._answer(asked))  # type: ignore[misc]
                if time.monotonic() >= due_s or not running:
                    due_s = time.monotonic() + PERIOD_S
                    self._try(self._write)
            while self._waiting and not self._problem:
                self._write()
        finally:
            with self._changed:
                self._running = False
                left = [*self._questions]
            for asked in left:
                asked.refuse(asked.question.text, "the memory is closed")
            self._store.close()

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a bug must not end the thread
            self._on_error(error)

    def _write(self) -> None:
        now_ns, now_s = time.time_ns(), uptime_s()
        self._watch_clock(now_ns - from_seconds(now_s))
        with self._changed:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
        # by the time since then: the clock may have been set meanwhile
        entries = [replace(entry, kept_ns=now_ns - from_seconds(now_s - put_s)) for put_s, entry in batch]
        shown = [index for index, entry in enumerate(entries) if entry.kind != "count"]
        if shown:
            try:
                entries[shown[-1]] = replace(entries[shown[-1]], thumbnail=self._thumbnail())
            except Exception as error:  # the entries are kept without it
                self._on_error(error)
        try:
            self._store.write(entries, now_ns)
        except PerceptionError as error:
            with self._changed:
                self._waiting.extendleft(reversed(batch))
                self._problem = str(error)
                self._lose_oldest()
            self._warn("memory", f"nothing is kept for now: {error}")
            with suppress(PerceptionError):  # deletion alone takes less room
                self._store.write((), now_ns)
        else:
            with self._changed:
                self._kept += len(batch)
                self._problem = ""

    def _lose_oldest(self) -> None:
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._lost += 1

    def _watch_clock(self, offset_ns: int) -> None:
        before_ns, self._clock_offset_ns = self._clock_offset_ns, offset_ns
        jump_ns = 0 if before_ns is None else offset_ns - before_ns
        if abs(jump_ns) > CLOCK_TOLERANCE_NS:
            self._clock_jumps += 1
            self._warn(
                "memory clock",
                f"the clock has jumped by {to_seconds(jump_ns):.1f} s: ages in memory are wrong by this, "
                "and entries ahead of the clock are deleted",
            )

    def _answer(self, asked: _Asked) -> None:
        question, now_ns = asked.question, time.time_ns()
        try:
            query = question.query(now_ns)
            since_ns = max(query.since_ns, now_ns - from_seconds(self._settings.max_age))
            found = self._store.search(replace(query, since_ns=since_ns))
            answer = question.answer(found, self._store.oldest_ns(), now_ns)
        except PerceptionError as error:
            asked.refuse(question.text, str(error))
        else:
            asked.answer(answer)
