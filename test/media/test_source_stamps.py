# SPDX-License-Identifier: Apache-2.0
"""Stamps, rates and damaged images of recordings: refused one by one, counted, and the rest goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from material import encoded, failure, noise, raw_message, words, write_bag
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lfm_perception.media.sources import open_source

SECOND = 10**9
LOGGED_NS = 1000 * SECOND
"""Time at which `write_bag` logs its first message; the others follow every 0.1 s."""


def bag_of(path: Path, stamps_s: list[float]) -> Path:
    stamps_ns = [round(stamp * SECOND) for stamp in stamps_s]
    return write_bag(path, {"/image": [raw_message(noise(), stamp) for stamp in stamps_ns]})


def stamps_of(source: Path) -> tuple[list[float], dict[str, int]]:
    """Seconds of the frames that are accepted, and the others by reason."""
    with open_source(str(source)) as opened:
        return [frame.stamp_ns / SECOND for frame in opened.frames], dict(opened.rejects)


@pytest.mark.parametrize("stamp", [0.0, -1_000_000.0])
def test_a_bag_without_stamps_has_the_time_of_its_log(tmp_path: Path, stamp: float) -> None:
    stamps, rejects = stamps_of(bag_of(tmp_path / "bag", [stamp] * 3))
    assert stamps == [1000.0, 1000.1, 1000.2]
    assert not rejects


def test_single_images_without_a_stamp_are_rejected(tmp_path: Path) -> None:
    stamps, rejects = stamps_of(bag_of(tmp_path / "bag", [0.0, 5.0, 5.1, 0.0, -3.0, 5.2]))
    assert stamps == [5.0, 5.1, 5.2]
    assert rejects == {"no stamp": 3}


def test_images_out_of_order_are_rejected_one_by_one(tmp_path: Path) -> None:
    stamps, rejects = stamps_of(bag_of(tmp_path / "bag", [5.0, 5.2, 5.1, 5.2, 5.3, 9000.0, 5.4, 1.0, 5.5]))
    assert stamps == [5.0, 5.2, 5.3, 5.4, 5.5]
    assert rejects == {"out of order": 1, "repeated": 1, "jumped ahead": 1, "jumped back": 1}


def test_a_bag_that_starts_over_goes_on_from_there(tmp_path: Path) -> None:
    stamps, rejects = stamps_of(bag_of(tmp_path / "bag", [50.0, 50.1, 5.0, 5.1, 5.2]))
    assert stamps == [50.0, 50.1, 5.1, 5.2]
    assert rejects == {"jumped back": 1}


def test_the_rate_of_a_bag_is_that_of_its_images(tmp_path: Path) -> None:
    """Not that of its length: another topic lasts a minute longer, and the camera pauses."""
    types = get_typestore(Stores.LATEST)
    image_type, text_type = "sensor_msgs/msg/Image", "std_msgs/msg/String"
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection("/image", image_type, typestore=types)
        mission = writer.add_connection("/mission", text_type, typestore=types)
        for index in range(30):
            stamp_ns = LOGGED_NS + round(index / 30 * SECOND) + 20 * SECOND * (index > 15)
            message = raw_message(noise(), stamp_ns)
            writer.write(camera, stamp_ns, types.serialize_cdr(message, image_type))
        writer.write(mission, LOGGED_NS + 60 * SECOND, types.serialize_cdr(words("done"), text_type))
    with open_source(str(tmp_path / "bag")) as source:
        assert (round(source.rate, 1), source.every) == (30.0, 6)
        assert len(list(source.frames)) == 30


def test_a_few_damaged_images_are_passed_over_and_many_are_not(tmp_path: Path) -> None:
    good = [raw_message(noise(), (index + 1) * SECOND) for index in range(30)]
    for damaged in (good[7], good[8]):
        damaged.data = damaged.data[:100]
    stamps, rejects = stamps_of(write_bag(tmp_path / "few", {"/image": good}))
    assert (len(stamps), rejects) == (28, {"damaged": 2})
    for damaged in good[10:20]:
        damaged.data = damaged.data[:100]
    said = failure(write_bag(tmp_path / "many", {"/image": good}))
    assert "frame 7 of bag" in said
    assert said.endswith("(12 of 30 frames are damaged)")


def test_a_damaged_file_among_many_is_passed_over(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(encoded(".png", noise()))
    (tmp_path / "3.png").write_bytes(b"GIF89a")
    stamps, rejects = stamps_of(tmp_path)
    assert (len(stamps), rejects) == (19, {"damaged": 1})
    assert stamps[3] == pytest.approx(0.4)
