# SPDX-License-Identifier: Apache-2.0
"""Conditions compiled to array operations: all conditions of a rule file over all tracks of a frame at once.

The result is a truth table with a row for each different condition and a column for each track. Column 0
belongs to the scene: what is about the scene is the same in all columns, what is about objects false there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfm_perception.rules.places import Anchors, Bools, Floats, LineCrossings, Zones, moved
from lfm_perception.rules.schema import (
    ANCHORS,
    QUANTITIES,
    SIDES,
    ActiveRule,
    Alert,
    Combined,
    Condition,
    Count,
    Objects,
    Range,
    RuleFile,
    leaves,
)
from lfm_perception.rules.tables import Members, Ranges, Rows, narrow, spread

ROUNDING_S = 1e-6
"""Tolerance of sums of durations for rounding errors, seconds."""

SPEED = QUANTITIES.index("speed")

MARGIN = 0.5
"""Uncertainty of a speed and of a distance between tracks, in their standard deviations. Most of these is
what may have changed since the last detection: a whole one would delay the events of objects that start."""

VALUE_NAMES = {"distance": "distance_m"}
"""Names of quantities in events, where they are others: `distance` is that of `near`, in image widths."""

CORRECTION_S = 1.0
"""Age of a track up to which a changed label is a correction, and not another object."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What the N columns stand for: the first for the scene, the others for tracks, those gone not `present`.

    The same object while nothing of it changes. `label_ids` are those of `Conditions.label_ids`;
    `all_present`: none is gone.
    """

    label_ids: Rows
    present: Bools
    all_present: bool


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The tracks of one frame, a column each.

    `quantities` are those of `QUANTITIES`, NaN where unknown; `speed_std` is the standard deviation of the
    speed, image widths per second. `attributes` has a row for each of
    `Conditions.attributes`. `age_s` counts from a track's first detection. `aspect` is the image's height
    over its width. `alerts` are the names of those that are on, `active_rules` the rules with an active
    event. `now_s` is the rules' own time, and `known_since_s` that of what each column shows.
    """

    now_s: float
    known_since_s: Floats
    columns: Columns
    last_detected_s: Floats
    quantities: tuple[Floats, ...]
    speed_std: Floats
    anchors: Anchors
    age_s: Floats
    attributes: Bools
    aspect: float
    alerts: Iterable[str]
    active_rules: Iterable[str]


class Conditions:
    """The conditions of the rules of a file, with the state that hysteresis and moments need.

    `roots` are the rows of the rules' conditions. `inside` says which tracks of the last frame are in which
    zone, shape (Z, N).
    """

    def __init__(self, file: RuleFile) -> None:
        self._rows: dict[Condition, int] = {}
        self._levels: list[list[Combined]] = []
        self._anchor = ANCHORS.index(file.anchor)
        self._zones, self.crossings = Zones(file.zones), LineCrossings(file.lines)
        objects = _objects(file)
        for row, each in enumerate(objects):
            self._rows[each] = row
        labels = dict.fromkeys(label for each in objects for label in each.labels)
        self._labels = {label: index for index, label in enumerate(labels)}
        self._has_label = np.array(
            [
                [not each.labels or label in each.labels for label in [*self._labels, None]]
                for each in objects
            ],
            dtype=bool,
        ).reshape(len(objects), len(self._labels) + 1)
        self.attributes = list(dict.fromkeys(pair for each in objects for pair in each.attributes))
        self._ranges = [
            (index, Ranges([(row, ranges[name]) for row, each in enumerate(objects)
                             if name in (ranges := dict(each.ranges))]))
            for index, name in enumerate(QUANTITIES)
            if any(name in dict(each.ranges) for each in objects)
        ]  # fmt: skip
        zones = {zone.name: index for index, zone in enumerate(file.zones)}
        self._inside = Members({row: [zones[z] for z in each.inside] for row, each in enumerate(objects)})
        self._outside = Members({row: [zones[z] for z in each.outside] for row, each in enumerate(objects)})
        self._attributes = Members(
            {row: [self.attributes.index(a) for a in each.attributes] for row, each in enumerate(objects)}
        )
        self._near = [(row, each.near) for row, each in enumerate(objects) if each.near]
        others = [self._rows[near.objects] for _, near in self._near]
        self._others = list(dict.fromkeys(others))
        # one for all rows is not repeated
        self._other = [self._others.index(row) for row in others] if len(self._others) > 1 else slice(None)
        self._near_ranges = Ranges(
            [(row, Range(below=n.within, hysteresis=n.hysteresis)) for row, n in self._near]
        )
        self._lines = {line.name: index for index, line in enumerate(file.lines)}
        self._crosses = Members({row: self._crossings_of(each) for row, each in enumerate(objects)})
        self._appears = _Moments([(row, each.appears) for row, each in enumerate(objects)])
        self._disappears = _Moments([(row, each.disappears) for row, each in enumerate(objects)])
        self._true = np.zeros((len(objects), 1), dtype=bool)
        self.roots = np.array([self._compile(rule.when) for rule in file.rules], dtype=np.intp)
        self._counts = Ranges(
            [(row, each.range) for each, row in self._rows.items() if isinstance(each, Count)]
        )
        self._counted = np.array(
            [self._rows[each.objects] for each in self._rows if isinstance(each, Count)], dtype=np.intp
        )
        self._counts_true = np.zeros((len(self._counted), 1), dtype=bool)
        named = (Alert, ActiveRule)
        self._named = [(row, each) for each, row in self._rows.items() if isinstance(each, named)]
        self.asks_about_rules = any(isinstance(each, ActiveRule) for _, each in self._named)
        self._nodes = [_nodes(level, self._rows) for level in self._levels]
        self.inside: Bools = np.zeros((len(file.zones), 1), dtype=bool)
        self._columns: Columns | None = None

    def label_ids(self, labels: Sequence[str]) -> Rows:
        """The numbers of labels; one that no rule names has the last number."""
        known, other = self._labels, len(self._labels)
        return np.array([known.get(label, other) for label in labels], dtype=np.intp)

    def _crossings_of(self, objects: Objects) -> list[int]:
        """The rows of the crossings that a condition asks for, of which there are two for each line."""
        sides = [side for side, name in enumerate(SIDES) if objects.to in (name, "both")]
        return [2 * self._lines[objects.crosses] + side for side in sides] if objects.crosses else []

    def _compile(self, condition: Condition) -> int:
        """The row of a condition, after those of its parts."""
        if condition not in self._rows:
            if isinstance(condition, Combined):
                for part in condition.parts:
                    self._compile(part)
                level = _level(condition)
                self._levels += [[] for _ in range(level - len(self._levels))]
                self._levels[level - 1].append(condition)
            self._rows[condition] = len(self._rows)
        return self._rows[condition]

    def move(self, source: Rows) -> None:
        """Put the state of the columns `source` in this order; -1 is a new track."""
        self._true = moved(self._true, source, 0)
        self._appears.move(source)
        self._disappears.move(source)
        self.crossings.move(source)

    def update(self, seen: Observation) -> Bools:
        """The truth table of a frame, shape (conditions, N)."""
        if seen.columns is not self._columns:
            self._columns = seen.columns
            self._labelled = self._has_label[:, seen.columns.label_ids] & seen.columns.present
        self._seen, before = seen, self._true
        table = np.empty((len(self._rows), len(seen.columns.present)), dtype=bool)
        true = self._now(seen, before)
        self._true = true if seen.columns.all_present else np.where(seen.columns.present, true, before)
        table[: len(true)] = true
        self._crossed = self.crossings.update(seen.anchors).reshape(-1, table.shape[1])
        if len(self._crosses.rows):
            narrow(table, self._crosses.rows, self._crosses.gather(self._crossed, all_of=False))
        self._appears.begin(true, before, seen, table)
        self._disappears.end(self._true, seen, table)
        if len(self._counted):
            self._counts_now = true.take(self._counted, axis=0).sum(axis=1, keepdims=True)
            self._counts_true = self._counts.hold(self._counts_now, self._counts_true)
            table[self._counts.rows] = self._counts_true
        if self._named:
            alerts, rules = set(seen.alerts), set(seen.active_rules)
            for row, each in self._named:
                table[row] = each.name in alerts if isinstance(each, Alert) else each.rule in rules
        for level in self._nodes:
            for kind, rows, parts in level:
                reduce = np.maximum.reduce if kind == "any" else np.minimum.reduce
                combined = reduce(table.take(parts, axis=0), axis=0)
                table[rows] = ~combined if kind == "not" else combined
        self._table = table
        return table

    def _now(self, seen: Observation, before: Bools) -> Bools:
        """Which objects have the properties of which condition, moments apart; shape (S, N)."""
        true = self._labelled.copy()
        for index, ranges in self._ranges:
            values, margin = seen.quantities[index], MARGIN * seen.speed_std if index == SPEED else None
            held = ranges.hold(values, before, ranges.rows, margin)
            if index == SPEED and (unknown := np.isnan(values)).any():
                held |= unknown & before.take(ranges.rows, axis=0)
            narrow(true, ranges.rows, held)
        if len(self.inside):
            places, distances, margin = self._zones.distances(seen.anchors)
            shape = len(self.inside), len(seen.anchors.x[0])
            self.inside = spread(shape, places, distances > 0.0) & seen.columns.present
            for members, signed, beyond in ((self._inside, distances, 0), (self._outside, -distances, 2)):
                if len(members.rows):
                    # 2 where it is clear, 1 where it is likely, which is enough for what was true
                    levels = (signed > margin).view(np.uint8) + (signed > -margin)
                    sure = members.gather(spread(shape, places, levels, beyond), all_of=beyond > 0)
                    narrow(true, members.rows, sure + before.take(members.rows, axis=0) > 1)
        if len(self._attributes.rows):
            narrow(true, self._attributes.rows, self._attributes.gather(seen.attributes, all_of=True))
        if self._near:
            rows = self._near_ranges.rows
            distances, std = self._nearest(true, seen)
            narrow(true, rows, self._near_ranges.hold(distances, before, rows, MARGIN * std))
        return true

    def _nearest(self, true: Bools, seen: Observation) -> tuple[Floats, Floats]:
        """The distance of each track to the nearest other one, for each condition that asks for it, and its
        standard deviation."""
        asked = true.take(self._others, axis=0)
        asked[:, 0] = True  # the scene is the nearest where there is no other track
        columns = np.flatnonzero(asked.any(axis=0))
        distances = self._distances(seen, columns)
        distances[0] = np.inf
        distances[np.arange(len(columns)), columns] = np.inf  # of a track to itself
        found, others = [], []
        every = np.arange(len(true[0]))
        for each in asked.take(columns, axis=1):
            among = distances[each]
            nearest = among.argmin(axis=0)
            found.append(among[nearest, every])
            others.append(columns[each][nearest])
        variance = seen.anchors.std[self._anchor] ** 2
        std = np.sqrt(variance + variance[np.array(others)])
        return np.array(found)[self._other], std[self._other]

    def _distances(self, seen: Observation, columns: Rows) -> Floats:
        """The distances of K columns to all N, shape (K, N)."""
        x, y = seen.anchors.x[self._anchor], seen.anchors.y[self._anchor] * seen.aspect
        dx, dy = x - x[columns, None], y - y[columns, None]
        dx *= dx
        dy *= dy
        distances: Floats = np.sqrt(dx + dy)  # hypot takes 5 times as long
        return distances

    # --- what an event tells -----------------------------------------------------------------------------

    def causes(self, condition: Condition, column: int) -> tuple[list[int], dict[str, float | str]]:
        """Why a condition was true of a column at the last frame: columns of tracks, and values by name."""
        columns, values = [column] if column else [], dict[str, float | str]()
        for leaf in leaves(condition):
            if isinstance(leaf, Count):
                counted = self._true[self._rows[leaf.objects]] & self._seen.columns.present
                columns += (found := np.flatnonzero(counted).tolist())
                values["count"] = len(found)
            elif isinstance(leaf, Objects):
                self._add_causes(leaf, column, columns, values)
            elif self._table[self._rows[leaf], column]:
                values |= {"alert": leaf.name} if isinstance(leaf, Alert) else {"rule": leaf.rule}
        return list(dict.fromkeys(columns)), values

    def _add_causes(
        self, objects: Objects, column: int, columns: list[int], values: dict[str, float | str]
    ) -> None:
        for name, _ in objects.ranges:
            value = float(self._seen.quantities[QUANTITIES.index(name)][column])
            if not math.isnan(value):  # an unknown distance or speed
                values[VALUE_NAMES.get(name, name)] = value
        if not self._table[self._rows[objects], column]:
            return  # another part of an `any` is true, or it stands in a `not`
        if objects.inside:
            values["inside"] = ", ".join(objects.inside)
        values.update(objects.attributes)
        if objects.crosses:
            right = self._crossed[2 * self._lines[objects.crosses] + 1, column]
            values |= {"crosses": objects.crosses, "to": SIDES[int(right)]}
        if objects.near:
            among = self._true[self._rows[objects.near.objects]] & self._seen.columns.present
            others = np.flatnonzero(among)
            others = others[others != column]
            if others.size:
                distances = self._distances(self._seen, others)[:, column]
                columns.append(int(others[distances.argmin()]))
                values["distance"] = float(distances.min())


class _Moments:
    """Rows that are true for one frame: when an object appears, or when it disappears."""

    def __init__(self, moments: Sequence[tuple[int, float | None]]) -> None:
        chosen = [(row, seconds) for row, seconds in moments if seconds is not None]
        self._rows = np.array([row for row, _ in chosen], dtype=np.intp)
        self._seconds = np.array([seconds - ROUNDING_S for _, seconds in chosen])[:, None]
        self._since_s: Floats = np.full((len(chosen), 1), np.inf)
        self._done = np.zeros((len(chosen), 1), dtype=bool)
        self._label_ids: Rows = np.zeros(1, dtype=np.intp)

    def move(self, source: Rows) -> None:
        self._since_s, self._done = moved(self._since_s, source, np.inf), moved(self._done, source, 0)
        self._label_ids = moved(self._label_ids, source, -1)

    def begin(self, true: Bools, before: Bools, seen: Observation, table: Bools) -> None:
        """Leave those true in the table that have been so for long enough for the first time.

        What is true of a track at its first frame counts from its first detection: trackers show a track
        only once it is confirmed. So does what a label makes true that is corrected within `CORRECTION_S`.
        """
        if not len(self._rows):
            return
        now = true[self._rows]
        corrected = (seen.columns.label_ids != self._label_ids) & (seen.age_s <= CORRECTION_S)
        self._label_ids = seen.columns.label_ids
        from_first = np.isinf(self._since_s) | corrected
        started_s = np.where(from_first, seen.now_s - seen.age_s, seen.known_since_s)
        self._since_s = np.where(before[self._rows], self._since_s, started_s)
        moment = now & ~self._done & (seen.now_s - self._since_s >= self._seconds)
        self._done |= moment
        table[self._rows] = moment

    def end(self, last_true: Bools, seen: Observation, table: Bools) -> None:
        """Leave those true in the table that were so when they were seen last, and are gone long enough.

        That counts from the last detection: trackers show a track for a while after it.
        """
        if not len(self._rows):
            return
        if seen.columns.all_present:
            self._done, table[self._rows] = np.zeros((len(self._rows), table.shape[1]), dtype=bool), False
            return
        was = last_true[self._rows] & ~seen.columns.present
        moment = was & ~self._done & (seen.now_s - seen.last_detected_s >= self._seconds)
        self._done = (self._done | moment) & ~seen.columns.present
        table[self._rows] = moment


def _objects(file: RuleFile) -> list[Objects]:
    """All different object conditions of a file; those that others refer to are among them."""
    found: dict[Objects, None] = {}
    for rule in file.rules:
        for leaf in leaves(rule.when):
            each = leaf.objects if isinstance(leaf, Count) else leaf
            if isinstance(each, Objects):
                found[each] = None
                if each.near:
                    found[each.near.objects] = None
    return list(found)


def _level(condition: Condition) -> int:
    """How deep a condition is combined; 0 if it is not."""
    return 1 + max(map(_level, condition.parts)) if isinstance(condition, Combined) else 0


def _nodes(level: Sequence[Combined], rows: Mapping[Condition, int]) -> list[tuple[str, Rows, Rows]]:
    """The combinations of a level by kind and number of parts: their rows, and those of the parts, (K, N)."""
    alike: dict[tuple[str, int], list[Combined]] = {}
    for each in level:
        alike.setdefault((each.kind, len(each.parts)), []).append(each)
    return [
        (
            kind,
            np.array([rows[each] for each in chosen], dtype=np.intp),
            np.array([[rows[part] for part in each.parts] for each in chosen], dtype=np.intp).T,
        )
        for (kind, _), chosen in alike.items()
    ]
