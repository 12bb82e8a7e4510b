"""Conversion of images to RGB: files and ROS messages of every encoding."""

from __future__ import annotations

from pathlib import Path
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
"""Encodings with half as many rows of chroma below the rows of luma."""

AVERAGED = frozenset(("mono8", "rgb8", "bgr8", "rgba8", "bgra8", "8UC1", "8UC3"))
"""Encodings of interleaved 8-bit channels, which can be averaged before conversion."""

JPEG = b"\xff\xd8"
REDUCED = (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_COLOR_2)
"""Scales at which JPEG can be decoded: an eighth, a quarter, a half."""

LARGEST_SIDE = 16_384
"""Maximum width and height of an image message, pixels; larger values are taken for damage."""


JPEG_QUALITY = 85


def encode(image: Image, suffix: str, quality: int = JPEG_QUALITY) -> bytes:
    """The image (RGB) as the content of a file of this kind, `.png` or `.jpg` for example."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()


def from_message(message: Any, name: str, width: int | None = None) -> Image:
    """A sensor_msgs Image or CompressedImage, of rclpy or of rosbags, as RGB.

    Args:
        message: the message.
        name: name of the image in error messages.
        width: a width that suffices, for a cheaper conversion: interleaved 8-bit pixels are averaged to it,
            JPEG is decoded at a half, a quarter or an eighth, not below it; others keep their size.

    Raises:
        PerceptionError: the encoding is unknown, the data is cut off or the size is invalid.
    """
    if hasattr(message, "format"):
        return decode(np.frombuffer(message.data, np.uint8), name, width)
    if not (0 < message.width <= LARGEST_SIDE and 0 < message.height <= LARGEST_SIDE):
        raise PerceptionError(f"{name} cannot be an image of {message.width} x {message.height} pixels")
    data = np.frombuffer(message.data, np.uint8)
    try:
        bits, _, _, channels = to_cvtype(message.encoding)
        row = message.width * channels * bits // 8
        height = message.height * 3 // 2 if message.encoding in SEMI_PLANAR else message.height
        pixels: NDArray[Any] = data[: message.step * height].reshape(height, message.step)[:, :row]
        size = message.width, height  # rows may end in spare bytes
        if width is not None and message.width > width and message.encoding in AVERAGED:
            size = width, max(round(width * message.height / message.width), 1)
            pixels = cv2.resize(
                pixels.reshape(message.height, message.width, channels), size, interpolation=cv2.INTER_AREA
            )
        plain: Any = SimpleNamespace(
            height=size[1],
            width=size[0],
            encoding=message.encoding,
            is_bigendian=message.is_bigendian,
            step=size[0] * channels * bits // 8,
            data=np.ascontiguousarray(pixels).reshape(-1),
        )
        image = message_to_cvimage(plain, "rgb8")
    except (ImageError, TypeError, ValueError, cv2.error) as error:
        raise PerceptionError(
            f"{name} cannot be converted to RGB ({message.width} x {message.height}, encoding "
            f"{message.encoding!r}, {data.size} bytes in rows of {message.step}): {reason(error)}"
        ) from error
    return np.ascontiguousarray(image, dtype=np.uint8)


def reason(error: Exception) -> str:
    """The first line of another library's error, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def read(path: Path) -> Image:
    """The image of a file as RGB. Raises PerceptionError when it cannot be read or decoded."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PerceptionError(f"image {path} cannot be read: {error.strerror}") from error
    return decode(data, f"image {path}")


def decode(data: bytes | NDArray[np.uint8], name: str, width: int | None = None) -> Image:
    """The image encoded in `data` as RGB, rotated as its EXIF orientation says.

    Gray becomes RGB, an alpha channel is dropped, 16 bits are scaled to 8; `name` and `width` as in
    `from_message`. Raises PerceptionError when it cannot be decoded or has floating-point values.
    """
    encoded = np.frombuffer(data, np.uint8)
    decoded = None
    if width is not None and encoded[:2].tobytes() == JPEG:
        reduced = (cv2.imdecode(encoded, flag) for flag in REDUCED)
        decoded = next((small for small in reduced if small is not None and small.shape[1] >= width), None)
    if decoded is None and encoded.size:
        # Not IMREAD_COLOR_RGB: OpenCV 5.0.0 reads 16-bit TIFF wrong with it.
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if decoded is None:
        raise PerceptionError(f"{name} cannot be decoded: it is damaged, cut off or not an image")
    if decoded.dtype == np.uint16:
        decoded = cv2.convertScaleAbs(decoded, alpha=255.0 / 65535.0)
    if decoded.dtype != np.uint8:
        raise PerceptionError(
            f"{name} holds {decoded.dtype} values, which have no fixed range: give 8 or 16 bits per channel"
        )
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)
