"""Frames from real files and bags, drawings, and folders that appear whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.media import images, sources
from lfm_perception.media.bags import typestore
from lfm_perception.media.overlay import Overlay, View
from lfm_perception.media.sinks import AnnotatedFrame, open_recording
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.media.sinks.base import Sink
from lfm_perception.media.sources import open_source
from lfm_perception.scene import CoordinateStd, Detection, Frame, Image, Scene, Track, Usage, Velocity
from lfm_perception.scene_json import SCHEMA, scene_to_json

PLUGINS = list(StoragePlugin)
Pixels = NDArray[Any]

# --- material --------------------------------------------------------------------------------------


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image:
    """Smooth RGB noise, which survives lossy coding."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def encoded(suffix: str, bgr: Pixels) -> bytes:
    return cv2.imencode(suffix, bgr)[1].tobytes()


def write_video(path: Path, count: int = 12, fourcc: str = "MJPG", rate: float = 20.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), rate, (64, 48))
    for seed in range(count):
        writer.write(cv2.cvtColor(noise(seed=seed), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def raw_message(
    rgb: Image, stamp_ns: int, encoding: str = "rgb8", data: Pixels | None = None, pad: int = 0
) -> Any:
    """A sensor_msgs/Image; `data` stands for the converted pixels, `pad` are spare bytes per row."""
    types = get_typestore(Stores.LATEST).types
    rows = np.ascontiguousarray(rgb if data is None else data)
    rows = rows.view(np.uint8).reshape(rows.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, pad)))
    return types["sensor_msgs/msg/Image"](
        header=header(stamp_ns),
        height=rgb.shape[0],
        width=rgb.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.ravel(),
    )


def compressed_message(data: bytes, stamp_ns: int) -> Any:
    types = get_typestore(Stores.LATEST).types
    return types["sensor_msgs/msg/CompressedImage"](
        header=header(stamp_ns), format="jpeg", data=np.frombuffer(data, np.uint8)
    )


def header(stamp_ns: int) -> Any:
    types = get_typestore(Stores.LATEST).types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="front")


def write_bag(
    path: Path,
    topics: dict[str, Sequence[Any]],
    plugin: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A bag with these messages per topic, logged every 0.1 s from 1000 s on."""
    types = get_typestore(Stores.LATEST)
    writer = Writer(path, version=8, storage_plugin=plugin)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for topic, messages in topics.items():
            kind = messages[0].__msgtype__
            connection = writer.add_connection(topic, kind, typestore=types)
            for index, message in enumerate(messages):
                raw = types.serialize_cdr(message, kind)
                writer.write(connection, 1000 * 10**9 + index * 10**8, raw)
    return path


def words(text: str) -> Any:
    return get_typestore(Stores.LATEST).types["std_msgs/msg/String"](data=text)


def read(text: str | Path, **options: Any) -> list[Frame]:
    with open_source(str(text), **options) as source:
        return list(source.frames)


def failure(text: str | Path, **options: Any) -> str:
    """The one sentence with which a source refuses or breaks."""
    with pytest.raises(PerceptionError) as caught:
        read(text, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def frames_before_it_breaks(text: str | Path) -> tuple[int, str]:
    count = 0
    try:
        with open_source(str(text)) as source:
            for _ in source.frames:
                count += 1
    except PerceptionError as error:
        return count, str(error)
    raise AssertionError(f"{text} was read to its end")


# --- images ----------------------------------------------------------------------------------------


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


# --- sources ---------------------------------------------------------------------------------------


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


# --- bags ------------------------------------------------------------------------------------------


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


# --- scenes as JSON --------------------------------------------------------------------------------


def example_scene(stamp_ns: int = 12 * 10**9 + 5, width: int = 64, height: int = 48) -> Scene:
    box = Box(0.1, 0.25, 0.5, 0.75)
    return Scene(
        stamp_ns=stamp_ns,
        frame_id="front",
        width=width,
        height=height,
        detections=(
            Detection("box", box, 0.9, CoordinateStd(0.01, 0.01, 0.02, 0.02)),
            Detection("人", box, 0.5),
        ),
        tracks=(Track(3, "box", box, 0.9, Velocity(0.2, -0.1), 1.5, 0.0, velocity_std=Velocity(0.02, 0.01)),),
        caption="A box.",
        truncated=False,
        rejects={"no label": 2},
        usage=Usage(234, 60, 40, 0.1, 0.02, 0.03, 41),
        caption_stamp_ns=stamp_ns - 10**9,
        caption_usage=Usage(234, 20, 4, 0.1, 0.02, 0.01, 4),
    )


@pytest.mark.parametrize(
    "scene",
    [
        example_scene(),
        dataclasses.replace(
            example_scene(-1),
            detections=(),
            tracks=(),
            caption=None,
            caption_stamp_ns=None,
            caption_usage=None,
        ),
    ],
)
@pytest.mark.parametrize("index", [None, 7])
def test_a_scene_as_json_follows_the_schema(scene: Scene, index: int | None) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    record = json.loads(json.dumps(scene_to_json(scene, index)))
    jsonschema.Draft202012Validator(schema).validate(record)
    assert record["stamp"]["sec"] * 10**9 + record["stamp"]["nanosec"] == scene.stamp_ns
    assert record.get("index") == index


def test_a_scene_as_json_has_its_tracks_detections_and_caption() -> None:
    record = scene_to_json(example_scene())
    assert record["objects"] == [
        {
            "track_id": 3,
            "label": "box",
            "confidence": 0.9,
            "bbox": [0.1, 0.25, 0.5, 0.75],
            "velocity": [0.2, -0.1],
            "velocity_std": [0.02, 0.01],
            "velocity_px": [12.8, -4.8],
            "velocity_std_px": [1.3, 0.5],
            "age_s": 1.5,
            "time_since_update_s": 0.0,
        }
    ]
    assert [d["bbox_std"] for d in record["detections"]] == [[0.01, 0.01, 0.02, 0.02], None]
    assert (record["global_caption"], record["caption_age_s"]) == ("A box.", 1.0)
    assert (record["rejects"], record["usage"]["caption"]["answer_tokens"]) == ({"no label": 2}, 4)


# --- drawing ---------------------------------------------------------------------------------------


def view(width: int, height: int) -> View:
    frame = Frame(noise(width, height), 12 * 10**9 + 5)
    scene = example_scene(frame.stamp_ns, width, height)
    return View(frame, 12.0, scene.tracks, scene, 0.3)


@pytest.mark.parametrize(
    ("width", "height"), [(640, 480), (256, 256), (1920, 1080), (7680, 4320), (7, 900), (900, 7), (1, 1)]
)
def test_any_frame_is_drawn_to_a_size_that_is_legible_and_fits_video(width: int, height: int) -> None:
    overlay = Overlay(width, height, "demo model")
    drawn = overlay.draw(view(width, height))
    assert drawn.shape == (overlay.height, overlay.width, 3)
    assert drawn.dtype == np.uint8
    assert overlay.width % 2 == overlay.height % 2 == 0
    assert 480 <= overlay.width <= 1280
    assert overlay.height <= 1400


def test_boxes_are_drawn_where_the_objects_are() -> None:
    overlay = Overlay(640, 480)
    shown = view(640, 480)
    plain = overlay.draw(View(shown.frame, 12.0, (), None, 0.0))
    changed = np.abs(overlay.draw(shown).astype(int) - plain).max(axis=2)[:480] > 8
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    assert columns[0] == pytest.approx(64, abs=2)
    assert rows[-1] == pytest.approx(360, abs=2)
    assert changed[200, 62:67].any()
    assert not changed[:90].any()


def test_frames_of_another_shape_are_fitted_into_the_first_ones_size() -> None:
    overlay = Overlay(640, 480)
    assert overlay.draw(view(100, 700)).shape == (overlay.height, overlay.width, 3)


# --- results ---------------------------------------------------------------------------------------


def write_results(folder: Path, *, bag: bool = False, frames: int = 4) -> None:
    shown = view(64, 48)
    overlay = Overlay(64, 48)
    with open_recording(folder, 10.0, optional=[BAG] if bag else []) as recording:
        for index in range(frames):
            scene = dataclasses.replace(example_scene(), stamp_ns=index * 10**8)
            frame = Frame(shown.frame.image, scene.stamp_ns, "front")
            drawn = overlay.draw(View(frame, 0.0, scene.tracks, scene, 0.1))
            recording.write(AnnotatedFrame(index, frame, scene.tracks, drawn, scene))
        recording.finish({"frames": frames})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_results_appear_together_and_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write_results(out)
    assert names(out) == ["overlay.mp4", "overlay.png", "scenes.jsonl", "summary.json"]
    assert [json.loads(line)["index"] for line in (out / "scenes.jsonl").read_text().splitlines()] == [
        0,
        1,
        2,
        3,
    ]
    video = read(out / "overlay.mp4")
    still = images.decode((out / "overlay.png").read_bytes(), "still")
    assert len(video) == 4
    assert video[3].stamp_ns == 3 * 10**8
    assert np.abs(video[3].image.astype(int) - still).mean() < 8
    with av.open(str(out / "overlay.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("vp9", "yuv420p")


def test_a_recording_that_is_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "scenes.jsonl").write_text("from before")
    shown = view(64, 48)
    for folder in (tmp_path / "new" / "out", old):
        with open_recording(folder, 10.0, optional=[BAG]) as recording:
            drawn = Overlay(64, 48).draw(shown)
            recording.write(AnnotatedFrame(0, shown.frame, (), drawn, example_scene()))
    assert names(tmp_path) == ["old"]
    assert names(old) == ["scenes.jsonl"]
    assert (old / "scenes.jsonl").read_text() == "from before"


def test_results_replace_those_of_an_earlier_run(tmp_path: Path) -> None:
    write_results(tmp_path, bag=True, frames=4)
    write_results(tmp_path, bag=True, frames=2)
    assert len((tmp_path / "scenes.jsonl").read_text().splitlines()) == 2
    with Reader(tmp_path / BAG) as reader:
        assert {c.topic: c.msgcount for c in reader.connections}["/tracks"] == 2
    assert len(names(tmp_path)) == 5


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PerceptionError, match=r"cannot write to .*/file: file exists"):
        write_results(tmp_path / "file")
    with pytest.raises(PerceptionError, match=r"cannot write to .*/file/out: not a directory"):
        write_results(tmp_path / "file" / "out")
    with pytest.raises(PerceptionError, match="cannot write to /proc/out"):
        write_results(Path("/proc/out"))
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_bag_holds_messages_with_the_type_hashes_of_ros(tmp_path: Path) -> None:
    write_results(tmp_path, bag=True)
    types = typestore()
    # The hash by which ROS 2 knows the type of vision_msgs 4.
    assert types.hash_rihs01("vision_msgs/msg/Detection2DArray") == (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    )
    with Reader(tmp_path / BAG) as reader:
        received: dict[str, list[Any]] = {}
        for connection, logged_ns, raw in reader.messages():
            message: Any = types.deserialize_cdr(raw, connection.msgtype)
            received.setdefault(connection.topic, []).append((logged_ns, message))
    assert {topic: len(messages) for topic, messages in received.items()} == {
        "/detections": 4,
        "/tracks": 4,
        "/scene": 4,
        "/caption": 4,
        "/overlay/compressed": 4,
    }
    logged_ns, tracks = received["/tracks"][2]
    (track,) = tracks.detections
    assert (logged_ns, tracks.header.stamp.nanosec, tracks.header.frame_id) == (2 * 10**8, 2 * 10**8, "front")
    assert (track.id, track.results[0].hypothesis.class_id) == ("3", "box")
    centre = track.bbox.center.position
    assert (centre.x, centre.y, track.bbox.size_x, track.bbox.size_y) == pytest.approx(
        (19.2, 24.0, 25.6, 24.0)
    )
    assert [d.results[0].hypothesis.class_id for d in received["/detections"][0][1].detections] == [
        "box",
        "人",
    ]
    assert json.loads(received["/scene"][1][1].data)["index"] == 1
    overlay = images.decode(received["/overlay/compressed"][0][1].data, "overlay")
    assert overlay.shape[1] == 640


def test_a_new_sink_and_a_new_source_register_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sink, "KINDS", dict(Sink.KINDS))
    monkeypatch.setattr(sources.base, "KINDS", list(sources.base.KINDS))
    monkeypatch.setattr(sources, "KINDS", sources.base.KINDS)

    class Counter(Sink, file="count.txt"):
        count = 0

        def write(self, annotated: AnnotatedFrame) -> None:
            self.count += 1

        def finish(self, summary: Mapping[str, Any]) -> None:
            self._path.write_text(str(self.count))

    @contextmanager
    def black(text: str, options: sources.base.SourceOptions) -> Iterator[sources.Source]:
        yield sources.Source(text, iter([Frame(np.zeros((4, 4, 3), np.uint8), 0)]), 1.0)

    sources.base.register(sources.base.SourceKind(9, "black", "black".__eq__, black))
    write_results(tmp_path, frames=3)
    assert (tmp_path / "count.txt").read_text() == "3"
    assert [frame.width for frame in read("black")] == [4]
    assert "a rosbag2 or black" in failure("missing.mp4")
