"""Where frames come from: the demo world, videos, images, cameras and rosbag2 recordings.

A source is opened, then read once from the start. What cannot be read is a PerceptionError: when
opening, or from `frames` at the frame where it breaks; everything yielded before is sound.
"""

from __future__ import annotations

import glob
import re
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media import images
from lfm_perception.media.images import from_message, reason
from lfm_perception.scene import Frame

DEMO = "demo"
DEMO_RATE = 30.0
IMAGE_RATE = 10.0
"""Images of a folder carry no time: they are taken to be this many per second."""

CAMERA_RATE = 30.0
"""For cameras that do not tell theirs."""

INFERENCE_RATE = 5.0
"""Frames per second that a source is by default thinned to for the model; tracks fill the gaps."""

BAG_SUFFIXES = (".db3", ".mcap")
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (COMPRESSED_TYPE, "sensor_msgs/msg/Image")


@dataclass(frozen=True, slots=True)
class Source:
    """Frames in order, and what is known of them beforehand.

    `name` is what messages call it; `rate` its frames per second; `count` its frames, None when not
    known; `every` says that the model should look at every n-th frame unless the user wants otherwise.
    """

    name: str
    frames: Iterator[Frame]
    rate: float
    count: int | None = None
    every: int = 1


@contextmanager
def open_source(
    text: str, *, topic: str | None = None, rate: float | None = None, seed: int = 0
) -> Iterator[Source]:
    """Open `text`: `demo`, a camera index, a bag, an image, a folder or pattern of images, or a video.

    `topic` chooses among the image topics of a bag; `rate` is the images per second of a folder; `seed`
    is the demo world's. Raises PerceptionError when there is no such source, when it cannot be read, or
    when an option does not apply to it.
    """
    path = Path(text)
    bag = is_bag(path)
    pictures = [] if bag else image_files(text)
    if topic is not None and not bag:
        raise PerceptionError(f"a topic ({topic}) can be chosen in a bag only, and {text} is none")
    if rate is not None and not pictures:
        raise PerceptionError(f"a rate ({rate:g}) can be given to images only, and {text} brings its own")
    if text == DEMO:
        yield _demo(seed)
    elif text.isdecimal():
        with _camera(int(text)) as source:
            yield source
    elif pictures:
        yield _images(text, pictures, IMAGE_RATE if rate is None else rate)
    elif not path.exists():
        raise PerceptionError(
            f"there is no {text}: give {DEMO}, a video, a folder or pattern of images, "
            f"a camera index or a rosbag2"
        )
    elif bag:
        with _bag(path, topic) as source:
            yield source
    elif path.is_dir():
        wanted = " ".join(images.SUFFIXES)
        raise PerceptionError(f"folder {text} holds neither images ({wanted}) nor a rosbag2")
    else:
        with _video(path) as source:
            yield source


def _thinning(rate: float) -> int:
    return max(1, round(rate / INFERENCE_RATE))


# --- demo, images, camera --------------------------------------------------------------------------


def _demo(seed: int) -> Source:
    from lfm_perception.demo.world import World

    frames = (snapshot.frame for snapshot in World(seed, fps=DEMO_RATE))
    return Source(f"the demo world (seed {seed})", frames, DEMO_RATE, every=_thinning(DEMO_RATE))


def image_files(text: str) -> list[Path]:
    """The image files that `text` names, in natural order (2 before 10)."""
    path = Path(text)
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in images.SUFFIXES]
    elif path.exists():
        found = [path] if path.suffix.lower() in images.SUFFIXES else []
    else:
        found = [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207 - takes absolute patterns
    return sorted((file for file in found if file.is_file()), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _images(text: str, paths: Sequence[Path], rate: float) -> Source:
    def read() -> Iterator[Frame]:
        for index, path in enumerate(paths):
            yield Frame(images.read(path), round(index * 1e9 / rate))

    return Source(f"images {text}", read(), rate, len(paths))


@contextmanager
def _camera(index: int) -> Iterator[Source]:
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise PerceptionError(f"camera {index} cannot be opened: is it connected, and free?")

        def read() -> Iterator[Frame]:
            while True:
                ok, image = capture.read()
                if not ok:
                    raise PerceptionError(f"camera {index} stopped delivering images")
                yield Frame(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), time.time_ns())

        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 1.0 <= rate <= 240.0 else CAMERA_RATE
        yield Source(f"camera {index}", read(), rate, every=_thinning(rate))
    finally:
        capture.release()


# --- video -----------------------------------------------------------------------------------------


@contextmanager
def _video(path: Path) -> Iterator[Source]:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise PerceptionError(
            f"video {path} cannot be decoded: {error.strerror}, or it is cut off or no video"
        ) from error
    with container:
        # ffmpeg renders plain text as a film of a terminal.
        stream = next(iter(container.streams.video), None) if container.format.name != "tty" else None
        if stream is None:
            raise PerceptionError(f"{path} holds no video")
        rate = float(stream.average_rate or DEMO_RATE)
        count = stream.frames or (
            round(container.duration * rate / av.time_base) if container.duration else None
        )
        yield Source(f"video {path}", _video_frames(container, stream, path), rate, count, _thinning(rate))


def _video_frames(container: InputContainer, stream: av.VideoStream, path: Path) -> Iterator[Frame]:
    """Decode; a file that was cut off shows as a broken packet or ends before the time it announces."""
    period = 1 / (stream.average_rate or Fraction(DEMO_RATE))
    first: Fraction | None = None
    end = Fraction(0)
    index = 0
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream is not stream:
                continue
            if packet.is_corrupt:
                raise PerceptionError(f"video {path} ends in the middle of frame {index}")
            for picture in packet.decode():
                if not isinstance(picture, av.VideoFrame):
                    continue
                if picture.is_corrupt:
                    raise PerceptionError(f"video {path} is damaged at frame {index}")
                time_base = picture.time_base
                stamp = picture.pts * time_base if picture.pts is not None and time_base else index * period
                first = stamp if first is None else first
                image = np.rot90(picture.to_ndarray(format="rgb24"), picture.rotation // 90)
                yield Frame(np.ascontiguousarray(image), round((stamp - first) * 10**9))
                index += 1
    except av.FFmpegError as error:
        raise PerceptionError(f"video {path} cannot be decoded at frame {index}: {error.strerror}") from error
    if not index:
        raise PerceptionError(f"video {path} holds no frame that can be decoded")
    start = Fraction(container.start_time or 0, av.time_base)
    announced = start + Fraction(container.duration or 0, av.time_base)
    if announced - end > 3 * period:
        raise PerceptionError(
            f"video {path} is cut off after frame {index - 1}: "
            f"it ends at {float(end - start):.2f} s of {float(announced - start):.2f} s"
        )


# --- rosbag2 ---------------------------------------------------------------------------------------


def is_bag(path: Path) -> bool:
    """Whether this is a rosbag2: one of its files, or its folder."""
    if not path.is_dir():
        return path.suffix in BAG_SUFFIXES
    return (path / "metadata.yaml").exists() or any(file.suffix in BAG_SUFFIXES for file in path.iterdir())


@dataclass(frozen=True, slots=True)
class ImageTopic:
    """The images of one topic of a bag."""

    name: str
    connections: tuple[Connection, ...]

    @property
    def count(self) -> int:
        return sum(connection.msgcount for connection in self.connections)

    @property
    def compressed(self) -> bool:
        return self.connections[0].msgtype == COMPRESSED_TYPE


@dataclass(frozen=True, slots=True)
class BagMessage:
    """A message as it was recorded, serialized. `stamp_ns` is the header's, None for a type without."""

    topic: str
    logged_ns: int
    stamp_ns: int | None
    raw: bytes


@contextmanager
def open_bag(path: Path) -> Iterator[Reader]:
    """A rosbag2, mcap or sqlite3, file or folder. Raises PerceptionError when it cannot be read."""
    if not path.exists():
        raise PerceptionError(f"there is no bag {path}")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise PerceptionError(
            f"bag {path} has no metadata.yaml: give one of its files, or make it with 'ros2 bag reindex'"
        )
    reader = Reader(path)
    try:
        reader.open()
    except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
        raise PerceptionError(f"bag {path} cannot be read: {reason(error)}") from error
    with closing(reader):
        yield reader


def image_topic(reader: Reader, path: Path, topic: str | None) -> ImageTopic:
    """Everything recorded on the image topic asked for, or on the only one there is.

    Raises PerceptionError when there is none, or when one has to be chosen.
    """
    found = [c for c in reader.connections if c.msgtype in IMAGE_TYPES and c.msgcount]
    topics = sorted({connection.topic for connection in found})
    listed = ", ".join(topics)
    if not found:
        others = ", ".join(sorted({c.topic for c in reader.connections})) or "no topic at all"
        raise PerceptionError(f"bag {path} holds no images ({' or '.join(IMAGE_TYPES)}), only {others}")
    if topic is not None and topic not in topics:
        raise PerceptionError(f"bag {path} has no images on topic {topic}, only on {listed}")
    if topic is None and len(topics) > 1:
        raise PerceptionError(f"bag {path} has images on several topics, choose one with --topic: {listed}")
    name = topic or topics[0]
    return ImageTopic(name, tuple(connection for connection in found if connection.topic == name))


def read_messages(reader: Reader, topic: ImageTopic, also: Sequence[str] = ()) -> Iterator[BagMessage]:
    """The images of a topic as they were recorded, and what else lies on the topics that end in `also`.

    Raises PerceptionError at the image where the bag is damaged.
    """
    further = [c for c in reader.connections if c.topic.rpartition("/")[2] in also]
    messages = reader.messages([*topic.connections, *further])
    images = 0
    while True:
        try:
            connection, logged_ns, raw = next(messages)
        except StopIteration:
            return
        except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
            raise PerceptionError(
                f"topic {topic.name} is damaged at frame {images}: {reason(error)}"
            ) from error
        stamp_ns = None
        if connection.msgtype in IMAGE_TYPES:
            stamp_ns = header_stamp_ns(raw)
            images += 1
        yield BagMessage(connection.topic, logged_ns, stamp_ns, bytes(raw))


def header_stamp_ns(raw: bytes | memoryview) -> int:
    """The stamp of a serialized message that begins with a `std_msgs/Header`.

    Raises PerceptionError when it is cut off.
    """
    if len(raw) < 12:
        raise PerceptionError(f"a message of {len(raw)} bytes is too short to hold a header")
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] else ">iI", raw, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


@contextmanager
def _bag(path: Path, topic: str | None) -> Iterator[Source]:
    with open_bag(path) as reader:
        images = image_topic(reader, path, topic)
        name = f"bag {path} (topic {images.name})"
        seconds = reader.duration / 1e9
        rate = (images.count - 1) / seconds if images.count > 1 and seconds > 0 else IMAGE_RATE
        yield Source(name, _bag_frames(reader, images, name), rate, images.count, _thinning(rate))


def _bag_frames(reader: Reader, images: ImageTopic, name: str) -> Iterator[Frame]:
    types = get_typestore(Stores.LATEST)  # image messages are the same in every ROS 2 distribution
    messages = reader.messages(images.connections)
    index = 0
    while True:
        try:
            connection, logged_ns, raw = next(messages)
            message: Any = types.deserialize_cdr(raw, connection.msgtype)
        except StopIteration:
            return
        except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
            raise PerceptionError(f"{name} is damaged at frame {index}: {reason(error)}") from error
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec or logged_ns
        yield Frame(from_message(message, f"frame {index} of {name}"), stamp_ns, message.header.frame_id)
        index += 1
