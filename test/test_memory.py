# SPDX-License-Identifier: Apache-2.0
"""The memory: what is kept, found, deleted and refused, on real files."""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlcipher3", reason="the extra memory is not installed")

from command import Command
from memories import KEY, NOW, entry, settings, texts
from sqlcipher3 import dbapi2

from lfm_perception.errors import PerceptionError
from lfm_perception.memory import MemoryStore, Query
from lfm_perception.memory import store as store_module
from lfm_perception.stamps import NANOSECONDS as S

WORDS = (
    "person",
    "forklift",
    "pallet",
    "box",
    "cone",
    "door",
    "shelf",
    "truck",
    "red",
    "blue",
    "near",
    "left",
)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFM_PERCEPTION_MEMORY_KEY", KEY)


def sentences(count: int, rng: random.Random) -> list[str]:
    return [" ".join([*rng.choices(WORDS, k=5), f"track {rng.randrange(10**6)}"]) for _ in range(count)]


def raw(path: Path) -> bytes:
    """The bytes of the file and of whatever SQLite has put beside it."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_entries_are_found_by_all_their_words_newest_first(tmp_path: Path) -> None:
    with closing(MemoryStore(settings(tmp_path / "m.db"), create=True)) as store:
        store.write(
            [
                entry("A forklift stands near the Dôor", NOW - 3 * S, "caption"),
                entry("forklift_near_door begin", NOW - 2 * S),
                entry("2 forklifts, 1 car", NOW - S, "count"),
                entry("叉车停在门口", NOW, "caption"),
                entry("a cart", NOW, "caption"),
            ],
            NOW,
        )
        both = ["forklift_near_door begin", "A forklift stands near the Dôor"]
        assert texts(store, "forklift near door") == both
        assert texts(store, "DOORS") == both
        assert texts(store, "forklift")[0] == "2 forklifts, 1 car"
        assert texts(store, "car") == ["2 forklifts, 1 car"], "a cart is no car"
        assert texts(store, "叉车") == ["叉车停在门口"]
        assert texts(store, "forklift", kind="caption") == both[1:]
        assert texts(store, kind="count") == ["2 forklifts, 1 car"]
        assert texts(store, "forklift", since_ns=NOW - 2 * S, until_ns=NOW - 2 * S) == both[:1]
        assert len(texts(store)) == 5
        assert texts(store, limit=1) == ["a cart"]
        assert texts(store, 'door" OR text : "cart* NEAR(') == []
        with pytest.raises(PerceptionError, match="there is no word in '\\?!'"):
            store.search(Query("?!"))
        assert texts(store, "叉" * 199 + "门") == ["叉车停在门口"]
        with pytest.raises(PerceptionError, match="a search has at most 200 characters, not 201"):
            store.search(Query("door " * 40 + "x"))


def test_the_file_is_unreadable_without_the_key(tmp_path: Path, key: None, monkeypatch: Any) -> None:
    path = tmp_path / "deep" / "m.db"
    encrypted = settings(path, encrypted=True)
    with closing(MemoryStore(encrypted, create=True)) as store:
        store.write([entry("a xylophonist at the gate", data='{"secret": 1}')], NOW)
    assert path.stat().st_mode & 0o777 == 0o600
    content = raw(path)
    for secret in (b"xylo", b"phonist", b"secret", b"entries", b"SQLite", KEY.encode()):
        assert secret not in content
    with closing(MemoryStore(encrypted)) as store:
        assert texts(store, "xylophonist") == ["a xylophonist at the gate"]
    with pytest.raises(
        PerceptionError, match=r"m\.db is encrypted, or no memory: set memory\.encrypted true"
    ):
        MemoryStore(settings(path))
    monkeypatch.setenv("LFM_PERCEPTION_MEMORY_KEY", "another key of many characters")
    with pytest.raises(PerceptionError, match=r"cannot be decrypted: check the key in \$LFM_PERCEPTION_MEM"):
        MemoryStore(encrypted)


def test_a_key_must_be_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**values: object) -> str:
        with pytest.raises(PerceptionError) as refused:
            MemoryStore(settings(tmp_path / "m.db", encrypted=True, **values), create=True)
        assert not (tmp_path / "m.db").exists()
        return str(refused.value)

    monkeypatch.delenv("LFM_PERCEPTION_MEMORY_KEY", raising=False)
    assert "$LFM_PERCEPTION_MEMORY_KEY is not set: export its key" in refusal()
    monkeypatch.setenv("LFM_PERCEPTION_MEMORY_KEY", "short secret")
    assert "must be one line of 16 to 1024 characters, got 12" in refusal()
    assert "short secret" not in refusal()
    file = tmp_path / "key"
    assert "no such file" in refusal(key_file=str(file))
    file.write_text(f"{KEY}\n", encoding="utf-8")
    file.chmod(0o640)
    assert "has the permissions 0640" in refusal(key_file=str(file))
    file.chmod(0o400)
    with closing(MemoryStore(settings(tmp_path / "m.db", encrypted=True, key_file=str(file)), create=True)):
        pass
    with pytest.raises(PerceptionError, match=r"memory\.key_variable must be a name that begins with LFM_"):
        settings(tmp_path / "m.db", key_variable="HOME")


def test_deleted_text_is_gone_from_the_file_and_its_journal(tmp_path: Path) -> None:
    path, rng = tmp_path / "m.db", random.Random(4)
    with closing(MemoryStore(settings(path, max_age=100.0), create=True)) as store:
        for second in range(120):
            secret = [f"xylophonist{second:03}q at the gate"] if second in (5, 19) else []
            now_ns = NOW + second * S
            store.write([entry(text, now_ns) for text in [*sentences(20, rng), *secret]], now_ns)
            if second == 50:
                assert b"xylophonist005q" in raw(path), "else this test shows nothing"
        assert texts(store, "xylophonist019q"), "kept for 100 s to the second"
        assert not texts(store, "xylophonist005q")
        for fragment in (b"xylophonist005", b"005q"):
            assert fragment not in raw(path)
        assert store.delete(NOW + 20 * S) == 21
        for fragment in (b"xylophonist", b"phonist0", b"019q"):
            assert fragment not in raw(path)
        assert store.delete(None) == 2000
        assert not any(word.encode() in raw(path) for word in WORDS)
        assert texts(store, "person") == []
        store.write([entry("a person", NOW + 121 * S)], NOW + 121 * S)
        assert texts(store, "person") == ["a person"]
        assert path.stat().st_size < 50_000


def test_the_oldest_entries_make_room_before_the_file_reaches_its_size(tmp_path: Path) -> None:
    path, rng = tmp_path / "m.db", random.Random(5)
    chosen = settings(path, max_bytes=16_000_000)
    with closing(MemoryStore(chosen, create=True)) as store:
        sizes = []
        for second in range(14):
            now_ns = NOW + second * S
            data = "x" * 3900
            store.write([entry(text, now_ns, data=data) for text in sentences(500, rng)], now_ns)
            sizes.append(path.stat().st_size)
        assert max(sizes) <= chosen.max_bytes
        assert sizes[-1] > 0.75 * chosen.max_bytes
        oldest = store.oldest_ns()
        assert oldest is not None
        assert oldest > NOW + 5 * S
        assert store.search(Query("person"))[0].kept_ns > NOW + 12 * S


def test_a_clock_that_jumps_costs_only_entries_whose_age_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with closing(MemoryStore(settings(path, max_age=3600.0), create=True)) as store:
        store.write([entry("before", NOW), entry("slightly ahead", NOW + S // 2)], NOW)
        back_ns = NOW - 600 * S
        store.write([entry("after", back_ns)], back_ns)
        assert texts(store) == ["after"], "ahead of a clock that was set back by minutes"
        with pytest.raises(
            PerceptionError, match="of the memory: nothing is kept until it is set; if it is right, lfm-"
        ):
            store.write([entry("in 1970", S)], S)
        assert texts(store) == ["after"], "a clock that is not set yet deletes nothing"
        store._opened_s -= 3601.0
        store.write([entry("in 1970", S)], S)
        assert texts(store) == ["in 1970"], "but no longer than the retention"
        store.write([], NOW)
        assert texts(store) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89PNG\r\n" + bytes(9000), "m.db is encrypted, or no memory"),
        (b"SQLite format 3\0" + bytes(9000), "m.db: file is not a database"),
        (b"SQLite", "m.db is encrypted, or no memory"),
    ],
)
def test_a_file_that_is_no_memory_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "m.db"
    path.write_bytes(content)
    for create in (False, True):
        with pytest.raises(PerceptionError, match=sentence):
            MemoryStore(settings(path), create=create)
    assert path.read_bytes() == content


def test_a_database_of_others_is_refused_and_left_alone(tmp_path: Path, key: None) -> None:
    path = tmp_path / "m.db"
    with closing(dbapi2.connect(str(path))) as database:
        database.execute("CREATE TABLE entries (id INTEGER)")
    content = path.read_bytes()
    with pytest.raises(PerceptionError, match="is no memory of this version of lfm_perception"):
        MemoryStore(settings(path), create=True)
    with pytest.raises(PerceptionError, match=r"is not encrypted, or no memory: set memory\.encrypted false"):
        MemoryStore(settings(path, encrypted=True), create=True)
    assert path.read_bytes() == content
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PerceptionError, match="not a regular file"):
        MemoryStore(settings(tmp_path / "pipe"), create=True)
    with pytest.raises(PerceptionError, match="there is no memory"):
        MemoryStore(settings(tmp_path / "none.db"))


def test_a_file_that_is_removed_while_it_is_in_use_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with closing(MemoryStore(settings(path), create=True)) as store:
        store.write([entry("before")], NOW)
        path.rename(tmp_path / "other.db")
        with pytest.raises(PerceptionError, match=r"m\.db: it was removed or replaced while it was in use"):
            store.write([entry("meanwhile")], NOW)
        (tmp_path / "other.db").rename(path)
        store.write([entry("after", NOW + S)], NOW + S)
        assert texts(store) == ["after", "before"]


def test_the_commands_search_delete_and_tell(tmp_path: Path, command: Command) -> None:
    path, now_ns = tmp_path / "m.db", time.time_ns()
    with closing(MemoryStore(settings(path), create=True)) as store:
        times = (now_ns - 7200 * S, now_ns - 60 * S, now_ns)
        store.write([entry(f"forklift {n}", kept_ns) for n, kept_ns in enumerate(times)], now_ns)
    options = ("--path", path, "--set", "memory.encrypted=false")
    lines = command("memory", "search", "forklift", "--since", "1h", *options).out.splitlines()
    assert [line[-10:] for line in lines] == ["forklift 2", "forklift 1"]
    assert "1 min " in lines[1]
    found = json.loads(command("memory", "search", "--until", "1h", "--json", *options).out)
    assert (found["text"], found["kind"], found["data"]) == ("forklift 0", "event", {})
    assert command("memory", "search", "unicorn", *options).out == "no entry is found\n"
    assert "entries: event  3\n" in command("memory", "info", *options).out
    swapped = command("memory", "search", "--since", "10m", "--until", "2h", *options)
    assert "since '10m' is after until '2h': nothing lies between them" in swapped.err
    deleted = command("memory", "delete", "--before", "1h", *options)
    assert deleted.out == f"1 entries are deleted from {path}\n"
    assert command("memory", "delete", "--all", *options).out.startswith("2 entries are deleted")
    assert "entries  none\n" in command("memory", "info", *options).out


def test_without_the_package_a_sentence_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "find_spec", lambda name: None)  # as if it were not installed
    with pytest.raises(PerceptionError, match=r"pip install 'lfm_perception\[memory\]'"):
        MemoryStore(settings(tmp_path / "m.db"), create=True)


def test_damage_is_a_sentence(tmp_path: Path) -> None:
    path, rng = tmp_path / "m.db", random.Random(6)
    with closing(MemoryStore(settings(path), create=True)) as store:
        store.write([entry(text) for text in sentences(400, rng)], NOW)
    content = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 9)):
            begin = rng.randrange(100, len(damaged))
            damaged[begin : begin + 40] = rng.randbytes(len(damaged[begin : begin + 40]))
        path.write_bytes(damaged)
        with suppress(PerceptionError), closing(MemoryStore(settings(path))) as store:
            store.search(Query("person"))
            store.search(Query())
            store.info()
            store.write([entry("a person")], NOW)
