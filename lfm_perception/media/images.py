"""Encoded pictures (files, compressed messages) to RGB."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.scene import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
