# SPDX-License-Identifier: Apache-2.0
"""Reads rule files: YAML in, zones, lines and rules out. An entry that is wrong never costs the others.

Every problem has the line and the column of the value that is wrong. The keys are those of `docs/rules.md`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import YamlPlaces, parse_yaml, read_text
from lfm_perception.rules.action_reader import read_actions
from lfm_perception.rules.condition_reader import ConditionReader, Known, check_leaves
from lfm_perception.rules.contradictions import shared_actions
from lfm_perception.rules.places import area, crossing_edges
from lfm_perception.rules.reading import Steps, WrongError, as_choice, as_mapping, as_number
from lfm_perception.rules.schema import (
    ANCHORS,
    ActiveRule,
    Line,
    Objects,
    Point,
    Problem,
    Rule,
    RuleFile,
    Zone,
    certain,
    is_moment,
    leaves,
)
from lfm_perception.text import is_safe

MAX_RULES, MAX_ZONES, MAX_LINES = 1000, 200, 200
MAX_POINTS, MIN_AREA, MIN_LENGTH = 50, 1e-5, 1e-3
"""Maximum number of corners of a zone, its minimum area, and the minimum length of a line, normalized."""
MAX_NAME, MAX_MESSAGE = 64, 200
MAX_SECONDS = 86_400.0
MAX_LISTED = 8
"""Maximum number of rules of a circle that its problem names."""
MAX_HINTS = 20
"""Maximum number of problems of a file that suggest the nearest known name: the search for it is slow."""

TOP_KEYS = ("units", "image", "anchor", "zones", "lines", "rules")
RULE_KEYS = ("when", "for", "end_after", "cooldown", "message", "actions")

T = TypeVar("T")


def read_rules(path: Path, known: Known | None = None) -> RuleFile:
    """The zones, lines and rules of a file.

    Raises:
        PerceptionError: the file cannot be read or is no rule file at all. Everything else that is wrong is
            among the `problems` of the result.
    """
    try:
        return parse_rules(read_text(path), known)
    except PerceptionError as error:
        raise PerceptionError(f"{path}: {error}") from error


def parse_rules(text: str, known: Known | None = None) -> RuleFile:
    """The zones, lines and rules of a text; see `read_rules`."""
    content: Any = parse_yaml(text)
    places = YamlPlaces(text)
    try:
        return _Reader(content, places, known or Known()).read()
    except WrongError as error:
        raise PerceptionError(str(_problem("the file", error, places))) from error


def _problem(about: str, error: WrongError, places: YamlPlaces, hint: str = "") -> Problem:
    return Problem(about, *places.find(error.path), str(PerceptionError(f"{error}{hint}")))


class _Reader:
    """Reads the content of one file. Methods raise `WrongError`; `read` turns most of them into problems."""

    def __init__(self, content: object, places: YamlPlaces, known: Known) -> None:
        self._places, self._known = places, known
        self._problems: list[Problem] = []
        self._top = as_mapping(content, (), TOP_KEYS, "a rule file")
        self._sides = self._image_sides()
        self._anchor = as_choice(self._top.get("anchor", "foot"), ("anchor",), ANCHORS)

    def read(self) -> RuleFile:
        zones = self._entries("zone", MAX_ZONES, self._zone)
        lines = self._entries("line", MAX_LINES, self._line)
        conditions = ConditionReader(
            self._known,
            {name: zones.get(name) for name in self._names("zones")},
            {name: lines.get(name) for name in self._names("lines")},
            self._names("rules"),
            self._sides,
        )
        rules = self._entries("rule", MAX_RULES, partial(self._rule, conditions))
        self._refuse_circles(rules)
        self._refuse_shared_actions(rules)
        self._refuse_circles(rules)  # those that refer to the rules refused last
        problems = sorted(self._problems, key=lambda problem: (problem.line, problem.column))
        places = tuple(zones.values()), tuple(lines.values())
        return RuleFile(*places, tuple(rules.values()), self._anchor, tuple(problems))

    def _names(self, key: str) -> list[str]:
        """The names of the entries under a key; those that are no text are problems of these entries."""
        entries = self._top.get(key)
        return [name for name in entries if isinstance(name, str)] if isinstance(entries, Mapping) else []

    def _entries(self, kind: str, limit: int, read: Callable[[str, object, Steps], T]) -> dict[str, T]:
        """The entries of one kind that can be used, by name."""
        key = f"{kind}s"
        entries = self._top.get(key) or {}
        if not isinstance(entries, Mapping):
            raise WrongError((key,), f"{key} must be a mapping from names, got {shown(entries)}")
        if len(entries) > limit:
            raise WrongError((key,), f"{len(entries)} {key}, more than {limit}: leave some out")
        found: dict[str, T] = {}
        for name, entry in entries.items():
            path = (key, name)
            try:
                if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= MAX_NAME):
                    raise WrongError(
                        path, f"a name is text of 1 to {MAX_NAME} characters on one line: quote it"
                    )
                found[name] = read(name, entry, path)
            except WrongError as error:
                self._add(f"{kind} {shown(name)}", error)
        return found

    # --- places ----------------------------------------------------------------------------------------

    def _image_sides(self) -> tuple[float, float] | None:
        """Width and height of the image that coordinates are pixels of; None where they are normalized."""
        units = as_choice(self._top.get("units", "normalized"), ("units",), ("normalized", "pixels"))
        image = self._top.get("image")
        if units == "normalized":
            if image is not None:
                raise WrongError(("image",), "the size of an image belongs to `units: pixels`")
            return None
        if not (isinstance(image, Sequence) and len(image) == 2):
            raise WrongError(
                ("image",), f"pixels need the size of their image, [width, height], got {shown(image)}"
            )
        width, height = (as_number(side, ("image", index), 1.0, 65_535.0) for index, side in enumerate(image))
        return width, height

    def _point(self, value: object, path: Steps) -> Point:
        if not (isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2):
            raise WrongError(path, f"a point is [x, y], got {shown(value)}")
        sides = self._sides or (1.0, 1.0)
        x, y = (as_number(each, (*path, i), -math.inf, math.inf) / sides[i] for i, each in enumerate(value))
        if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
            way = "" if self._sides else ": give shares of the image's sides, or `units: pixels`"
            raise WrongError(path, f"the point {shown(value)} lies outside the image{way}")
        return x, y

    def _points(self, entry: object, path: Steps) -> tuple[list[Point], str, Steps]:
        """The points of a place, its anchor, and the path of the points."""
        anchor = self._anchor
        if isinstance(entry, Mapping):
            fields_ = as_mapping(entry, path, ("points", "anchor"), "a place")
            anchor = as_choice(fields_.get("anchor", anchor), (*path, "anchor"), ANCHORS)
            entry, path = fields_.get("points"), (*path, "points")
        if not isinstance(entry, Sequence) or isinstance(entry, str):
            raise WrongError(path, f"points are a list of [x, y], got {shown(entry)}")
        return [self._point(each, (*path, index)) for index, each in enumerate(entry)], anchor, path

    def _zone(self, name: str, entry: object, path: Steps) -> Zone:
        points, anchor, path = self._points(entry, path)
        if not 3 <= len(points) <= MAX_POINTS:
            raise WrongError(path, f"a zone has 3 to {MAX_POINTS} points, got {len(points)}")
        for index, point in enumerate(points):
            if point == points[index - 1]:
                raise WrongError((*path, index), "a point follows that is the same: leave one out")
        if crossed := crossing_edges(points):
            raise WrongError(
                path, f"edges {crossed[0]} and {crossed[1]} cross: list the corners in their order around"
            )
        if area(points) < MIN_AREA:
            raise WrongError(path, f"a zone of less than {MIN_AREA:g} of the image: is it a line?")
        return Zone(name, tuple(points), anchor)

    def _line(self, name: str, entry: object, path: Steps) -> Line:
        points, anchor, path = self._points(entry, path)
        if len(points) != 2:
            raise WrongError(path, f"a line has 2 points, got {len(points)}")
        if math.dist(*points) < MIN_LENGTH:
            raise WrongError(path, f"a line shorter than {MIN_LENGTH:g} of the image has no direction")
        return Line(name, points[0], points[1], anchor)

    # --- rules -----------------------------------------------------------------------------------------

    def _rule(self, conditions: ConditionReader, name: str, entry: object, path: Steps) -> Rule:
        given = as_mapping(entry, path, RULE_KEYS, "a rule")
        if "when" not in given:
            raise WrongError(path, "a rule needs `when`, its condition")
        when = certain(conditions.read(given["when"], (*path, "when")))
        check_leaves(when, (*path, "when"))
        seconds = {
            key: as_number(given.get(key, 0.0), (*path, key), 0.0, MAX_SECONDS)
            for key in ("for", "end_after", "cooldown")
        }
        message = given.get("message", "")
        if not (isinstance(message, str) and len(message) <= MAX_MESSAGE and is_safe(message)):
            raise WrongError((*path, "message"), f"a message is text of at most {MAX_MESSAGE} characters")
        actions = read_actions(given.get("actions") or {}, (*path, "actions"), self._known.language)
        rule = Rule(name, when, seconds["for"], seconds["end_after"], seconds["cooldown"], message, actions)
        if rule.momentary:
            if not is_moment(when):
                raise WrongError(
                    (*path, "when"),
                    "true in every frame, not only where objects cross, appear or disappear: a moment "
                    "stands neither below `not` nor beside a lasting condition in `any`",
                )
            for key in ("for", "end_after"):
                if seconds[key]:
                    raise WrongError(
                        (*path, key), "crossing, appearing and disappearing are moments: they cannot last"
                    )
            lasting = actions.set_parameter is not None and actions.set_parameter.end is not None
            if actions.publish_bool or actions.call_set_bool or lasting:
                raise WrongError(
                    (*path, "actions"),
                    "a moment does not end: use publish_text, call_trigger, set_parameter without end",
                )
        gone = (isinstance(each, Objects) and each.disappears is not None for each in leaves(when))
        if actions.second_opinion and any(gone):
            raise WrongError((*path, "actions"), "what has disappeared has no crop: leave second_opinion out")
        return rule

    # --- references ------------------------------------------------------------------------------------

    def _refuse_shared_actions(self, rules: dict[str, Rule]) -> None:
        """Removes the rules whose actions collide with those of an earlier rule."""
        for name, action, sentence in list(shared_actions(rules.values(), self._known.node)):
            self._add(f"rule {shown(name)}", WrongError(("rules", name, "actions", action), sentence))
            del rules[name]

    def _refuse_circles(self, rules: dict[str, Rule]) -> None:
        """Removes the rules that depend on themselves, and those whose triggers cannot be used."""
        needs = {
            name: {leaf.rule for leaf in leaves(rule.when) if isinstance(leaf, ActiveRule)}
            for name, rule in rules.items()
        }
        lost = needs.keys() - _resolved(needs)
        waiting = lost - _resolved({name: needs[name] & lost for name in lost})
        users = {name: {user for user in waiting if name in needs[user]} for name in waiting}
        circles = dict[str, Set[str]]()
        for name in waiting:
            if name not in circles:
                circle = _reached(name, needs) & _reached(name, users)
                circles |= dict.fromkeys(circle or {name}, circle)
        for name in (n for n in needs if n in lost):
            circle = circles.get(name, set())
            listed = ", ".join(shown(each) for each in islice((n for n in needs if n in circle), MAX_LISTED))
            sentence = (
                f"rules trigger each other in a circle: {listed}"
                if len(circle) > 1
                else "a rule cannot refer to itself"
                if circle
                else "a rule that it refers to cannot be used"
            )
            self._add(f"rule {shown(name)}", WrongError(("rules", name, "when"), sentence))
            del rules[name]

    def _add(self, about: str, error: WrongError) -> None:
        hint = error.hint() if len(self._problems) < MAX_HINTS else ""
        self._problems.append(_problem(about, error, self._places, hint))


def _resolved(needs: Mapping[str, Set[str]]) -> set[str]:
    """The names that need nothing, or only what is resolved itself: no circle and nothing missing."""
    users = defaultdict[str, list[str]](list)
    for name, needed in needs.items():
        for each in needed:
            users[each].append(name)
    waits_for = {name: len(needed) for name, needed in needs.items()}
    found = [name for name, count in waits_for.items() if not count]
    for name in found:  # which grows meanwhile
        for user in users[name]:
            waits_for[user] -= 1
            if not waits_for[user]:
                found.append(user)
    return set(found)


def _reached(name: str, ways: Mapping[str, Set[str]]) -> Set[str]:
    """The names that lead on from this one; itself among them where it is on a circle."""
    found, left = set[str](), [name]
    while left:
        new = ways.get(left.pop(), set()) - found
        found |= new
        left += new
    return found
