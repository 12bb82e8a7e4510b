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
        """The corners in pixel coordinates of a `width` x `height` image, shape (4,), not rounded."""
        return self.xyxy * np.array((width, height, width, height), dtype=np.float64)


def stack(boxes: Iterable[Box]) -> BoxArray:
    """Boxes as one array of shape (N, 4); N may be 0."""
    return np.array([(b.x1, b.y1, b.x2, b.y2) for b in boxes], dtype=np.float64).reshape(-1, 4)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)
"""The whole image."""


def shares_inside(boxes: BoxArray, regions: BoxArray) -> NDArray[np.float64]:
    """Share of the area of each of N boxes inside each of M regions, shape (N, M); 0 without an area."""
    shared = _shared_areas(boxes, regions)
    return _ratio(shared, np.broadcast_to(areas(boxes)[:, None], shared.shape))


def iou_matrix(first: BoxArray, second: BoxArray) -> NDArray[np.float64]:
    """Intersection over union of every pair, shape (N, M); a pair without area scores 0."""
    shared = _shared_areas(first, second)
    return _ratio(shared, areas(first)[:, None] + areas(second) - shared)


def areas(boxes: BoxArray) -> NDArray[np.float64]:
    """Areas of N boxes, shape (N,); 0 where corners are swapped."""
    x1, y1, x2, y2 = boxes.T
    return np.asarray(np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0))


def _shared_areas(first: BoxArray, second: BoxArray) -> NDArray[np.float64]:
    """Areas of the intersections of every pair, shape (N, M): side by side, which is faster."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = first.T[:, :, None], second.T
    width = np.minimum(x2, u2) - np.maximum(x1, u1)
    height = np.minimum(y2, v2) - np.maximum(y1, v1)
    return np.asarray(np.maximum(width, 0.0) * np.maximum(height, 0.0))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the whole; 0 of what is 0."""
    share: NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0.0)
    return share
