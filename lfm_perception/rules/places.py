# SPDX-License-Identifier: Apache-2.0
"""Where tracks are: their signed distances to zones, and their crossings of lines. Numpy only.

All zones, or lines, and all tracks are one series of array operations. shapely 2.1, prepared and vectorized,
gives the same distances to 1e-16 and takes 3.5 times as long for 50 tracks and 20 zones of 6 corners, because
it makes an object of each point. So a robot needs no GEOS.

Arrays of tracks have the tracks on their last axis. An anchor's position is uncertain by a standard
deviation: a track is on a side only where it is further from the edge than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from lfm_perception.rules.schema import ANCHORS, Line, Point, Zone

T = TypeVar("T", bound=np.generic)
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EDGE = 1e-9
"""Anchors are kept this far inside the image: a foot on the lower edge is in the zone that ends there."""


class Anchors:
    """Anchor positions of N tracks, `x` and `y` of shape (2, N) in the order of `ANCHORS`, and their `std`.

    Args:
        boxes: shape (4, N), `xyxy`.
        std: standard deviations of the boxes' sides, shape (4, N).
    """

    def __init__(self, boxes: Floats, std: Floats) -> None:
        inside = np.minimum(np.maximum(boxes, EDGE), 1.0 - EDGE)
        middle, centre = (inside[:2] + inside[2:]) / 2.0
        self.x, self.y = np.array([middle, middle]), np.array([inside[3], centre])
        # both sides of a box are measured for themselves
        across, down = np.sqrt(std[:2] ** 2 + std[2:] ** 2) / 2.0
        self.std = np.maximum(across, np.array([std[3], down]))


class Zones:
    """The polygons of `zones` as arrays of edges, shape (Z, E), filled up with edges that change nothing."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._anchor = np.array([ANCHORS.index(zone.anchor) for zone in zones], dtype=np.intp)
        corners = max((len(zone.points) for zone in zones), default=0)
        self._edges = np.full((6, len(zones), corners), 0.0)
        self._far = np.full((len(zones), corners), np.inf)
        self._low, self._high = np.zeros((2, 2, len(zones), 1))
        for row, zone in enumerate(zones):
            ax, ay, bx, by = np.array(_edges(zone.points)).T
            ex, ey, used = bx - ax, by - ay, len(zone.points)
            slope = np.divide(ex, ey, out=np.zeros(used), where=ey != 0.0)
            self._edges[:, row, :used] = ax, ay, by, ex, ey, slope
            # nothing is beyond the image: an edge that lies on the image's edge is none to be near to
            on_edge = ((ex == 0.0) & np.isin(ax, (0.0, 1.0))) | ((ey == 0.0) & np.isin(ay, (0.0, 1.0)))
            self._far[row, :used] = np.where(on_edge, np.inf, 0.0)
            self._low[:, row, 0], self._high[:, row, 0] = (
                np.min(zone.points, axis=0),
                np.max(zone.points, axis=0),
            )
        length = self._edges[3] ** 2 + self._edges[4] ** 2
        self._inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0.0)
        self._max_margin = np.array([area(z.points) / _perimeter(z.points) for z in zones]).reshape(-1, 1)

    def distances(self, anchors: Anchors) -> tuple[Floats, Floats]:
        """Signed distances of N tracks to Z zones, positive inside, and their uncertainty, shape (Z, N).

        The uncertainty is at most a part of the zone's width, so that small zones can be entered. Distances
        beyond it are minus infinity for tracks that are outside of the zone's bounding box.
        """
        x, y = anchors.x[self._anchor], anchors.y[self._anchor]
        margin = np.minimum(anchors.std[self._anchor], self._max_margin)
        around = (x >= self._low[0] - margin) & (x <= self._high[0] + margin)
        around &= (y >= self._low[1] - margin) & (y <= self._high[1] + margin)
        zone, track = np.nonzero(around)
        ax, ay, by, ex, ey, slope = self._edges[:, zone]
        px, py = x[zone, track][:, None], y[zone, track][:, None]
        dx, dy = px - ax, py - ay
        passed = ((dy < 0.0) != (py < by)) & (dx < dy * slope)
        inside = np.logical_xor.reduce(passed, axis=1)
        along = np.minimum(np.maximum((dx * ex + dy * ey) * self._inverse[zone], 0.0), 1.0)
        dx -= along * ex
        dy -= along * ey
        nearest = np.sqrt((dx * dx + dy * dy + self._far[zone]).min(axis=1, initial=np.inf))
        found = np.full(x.shape, -np.inf)
        found[zone, track] = np.where(inside, nearest, -nearest)
        return found, margin


class LineCrossings:
    """Crossings of `lines` by tracks, from one frame to the next. `totals` counts them by line and side."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._anchor = np.array([ANCHORS.index(line.anchor) for line in lines], dtype=np.intp)
        ends = np.array([(*line.start, *line.end) for line in lines], dtype=np.float64).reshape(-1, 4)
        self._ax, self._ay, bx, by = ends.T[:, :, None]
        length = np.hypot(bx - self._ax, by - self._ay)
        self._length, self._ux, self._uy = length, (bx - self._ax) / length, (by - self._ay) / length
        self.totals = np.zeros((len(lines), 2), dtype=np.int64)
        self._side: NDArray[np.int8] = np.zeros((len(lines), 1), dtype=np.int8)
        self._along: Floats = np.zeros((len(lines), 1))
        self._beside: Floats = np.zeros((len(lines), 1))

    def move(self, source: NDArray[np.intp]) -> None:
        """Put the state of the tracks `source` in this order; -1 is a new track."""
        self._side = moved(self._side, source, 0)
        self._along, self._beside = moved(self._along, source, 0.0), moved(self._beside, source, 0.0)

    def update(self, anchors: Anchors) -> Bools:
        """Whether each track crosses each line now, to its left and to its right, shape (L, 2, N).

        A track is on the side where it was clearly seen last. It crosses the line where the way from there to
        the clear other side leads between the line's ends.
        """
        dx, dy = anchors.x[self._anchor] - self._ax, anchors.y[self._anchor] - self._ay
        along = dx * self._ux + dy * self._uy
        beside = dy * self._ux - dx * self._uy  # positive on the right: y runs downwards
        side = np.where(np.abs(beside) > anchors.std[self._anchor], np.sign(beside), 0.0).astype(np.int8)
        crossed = np.zeros((len(side), 2, side.shape[1]), dtype=bool)
        for line, track in np.argwhere(side * self._side < 0).tolist():
            begin, end = self._along[line, track], along[line, track]
            share = self._beside[line, track] / (self._beside[line, track] - beside[line, track])
            if 0.0 <= begin + share * (end - begin) <= self._length[line, 0]:
                crossed[line, int(side[line, track] > 0), track] = True
                self.totals[line, int(side[line, track] > 0)] += 1
        clear = side != 0
        np.copyto(self._side, side, where=clear)
        np.copyto(self._along, along, where=clear)
        np.copyto(self._beside, beside, where=clear)
        return crossed


def moved(state: NDArray[T], source: NDArray[np.intp], fresh: float) -> NDArray[T]:
    """The last axis of `state` in the order of `source`, where -1 is `fresh`."""
    found = state[..., source]
    found[..., source < 0] = fresh
    return found


def area(points: Sequence[Point]) -> float:
    """Area of a polygon, normalized."""
    return abs(sum(ax * by - bx * ay for ax, ay, bx, by in _edges(points))) / 2.0


def crossing_edges(points: Sequence[Point]) -> tuple[int, int] | None:
    """Two edges of a polygon that cross or touch where they do not follow each other, counted from 1."""
    edges = list(_edges(points))
    for i, first in enumerate(edges):
        for j in range(i + 2, len(edges) - (i == 0)):
            if _cross(first, edges[j]):
                return i + 1, j + 1
    return None


def _cross(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    ax, ay, bx, by = first
    cx, cy, dx, dy = second
    c, d = ((bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in ((cx, cy), (dx, dy)))
    a, b = ((dx - cx) * (y - cy) - (dy - cy) * (x - cx) for x, y in ((ax, ay), (bx, by)))
    if a == b == c == d == 0.0:  # on one line
        return max(min(ax, bx), min(cx, dx)) <= min(max(ax, bx), max(cx, dx)) and max(
            min(ay, by), min(cy, dy)
        ) <= min(max(ay, by), max(cy, dy))
    return a * b <= 0.0 and c * d <= 0.0


def _edges(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    return [(*begin, *end) for begin, end in zip(points, [*points[1:], points[0]], strict=True)]


def _perimeter(points: Sequence[Point]) -> float:
    return float(sum(np.hypot(bx - ax, by - ay) for ax, ay, bx, by in _edges(points)))
