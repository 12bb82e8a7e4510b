# SPDX-License-Identifier: Apache-2.0
"""Recordings that cannot be read as they are: each is refused in one sentence with the way out."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer, storage_mcap
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media import bag_compression
from lfm_perception.media.bags import image_topic, is_bag, open_bag, read_messages
from lfm_perception.media.sources import open_source

TYPES = get_typestore(Stores.LATEST)
IMAGE = "sensor_msgs/msg/Image"
ZSTD: Any = vars(storage_mcap)["zstd"]
LZ4: Any = import_module("lz4.frame")


def recorded(path: Path, plugin: StoragePlugin, compression: CompressionMode | None = None) -> Path:
    make = TYPES.types
    writer = Writer(path, version=8, storage_plugin=plugin)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/image_raw", IMAGE, typestore=TYPES)
        for index in range(5):
            stamp = make["builtin_interfaces/msg/Time"](sec=100 + index, nanosec=0)
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id="front")
            pixels = np.full(48 * 64 * 3, 40 * index, np.uint8)
            message = make[IMAGE](
                header=header, height=48, width=64, encoding="rgb8", is_bigendian=0, step=192, data=pixels
            )
            writer.write(connection, (100 + index) * 10**9, TYPES.serialize_cdr(message, IMAGE))
    return path


def refusal(path: Path) -> str:
    assert is_bag(path)
    with pytest.raises(PerceptionError) as refused, open_source(str(path)) as source:
        list(source.frames)
    sentence = str(refused.value)
    assert len(sentence) <= 300
    assert "\n" not in sentence
    return sentence


def only_file(bag: Path, suffix: str) -> Path:
    (file,) = bag.glob(f"*{suffix}")
    return file


@pytest.mark.parametrize("name", ["drive.bag", "drive.bag.active", "drive.mcap", "drive.db3"])
def test_a_bag_of_ros_1_is_named_as_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"#ROSBAG V2.0\n" + bytes(4096))
    assert "it is a bag of ROS 1: convert it with rosbags-convert" in refusal(path)


def test_a_database_with_messages_left_in_its_log_is_not_read_in_part(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.SQLITE3)
    database = only_file(bag, ".db3")
    writer = sqlite3.connect(database)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, 200, data FROM messages")
    writer.commit()
    for path in (bag, database):
        assert f"{database.name}-wal holds messages that are not in {database.name} yet" in refusal(path)
    writer.close()  # which writes them
    with open_bag(bag) as reader:
        assert len(list(reader.messages())) == 10


def test_a_database_with_a_transaction_by_half_is_not_read(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.SQLITE3)
    database = only_file(bag, ".db3")
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("PRAGMA cache_size=1")
    writer.execute("BEGIN")
    for _ in range(3):
        writer.execute(
            "INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, 200, data FROM messages"
        )
    assert f"{database.name}-journal belongs to messages that were written" in refusal(bag)
    writer.execute("ROLLBACK")
    writer.close()
    with open_bag(bag) as reader:
        assert len(list(reader.messages())) == 5


def test_a_path_that_cannot_be_examined_is_no_bag(tmp_path: Path) -> None:
    with (
        pytest.raises(PerceptionError, match=r"cannot be read: file name too long$"),
        open_bag(tmp_path / ("b" * 300)),
    ):
        pass


@pytest.mark.parametrize("column", ["name", "type"])
def test_a_topic_without_name_or_type_is_refused(tmp_path: Path, column: str) -> None:
    database = only_file(recorded(tmp_path / "bag", StoragePlugin.SQLITE3), ".db3")
    writer = sqlite3.connect(database)
    (table,) = writer.execute("SELECT sql FROM sqlite_master WHERE name = 'topics'").fetchone()
    writer.execute("PRAGMA writable_schema=1")
    writer.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'topics'", (table.replace("NOT NULL", ""),))
    writer.commit()
    writer.close()
    writer = sqlite3.connect(database)
    writer.execute(f"UPDATE topics SET {column} = NULL")
    writer.commit()
    writer.close()
    assert "a topic without a name or type" in refusal(database)


@pytest.mark.parametrize("name", ["run#1.db3", "50%20.db3", "why?.db3", "RUN.MCAP", "run.Db3"])
def test_names_that_cannot_be_read_are_to_be_changed(tmp_path: Path, name: str) -> None:
    plugin = StoragePlugin.MCAP if name == "RUN.MCAP" else StoragePlugin.SQLITE3
    bag = recorded(tmp_path / "bag", plugin)
    assert "rename it" in refusal(
        only_file(bag, ".mcap" if name == "RUN.MCAP" else ".db3").rename(tmp_path / name)
    )


def test_messages_that_only_the_metadata_calls_compressed_are_named_so(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    with open_bag(bag) as reader:
        assert len(list(read_messages(reader, image_topic(reader, bag, None)))) == 5
    assert "give the folder of the bag" in refusal(only_file(bag, ".db3"))


def test_a_small_message_does_not_become_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_compression, "MAX_BYTES", 1 << 20)
    bag = recorded(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
    writer = sqlite3.connect(only_file(bag, ".db3"))
    bomb = ZSTD.compress(bytes(1 << 21))
    writer.execute("UPDATE messages SET data = ? WHERE id = 3", (bomb,))
    writer.commit()
    writer.close()
    assert "at frame 2: a compressed piece of it is cut off, or larger than 1 MB" in refusal(bag)
    for data, kind in (
        (bomb, "zstd"),
        (LZ4.compress(bytes(1 << 21)), "lz4"),
        (LZ4.compress(b"x")[:-4], "lz4"),
    ):
        with pytest.raises(PerceptionError, match="cut off, or larger than 1 MB"):
            storage_mcap.decompress(data, kind, 1, 0)
    for data, kind in ((ZSTD.compress(b"whole"), "zstd"), (LZ4.compress(b"whole"), "lz4")):
        assert storage_mcap.decompress(data, kind, 5, 0) == b"whole"


def test_a_compressed_file_of_a_bag_is_no_video(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.FILE)
    assert "give its folder, or decompress it with zstd -d" in refusal(only_file(bag, ".zstd"))


def test_a_compressed_file_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.SQLITE3, CompressionMode.FILE)
    with open_source(str(bag)) as source:
        assert len(list(source.frames)) == 5
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bag_compression, "MIN_FREE_BYTES", 1 << 60)
    assert f"decompressed, it does not fit into {tmp_path}: set TMPDIR" in refusal(bag)
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_recording_that_was_cut_off_says_how_to_recover_it(tmp_path: Path) -> None:
    file = only_file(recorded(tmp_path / "bag", StoragePlugin.MCAP), ".mcap")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert f"mcap recover {file.name} -o recovered.mcap" in refusal(file)


@pytest.mark.parametrize("empty", ["''", '""', ""])
def test_metadata_without_a_storage_says_what_to_write(tmp_path: Path, empty: str) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.MCAP)
    metadata = bag / "metadata.yaml"
    metadata.write_text(
        metadata.read_text().replace("storage_identifier: mcap", f"storage_identifier: {empty}")
    )
    assert "set storage_identifier to mcap or sqlite3" in refusal(bag)


def test_files_that_are_no_regular_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "x.mcap"
    folder.mkdir()
    (folder / "y.db3").mkdir()
    assert "metadata.yaml" in refusal(folder)


@pytest.mark.parametrize("special", ["pipe", "folder", "loop of links"])
def test_the_metadata_names_regular_files_only(tmp_path: Path, special: str) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.MCAP)
    file = bag / "data"
    if special == "pipe":
        os.mkfifo(file)
    elif special == "folder":
        file.mkdir()
    else:
        file.symlink_to(file.name)
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("bag.mcap", "data"))
    assert "data is not a regular file" in refusal(bag)


@pytest.mark.parametrize("count", ["-1", "five", "1.5", "9" * 25, "[]"])
def test_a_number_of_messages_that_is_none_is_refused(tmp_path: Path, count: str) -> None:
    bag = recorded(tmp_path / "bag", StoragePlugin.MCAP)
    metadata = bag / "metadata.yaml"
    before, _, topics = metadata.read_text().partition("topics_with_message_count")
    metadata.write_text(
        f"{before}topics_with_message_count{topics.replace('message_count: 5', f'message_count: {count}')}"
    )
    assert "ros2 bag reindex" in refusal(bag)
