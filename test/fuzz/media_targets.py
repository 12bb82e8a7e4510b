# SPDX-License-Identifier: Apache-2.0
"""What is done with images, messages and bags; see `targets.py`."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from targets import Read


@functools.cache
def pictures() -> tuple[bytes, ...]:
    import cv2
    import numpy as np

    pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    return tuple(
        cv2.imencode(f".{kind}", pixels)[1].tobytes() for kind in ("jpg", "png", "bmp", "webp", "tiff", "ppm")
    )


def image(folder: Path) -> Read:
    from lfm_perception.media import images

    return lambda file: images.read(file).shape


def string(text: bytes) -> bytes:
    return struct.pack("<I", len(text) + 1) + text + b"\0"


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


@functools.cache
def messages(compressed: bool) -> tuple[bytes, ...]:
    start = padded(b"\0\1\0\0" + struct.pack("<iI", 5, 7) + string(b"camera"))
    if compressed:
        return tuple(
            padded(start + string(name)) + struct.pack("<I", len(data)) + data
            for name, data in zip((b"jpeg", b"rgb8; png compressed bgr8"), pictures(), strict=False)
        )
    made = []
    for encoding, channels in (
        (b"rgb8", 3),
        (b"mono16", 2),
        (b"bayer_rggb8", 1),
        (b"yuv422_yuy2", 2),
        (b"nv12", 1),
    ):
        height, width = 12, 8
        data = bytes(height * width * channels)
        fields = start + struct.pack("<II", height, width) + string(encoding)
        made.append(padded(fields + b"\0") + struct.pack("<II", width * channels, len(data)) + data)
    return tuple(made)


def message(compressed: bool) -> Callable[[Path], Read]:
    def prepare(folder: Path) -> Read:
        from lfm_perception.cdr import header_stamp_ns, image_fields, image_header
        from lfm_perception.media.images import from_message

        def read(data: bytes) -> object:
            header_stamp_ns(data)
            header = image_header(data, "/image", compressed=compressed)
            image = from_message(image_fields(data, header, "/image"), "an image", 4)
            return image.shape, header.frame_id.encode()

        return read

    return prepare


@functools.cache
def bag_file(name: str) -> bytes:
    """A file of a bag with two images and their detections."""
    import tempfile

    import numpy as np

    from lfm_perception.geometry import Box
    from lfm_perception.media.sinks import AnnotatedFrame
    from lfm_perception.media.sinks.bag import BagSink
    from lfm_perception.scene import Detection, Frame, Scene, Usage

    with tempfile.TemporaryDirectory() as folder:
        sink = BagSink(Path(folder) / "bag", 10.0)
        for index in range(2):
            image, stamp_ns = np.zeros((16, 24, 3), np.uint8), 10**9 + index * 10**8
            found = (Detection("box", Box(0.1, 0.1, 0.5, 0.5), 0.9),)
            scene = Scene(stamp_ns, "camera", 24, 16, found, (), None, False, {}, Usage())
            sink.write(AnnotatedFrame(index, Frame(image, stamp_ns), (), image, scene))
        sink.finish({})
        if name.endswith("db3"):
            _as_sqlite(Path(folder) / "bag", Path(folder) / "bag" / "copy")
        return next(Path(folder, "bag").rglob(name)).read_bytes()


def _as_sqlite(bag: Path, copy: Path) -> None:
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer

    from lfm_perception.media.bags import typestore

    with Reader(bag) as reader, Writer(copy, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=typestore())
            for c in reader.connections
            if c.msgcount
        }
        for connection, logged_ns, raw in reader.messages():
            writer.write(connections[connection.topic], logged_ns, bytes(raw))


def bag(folder: Path) -> Read:
    from lfm_perception.evaluation.labels import open_labelled
    from lfm_perception.media.sources import open_source

    folder = folder / "bag"
    folder.mkdir()
    (folder / "bag.mcap").write_bytes(bag_file("*.mcap"))

    def read(file: Path) -> object:
        source = folder if file.name == "metadata.yaml" else file
        with open_source(str(source)) as opened:
            frames = [(frame.stamp_ns, frame.frame_id) for frame in opened.frames]
        with open_labelled(source, "/detections") as labelled:
            return frames, [image.truth for image in labelled.images]

    return read


@functools.cache
def videos() -> tuple[bytes, ...]:
    """Three frames in several containers."""
    import io

    import av
    import numpy as np

    made = []
    for container, codec, pixels in (
        ("mp4", "mpeg4", "yuv420p"),
        ("matroska", "mjpeg", "yuvj420p"),
        ("mpegts", "mpeg2video", "yuv420p"),
        ("avi", "ffv1", "yuv420p"),
        ("gif", "gif", "rgb8"),
    ):
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            stream: Any = output.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 24, pixels
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(np.zeros((24, 32, 3), np.uint8), format="rgb24")
                output.mux(stream.encode(frame.reformat(format=pixels)))
            output.mux(stream.encode())
        made.append(file.getvalue())
    return tuple(made)


def video(folder: Path) -> Read:
    from lfm_perception.media.sources import open_source

    def read(file: Path) -> object:
        with open_source(str(file)) as opened:
            return [(frame.stamp_ns, frame.width) for frame in islice(opened.frames, 100)]

    return read
