# SPDX-License-Identifier: Apache-2.0
"""The images of a rosbag2 recording as a source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import BagMessage, ImageTopic, image_topic, is_bag, open_bag, read_messages
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.images import from_message, reason
from lfm_perception.media.sources.base import (
    RATE_FRAMES,
    Source,
    SourceKind,
    SourceOptions,
    default_every,
    measured_rate,
    register,
)
from lfm_perception.scene import Frame

FALLBACK_RATE = 10.0
"""Rate taken for a bag with a single image, frames per second."""


@contextmanager
def _open(text: str, options: SourceOptions) -> Iterator[Source]:
    with open_bag(Path(text)) as reader:
        topic = image_topic(reader, Path(text), options.topic)
        first: list[BagMessage] = []
        with suppress(PerceptionError):  # raised again at its frame
            first.extend(islice(read_messages(reader, topic), RATE_FRAMES))
        logged = not any((message.stamp_ns or 0) > 0 for message in first)
        rate = measured_rate((_stamp_ns(message, logged) for message in first), FALLBACK_RATE)
        frames = _frames(reader, topic, options, logged)
        yield Source(str(topic), frames, rate, topic.count, default_every(rate), headers=True)


def _stamp_ns(message: BagMessage, logged: bool) -> int:
    """The stamp of the image, or the time of its recording where the driver has not stamped any."""
    return message.logged_ns if logged or message.stamp_ns is None else message.stamp_ns


def _frames(reader: Reader, topic: ImageTopic, options: SourceOptions, logged: bool) -> Iterator[Frame]:
    types = get_typestore(Stores.LATEST)  # image messages are the same in every ROS 2 distribution
    depth = BitDepth(options.bit_depth)
    for index, recorded in enumerate(read_messages(reader, topic)):
        with options.rejects.passing_over():
            message = _message(recorded, topic, index, types)
            image = from_message(message, f"frame {index} of {topic}", depth=depth)
            yield Frame(image, _stamp_ns(recorded, logged), message.header.frame_id)


def _message(recorded: BagMessage, topic: ImageTopic, index: int, types: Typestore) -> Any:
    try:
        return types.deserialize_cdr(recorded.raw, topic.connections[0].msgtype)
    except Exception as error:  # a damaged message surfaces as whatever its parser stumbles over
        raise PerceptionError(f"{topic} is damaged at frame {index}: {reason(error)}") from error


def _matches(text: str) -> bool:
    path = Path(text)
    return path.exists() and is_bag(path)


register(SourceKind(4, "a rosbag2", _matches, _open, frozenset({"topic"})))
