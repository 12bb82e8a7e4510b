# SPDX-License-Identifier: Apache-2.0
"""Contradictions of rules: conditions that can never hold together, and actions that undo each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, combinations, product

from lfm_perception.errors import shown
from lfm_perception.rules.schema import (
    QUANTITIES,
    SIDES,
    Actions,
    ActiveRule,
    Combined,
    Condition,
    Count,
    Objects,
    ParameterChange,
    Range,
    Rule,
    leaves,
)

SORTS = {
    **dict.fromkeys(("publish_bool", "publish_text"), "topic"),
    **dict.fromkeys(("call_trigger", "call_set_bool"), "service"),
    "set_parameter": "parameter",
}
"""What an action names. A topic or a service has one type: no two different actions can have the same."""

LASTING = ("publish_bool", "call_set_bool", "set_parameter")
"""Actions that are undone as the events of their rule end: two rules with the same name undo each other."""

DIFFERENT_MOMENTS = "crosses, appears and disappears are different moments"


def contradiction(parts: Sequence[Condition], apart: Callable[[str, str], bool]) -> str:
    """Why these conditions never hold together, in a sentence; empty where they may.

    Conditions below `any` and `not` are not looked into.

    Args:
        apart: whether no object can be inside of both zones of these names.
    """
    flat = [*_flat(parts)]
    objects = [each for each in flat if isinstance(each, Objects)]
    counts = [each for each in flat if isinstance(each, Count)]
    return next(chain(_of_objects(objects), _of_zones(objects, apart), _of_counts(counts)), "")


def shared_actions(rules: Iterable[Rule], node: str = "") -> Iterator[tuple[str, str, str]]:
    """Rules with an action whose name belongs to another one, of an earlier rule or their own.

    Yields rule, action, and sentence.

    Lasting actions do not share a name, nor do actions of different types. Such a rule, and one that refers
    to it, is not used: no action of another rule collides with theirs.

    Args:
        rules: in the order of their file; they refer to each other without circles.
        node: full name of the node that acts; empty where it is not known, and relative names stay so.
    """
    users, unused = dict[tuple[str, str], tuple[str, str]](), set[str]()
    for rule in _after_their_triggers(rules):
        own, problem = dict[tuple[str, str], tuple[str, str]](), ""
        for action, sort in SORTS.items():
            if not (name := _name(rule.actions, action, node)):
                continue
            user, other = users.get((sort, name)) or own.get((sort, name), ("", action))
            problem = _collision(sort, name, (user, other), (rule.name, action)) if user else ""
            if problem:
                yield rule.name, action, problem
                break
            own[sort, name] = rule.name, action
        if problem or unused & _triggers(rule):
            unused.add(rule.name)
        else:
            for named, user_action in own.items():
                users.setdefault(named, user_action)


def _collision(sort: str, name: str, first: tuple[str, str], second: tuple[str, str]) -> str:
    """Why two actions, of a rule each, cannot have the same name; empty where they can."""
    (user, other), (rule, action) = first, second
    if other != action:
        return (
            f"the {sort} {shown(name)} cannot have two types, {other} of rule {shown(user)} and {action} of "
            f"rule {shown(rule)}: give one of them another name"
        )
    if action not in LASTING:
        return ""
    or_else = ", or leave out end" if sort == "parameter" else ""
    return (
        f"{shown(name)} belongs to rule {shown(user)}: the end of one event would deny the other; combine "
        f"their conditions with any{or_else}"
    )


def _after_their_triggers(rules: Iterable[Rule]) -> Iterator[Rule]:
    """The rules in their order, but each after those that it refers to."""
    given = list(rules)
    places = {rule.name: place for place, rule in enumerate(given)}
    waits_for = [{places[name] for name in _triggers(rule) & places.keys()} for rule in given]
    users: list[list[int]] = [[] for _ in given]
    for place, triggers in enumerate(waits_for):
        for trigger in triggers:
            users[trigger].append(place)
    ready = [place for place, triggers in enumerate(waits_for) if not triggers]  # sorted, thus a heap
    while ready:
        place = heappop(ready)
        yield given[place]
        for user in users[place]:
            waits_for[user].remove(place)
            if not waits_for[user]:
                heappush(ready, user)


def _triggers(rule: Rule) -> set[str]:
    """Names of the rules that it refers to."""
    return {each.rule for each in leaves(rule.when) if isinstance(each, ActiveRule)}


def _name(actions: Actions, action: str, node: str) -> str:
    """What an action names; empty without it, and for a parameter that the end does not set back."""
    value = getattr(actions, action)
    if isinstance(value, ParameterChange):
        return f"{_full_name(value.node, node)} {value.name}".strip() if value.end is not None else ""
    return _full_name(value, node) if value else ""


def _full_name(name: str, node: str) -> str:
    """A name as a node resolves it, the node's own for none; as it is where the node is not known."""
    if not name or not node or name.startswith("/"):
        return name or node
    return f"{node.rpartition('/')[0]}/{name}"


def _flat(parts: Iterable[Condition]) -> Iterator[Condition]:
    for part in parts:
        if isinstance(part, Combined) and part.kind == "all":
            yield from _flat(part.parts)
        else:
            yield part


def _of_objects(objects: Sequence[Objects]) -> Iterator[str]:
    """What no single object can be."""
    labels = [set(each.labels) for each in objects if each.labels]
    if labels and not set.intersection(*labels):
        yield f"no object has all of these labels: {', '.join(shown(min(each)) for each in labels)}"
    outside = {zone for each in objects for zone in each.outside}
    for each in objects:
        if each.inside and outside.issuperset(each.inside):
            yield f"inside and outside of {shown(min(each.inside))} at once"
    for name in QUANTITIES:
        ranges = [found for each in objects if (found := dict(each.ranges).get(name))]
        if _is_empty(ranges, 0.0):
            yield f"no {name} is in all of these ranges"
    values = dict[str, str]()
    for each in objects:
        for name, value in each.attributes:
            if values.setdefault(name, value) != value:
                yield f"no object has both values of {shown(name)}, {shown(values[name])} and {shown(value)}"
    if len({_moment(each) for each in objects} - {""}) > 1:
        yield DIFFERENT_MOMENTS
    sides = defaultdict[str, set[str]](set)
    for each in objects:
        sides[each.crosses].add(each.to)
    yield from (
        f"line {shown(line)} is crossed to one side at a time" for line in sides if {*SIDES} <= sides[line]
    )


def _of_zones(objects: Sequence[Objects], apart: Callable[[str, str], bool]) -> Iterator[str]:
    """Zones that no single object can be inside of at once."""
    for one, other in combinations([each.inside for each in objects if each.inside], 2):
        if all(apart(*pair) for pair in product(one, other)):
            yield f"no object is inside of both {shown(one[0])} and {shown(other[0])}, which lie apart"


def _moment(objects: Objects) -> str:
    """The kind of moment of a condition; empty where it lasts."""
    if objects.crosses:
        return "crosses"
    return "appears" if objects.appears is not None else "disappears" if objects.momentary else ""


def _of_counts(counts: Iterable[Count]) -> Iterator[str]:
    """Numbers of the same objects that no scene has."""
    ranges = defaultdict[Objects, list[Range]](list)
    for each in counts:
        ranges[each.objects].append(each.range)
    for found in ranges.values():
        if _is_empty(found, 1.0):
            yield "no number is in all of these ranges"


def _is_empty(ranges: Sequence[Range], step: float) -> bool:
    """Whether no value is in all of the open ranges, each widened by its hysteresis.

    Args:
        step: distance of the values: 1 for whole numbers.
    """
    if len(ranges) < 2:
        return False
    low = max(each.above - each.hysteresis for each in ranges)
    high = min(each.below + each.hysteresis for each in ranges)
    return high <= low + step
