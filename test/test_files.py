# SPDX-License-Identifier: Apache-2.0
"""Files from outside: what is opened, and the limits of JSON and YAML."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.errors import PerceptionError
from lfm_perception.files import (
    MAX_DEPTH,
    MAX_NODES,
    UNFINISHED,
    new_file,
    oldest_first,
    open_file,
    parse_json,
    parse_yaml,
    read_bytes,
    read_text,
    real_path,
    typed,
    user_path,
    write_complete,
)
from lfm_perception.text import MAX_SENTENCE, is_safe

BOMB = "a: &a {k: v}\n" + "".join(
    f"b{i}: &b{i} {{<<: [{','.join(['*' + (f'b{i - 1}' if i else 'a')] * 9)}]}}\n" for i in range(8)
)


def test_a_pipe_a_device_and_a_folder_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "is a directory"),
        (tmp_path / "a\0b", "not a valid path"),
        (tmp_path / "\ud800", "not a valid path"),
        (tmp_path / ("x" * 5000), "name too long"),
    ):
        with pytest.raises(PerceptionError, match=reason):
            read_text(path)
        with pytest.raises(OSError):  # noqa: PT011 - the reasons are those above
            open_file(path)


def test_a_path_of_nobody_and_a_loop_of_links_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert real_path(tmp_path / "loop" / "x") == tmp_path / "loop" / "x"
    assert user_path("~no.one/x") == Path("~no.one/x")


def test_a_new_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("before")
    (tmp_path / f"{UNFINISHED}0-x").write_text("of a process that was killed")
    with suppress(KeyError), new_file(file) as opened:
        opened.write("half")
        opened.flush()
        raise KeyError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "before")]
    with new_file(file) as opened:
        opened.write("after \ud800")
        assert file.read_text() == "before"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "after \\ud800")]


@pytest.mark.parametrize("device", ["pipe", "/dev/null", "folder", "loop"])
def test_a_new_file_replaces_files_only(tmp_path: Path, device: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = (tmp_path / device).lstat()
    with pytest.raises(PerceptionError, match="it is no file but"), new_file(tmp_path / device):
        pass
    assert (tmp_path / device).lstat().st_ino == before.st_ino


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"x" * 1000)
    assert len(read_bytes(file, 1000)) == 1000
    with pytest.raises(OSError, match="larger than 999 bytes"):
        read_bytes(file, 999)
    os.truncate(file, 1 << 40)  # a hole, which takes no disk
    with pytest.raises(PerceptionError, match="larger than"):
        read_text(file)
    assert read_bytes(Path("/proc/self/status"), 1 << 20).startswith(b"Name")  # has no size


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfperson\r\nbox")
    assert read_text(tmp_path / "x").split() == ["person", "box"]
    for content in ("box".encode("utf-16"), b"Stra\xdfe"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(PerceptionError, match="not a text file in UTF-8: save it in this encoding"):
            read_text(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "the number 1e999 is not finite"),
        ("9" * 5000, "an integer of 5000 digits"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a": ', "line 1, column 7"),
        ('"\0"', "line 1, column 2"),
    ],
)
def test_json_outside_its_limits_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PerceptionError, match=problem):
        parse_json(text)


def test_half_a_character_in_json_is_replaced_and_a_whole_one_kept() -> None:
    assert parse_json(r'["\ud83d\ude00", "\ud800", "\\ud800", "\udc00x", "\uD800\n"]') == [
        "\U0001f600",
        "\ufffd",
        r"\ud800",
        "\ufffdx",
        "\ufffd\n",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, f"more than {MAX_NODES} values"),
        (BOMB.replace("<<: [", "x: [").replace("{k: v}", "[1]"), f"more than {MAX_NODES} values"),
        ("a: &a [*a]", "inside of &a"),
        ("a: " + "[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ("".join(" " * i + "a:\n" for i in range(900)), f"more than {MAX_DEPTH} levels"),
        ("a: 1" + ":1" * 300_000, "a number of 600001 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5002 characters"),
        ("a: 2020-13-45", "not valid YAML"),
        ("a: !!float [1]", "not valid YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: 1\n--- \nb: 2", "not valid YAML"),
        ("a: \0", "not valid YAML"),
    ],
)
def test_yaml_outside_its_limits_is_refused_in_time(text: str, problem: str) -> None:
    began = time.process_time()
    with pytest.raises(PerceptionError, match=problem):
        parse_yaml(text)
    assert time.process_time() - began < 5.0


def test_yaml_with_few_aliases_is_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, z: 2}\nc: [*a, *a]")["b"] == {"x": 1, "z": 2}


@pytest.mark.parametrize(
    ("value", "kind"), [(True, int), (True, float), ("1", int), (1.0, int), (None, str), ([], dict)]
)
def test_a_value_of_another_type_is_refused(value: object, kind: type[int]) -> None:
    with pytest.raises(TypeError, match=f"expected {kind.__name__}, got"):
        typed(value, kind)
    assert isinstance(typed(3, float), float)


@given(st.text(max_size=3000))
def test_any_sentence_is_one_printable_line(text: str) -> None:
    said = str(PerceptionError(text))
    assert len(said) <= MAX_SENTENCE
    assert is_safe(said)
    assert not set(said) & {"\n", "\t"}


def test_a_disk_without_room_leaves_no_part_of_a_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    path, limits = tmp_path / "a.jpg", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_complete(path, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_complete(path, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.name for each in tmp_path.iterdir()] == ["a.jpg"]
    assert path.read_bytes() == b"old"


def test_files_that_another_process_deletes_and_links_are_left_out_of_the_oldest(tmp_path: Path) -> None:
    for name, time_s in (("new", 20.0), ("old", 10.0)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time_s, time_s))
    (tmp_path / "link").symlink_to(tmp_path / "old")
    found = oldest_first(tmp_path / name for name in ("new", "gone", "link", "old"))
    assert [path.name for path in found] == ["old", "new"]
