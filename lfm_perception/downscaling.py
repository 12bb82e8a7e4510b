# SPDX-License-Identifier: Apache-2.0
"""Small copies of images, by area averaging: for thumbnails, crops and measurements on few pixels."""

from __future__ import annotations

import cv2
import numpy as np

from lfm_perception.scene import Image

MAX_ASPECT = 4
"""Maximum height of a copy of a given width, in widths; a longer image is compressed."""


def downscale_to_side(image: Image, max_side: int) -> Image:
    """The image, or a copy of it that is at most `max_side` pixels wide and high, and at least one."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1.0:
        return image
    return _resized(image, max(1, round(scale * width)), max(1, round(scale * height)))


def downscale_to_width(image: Image, width: int, min_height: int = 1) -> Image:
    """A copy `width` pixels wide with the aspect ratio of the image, unless that is extreme."""
    height = min(max(round(width * image.shape[0] / image.shape[1]), min_height), MAX_ASPECT * width)
    return _resized(image, width, height)


def _resized(image: Image, width: int, height: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
