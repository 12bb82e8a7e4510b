# SPDX-License-Identifier: Apache-2.0
"""Raw images of ROS messages, of every encoding that shows a picture, to RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from lfm_perception.downscaling import downscale_to_width
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.scene import Image, check_size

Pixels = Any
"""An array of pixels, uint8 or uint16."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Bytes of an encoding: channels of 1 or 2 bytes per pixel, and OpenCV's conversion to RGB (None: it is).

    `separable`: its pixels can be averaged before the conversion. `chroma_rows`: rows of two chroma values
    for four pixels follow the rows of luma.
    """

    channels: int
    conversion: int | None
    sample_bytes: int = 1
    separable: bool = True
    chroma_rows: bool = False


_PLAIN = {
    "mono": Encoding(1, cv2.COLOR_GRAY2RGB),
    "rgb": Encoding(3, None),
    "bgr": Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba": Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra": Encoding(4, cv2.COLOR_BGRA2RGB),
}
_GENERIC = {"UC1": "mono", "UC3": "bgr", "UC4": "bgra"}
"""OpenCV's names, in OpenCV's order of channels, as cv_bridge, rviz and Foxglove read them."""

_UYVY = Encoding(2, cv2.COLOR_YUV2RGB_UYVY, separable=False)
_YUYV = Encoding(2, cv2.COLOR_YUV2RGB_YUY2, separable=False)

BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
"""OpenCV names a mosaic by the second and third pixel of its second row; the usual names came with 4.5.5."""

MIN_BAYER_SIDE = 3
"""OpenCV interpolates no smaller mosaic."""

ENCODINGS: dict[str, Encoding] = {
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "nv12": Encoding(1, cv2.COLOR_YUV2RGB_NV12, separable=False, chroma_rows=True),
    "nv21": Encoding(1, cv2.COLOR_YUV2RGB_NV21, separable=False, chroma_rows=True),
}
for _bits in (8, 16):
    _named = {f"{name}{_bits}": encoding for name, encoding in _PLAIN.items()}
    _named |= {f"{_bits}{name}": _PLAIN[plain] for name, plain in _GENERIC.items()}
    _named |= {f"{name}{_bits}": Encoding(1, code, separable=False) for name, code in BAYER.items()}
    ENCODINGS |= {
        name: Encoding(each.channels, each.conversion, _bits // 8, each.separable)
        for name, each in _named.items()
    }


def from_raw(message: Any, name: str, width: int | None, depth: BitDepth) -> Image:
    """A sensor_msgs Image as RGB; see `images.from_message`.

    Its fields are compared with each other before any pixel is touched. Bytes after a row and after the last
    row are ignored.
    """
    check_size(message.width, message.height, name)
    data = np.frombuffer(message.data, np.uint8)
    encoding = ENCODINGS.get(message.encoding)
    if problem := _problem(message, data.size, encoding):
        raise PerceptionError(
            f"{name} cannot be converted to RGB ({described(message, data.size)}): {problem}"
        )
    assert encoding is not None
    size = message.width, message.height
    shape = _rows(message, encoding), size[0] * encoding.channels * encoding.sample_bytes
    pixels: Pixels = np.ascontiguousarray(np.ndarray(shape, np.uint8, data, strides=(message.step, 1)))
    if encoding.sample_bytes == 2:
        words = pixels.view(">u2" if message.is_bigendian else "<u2")
        pixels = depth.to_8_bits(words.astype(np.uint16, copy=False))
    if encoding.chroma_rows:
        return _semi_planar(pixels, encoding, size[1])
    pixels = pixels.reshape(size[1], size[0], encoding.channels)
    if encoding.separable and width is not None and width < size[0]:
        pixels = downscale_to_width(pixels, width)
    return pixels if encoding.conversion is None else _converted(pixels, encoding.conversion)


def described(message: Any, size: int) -> str:
    """The fields of a message with `size` bytes of data, for error messages."""
    pixels = f"{message.width} x {message.height}, encoding {shown(message.encoding)}"
    return f"{pixels}, {size} bytes in rows of {message.step}"


def layout_problem(message: Any, size: int, rows: int, row: int) -> str:
    """Why so many rows, of `row` bytes each, cannot lie in the data of `size` bytes; empty if they can."""
    if message.step < row:
        return f"a row has {row} bytes"
    least = (rows - 1) * message.step + row
    return f"it has {least} bytes" if size < least else ""


def _rows(message: Any, encoding: Encoding) -> int:
    height = int(message.height)
    return height + -(-height // 2) if encoding.chroma_rows else height


def _problem(message: Any, size: int, encoding: Encoding | None) -> str:
    """Why the fields of a message contradict each other or are not read; empty if neither."""
    if encoding is None:
        return "publish rgb8, bgr8, mono8, mono16, yuv422, nv12 or Bayer"
    if message.width % 2 and (encoding.channels == 2 or encoding.chroma_rows):
        return "two pixels share a colour, so the width must be even"
    row = message.width * encoding.channels * encoding.sample_bytes
    if problem := layout_problem(message, size, _rows(message, encoding), row):
        return problem
    if encoding.conversion in BAYER.values() and min(message.width, message.height) < MIN_BAYER_SIDE:
        return f"a Bayer mosaic has at least {MIN_BAYER_SIDE} x {MIN_BAYER_SIDE} pixels"
    return ""


def _semi_planar(pixels: Pixels, encoding: Encoding, height: int) -> Image:
    """Luma rows and chroma rows to RGB; OpenCV wants an even number of luma rows."""
    if height % 2:
        pixels = np.vstack((pixels[:height], pixels[height - 1 :]))
    assert encoding.conversion is not None
    return _converted(pixels, encoding.conversion)[:height]


def _converted(pixels: Pixels, conversion: int) -> Image:
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def demosaiced(mosaic: Pixels, pattern: str) -> Image:
    """A Bayer mosaic of 8 bits, shape (height, width), of a pattern of `BAYER`, as RGB."""
    return _converted(np.ascontiguousarray(mosaic), BAYER[pattern])
