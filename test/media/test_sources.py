# SPDX-License-Identifier: Apache-2.0
"""Frames from real files and bags."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from material import (
    PLUGINS,
    Pixels,
    compressed_message,
    cut,
    encoded,
    failure,
    frames_before_it_breaks,
    noise,
    raw_message,
    read,
    words,
    write_bag,
    write_video,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.media import images
from lfm_perception.media.sources import open_source
from lfm_perception.scene import Image


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", ["gray", "rgb", "rgba"])
def test_every_kind_of_image_becomes_rgb_of_8_bits(suffix: str, depth: int, channels: str) -> None:
    rgb = noise()
    stored: Pixels = {
        "gray": rgb[..., 0],
        "rgb": rgb[..., ::-1],
        "rgba": np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 9, np.uint8)]),
    }[channels]
    if depth == 16:
        stored = stored.astype(np.uint16) * 257
    decoded = images.decode(encoded(suffix, stored), "it")
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.dstack([rgb[..., 0]] * 3) if channels == "gray" else rgb)


def test_images_that_cannot_be_decoded_are_refused_with_the_reason() -> None:
    whole = encoded(".jpg", noise(640, 480))
    for data in (b"", b"no image", whole[: len(whole) // 2]):
        with pytest.raises(PerceptionError, match=r"image x\.jpg cannot be decoded: it is damaged"):
            images.decode(data, "image x.jpg")
    with pytest.raises(PerceptionError, match=r"x\.tiff holds float32 values"):
        images.decode(encoded(".tiff", noise().astype(np.float32)), "image x.tiff")


def test_tiny_long_and_8k_images_are_read(tmp_path: Path) -> None:
    for width, height in ((1, 1), (20_000, 20), (7680, 4320)):
        (tmp_path / "it.jpg").write_bytes(encoded(".jpg", np.zeros((height, width, 3), np.uint8)))
        (frame,) = read(tmp_path)
        assert (frame.width, frame.height) == (width, height)


def test_a_folder_is_read_in_natural_order_at_the_rate_given(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        (tmp_path / f"frame{number}.png").write_bytes(encoded(".png", noise(seed=number)[..., ::-1]))
    (tmp_path / "notes.txt").write_text("not an image")
    frames = read(tmp_path)
    assert [frame.stamp_ns for frame in frames] == [0, 10**8, 2 * 10**8]
    for frame, number in zip(frames, (1, 9, 10), strict=True):
        np.testing.assert_array_equal(frame.image, noise(seed=number))
    assert [frame.stamp_ns for frame in read(tmp_path / "frame1*.png", rate=2.0)] == [0, 5 * 10**8]
    with open_source(str(tmp_path)) as source:
        assert (source.count, source.rate, source.every) == (3, 10.0, 1)


def test_the_demo_world_is_a_source_without_end_and_the_same_for_the_same_seed() -> None:
    with open_source("demo", seed=3) as source:
        assert (source.count, source.rate, source.every) == (None, 30.0, 6)
        np.testing.assert_array_equal(next(source.frames).image, next(iter(World(3))).frame.image)


@pytest.mark.parametrize(("suffix", "fourcc"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".webm", "VP80")])
def test_a_video_gives_its_frames_and_their_times(tmp_path: Path, suffix: str, fourcc: str) -> None:
    path = write_video(tmp_path / f"video{suffix}", fourcc=fourcc)
    frames = read(path)
    assert len(frames) == 12
    assert [round(frame.stamp_ns / 1e6) for frame in frames] == [50 * i for i in range(12)]
    difference = np.abs(frames[0].image.astype(int) - noise(seed=0)).mean()
    assert difference < 12, "colours are not what was written: is it BGR?"
    with open_source(str(path)) as source:
        assert (source.rate, source.every) == (20.0, 4)


def test_a_video_held_upright_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(), format="rgb24")))
        container.mux(stream.encode())
    # The header of the track holds a 3 x 3 matrix; this one is a phone's "show it turned clockwise".
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    data[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    frames = read(path)
    assert len(frames) == 3
    assert (frames[0].width, frames[0].height) == (48, 64)
    assert np.abs(frames[0].image.astype(int) - np.rot90(noise(), -1)).mean() < 12


def test_a_video_that_is_cut_off_breaks_where_it_ends(tmp_path: Path) -> None:
    count, sentence = frames_before_it_breaks(cut(write_video(tmp_path / "video.avi", 30), 0.6))
    assert 0 < count < 30
    assert sentence == f"video {tmp_path}/video.avi ends in the middle of frame {count}"
    count, sentence = frames_before_it_breaks(cut(write_video(tmp_path / "video.mkv", 30), 0.6))
    assert 0 < count < 30
    assert f"video.mkv is cut off after frame {count - 1}: it ends at" in sentence
    assert "video.mp4 cannot be decoded: " in failure(
        cut(write_video(tmp_path / "video.mp4", 30, "mp4v"), 0.6)
    )


def test_files_without_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(5).bytes(5000))
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello\n" * 100)
    assert "noise.mp4 cannot be decoded" in failure(tmp_path / "noise.mp4")
    assert "empty.mp4 cannot be decoded" in failure(tmp_path / "empty.mp4")
    assert "notes.txt holds no video" in failure(tmp_path / "notes.txt")


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert "there is no missing.mp4: give demo, a video" in failure("missing.mp4")
    assert "there is no *.nothing" in failure("*.nothing")
    assert f"folder {tmp_path} holds neither images (.bmp" in failure(tmp_path)
    assert "camera 97 cannot be opened" in failure("97")
    (tmp_path / "bad.png").write_bytes(b"bad")
    assert "bad.png cannot be decoded" in failure(tmp_path)


def test_options_that_do_not_fit_the_source_are_refused(tmp_path: Path) -> None:
    assert "a topic (/camera) can be chosen in a bag only" in failure("demo", topic="/camera")
    assert "a rate (5) can be given to images only" in failure("demo", rate=5.0)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_bag_gives_its_only_image_topic_with_the_images_own_headers(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    messages = [raw_message(noise(seed=i), 5 * 10**9 + i * 10**8) for i in range(5)]
    bag = write_bag(tmp_path / "bag", {"/camera/image_raw": messages, "/chatter": [words("hello")]}, plugin)
    for path in (bag, next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))):
        frames = read(path)
        assert [frame.stamp_ns for frame in frames] == [5 * 10**9 + i * 10**8 for i in range(5)]
        assert {frame.frame_id for frame in frames} == {"front"}
        np.testing.assert_array_equal(frames[3].image, noise(seed=3))
    with open_source(str(bag)) as source:
        assert (source.count, round(source.rate, 3), source.every) == (5, 10.0, 2)
        assert source.name == f"bag {bag} (topic /camera/image_raw)"


@pytest.mark.parametrize("plugin", PLUGINS)
def test_compressed_images_are_read_and_a_stamp_of_zero_is_the_time_of_recording(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    jpeg = encoded(".jpg", noise()[..., ::-1])
    bag = write_bag(tmp_path / "bag", {"/image/compressed": [compressed_message(jpeg, 0)] * 2}, plugin)
    frames = read(bag)
    assert [frame.stamp_ns for frame in frames] == [1000 * 10**9, 1000 * 10**9 + 10**8]
    assert np.abs(frames[0].image.astype(int) - noise()).mean() < 6


def as_camera(rgb: Image, encoding: str) -> Pixels:
    """The image as a camera would send it in `encoding`."""
    alpha = np.full(rgb.shape[:2], 9, np.uint8)
    planar = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    brightness, colour = planar[: rgb.shape[0]], planar[rgb.shape[0] :].reshape(2, -1)
    return {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.dstack([rgb, alpha]),
        "bgra8": np.dstack([rgb[..., ::-1], alpha]),
        "rgb16": rgb.astype(np.uint16) * 257,
        "nv12": np.vstack([brightness, colour.T.reshape(-1, rgb.shape[1])]),
        "yuv422_yuy2": cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2),
    }[encoding]


YUV = ["nv12", "yuv422_yuy2"]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "rgb16", *YUV])
@pytest.mark.parametrize("pad", [0, 16])
def test_camera_encodings_become_rgb_also_with_padded_rows(tmp_path: Path, encoding: str, pad: int) -> None:
    message = raw_message(noise(), 1, encoding, as_camera(noise(), encoding), pad)
    (frame,) = read(write_bag(tmp_path / "bag", {"/image": [message]}))
    assert frame.image.shape == (48, 64, 3)
    # YUV carries colour at a quarter of the pixels
    assert np.abs(frame.image.astype(int) - noise()).mean() < (8 if encoding in YUV else 0.01)


@pytest.mark.parametrize(("encoding", "value"), [("mono8", np.uint8(77)), ("mono16", np.uint16(77 * 257))])
def test_gray_camera_images_become_rgb(tmp_path: Path, encoding: str, value: np.uint8 | np.uint16) -> None:
    message = raw_message(noise(), 1, encoding, np.full((48, 64), value))
    (frame,) = read(write_bag(tmp_path / "bag", {"/image": [message]}))
    assert np.abs(frame.image.astype(int) - 77).max() <= 1
    assert frame.image.shape == (48, 64, 3)


def test_images_a_bag_cannot_give_are_named_with_their_frame(tmp_path: Path) -> None:
    good = raw_message(noise(), 1)
    no_pixels, short = raw_message(noise(), 1), raw_message(noise(), 1)
    no_pixels.height = 0
    short.data = short.data[:100]
    unknown, depth = raw_message(noise(), 1, "jpeg2000"), raw_message(noise(), 1, "32FC1")
    expected = {
        "cannot be an image of 64 x 0 pixels": no_pixels,
        "cannot be converted to RGB (64 x 48, encoding 'rgb8', 100 bytes in rows of 192)": short,
        "cannot be converted to RGB (64 x 48, encoding 'jpeg2000'": unknown,
        "cannot be converted to RGB (64 x 48, encoding '32FC1'": depth,
    }
    for index, (sentence, bad) in enumerate(expected.items()):
        bag = write_bag(tmp_path / str(index), {"/image": [good, bad]})
        count, said = frames_before_it_breaks(bag)
        assert count == 1
        assert f"frame 1 of bag {bag} (topic /image) {sentence}" in said
    jpeg = compressed_message(encoded(".jpg", noise())[:200], 1)
    assert "frame 0 of bag" in failure(write_bag(tmp_path / "jpeg", {"/image": [jpeg]}))


def test_a_bag_with_several_image_topics_wants_one_chosen(tmp_path: Path) -> None:
    left, right = [raw_message(noise(), 1)], [raw_message(noise(seed=7), 1)]
    bag = write_bag(tmp_path / "bag", {"/right": right, "/left": left})
    assert failure(bag) == f"bag {bag} has images on several topics, choose one with --topic: /left, /right"
    assert failure(bag, topic="/up") == f"bag {bag} has no images on topic /up, only on /left, /right"
    (frame,) = read(bag, topic="/right")
    np.testing.assert_array_equal(frame.image, noise(seed=7))


def test_a_bag_without_images_is_refused_with_its_topics(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/chatter": [words("hello")]})
    assert failure(bag).startswith(f"bag {bag} holds no images (")
    assert failure(bag).endswith("only /chatter")


@pytest.mark.parametrize(
    ("plugin", "compression"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
def test_a_damaged_bag_yields_the_frames_before_the_damage(
    tmp_path: Path, plugin: StoragePlugin, compression: CompressionMode
) -> None:
    messages = [raw_message(noise(320, 240, seed=i), i + 1) for i in range(40)]
    bag = write_bag(tmp_path / "bag", {"/image": messages}, plugin, compression)
    assert len(read(bag)) == 40
    file = next(file for file in bag.iterdir() if file.suffix in (".mcap", ".db3"))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    file.write_bytes(data)
    count, sentence = frames_before_it_breaks(bag)
    assert 0 < count < 40
    assert f"bag {bag} (topic /image) is damaged at frame {count}: " in sentence
    cut(file, 0.5)
    assert f"bag {bag} cannot be read: " in failure(bag)


def test_a_bag_without_metadata_is_refused_with_the_way_to_repair_it(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/image": [raw_message(noise(), 1)]})
    (bag / "metadata.yaml").unlink()
    assert "has no metadata.yaml: give one of its files, or make it with 'ros2 bag reindex'" in failure(bag)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: nonsense")
    assert f"bag {bag} cannot be read" in failure(bag)
