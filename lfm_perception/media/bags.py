# SPDX-License-Identifier: Apache-2.0
"""Reading rosbag2 recordings, and the message types of ROS 2 and vision_msgs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lfm_perception.cdr import header_stamp_ns
from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import parse_yaml, read_text
from lfm_perception.media import bag_compression
from lfm_perception.media.images import reason

MAX_METADATA_BYTES, MAX_METADATA_NODES = 1 << 23, 200_000
"""Maximum size of a metadata.yaml: that of a bag of 20,000 files."""

BAG_SUFFIXES = (".db3", ".mcap")
OTHER_SUFFIXES = (".bag", ".bag.active", ".db3.zstd", ".mcap.zstd")
"""Names of recordings that are recognised, and refused with the way to convert them."""

ROS1_MAGIC, ZSTD_MAGIC = b"#ROSBAG V", b"\x28\xb5\x2f\xfd"
JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_ADDRESS = re.compile("[?#]|%[0-9a-fA-F]{2}")
"""What SQLite reads in a path as a part of an address."""

COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (COMPRESSED_TYPE, "sensor_msgs/msg/Image")
BOXES_TYPE = "vision_msgs/msg/Detection2DArray"

VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id"
    ),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
}
"""The messages of vision_msgs 4 that are written, which rosbags does not know by itself."""


def typestore() -> Typestore:
    """The message types of ROS 2 and of vision_msgs."""
    store = get_typestore(Stores.LATEST)
    for name, text in VISION_MSGS.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


def is_bag(path: Path) -> bool:
    """Whether this is a rosbag2: one of its files, or its folder."""
    if not path.is_dir():
        return path.name.lower().endswith((*BAG_SUFFIXES, *OTHER_SUFFIXES))
    return (path / "metadata.yaml").exists() or any(file.suffix in BAG_SUFFIXES for file in path.iterdir())


@dataclass(frozen=True, slots=True)
class ImageTopic:
    """The images of one topic of a bag; as text, the name that messages use."""

    bag: Path
    name: str
    connections: tuple[Connection, ...]

    def __str__(self) -> str:
        return f"bag {self.bag} (topic {self.name})"

    @property
    def count(self) -> int:
        return sum(connection.msgcount for connection in self.connections)

    @property
    def compressed(self) -> bool:
        return self.connections[0].msgtype == COMPRESSED_TYPE


@dataclass(frozen=True, slots=True)
class BagMessage:
    """A serialized message as it was recorded. `stamp_ns` is that of its header, None unless an image."""

    topic: str
    logged_ns: int
    stamp_ns: int | None
    raw: bytes


@contextmanager
def open_bag(path: Path) -> Iterator[Reader]:
    """A rosbag2, mcap or sqlite3, file or folder. Raises PerceptionError when it cannot be read."""
    bag_compression.limit()
    try:
        _check_files(path)
        reader = Reader(path)
        reader.open()
    except PerceptionError as error:
        raise PerceptionError(f"bag {path} cannot be read: {error}") from error
    except OSError as error:
        raise PerceptionError(f"bag {path} cannot be read: {os_reason(error)}") from error
    except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
        raise PerceptionError(f"bag {path} cannot be read: {reason(error)}{_recovery(path)}") from error
    with closing(reader):
        _check_topics(reader, path)
        yield reader


def _check_files(path: Path) -> None:
    """Refuses recordings that rosbags cannot read, would not survive, or would read in part."""
    if not path.exists():
        raise PerceptionError("there is no such file or folder")
    files = [path]
    if path.is_dir():
        if not (path / "metadata.yaml").exists():
            raise PerceptionError(
                "it has no metadata.yaml: give one of its files, or make it with 'ros2 bag reindex'"
            )
        content = parse_yaml(read_text(path / "metadata.yaml", MAX_METADATA_BYTES), MAX_METADATA_NODES)
        found = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
        about: Mapping[str, Any] = found if isinstance(found, dict) else {}
        if not about.get("storage_identifier", True):
            raise PerceptionError("metadata.yaml names no storage: set storage_identifier to mcap or sqlite3")
        named = [path / Path(str(name)).name for name in about.get("relative_file_paths") or ()]
        files = [file for file in path.iterdir() if file.suffix in BAG_SUFFIXES or file in named]
    for file in files:
        if not file.is_file():
            raise PerceptionError(f"{file.name} is not a regular file")
        _check_file(file, in_folder=path.is_dir())


def _check_file(file: Path, *, in_folder: bool) -> None:
    suffix, name = file.suffix.lower(), file.name
    if suffix == ".zstd" and not in_folder:
        raise PerceptionError("it is a compressed file: give its folder, or decompress it with zstd -d")
    if _begins_with(file, ROS1_MAGIC) or name.lower().endswith((".bag", ".bag.active")):
        raise PerceptionError(
            f"it is a bag of ROS 1: convert it with rosbags-convert --src {name} --dst {file.stem}"
        )
    if suffix in BAG_SUFFIXES and file.suffix != suffix:
        raise PerceptionError(f"the end of its name is read in lower case only: rename it to {suffix}")
    if suffix == ".db3" and _ADDRESS.search(str(file)):
        raise PerceptionError("SQLite reads ?, # and % in a path as parts of an address: rename it")
    log, journal = (file.with_name(f"{name}-{kind}") for kind in ("wal", "journal"))
    if log.is_file() and log.stat().st_size:
        raise PerceptionError(
            f"{log.name} holds messages that are not in {name} yet: "
            f"write them with sqlite3 {name} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    if journal.is_file() and _begins_with(journal, JOURNAL_MAGIC):
        raise PerceptionError(
            f"{journal.name} belongs to messages that were written to {name} by half: "
            f"take them back with sqlite3 {name} .schema"
        )


def _begins_with(file: Path, magic: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _check_topics(reader: Reader, path: Path) -> None:
    """Refuses topics without a name or type, and numbers of messages that are none."""
    for connection in reader.connections:
        about: tuple[object, ...] = connection.topic, connection.msgtype
        if not all(isinstance(each, str) for each in about):
            raise PerceptionError(f"bag {path} cannot be read: it has a topic without a name or type")
        count: object = connection.msgcount
        if type(count) is not int or not 0 <= count < 1 << 63:
            raise PerceptionError(
                f"bag {path} cannot be read: {connection.topic} has {shown(count)} messages, says "
                "metadata.yaml: make it anew with ros2 bag reindex"
            )


def _recovery(path: Path) -> str:
    """What to do about a recording that is damaged or was cut off."""
    files = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if files and files[0].suffix.lower() == ".mcap":
        return f"; if it was cut off: mcap recover {files[0].name} -o recovered.mcap"
    if path.is_dir():
        return "; ros2 bag reindex makes its metadata.yaml anew"
    return ": it is damaged or no rosbag2"


def image_topic(reader: Reader, path: Path, topic: str | None) -> ImageTopic:
    """The image topic called `topic`, or the only one of the bag.

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
    return ImageTopic(path, name, tuple(connection for connection in found if connection.topic == name))


def read_messages(reader: Reader, topic: ImageTopic, also: Sequence[str] = ()) -> Iterator[BagMessage]:
    """Read the images of a topic, and the messages of topics whose last name is in `also`, as recorded.

    Raises PerceptionError at the image where the bag is damaged.
    """
    further = [c for c in reader.connections if c.topic.rpartition("/")[2] in also]
    messages = reader.messages([*topic.connections, *further])
    images = 0
    while True:
        try:
            connection, logged_ns, raw = next(messages)
            if raw[:4] == ZSTD_MAGIC:
                raise PerceptionError(
                    "its messages are compressed, as only metadata.yaml says: give the folder of the bag"
                )
            stamp_ns = header_stamp_ns(raw) if connection.msgtype in IMAGE_TYPES else None
        except StopIteration:
            return
        except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
            raise PerceptionError(f"{topic} is damaged at frame {images}: {reason(error)}") from error
        images += stamp_ns is not None
        yield BagMessage(connection.topic, logged_ns, stamp_ns, bytes(raw))


def message_box(detection: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """The box of a vision_msgs/Detection2D of an image of this size in pixels: normalized sides, `xyxy`."""
    centre, box = detection.bbox.center.position, detection.bbox
    left, top = centre.x - box.size_x / 2, centre.y - box.size_y / 2
    return left / width, top / height, (left + box.size_x) / width, (top + box.size_y) / height
