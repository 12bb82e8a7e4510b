# SPDX-License-Identifier: Apache-2.0
"""The queue on disk: bounded, whole after `kill -9`, and what is done about damaged files and full disks."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from lfm_perception.errors import PerceptionError
from lfm_perception.mqtt.outbox import MAX_PAYLOAD, Outbox


def opened(path: Path, messages: int = 100, size: int = 10**6) -> closing[Outbox]:
    return closing(Outbox(path, messages, size))


def payloads(outbox: Outbox) -> list[bytes]:
    return [message.payload for message in outbox.after(0, 10**6)]


def test_messages_wait_in_their_order_also_in_the_next_process(tmp_path: Path) -> None:
    with opened(tmp_path / "q.db") as outbox:
        for number in range(5):
            outbox.add("t", b"%d" % number)
        first, second = outbox.after(0, 2)
        assert (first.topic, first.payload, second.payload) == ("t", b"0", b"1")
        assert outbox.after(second.number, 1)[0].payload == b"2"
        outbox.remove(first)
        outbox.remove(first)
        assert outbox.waiting == 4
    assert (tmp_path / "q.db").stat().st_mode & 0o777 == 0o600
    with opened(tmp_path / "q.db") as outbox:
        assert outbox.waiting == 4
        assert payloads(outbox) == [b"1", b"2", b"3", b"4"]


def test_the_oldest_are_dropped_and_counted_beyond_a_number_or_a_size(tmp_path: Path) -> None:
    with opened(tmp_path / "n.db", messages=3) as outbox:
        for number in range(10):
            outbox.add("t", b"%d" % number)
        assert payloads(outbox) == [b"7", b"8", b"9"]
        assert (outbox.waiting, outbox.dropped) == (3, 7)
    with opened(tmp_path / "b.db", size=10_000) as outbox:
        for number in range(100):
            outbox.add("t", b"%03d" % number + b"x" * 1997)
        assert [each[:3] for each in payloads(outbox)] == [b"095", b"096", b"097", b"098", b"099"]
        assert outbox.dropped == 95
        outbox.add("t", b"small")
        assert outbox.waiting == 5, "one had to go for it"


def test_the_file_stays_bounded(tmp_path: Path) -> None:
    limit = 200_000
    with opened(tmp_path / "q.db", messages=10**6, size=limit) as outbox:
        for _ in range(1000):
            outbox.add("t", b"x" * MAX_PAYLOAD)
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert size < 2 * limit + (64 * 4096) + 5 * 10**6, "the log beside the file has 4 MB at most"
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * limit + (64 * 4096)


ADDING = """
import sys
from pathlib import Path
from lfm_perception.mqtt.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]), 10**6, 10**8)
for number in range(10**6):
    outbox.add("t", b"%d" % number)
    if number % 7 == 3:
        outbox.remove(outbox.after(0, 1)[0])
    print(number, flush=True)
"""


def test_a_process_that_is_killed_at_any_moment_loses_nothing_that_was_added(tmp_path: Path) -> None:
    rng = random.Random(1)
    for attempt in range(8):
        queue = tmp_path / f"{attempt}.db"
        command = [sys.executable, "-c", ADDING, str(queue)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.15))
            os.kill(process.pid, signal.SIGKILL)
            last = int((process.stdout.read().splitlines() or ["0"])[-1])
        with opened(queue, 10**6, 10**8) as outbox:
            kept = [int(payload) for payload in payloads(outbox)]
        assert kept == list(range(kept[0], kept[-1] + 1)), "no gap"
        assert kept[-1] >= last
        assert kept[0] <= last // 7 + 2, "only what was removed is gone"


@pytest.mark.parametrize("kind", ["zeros", "empty pages", "torn", "large payload", "huge"])
def test_a_damaged_file_is_kept_aside_and_the_queue_begins_empty(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "q.db"
    if kind == "zeros":
        file.write_bytes(bytes(8000))
    elif kind == "empty pages":
        file.write_bytes(b"SQLite format 3\0" + bytes(8000))
    elif kind == "huge":
        with file.open("wb") as sparse:
            sparse.truncate(1 << 34)
    elif kind == "large payload":
        with opened(file) as outbox:
            outbox._db.execute("INSERT INTO messages VALUES (1, 't', zeroblob(5000))")
    else:
        with opened(file) as outbox:
            for _ in range(50):
                outbox.add("t", b"x" * 1000)
        data = bytearray(file.read_bytes())
        data[4096:] = random.Random(2).randbytes(len(data) - 4096)
        file.write_bytes(data)
    with caplog.at_level(logging.WARNING), opened(file) as outbox:
        assert outbox.waiting == 0
        outbox.add("t", b"1")
        assert payloads(outbox) == [b"1"]
    assert "is damaged" in caplog.text
    assert "begins empty" in caplog.text
    assert (tmp_path / "q.db.damaged").exists()


def test_a_queue_that_cannot_be_opened_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PerceptionError, match="name a file in a folder that exists"):
        Outbox(tmp_path / "none" / "q.db", 1, 1)
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(PerceptionError, match="cannot be written: it is no file"):
            Outbox(special, 1, 1)
    with opened(tmp_path / "q.db"), pytest.raises(PerceptionError, match="is in use: another forward runs"):
        Outbox(tmp_path / "q.db", 1, 1)


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n" * 10)
    for name, tables in (("others.db", "precious (x)"), ("similar.db", "messages (x)")):
        with closing(sqlite3.connect(tmp_path / name)) as db:
            db.execute(f"CREATE TABLE {tables}")
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        with pytest.raises(PerceptionError, match=f"{file.name} is no queue of forward, but another file"):
            Outbox(file, 1, 1)
        assert file.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 3


def test_a_disk_that_is_full_at_the_start_is_a_sentence_and_no_damage(tmp_path: Path) -> None:
    """A limit of the size of files stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(PerceptionError, match=r"the queue .*q\.db cannot be used: "):
            Outbox(tmp_path / "q.db", 100, 10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["q.db"]


def test_a_full_disk_is_counted_and_over_when_there_is_room(tmp_path: Path) -> None:
    """A limit of the file's pages stands for the disk: SQLite reports both in the same way."""
    with opened(tmp_path / "q.db", messages=1000) as outbox:
        pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
        outbox._db.execute(f"PRAGMA max_page_count = {pages + 2}")
        for _ in range(20):
            outbox.add("t", b"x" * MAX_PAYLOAD)
        assert outbox.problem.endswith("cannot be written: database or disk is full")
        kept = outbox.waiting
        assert outbox.dropped == 20 - kept
        assert len(payloads(outbox)) == kept > 0
        outbox._db.execute("PRAGMA max_page_count = 1000")
        outbox.add("t", b"x")
        assert (outbox.problem, outbox.waiting) == ("", kept + 1)
