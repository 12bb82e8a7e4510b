# SPDX-License-Identifier: Apache-2.0
"""What a view shows of tracks and detections, where the model sees a region of the frame. Numpy only.

Without a view (None) the model saw the whole frame finely enough for every object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import WHOLE, BoxArray, shares_inside
from lfm_perception.scene import View

MIN_SHARE_INSIDE = 0.8
"""Share of a predicted box inside the region from which on an object can be missed."""

CUT_MARGIN = 0.01
"""Region sides. A side of a box this near to the region's edge is that of the region, not of the object."""

FRAGMENT_LIFETIME_S = 2.0
"""Time after which a fragment is forgotten."""


def is_observable(boxes: BoxArray, view: View | None) -> NDArray[np.bool_]:
    """Which objects with these predicted boxes the model should have detected, shape (N,).

    They lie in the region and are as large in the picture as the model needs.
    """
    if view is None:
        return np.ones(len(boxes), dtype=bool)
    inside = shares_inside(boxes, view.region.xyxy[None])[:, 0] >= MIN_SHARE_INSIDE
    return np.asarray(inside & (view.sizes(boxes) >= view.min_size))


def cut_sides(boxes: BoxArray, view: View | None) -> NDArray[np.bool_]:
    """Which sides of detected boxes are the region's edge inside the frame, shape (N, 4)."""
    if view is None:
        return np.zeros(boxes.shape, dtype=bool)
    region, frame = view.region, WHOLE.xyxy
    margin = CUT_MARGIN * np.array([region.width, region.height] * 2)
    distance = np.array([1.0, 1.0, -1.0, -1.0]) * (boxes - region.xyxy)
    return np.asarray((distance < margin) & (region.xyxy != frame))


def seen_parts(boxes: BoxArray, view: View | None) -> BoxArray:
    """The parts of boxes inside the region; those outside of it have no area."""
    if view is None:
        return boxes
    low, high = view.region.xyxy[:2], view.region.xyxy[2:]
    return np.clip(boxes, np.tile(low, 2), np.tile(high, 2))


@dataclass(frozen=True, slots=True)
class Fragments:
    """Parts of objects without a track that the edges of regions cut off: boxes (N, 4) and stamps (N,)."""

    boxes: BoxArray
    stamps_s: NDArray[np.float64]

    @classmethod
    def none(cls) -> Fragments:
        return cls(np.empty((0, 4)), np.empty(0))

    def update(self, found: BoxArray, view: View | None, stamp_s: float) -> Fragments:
        """Adds those of a view, and drops those that it shows in full or that are too old."""
        region = WHOLE if view is None else view.region
        kept = shares_inside(self.boxes, region.xyxy[None])[:, 0] < 1.0
        kept &= stamp_s - self.stamps_s <= FRAGMENT_LIFETIME_S
        return Fragments(
            np.concatenate([self.boxes[kept], found]),
            np.append(self.stamps_s[kept], np.full(len(found), stamp_s)),
        )
