"""The images of a rosbag2 recording as a source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import ImageTopic, image_topic, is_bag, open_bag, read_messages
from lfm_perception.media.images import from_message, reason
from lfm_perception.media.sources.base import Source, SourceKind, SourceOptions, default_every, register
from lfm_perception.scene import Frame
from lfm_perception.stamps import to_seconds

FALLBACK_RATE = 10.0
"""Rate taken for a bag with a single image, frames per second."""


@contextmanager
def _open(text: str, options: SourceOptions) -> Iterator[Source]:
    with open_bag(Path(text)) as reader:
        topic = image_topic(reader, Path(text), options.topic)
        seconds = to_seconds(reader.duration)
        rate = (topic.count - 1) / seconds if topic.count > 1 and seconds > 0 else FALLBACK_RATE
        yield Source(str(topic), _frames(reader, topic), rate, topic.count, default_every(rate))


def _frames(reader: Reader, topic: ImageTopic) -> Iterator[Frame]:
    types = get_typestore(Stores.LATEST)  # image messages are the same in every ROS 2 distribution
    for index, recorded in enumerate(read_messages(reader, topic)):
        try:
            message: Any = types.deserialize_cdr(recorded.raw, topic.connections[0].msgtype)
        except Exception as error:  # a damaged message surfaces as whatever its parser stumbles over
            raise PerceptionError(f"{topic} is damaged at frame {index}: {reason(error)}") from error
        stamp_ns = recorded.stamp_ns or recorded.logged_ns
        yield Frame(from_message(message, f"frame {index} of {topic}"), stamp_ns, message.header.frame_id)


def _matches(text: str) -> bool:
    path = Path(text)
    return path.exists() and is_bag(path)


register(SourceKind(4, "a rosbag2", _matches, _open, frozenset({"topic"})))
