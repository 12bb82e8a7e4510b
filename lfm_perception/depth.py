# SPDX-License-Identifier: Apache-2.0
"""Distances of tracks, from depth images that are aligned to the camera's. Numpy only.

Both images show the same, at any resolution, so that a normalized box is the same place in both. A distance
is that along the optical axis, as depth images have it (REP 118).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray, stack
from lfm_perception.scene import Track
from lfm_perception.stamps import to_seconds

Millimetres = NDArray[np.uint16]
"""Distances of pixels, shape (height, width); 0 where unknown."""

MIDDLE = 0.5
"""Share of a box's width and height, around its centre, in which its distance is measured: the corners of a
box show what is behind the object."""

POINTS = 9
"""Points along each side of that middle at which it is sampled: cost and memory are those of N * 81 values,
whatever the resolution."""

QUANTILE = 0.25
"""The quantile of the known samples that is the distance. An object is nearer than what is seen through its
gaps and beside it, which may be half of the middle and more; the nearest samples of all are often noise."""

MIN_KNOWN = 0.2
"""Minimum share of the samples that are known."""

KEEP_S, MAX_IMAGES = 3.0, 128
"""Seconds for which depth images are kept, for the scene of a frame whose inference takes long, and their
maximum number."""


@dataclass(frozen=True, slots=True, eq=False)
class DepthImage:
    """A depth image with its header."""

    millimetres: Millimetres
    stamp_ns: int
    frame_id: str


class DepthImages:
    """The depth images of the last seconds. One thread adds, any may ask."""

    def __init__(self) -> None:
        self._images: tuple[DepthImage, ...] = ()

    def add(self, image: DepthImage) -> None:
        """Keep an image, and none that is newer by its stamp: the clock was set back."""
        ages_s = [to_seconds(image.stamp_ns - each.stamp_ns) for each in self._images]
        kept = [each for each, age_s in zip(self._images, ages_s, strict=True) if 0.0 < age_s <= KEEP_S]
        self._images = (*kept[1 - MAX_IMAGES :], image)

    def nearest(self, stamp_ns: int, tolerance_s: float) -> DepthImage | None:
        """The image whose stamp is the nearest to this one, if that is within the tolerance."""
        found = min(self._images, key=lambda image: abs(image.stamp_ns - stamp_ns), default=None)
        if found is None or abs(to_seconds(found.stamp_ns - stamp_ns)) > tolerance_s:
            return None
        return found


def with_distances(tracks: Sequence[Track], millimetres: Millimetres) -> tuple[Track, ...]:
    """The tracks with their distances, None where unknown."""
    found = distances(millimetres, stack(track.box for track in tracks)).tolist()
    return tuple(
        track._replace(distance=distance if distance > 0.0 else None)
        for track, distance in zip(tracks, found, strict=True)
    )


def distances(millimetres: Millimetres, boxes: BoxArray) -> NDArray[np.float64]:
    """Distances of what N boxes show, metres, shape (N,); 0 where too few pixels are known.

    Args:
        millimetres: the depth image.
        boxes: normalized `xyxy`, shape (N, 4), inside the image.
    """
    steps = 0.5 + MIDDLE * ((np.arange(POINTS) + 0.5) / POINTS - 0.5)
    columns, rows = (
        np.minimum(((low + (high - low) * steps) * size).astype(np.intp), size - 1)
        for low, high, size in zip(
            boxes.T[:2, :, None], boxes.T[2:, :, None], reversed(millimetres.shape), strict=True
        )
    )
    samples = millimetres[rows[:, :, None], columns[:, None, :]].reshape(-1, POINTS * POINTS)
    samples.sort(axis=1)
    known = np.count_nonzero(samples, axis=1)
    places = POINTS * POINTS - known + (QUANTILE * known).astype(np.intp)  # behind the unknown ones
    enough = known >= MIN_KNOWN * POINTS * POINTS
    nearest = samples[np.arange(len(samples)), np.where(enough, places, 0)]
    return np.where(enough, nearest / 1000.0, 0.0)
