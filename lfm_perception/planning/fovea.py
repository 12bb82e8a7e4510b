# SPDX-License-Identifier: Apache-2.0
"""Foveated inference: which region of the frame the next inference sees. Numpy only, no clock, no model.

A small image of the whole frame does not show what is small. Every `fovea.whole_every`-th inference sees the
whole frame, the others a region of half its sides (`fovea.region_size`), with the same number of image
tokens, where that is worth most:

- tracks whose object lies inside the region and is too small in the whole frame's picture, the more the
  longer it was not seen in a region;
- tentative tracks, which a second detection confirms, and fragments, which the edge of a region cut off;
- cells of the frame that no region has shown for a while.

Candidates are a grid of regions and those centred on tracks, tentative tracks and fragments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import WHOLE, Box, BoxArray, stack
from lfm_perception.image_plan import ImagePlan
from lfm_perception.scene import Track, View
from lfm_perception.settings import FoveaSettings
from lfm_perception.tracking import Pending

AUTO_SHRINKAGE = 6.0
"""Ratio of the frame's pixels to those of its resized image above which mode `auto` infers regions."""

MIN_SIDE = 64
"""Minimum width and height of a region, pixels of the frame."""

GRID = 5
"""Number of candidate regions of the grid in each direction."""

CELLS = 8
"""Number of cells of the frame in each direction, whose age without a region is tracked."""

CENTRES = (np.tile([(x, y) for y in range(CELLS) for x in range(CELLS)], 2) + 0.5) / CELLS
"""The cells' centres as boxes without an area, `xyxy`."""

MARGIN = 0.02
"""Minimum distance of an object to the region's edges, in region sides, for the region to show it whole."""

OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])
"""Direction out of a box of each side, `xyxy`."""

SMALL_AGE_S, STALE_AGE_S, CELL_AGE_S = 2.0, 1.0, 4.0
"""Ages at which a worth reaches its maximum: time since a region showed a small track, since a track was last
detected, and since a region showed a cell."""

TRACK_WORTH, STALE_WORTH, SMALL_WORTH = 0.1, 0.3, 1.0
"""Worth of any track, and the maximum that its age and its smallness add."""

TENTATIVE_WORTH, FRAGMENT_WORTH, CELL_WORTH = 0.6, 0.8, 2.0
"""Worth of a tentative track, of a fragment, and maximum worth of all cells of the frame together."""

WHOLE_FRAME, SMALL_OBJECTS, NEW_OBJECTS, CUT_OBJECTS, UNSEEN = (
    "whole frame",
    "small objects",
    "objects to confirm",
    "objects cut off",
    "not seen lately",
)
"""Reasons for the choice of a region."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The region of the next inference, None for the whole frame, and what it was chosen for."""

    region: Box | None
    reason: str = WHOLE_FRAME


class Fovea:
    """Chooses regions; remembers the views of the last seconds."""

    def __init__(self, settings: FoveaSettings) -> None:
        self._views = deque[tuple[float, View]]()
        self._since_whole = 0
        self._size = 0, 0
        self.reconfigure(settings)

    def reconfigure(self, settings: FoveaSettings) -> None:
        """Continues with other settings."""
        self._settings = settings

    def reset(self) -> None:
        """Forgets all views; the next one is of the whole frame."""
        self._views.clear()

    def choose(
        self,
        size: tuple[int, int],
        picture: ImagePlan,
        tracks: Sequence[Track],
        pending: Pending,
        stamp_s: float,
    ) -> Choice | None:
        """What the inference of the frame at `stamp_s` sees; None where regions would show no more.

        Args:
            size: width and height of the frame, pixels.
            picture: plan of the whole frame within the budgets.
            tracks, pending: what is known of the frame.
        """
        if size != self._size:  # another camera, or another mode of it
            self.reset()
            self._size = size
        settings = self._settings
        shrinkage = size[0] * size[1] / (picture.width * picture.height)
        if shrinkage <= (AUTO_SHRINKAGE if settings.mode == "auto" else 1.0):
            return None
        if min(size) * settings.region_size < MIN_SIDE:
            return None
        if not self._views or self._since_whole + 1 >= settings.whole_every:
            return Choice(None)
        whole = View(WHOLE, picture.width, picture.height, settings.min_object_size)
        seen = [(stamp_s - seen_s, view.region) for seen_s, view in self._views if view.region != WHOLE]
        shown = Shown(np.array([age_s for age_s, _ in seen]), stack(region for _, region in seen))
        return choose_region(whole, size, settings.region_size, tracks, pending, shown)

    def record(self, choice: Choice, picture: ImagePlan, stamp_s: float) -> View:
        """The view of the inference of the frame at `stamp_s` after this choice, with this picture."""
        region = choice.region or WHOLE
        sides = picture.width / region.width, picture.height / region.height
        view = View(region, *sides, self._settings.min_object_size, choice.reason)
        self._since_whole = 0 if choice.region is None else self._since_whole + 1
        self._views.append((stamp_s, view))
        while stamp_s - self._views[0][0] > max(SMALL_AGE_S, CELL_AGE_S):
            self._views.popleft()
        return view


@dataclass(frozen=True, slots=True)
class Shown:
    """Regions of the last seconds: ages in seconds, shape (M,), and `xyxy`, shape (M, 4)."""

    ages_s: NDArray[np.float64]
    regions: BoxArray

    def ages(self, boxes: BoxArray, velocity: NDArray[np.float64], longest_s: float) -> NDArray[np.float64]:
        """Seconds, `longest_s` at most, since a region showed N boxes with velocities of shape (N, 2)."""
        then = boxes[:, None] - np.tile(velocity, 2)[:, None] * self.ages_s[:, None]
        inside = (OUTWARD * (then - self.regions) <= 0.0).all(axis=2)
        return np.asarray(np.where(inside, self.ages_s, longest_s).min(axis=1, initial=longest_s))


def choose_region(
    whole: View,
    size: tuple[int, int],
    region_size: float,
    tracks: Sequence[Track],
    pending: Pending,
    shown: Shown,
) -> Choice:
    """The region of the highest worth.

    Args:
        whole: view of the whole frame within the budgets.
        size: width and height of the frame, pixels.
        region_size: width and height of the region, as fractions of the frame's.
        tracks, pending: what is known of the frame.
        shown: the regions of the last seconds.
    """
    boxes = stack(track.box for track in tracks)
    velocity = np.array([track.velocity for track in tracks]).reshape(-1, 2)
    regions = _candidates(np.concatenate([boxes, pending.tentative, pending.fragments]), size, region_size)
    stale = np.array([track.time_since_update_s for track in tracks]).clip(0.0, STALE_AGE_S) / STALE_AGE_S
    small = _smallness(boxes, whole) * shown.ages(boxes, velocity, SMALL_AGE_S) / SMALL_AGE_S
    unseen = shown.ages(CENTRES, np.zeros((len(CENTRES), 2)), CELL_AGE_S) / CELL_AGE_S
    worths = np.stack(
        [
            _inside(boxes, regions).T @ (TRACK_WORTH + STALE_WORTH * stale + SMALL_WORTH * small),
            _inside(pending.tentative, regions).T @ np.full(len(pending.tentative), TENTATIVE_WORTH),
            _inside(pending.fragments, regions).T @ (FRAGMENT_WORTH * _smallness(pending.fragments, whole)),
            _inside(CENTRES, regions).T @ (CELL_WORTH * unseen / len(CENTRES)),
        ]
    )
    best = int(worths.sum(axis=0).argmax())
    reason = (SMALL_OBJECTS, NEW_OBJECTS, CUT_OBJECTS, UNSEEN)[int(worths[:, best].argmax())]
    return Choice(Box(*regions[best].tolist()), reason)


def _candidates(boxes: BoxArray, size: tuple[int, int], region_size: float) -> BoxArray:
    """Regions on a grid and around boxes, inside the frame and aligned to its pixels."""
    frame = np.array(size, dtype=np.float64)
    sides = np.round(region_size * frame)
    steps = np.linspace(0.0, 1.0, GRID)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * (frame - sides)
    around = (boxes[:, :2] + boxes[:, 2:]) / 2.0 * frame - sides / 2.0
    corners = np.concatenate([grid, around]).clip(0.0, frame - sides).round()
    return np.concatenate([corners, corners + sides], axis=1) / np.tile(frame, 2)


def _smallness(boxes: BoxArray, whole: View) -> NDArray[np.float64]:
    """1 for objects that the whole frame's picture hides, 0 for those twice as large."""
    return np.asarray(np.clip(2.0 - whole.sizes(boxes) / whole.min_size, 0.0, 1.0))


def _inside(boxes: BoxArray, regions: BoxArray) -> NDArray[np.float64]:
    """1 where a region shows a whole box, not at an edge unless that is the frame's, shape (N, M)."""
    margin = MARGIN * np.tile(regions[:, 2:] - regions[:, :2], 2) * (regions != WHOLE.xyxy)
    beyond = OUTWARD * (boxes[:, None] - regions) + margin
    return np.asarray((beyond <= 0.0).all(axis=2), dtype=np.float64)
