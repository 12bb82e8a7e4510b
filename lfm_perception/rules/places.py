# SPDX-License-Identifier: Apache-2.0
"""Signed distances of tracks to zones (point-in-polygon test), and their crossings of lines. Numpy only.

All zones, or lines, and all tracks are one series of array operations. shapely 2.1, prepared and vectorized,
gives the same distances to 1e-16 and takes 3.5 times as long for 50 tracks and 20 zones of 6 corners, because
it makes an object of each point. So a robot needs no GEOS.

Arrays of tracks have the tracks on their last axis. An anchor's position is uncertain by a standard
deviation: a track is on a side only where it is further from the edge than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    `xy` are both, shape (2, 2, N), and `homogeneous` the same with a row of ones behind, shape (5, N).

    Args:
        boxes: shape (4, N), `xyxy`.
        std: standard deviations of the boxes' sides, shape (4, N).
    """

    def __init__(self, boxes: Floats, std: Floats) -> None:
        inside = np.minimum(np.maximum(boxes, EDGE), 1.0 - EDGE)
        self.homogeneous = np.empty((5, boxes.shape[1]))
        self.homogeneous[4] = 1.0
        self.xy = self.homogeneous[:4].reshape(2, 2, -1)
        self.x, self.y = self.xy
        self.xy[:, 1] = (inside[:2] + inside[2:]) / 2.0
        self.x[0], self.y[0] = self.x[1], inside[3]
        # both sides of a box are measured for themselves
        variance = std * std
        across, down = np.sqrt(variance[:2] + variance[2:]) / 2.0
        self.std = np.empty((2, boxes.shape[1]))
        np.maximum(across, std[3], out=self.std[0])
        np.maximum(across, down, out=self.std[1])


class Zones:
    """The polygons of `zones` as arrays of edges, shape (E, Z), filled up with edges that change nothing."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        self._anchor = _anchors_of(zones)
        corners = max((len(zone.points) for zone in zones), default=0)
        self._edges = np.zeros((8, corners, len(zones)))
        self._edges[7] = np.inf
        self._low, self._high = np.zeros((2, 2, len(zones), 1))
        for row, zone in enumerate(zones):
            ax, ay, bx, by = np.array(_edges(zone.points)).T
            ex, ey, used = bx - ax, by - ay, len(zone.points)
            length = np.hypot(ex, ey)
            slope = np.divide(ex, ey, out=np.zeros(used), where=ey != 0.0)
            # no object is beyond the image: the distance to an edge on the image's edge does not count
            on_edge = ((ex == 0.0) & np.isin(ax, (0.0, 1.0))) | ((ey == 0.0) & np.isin(ay, (0.0, 1.0)))
            far = np.where(on_edge, np.inf, 0.0)
            self._edges[:, :used, row] = ax, ay, by, slope, ex / length, ey / length, length, far
            self._low[:, row, 0], self._high[:, row, 0] = (
                np.min(zone.points, axis=0),
                np.max(zone.points, axis=0),
            )
        self._max_margin = np.array([_max_margin(zone) for zone in zones])

    def distances(self, anchors: Anchors) -> tuple[NDArray[np.intp], Floats, Floats]:
        """The signed distances of tracks to the zones that they are near, and their uncertainty.

        The point-in-polygon test is by ray casting. A track is near a zone if its anchor, with its standard
        deviation, reaches into the zone's bounding box.

        Returns:
            Indices of the pairs in a flat table of zones and tracks, shape (Z, N); the distances of the pairs
            (positive inside); and their uncertainty, limited to a part of the zone's width, so that
            small zones can be entered.
        """
        at, std = anchors.xy[:, self._anchor], anchors.std[self._anchor]
        around = (at + std >= self._low) & (at - std <= self._high)
        places = np.flatnonzero(around[0] & around[1])
        zone, track = np.divmod(places, around.shape[2])
        (x, y), row = at, zone if len(std) > 1 else 0
        ax, ay, by, slope, ux, uy, length, far = self._edges.take(zone, axis=2)
        px, py = x[row, track], y[row, track]
        dx, dy = px - ax, py - ay
        passed = ((dy < 0.0) != (py < by)) & (dx < dy * slope)
        inside = np.logical_xor.reduce(passed, axis=0)
        along = np.minimum(np.maximum(dx * ux + dy * uy, 0.0), length)
        dx -= along * ux
        dy -= along * uy
        nearest = np.sqrt((dx * dx + dy * dy + far).min(axis=0, initial=np.inf))
        margin = np.minimum(std[row, track], self._max_margin[zone])
        return places, np.where(inside, nearest, -nearest), margin


class LineCrossings:
    """Crossings of `lines` by tracks, from one frame to the next. `totals` counts them by line and side.

    For each line and track, where it was when it was clearly on one side last: its distance beside the line,
    positive on the right and 0 if there was no such time, and its distance along the line from its start.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._anchor = _anchors_of(lines)
        ends = np.array([(*line.start, *line.end) for line in lines], dtype=np.float64).reshape(-1, 4)
        ax, ay, bx, by = ends.T
        self._length = np.hypot(bx - ax, by - ay)
        ux, uy = (bx - ax) / self._length, (by - ay) / self._length
        rows, x = np.arange(len(lines)), np.resize(self._anchor, len(lines))
        self._place = np.zeros((2, len(lines), 5))  # of homogeneous anchors; y runs downwards
        self._place[:, rows, x], self._place[:, rows, x + 2] = (-uy, ux), (ux, uy)
        self._place[:, rows, 4] = ax * uy - ay * ux, -ax * ux - ay * uy
        self.totals = np.zeros((len(lines), 2), dtype=np.int64)
        self._beside, self._along = np.zeros((2, len(lines), 1))

    def move(self, source: NDArray[np.intp]) -> None:
        """Put the state of the tracks `source` in this order; -1 is a new track."""
        self._beside, self._along = moved(self._beside, source, 0.0), moved(self._along, source, 0.0)

    def update(self, anchors: Anchors) -> Bools:
        """Whether each track crosses each line now, to its left and to its right, shape (L, 2, N).

        A track is on the side where it was clearly seen last. It crosses the line where the way from there to
        the clear other side leads between the line's ends.
        """
        beside, along = self._place @ anchors.homogeneous
        unclear = np.flatnonzero(np.abs(beside) <= anchors.std[self._anchor])
        for now, before in ((beside, self._beside), (along, self._along)):
            now.reshape(-1)[unclear] = before.take(unclear)
        crossed = np.zeros((len(beside), 2, beside.shape[1]), dtype=bool)
        for line, track in true_places(beside * self._beside < 0.0):
            before, now = self._beside[line, track], beside[line, track]
            share, begin = before / (before - now), self._along[line, track]
            at = begin + share * (along[line, track] - begin)
            if 0.0 <= at <= self._length[line]:
                crossed[line, int(now > 0.0), track] = True
                self.totals[line, int(now > 0.0)] += 1
        self._beside, self._along = beside, along
        return crossed


def _anchors_of(places: Sequence[Zone | Line]) -> NDArray[np.intp]:
    """The anchors of zones or lines as rows of `Anchors`: one for all where they have the same."""
    rows = [ANCHORS.index(place.anchor) for place in places]
    return np.array(rows[:1] if len(set(rows)) == 1 else rows, dtype=np.intp)


def true_places(table: Bools) -> Iterator[tuple[int, int]]:
    """Rows and columns of what is true, row by row."""
    rows, columns = np.divmod(np.flatnonzero(table), table.shape[1])  # a fifth of the time of np.nonzero
    return zip(rows.tolist(), columns.tolist(), strict=True)


def moved(state: NDArray[T], source: NDArray[np.intp], fresh: float) -> NDArray[T]:
    """The last axis of `state` in the order of `source`, where -1 is `fresh`; in C order, unlike an index."""
    found = state.take(source, axis=-1)
    found[..., source < 0] = fresh
    return found


def lie_apart(first: Zone, second: Zone) -> bool:
    """Whether no object can be inside of both zones: a line along an edge of one of them separates them.

    An object stays inside of a zone up to its margin beyond the edge, and gets inside of another one only
    by its margin there: the gap must not be less than the difference of the two. Zones with different
    anchors, and those that interlock, are not said to lie apart.
    """
    edges = np.array([*_edges(first.points), *_edges(second.points)])
    normals = (edges[:, 2:] - edges[:, :2]) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    one, other = (normals @ np.transpose(zone.points) for zone in (first, second))
    gaps = np.maximum(one.min(axis=1) - other.max(axis=1), other.min(axis=1) - one.max(axis=1))
    needed = abs(_max_margin(first) - _max_margin(second))
    return first.anchor == second.anchor and bool(gaps.max() >= needed)


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


def _max_margin(zone: Zone) -> float:
    """Largest uncertainty of an anchor that counts at the edges of a zone."""
    return area(zone.points) / _perimeter(zone.points)


def _perimeter(points: Sequence[Point]) -> float:
    return float(sum(np.hypot(bx - ax, by - ay) for ax, ay, bx, by in _edges(points)))
