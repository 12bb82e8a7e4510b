# SPDX-License-Identifier: Apache-2.0
"""The values of a rule file: zones, lines, conditions over tracks, and rules. Frozen and hashable.

Points are normalized (see `geometry`). Lengths are in image widths, speeds in image widths per second, sizes
are the square root of a box's normalized area, distances from the camera in metres. Durations are in seconds.

A condition is either about single objects (`Objects`) and is true or false for each of them, or about the
scene (`Count`, `Alert`, `ActiveRule`). `Combined` is about objects where any of its parts is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from lfm_perception.scene import MAX_DISTANCE_M
from lfm_perception.typed_questions import TypedQuestion

Point = tuple[float, float]

ANCHORS = ("foot", "centre")
"""The points of a box that can stand for its object: the middle of the lower edge, and the centre."""

QUANTITIES = ("score", "speed", "size", "distance")
"""What a condition can bound: the track's score, its own speed without the camera's, its size, its distance
from the camera."""

UNCERTAIN = ("speed", "distance")
"""The quantities that may be unknown."""

MAXIMA = {"score": 1.0, "size": 1.0, "distance": MAX_DISTANCE_M}
"""Values that a quantity does not exceed."""

SIDES = ("left", "right")
"""The sides of a line, as seen in the image from its first point towards its second one."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A polygon without crossing edges; `anchor` is one of `ANCHORS`."""

    name: str
    points: tuple[Point, ...]
    anchor: str = "foot"


@dataclass(frozen=True, slots=True)
class Line:
    """A line segment from `start` to `end`; `anchor` is one of `ANCHORS`."""

    name: str
    start: Point
    end: Point
    anchor: str = "foot"


@dataclass(frozen=True, slots=True)
class Range:
    """An open range. A value that was inside stays so up to `hysteresis` beyond either end.

    `or_unknown`: an unknown value is inside, too (see `certain`).
    """

    above: float = -math.inf
    below: float = math.inf
    hysteresis: float = 0.0
    or_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects that have all of these properties; an empty one is not asked for.

    `inside`: in one of these zones; `outside`: in none of these. `attributes`: pairs of name and value.
    `ranges`: pairs of one of `QUANTITIES` and its range. `near`: another object of this kind is near.

    Three properties hold for one frame only, the moment: `crosses` is the line that the object crosses, and
    `to` the side that it comes to, or `both`; `appears` and `disappears`: the object has had the other
    properties for so many seconds for the first time, or it had them when it was seen last and has been gone
    for so many seconds.
    """

    labels: tuple[str, ...] = ()
    ranges: tuple[tuple[str, Range], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    inside: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    near: Near | None = None
    crosses: str = ""
    to: str = "both"
    appears: float | None = None
    disappears: float | None = None

    @property
    def momentary(self) -> bool:
        return bool(self.crosses) or self.appears is not None or self.disappears is not None


@dataclass(frozen=True, slots=True)
class Near:
    """Another object of this kind at a distance of less than `within`, from anchor to anchor."""

    objects: Objects
    within: float
    hysteresis: float = 0.0


@dataclass(frozen=True, slots=True)
class Count:
    """The number of objects in the scene is within a range."""

    objects: Objects
    range: Range


@dataclass(frozen=True, slots=True)
class Alert:
    """The alert of a standing question is on."""

    name: str


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """An event of another rule was active at the previous frame."""

    rule: str


@dataclass(frozen=True, slots=True)
class Combined:
    """`all` of the parts, `any` of them, or `not` the only one."""

    kind: str
    parts: tuple[Condition, ...]


Condition = Objects | Count | Alert | ActiveRule | Combined


def leaves(condition: Condition) -> list[Objects | Count | Alert | ActiveRule]:
    """The conditions that a condition is combined of."""
    if isinstance(condition, Combined):
        return [leaf for part in condition.parts for leaf in leaves(part)]
    return [condition]


def is_moment(condition: Condition) -> bool:
    """Whether a condition holds only in the frame of a moment: objects cross, appear or disappear."""
    if isinstance(condition, Combined):
        moments = [is_moment(part) for part in condition.parts]
        return any(moments) if condition.kind == "all" else condition.kind == "any" and all(moments)
    return isinstance(condition, Objects) and condition.momentary


def certain(condition: Condition, negated: bool = False) -> Condition:
    """The condition, true only where no unknown distance or speed may make it false.

    An unknown value is outside a range that is asked for, and inside one that is excluded: below a `not`,
    or in a count of fewer than so many. This is Kleene's logic of true, false and unknown.
    """
    if isinstance(condition, Combined):
        inverts = condition.kind == "not"
        return replace(condition, parts=tuple(certain(each, negated != inverts) for each in condition.parts))
    if isinstance(condition, Count):
        sure, possible = (_certain(condition.objects, each) for each in (negated, not negated))
        bounds = condition.range
        if bounds.above == -math.inf:
            return Count(possible, bounds)
        if bounds.below == math.inf or sure == possible:
            return Count(sure, bounds)
        fewer, more = replace(bounds, above=-math.inf), replace(bounds, below=math.inf)
        return Combined("all", (Count(possible, fewer), Count(sure, more)))
    return _certain(condition, negated) if isinstance(condition, Objects) else condition


def _certain(objects: Objects, negated: bool) -> Objects:
    near, ranges = objects.near, objects.ranges
    if near is not None:
        near = replace(near, objects=_certain(near.objects, negated))
    if negated:
        ranges = tuple((name, replace(each, or_unknown=name in UNCERTAIN)) for name, each in ranges)
    return replace(objects, near=near, ranges=ranges)


ParameterValue = bool | int | float | str | tuple[bool | int | float | str, ...]
"""A value of a ROS parameter; those of a tuple have one type."""


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A ROS parameter is set as the first event begins, and to `end`, if given, as the last one ends.

    `node` is relative to the namespace of the node, or absolute; empty: the node itself.
    """

    name: str
    value: ParameterValue
    end: ParameterValue | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Actions:
    """What else is done in an event: names of topics and services; empty: nothing.

    `publish_bool`: true while an event of the rule is active. `publish_text`: the message, as it begins.
    `call_trigger`: as it begins. `call_set_bool`: true as it begins, false as it ends. `snapshot`: the image
    is saved as it begins. `clip`: the images of the seconds before and after its begin are saved. `ask`: a
    question about the crop of the event's first track, or about the frame where it has none.
    `second_opinion`: a question to an adviser about the first track, as it begins.
    """

    publish_bool: str = ""
    publish_text: str = ""
    call_trigger: str = ""
    call_set_bool: str = ""
    set_parameter: ParameterChange | None = None
    snapshot: bool = False
    clip: bool = False
    ask: TypedQuestion | None = None
    second_opinion: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """An event begins once `when` has held for `for_s`, and ends once it has not held for `end_after_s`.

    A rule about objects has an event for each of them. After an event has begun, none of this rule begins for
    `cooldown_s`.
    """

    name: str
    when: Condition
    for_s: float = 0.0
    end_after_s: float = 0.0
    cooldown_s: float = 0.0
    message: str = ""
    actions: Actions = Actions()

    @property
    def of_objects(self) -> bool:
        """Whether the rule is about single objects and not about the scene."""
        return any(isinstance(leaf, Objects) for leaf in leaves(self.when))

    @property
    def momentary(self) -> bool:
        """Whether the condition holds for one frame only: its events have no duration."""
        return any(isinstance(leaf, Objects) and leaf.momentary for leaf in leaves(self.when))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with an entry of a rule file, `about` it, and where it stands."""

    about: str
    line: int
    column: int
    sentence: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}, {self.about}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The zones, lines and rules of a file that can be used, and the problems of all others."""

    zones: tuple[Zone, ...] = ()
    lines: tuple[Line, ...] = ()
    rules: tuple[Rule, ...] = ()
    anchor: str = "foot"
    problems: tuple[Problem, ...] = field(default=())
