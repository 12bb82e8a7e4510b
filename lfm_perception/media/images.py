"""Pictures as they come, in files and in ROS messages, to RGB."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.image import ImageError, message_to_cvimage
from rosbags.image.image import to_cvtype

from lfm_perception.errors import PerceptionError
from lfm_perception.scene import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

SEMI_PLANAR = ("nv12", "nv21")
"""Encodings with half as many rows of colour below the rows of brightness."""

LARGEST_SIDE = 16_384
"""Pixels. No camera sends more; what claims to is damaged."""


def from_message(message: Any, name: str) -> Image:
    """A sensor_msgs Image or CompressedImage, of rclpy or of rosbags, as RGB.

    `name` is what errors call it. Raises PerceptionError for an encoding nobody knows, data that is cut
    off, and sizes that are none.
    """
    if hasattr(message, "format"):
        return decode(np.frombuffer(message.data, np.uint8), name)
    if not (0 < message.width <= LARGEST_SIDE and 0 < message.height <= LARGEST_SIDE):
        raise PerceptionError(f"{name} cannot be an image of {message.width} x {message.height} pixels")
    data = np.frombuffer(message.data, np.uint8)
    try:
        bits, _, _, channels = to_cvtype(message.encoding)
        row = message.width * channels * bits // 8
        height = message.height * 3 // 2 if message.encoding in SEMI_PLANAR else message.height
        padded = data[: message.step * height].reshape(height, message.step)
        plain: Any = SimpleNamespace(
            height=height,
            width=message.width,
            encoding=message.encoding,
            is_bigendian=message.is_bigendian,
            step=row,
            data=np.ascontiguousarray(padded[:, :row]).reshape(-1),  # rows may end in spare bytes
        )
        image = message_to_cvimage(plain, "rgb8")
    except (ImageError, TypeError, ValueError, cv2.error) as error:
        raise PerceptionError(
            f"{name} cannot be converted to RGB ({message.width} x {message.height}, encoding "
            f"{message.encoding!r}, {data.size} bytes in rows of {message.step}): {reason(error)}"
        ) from error
    return np.ascontiguousarray(image, dtype=np.uint8)


def reason(error: Exception) -> str:
    """The first line of an error of another library, without its closing full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def decode(data: bytes | NDArray[np.uint8], name: str) -> Image:
    """The picture in `data` as RGB, turned upright where it says how it was held.

    Gray becomes RGB, an alpha channel is dropped, 16 bits are scaled to 8. `name` is what errors call
    it. Raises PerceptionError when it cannot be decoded or holds floating-point values.
    """
    encoded = np.frombuffer(data, np.uint8)
    # Not IMREAD_COLOR_RGB: OpenCV 5.0.0 reads 16-bit TIFF wrong with it.
    picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if encoded.size else None
    if picture is None:
        raise PerceptionError(f"{name} cannot be decoded: it is damaged, cut off or not a picture")
    if picture.dtype == np.uint16:
        picture = cv2.convertScaleAbs(picture, alpha=255.0 / 65535.0)
    if picture.dtype != np.uint8:
        raise PerceptionError(
            f"{name} holds {picture.dtype} values, which have no fixed range: give 8 or 16 bits per channel"
        )
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)
