# SPDX-License-Identifier: Apache-2.0
"""Reads the conditions of rules: the value under `when`, of which `docs/rules.md` lists the keys."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lfm_perception.errors import shown
from lfm_perception.rules.contradictions import DIFFERENT_MOMENTS, contradiction
from lfm_perception.rules.places import lie_apart
from lfm_perception.rules.reading import (
    Steps,
    WrongError,
    as_choice,
    as_mapping,
    as_name,
    as_names,
    as_number,
)
from lfm_perception.rules.schema import (
    MAXIMA,
    QUANTITIES,
    SIDES,
    ActiveRule,
    Alert,
    Combined,
    Condition,
    Count,
    Line,
    Near,
    Objects,
    Range,
    Zone,
    leaves,
)
from lfm_perception.settings import Settings

MAX_DEPTH = 6
"""Maximum depth of nested `all`, `any` and `not`."""
MAX_LEAVES = 32
"""Maximum number of conditions in a rule."""

COUNT_KEYS = ("count", "more_than", "fewer_than", "exactly", "hysteresis")
OBJECT_KEYS = (
    *("label", *QUANTITIES, "attributes", "inside", "outside", "near"),
    *("crosses", "appears", "disappears"),
)
CONDITIONS = ("all", "any", "not", "count", "alert", "rule", *OBJECT_KEYS)


@dataclass(frozen=True, slots=True)
class Known:
    """Names that rules may use beside those of their file, None: any; the language of their questions.

    `depth`: whether distances from the camera are measured, None: they may be. `node`: full name of the node
    whose topics and parameters actions name, empty: any.
    """

    labels: Collection[str] | None = None
    attributes: Mapping[str, Collection[str]] | None = None
    alerts: Collection[str] | None = None
    language: str = "en"
    depth: bool | None = None
    node: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Known:
        """The names that a perception with these settings gives."""
        return cls(
            labels=settings.detect.labels or None,
            attributes={each.name: each.values for each in settings.attributes},
            alerts=tuple(each.name for each in settings.questions.alerts),
            language=settings.questions.language,
            depth=settings.node.depth,
        )


class ConditionReader:
    """Reads the conditions of a file's rules. Methods raise `WrongError`.

    Args:
        known: names from outside the file.
        zones, lines: those of the file by name; None: one that cannot be used.
        rules: names of the file's rules.
        sides: width and height of the image that lengths are pixels of; None where they are normalized.
    """

    def __init__(
        self,
        known: Known,
        zones: Mapping[str, Zone | None],
        lines: Mapping[str, Line | None],
        rules: Collection[str],
        sides: tuple[float, float] | None,
    ) -> None:
        self._known, self._zones, self._lines, self._rules, self._sides = known, zones, lines, rules, sides
        self._apart = cache(self._lie_apart)

    def read(self, entry: object, path: Steps, depth: int = 1) -> Condition:
        if not isinstance(entry, Mapping) or not entry:
            raise WrongError(
                path, f"a condition is a mapping such as {{label: person, inside: dock}}, got {shown(entry)}"
            )
        if depth > MAX_DEPTH:
            raise WrongError(path, f"conditions are nested deeper than {MAX_DEPTH} levels")
        for kind in ("all", "any", "not"):
            if kind in entry:
                return self._combined(
                    kind, as_mapping(entry, path, (kind,), kind)[kind], (*path, kind), depth
                )
        if "count" in entry:
            return self._count(as_mapping(entry, path, COUNT_KEYS, "a count"), path)
        if "alert" in entry:
            name = as_mapping(entry, path, ("alert",), "an alert")["alert"]
            return Alert(as_name(name, (*path, "alert"), self._known.alerts, "standing question"))
        if "rule" in entry:
            name = as_mapping(entry, path, ("rule",), "a rule's state")["rule"]
            return ActiveRule(as_name(name, (*path, "rule"), self._rules, "rule"))
        return self._objects(as_mapping(entry, path, CONDITIONS, "a condition"), path)

    def _combined(self, kind: str, entry: object, path: Steps, depth: int) -> Combined:
        if kind == "not":
            return Combined(kind, (self.read(entry, path, depth + 1),))
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) < 2:
            raise WrongError(path, f"{kind} takes a list of at least 2 conditions, got {shown(entry)}")
        parts = tuple(self.read(each, (*path, index), depth + 1) for index, each in enumerate(entry))
        check_leaves(Combined(kind, parts), path)  # before they are compared with each other
        for index, part in enumerate(parts):
            if isinstance(part, Combined) and part.kind == "not" and part.parts[0] in parts:
                truth = "never" if kind == "all" else "always"
                raise WrongError((*path, index), f"a condition and its opposite: this is {truth} true")
        if kind == "all" and (reason := contradiction(parts, self._apart)):
            raise WrongError(path, f"{reason}: this is never true")
        return Combined(kind, parts)

    def _count(self, given: Mapping[str, Any], path: Steps) -> Count:
        objects = self._objects(
            as_mapping(given["count"], (*path, "count"), OBJECT_KEYS, "counted objects"), (*path, "count")
        )
        if objects.momentary:
            raise WrongError((*path, "count"), "moments cannot be counted: count objects in a zone")
        numbers = {
            key: as_number(given[key], (*path, key), 0, 10_000) for key in COUNT_KEYS[1:] if key in given
        }
        for key, value in numbers.items():
            if value != int(value):
                raise WrongError((*path, key), f"{key} is a whole number, got {shown(given[key])}")
        low, high = numbers.get("more_than", -math.inf), numbers.get("fewer_than", math.inf)
        if "exactly" in numbers:
            if "more_than" in numbers or "fewer_than" in numbers:
                raise WrongError((*path, "exactly"), "exactly stands without more_than and fewer_than")
            low, high = numbers["exactly"] - 1, numbers["exactly"] + 1
        elif low == -math.inf and high == math.inf:
            raise WrongError(path, "a count needs more_than, fewer_than or exactly")
        if high <= max(low + 1, 0):
            least = "" if low == -math.inf else f"more than {low:g} and "
            raise WrongError(path, f"no number is {least}fewer than {high:g}")
        return Count(objects, _range(low, high, numbers.get("hysteresis", 0.0), path))

    def _objects(self, given: Mapping[str, Any], path: Steps) -> Objects:
        if "distance" in given and self._known.depth is False:
            raise WrongError(
                (*path, "distance"),
                "the distance from the camera is known only to a node with depth images: set node.depth, or "
                "use size, or near for distances in the image",
            )
        labels = as_names(given["label"], (*path, "label")) if "label" in given else ()
        for label in labels:
            as_name(label, (*path, "label"), self._known.labels, "label")
        inside, outside = (self._zone_names(given, key, path) for key in ("inside", "outside"))
        if shared := set(inside) & set(outside):
            raise WrongError((*path, "outside"), f"inside and outside of {shown(min(shared))} at once")
        crosses, to = "", "both"
        if "crosses" in given:
            crosses, to = self._crossing(given["crosses"], (*path, "crosses"))
        moments = {
            key: float(as_number(0.0 if given[key] is True else given[key], (*path, key), 0.0, 60.0))
            for key in ("appears", "disappears")
            if key in given
        }
        if len(moments) + bool(crosses) > 1:
            raise WrongError(path, f"{DIFFERENT_MOMENTS}: give one")
        return Objects(
            labels=labels,
            ranges=tuple((key, self._range(given[key], (*path, key))) for key in QUANTITIES if key in given),
            attributes=self._attributes(given.get("attributes", {}), (*path, "attributes")),
            inside=inside,
            outside=outside,
            near=self._near(given["near"], (*path, "near")) if "near" in given else None,
            crosses=crosses,
            to=to,
            **moments,
        )

    def _zone_names(self, given: Mapping[str, Any], key: str, path: Steps) -> tuple[str, ...]:
        names = as_names(given[key], (*path, key)) if key in given else ()
        return tuple(_place(self._zones, name, (*path, key), "zone") for name in names)

    def _lie_apart(self, first: str, second: str) -> bool:
        one, other = self._zones[first], self._zones[second]
        return one is not None and other is not None and lie_apart(one, other)

    def _crossing(self, entry: object, path: Steps) -> tuple[str, str]:
        given = as_mapping(entry, path, ("line", "to"), "a crossing") if isinstance(entry, Mapping) else {}
        name = _place(self._lines, given.get("line") if given else entry, path, "line")
        return name, as_choice(given.get("to", "both"), (*path, "to"), (*SIDES, "both"))

    def _near(self, entry: object, path: Steps) -> Near:
        if not isinstance(entry, Mapping) or "within" not in entry:
            raise WrongError(path, "near takes `within`, a distance, and the properties of the other object")
        rest = {key: value for key, value in entry.items() if key not in ("within", "hysteresis")}
        keys = [key for key in OBJECT_KEYS if key != "near"]
        width = self._sides[0] if self._sides else 1.0
        within, hysteresis = (
            as_number(entry.get(key, 0.0), (*path, key), 0.0, 10.0 * width) / width
            for key in ("within", "hysteresis")
        )
        other = self._objects(as_mapping(rest, path, keys, "the other object"), path)
        if other.momentary:
            raise WrongError(path, "the other object of near has no moment")
        if not within:
            raise WrongError((*path, "within"), "a distance of 0 is never undercut")
        return Near(other, within, hysteresis)

    def _range(self, entry: object, path: Steps) -> Range:
        quantity = path[-1]
        given = as_mapping(entry, path, ("above", "below", "hysteresis"), f"the range of {quantity}")
        scale = 1.0
        if self._sides and quantity not in ("score", "distance"):
            scale = self._sides[0] if quantity == "speed" else math.sqrt(self._sides[0] * self._sides[1])
        ends = {
            key: as_number(value, (*path, key), 0.0, 100.0 * scale) / scale for key, value in given.items()
        }
        low, high = ends.get("above", -math.inf), ends.get("below", math.inf)
        if low == -math.inf and high == math.inf:
            raise WrongError(path, f"the range of {quantity} needs `above` or `below`")
        maximum = MAXIMA.get(str(quantity), math.inf)
        if high <= max(low, 0.0) or low >= maximum:
            raise WrongError(path, f"no {quantity} is {_words(given)}")
        return _range(low, high, ends.get("hysteresis", 0.0), path, maximum)

    def _attributes(self, entry: object, path: Steps) -> tuple[tuple[str, str], ...]:
        given = as_mapping(entry, path, None, "attributes by name")
        known, pairs = self._known.attributes, list[tuple[str, str]]()
        for name, value in given.items():
            as_name(name, path, known, "attribute")
            if isinstance(value, bool):  # YAML reads yes and no as true and false
                value = "yes" if value else "no"
            elif isinstance(value, (int, float)):
                value = str(value)
            values = None if known is None else known[name]
            pairs.append((name, as_name(value, (*path, name), values, "value")))
        return tuple(pairs)


def check_leaves(condition: Condition, path: Steps) -> None:
    """Raises WrongError where a condition is combined of more than a rule may have."""
    if len(leaves(condition)) > MAX_LEAVES:
        raise WrongError(path, f"more than {MAX_LEAVES} conditions: make several rules")


def _place(places: Mapping[str, Zone | Line | None], name: object, path: Steps, kind: str) -> str:
    """The name of a zone or a line that exists and can be used."""
    found = as_name(name, path, places, kind)
    if places[found] is None:
        raise WrongError(path, f"the {kind} {shown(found)} has a problem of its own, see there")
    return found


def _words(given: Mapping[str, Any]) -> str:
    """The ends of a range in words, as its file gives them."""
    return " and ".join(f"{key} {shown(given[key])}" for key in ("above", "below") if key in given)


def _range(low: float, high: float, hysteresis: float, path: Steps, maximum: float = math.inf) -> Range:
    """A range of values from 0 to a maximum. Raises WrongError where none of them ends an event."""
    if hysteresis > low and (high == math.inf or (hysteresis and high + hysteresis > maximum)):
        raise WrongError((*path, "hysteresis"), "this hysteresis is so large that no event ends: use less")
    return Range(low, high, hysteresis)
