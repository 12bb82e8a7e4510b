# SPDX-License-Identifier: Apache-2.0
"""Images, messages, bags and videos that the tests of media/ are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media.sources import open_source
from lfm_perception.scene import Frame, Image

PLUGINS = list(StoragePlugin)
Pixels = NDArray[Any]


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
