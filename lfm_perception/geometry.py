# SPDX-License-Identifier: Apache-2.0
"""Bounding boxes and their overlap.

Normalized coordinates: the image spans 0..1 in both directions, origin top-left, x right, y down.
Arrays of boxes are float64, shape (N, 4), `xyxy`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoxArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Box:
    """Axis-aligned box in normalized image coordinates, `xyxy`, inside 0..1.

    Raises ValueError when a side is not finite, leaves 0..1, or the corners are swapped.
    """

    x1: float
    y1: float
    x2: float
    y2: float

    def __post_init__(self) -> None:
        # A comparison with NaN is false, so this one line also refuses sides that are not finite.
        if not (0.0 <= self.x1 <= self.x2 <= 1.0 and 0.0 <= self.y1 <= self.y2 <= 1.0):
            sides = (self.x1, self.y1, self.x2, self.y2)
            if not all(math.isfinite(side) for side in sides):
                raise ValueError(f"box {sides} has a side that is not finite")
            raise ValueError(f"box {sides} is not ordered corners inside 0..1")

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def xyxy(self) -> BoxArray:
        """The corners as a float64 array of shape (4,)."""
        return np.array((self.x1, self.y1, self.x2, self.y2), dtype=np.float64)

    def in_pixels(self, width: int, height: int) -> BoxArray:
        """The corners in pixels of a `width` x `height` image, shape (4,), not rounded."""
        return self.xyxy * np.array((width, height, width, height), dtype=np.float64)


def stack(boxes: Iterable[Box]) -> BoxArray:
    """Boxes as one array of shape (N, 4); N may be 0."""
    return np.array([(b.x1, b.y1, b.x2, b.y2) for b in boxes], dtype=np.float64).reshape(-1, 4)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)
"""The whole image."""


def shares_inside(boxes: BoxArray, regions: BoxArray) -> NDArray[np.float64]:
    """Share of the area of each of N boxes inside each of M regions, shape (N, M); 0 without an area."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=2)
    area = np.broadcast_to(
        np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None).prod(axis=1)[:, None], shared.shape
    )
    share: NDArray[np.float64] = np.divide(shared, area, out=np.zeros_like(shared), where=area > 0.0)
    return share


def iou_matrix(first: BoxArray, second: BoxArray) -> NDArray[np.float64]:
    """Intersection over union of every pair, shape (N, M); a pair without area scores 0."""
    corner_min = np.maximum(first[:, None, :2], second[None, :, :2])
    corner_max = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(corner_max - corner_min, 0.0, None).prod(axis=2)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0.0, None).prod(axis=1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0.0)
    return overlap
