# SPDX-License-Identifier: Apache-2.0
"""The significant bits of 16-bit images, and their reduction to 8 bits."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from numpy.typing import NDArray

AUTO = "auto"
DEPTHS = 8, 10, 12, 14, 16
"""Bits of the sensors on offer: a measured depth is one of these."""

HOLD_IMAGES = 300
"""Consecutive images with fewer bits after which the measured depth falls by one step: 10 s at 30 Hz."""

OUTLIERS = 1e-4
"""Share of the values that may exceed the measured depth: hot pixels of a sensor."""

SAMPLES = 65_536
"""Values of an image that are measured, which takes 0.2 ms."""


class BitDepth:
    """Scales the 16-bit images of one stream by the number of bits that the sensor uses. Thread-safe.

    Thermal and infrared cameras send 10 to 14 significant bits in 16, which are black when 16 are assumed.
    Measured (`auto`), the depth is that of the brightest image so far: it rises at once, and falls by one
    step after `HOLD_IMAGES` images that do not need it, so that brightness is the same from frame to frame.

    Args:
        setting: the parameter `image.bit_depth`, `auto` or a number of bits from 8 to 16.
    """

    def __init__(self, setting: str = AUTO) -> None:
        self._fixed = None if setting == AUTO else int(setting)
        self._index = self._unneeded = 0
        self._lock = threading.Lock()

    def to_8_bits(self, pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """The values scaled to 0 to 255, of the same shape."""
        bits = self._fixed or self._measured(pixels)
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=255.0 / (2**bits - 1)), np.uint8)

    def _measured(self, pixels: NDArray[np.uint16]) -> int:
        sample = pixels.reshape(-1)[:: max(pixels.size // SAMPLES, 1) | 1]
        fits = (np.count_nonzero(sample >> bits) <= OUTLIERS * sample.size for bits in DEPTHS)
        needed = next(index for index, fit in enumerate(fits) if fit)
        with self._lock:
            self._unneeded = self._unneeded + 1 if needed < self._index else 0
            if self._unneeded == HOLD_IMAGES:
                self._index, self._unneeded = self._index - 1, 0
            self._index = max(self._index, needed)
            return DEPTHS[self._index]
