# SPDX-License-Identifier: Apache-2.0
"""The thread of the memory, kill -9, and questions to it."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("sqlcipher3", reason="the extra memory is not installed")

from memories import KEY, NOW, entry, settings, texts
from sqlcipher3 import dbapi2

from lfm_perception.errors import PerceptionError
from lfm_perception.memory import MemoryQuestion, MemoryStore, MemoryWriter, writer
from lfm_perception.memory.question import age_text, ago_text, moment_ns
from lfm_perception.settings import MemorySettings
from lfm_perception.stamps import NANOSECONDS as S


@contextmanager
def writing(
    chosen: MemorySettings, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MemoryWriter]:
    monkeypatch.setattr(writer, "PERIOD_S", 0.02)

    def failed(error: Exception) -> None:
        raise error

    store = MemoryStore(chosen, create=True)
    with closing(MemoryWriter(store, chosen, bytes, lambda _, said: warnings.append(said), failed)) as opened:
        yield opened


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_full_disk_does_not_take_is_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, warnings = tmp_path / "m.db", list[str]()
    with writing(settings(path), warnings, monkeypatch) as opened:
        opened.put(entry("first"))
        eventually(lambda: opened.status().kept == 1)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5000, limits[1]))
        try:
            for _ in range(50):
                opened.put(entry("second", data="x" * 3000))
            eventually(lambda: opened.status().problem)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert warnings[0].startswith("nothing is kept for now: memory ")
        eventually(lambda: opened.status().kept == 51)
        status = opened.status()
        assert (status.lost, status.waiting, status.problem) == (0, 0, "")


def test_an_entry_whose_thumbnail_fails_is_kept_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PERIOD_S", 0.02)
    chosen, errors = settings(tmp_path / "m.db"), list[Exception]()

    def broken() -> bytes:
        raise ValueError("no image")

    store = MemoryStore(chosen, create=True)
    with closing(MemoryWriter(store, chosen, broken, lambda *_: None, errors.append)) as opened:
        opened.put(entry("first"))
        eventually(lambda: opened.status().kept == 1)
    assert [str(error) for error in errors] == ["no image"]


def test_entries_beyond_what_may_wait_are_lost_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 20)
    path = tmp_path / "m.db"
    with (
        writing(settings(path), [], monkeypatch) as opened,
        closing(dbapi2.connect(str(path), isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")  # a process that does not let go
        for index in range(50):
            opened.put(entry(f"number {index}"))
        eventually(lambda: opened.status().lost >= 29)
        other.execute("COMMIT")
        eventually(lambda: not opened.status().waiting)
    with closing(MemoryStore(settings(path))) as store:
        assert texts(store, limit=1) == ["number 49"]


def test_a_clock_that_is_set_is_noticed_and_spares_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, warnings, real_ns, ahead_s = tmp_path / "m.db", list[str](), time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + ahead_s[0] * S)  # nobody may set the real clock
    with writing(settings(path), warnings, monkeypatch) as opened:
        opened.put(entry("before"))
        eventually(lambda: opened.status().kept == 1)
        ahead_s[0] = 7200
        opened.put(entry("after"))
        eventually(lambda: opened.status().kept == 2)
        assert opened.status().clock_jumps == 1
        assert "the clock has jumped by 7200.0 s" in warnings[0]
        ahead_s[0] = 3600
        eventually(lambda: opened.status().clock_jumps == 2)
    with closing(MemoryStore(settings(path))) as store:
        assert texts(store) == ["before"], "what is ahead of the clock is deleted"


def test_questions_are_answered_from_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, refusals, done = list[str](), list[str](), threading.Event()

    def note(list_: list[str], said: str) -> None:
        list_.append(said)
        done.set()

    with writing(settings(tmp_path / "m.db"), [], monkeypatch) as opened:
        opened.put(entry("A forklift near the door", kind="caption"))
        eventually(lambda: opened.status().kept)
        for asked in ("When did you last see the forklift?", '{"type": "memory", "question": "?"}'):
            question = MemoryQuestion.parse(asked)
            assert question is not None
            done.clear()
            opened.ask(question, lambda said: note(answers, said), lambda _, why: note(refusals, why))
            assert done.wait(60)
    assert answers[0].startswith("forklift: now, at 20")
    assert answers[0].endswith("(caption: A forklift near the door)")
    assert refusals == ["there is no word in '?': give words to search for"]


def test_another_process_that_holds_the_file_is_told_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfm_perception.memory.store.BUSY_S", 0.2)
    path, refusals = tmp_path / "m.db", list[str]()
    with writing(settings(path), [], monkeypatch) as opened, closing(dbapi2.connect(str(path))) as other:
        other.execute("BEGIN EXCLUSIVE")
        opened.put(entry("a box"))
        eventually(lambda: opened.status().problem)
        question = MemoryQuestion.parse("When did you last see a box?")
        assert question is not None
        opened.ask(question, refusals.append, lambda _, why: refusals.append(why))
        eventually(lambda: refusals)
        other.rollback()
        eventually(lambda: opened.status().kept)
        assert (opened.status().lost, opened.status().problem) == (0, "")
    assert "m.db: another process has held it for" in refusals[0]


CHILD = """
import sys, time
from lfm_perception.memory import Entry, MemoryStore, MemoryWriter, writer
from lfm_perception.settings import Settings
writer.PERIOD_S = 0.02
chosen = Settings().with_values({"memory.path": sys.argv[1]}).memory
store = MemoryStore(chosen, create=True)
memory = MemoryWriter(store, chosen, bytes, lambda *_: None, lambda error: None)
for number in range(10**9):
    memory.put(Entry("event", f"number {number}", 0))
    print(memory.status().kept, flush=True)
    time.sleep(0.001)
"""


def test_kill_9_loses_nothing_that_was_written_and_corrupts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rng = tmp_path / "m.db", random.Random(7)
    monkeypatch.setenv("LFM_PERCEPTION_MEMORY_KEY", KEY)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        while int(process.stdout.readline()) < 30:
            pass
        time.sleep(0.3 * rng.random())
        process.send_signal(signal.SIGKILL)
        kept = int(process.stdout.read().split()[-1])
        process.stdout.close()
        process.wait()
        with closing(MemoryStore(settings(path, encrypted=True))) as store:
            found = [int(text.split()[1]) for text in texts(store, limit=10**6)]
            assert sorted(found) == list(range(len(found)))
            assert len(found) >= kept
            assert store._one("PRAGMA integrity_check") == "ok"
            store._database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            assert store.delete(None) == len(found)


def test_times_ages_and_questions_in_words() -> None:
    assert moment_ns("10m", NOW) == NOW - 600 * S
    assert moment_ns("90", NOW) == NOW - 90 * S
    assert moment_ns("2026-01-01T00:00:00+00:00", NOW) == 1_767_225_600 * S
    for wrong in ("", "yesterday", "-5m", "5 weeks", "999999999999999d"):
        with pytest.raises(PerceptionError, match="is no time: give an age such as 10m"):
            moment_ns(wrong, NOW)
    assert [age_text(seconds * S) for seconds in (-5, 59, 125, 7300, 100_000)] == [
        "0 s", "59 s", "2 min 5 s", "2 h 1 min", "1 d 3 h",
    ]  # fmt: skip
    assert [ago_text(ns) for ns in (-S, 0, S - 1, S)] == ["now", "now", "now", "1 s ago"]
    asked = {text: MemoryQuestion.parse(text) for text in ("when was the red box last seen", "what?", "{")}
    assert [question and question.words for question in asked.values()] == ["red box", None, None]
    about = MemoryQuestion("door", "door", "10m", kind="event")
    assert MemoryQuestion.parse(about.to_json()) == about
    with pytest.raises(PerceptionError, match="has texts of up to 200 characters"):
        MemoryQuestion.parse('{"type": "memory", "question": 1}')
    with pytest.raises(PerceptionError, match="the kind of an entry is one of caption, event, count"):
        MemoryQuestion("door", "door", kind="picture").query(NOW)
