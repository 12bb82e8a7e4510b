# SPDX-License-Identifier: Apache-2.0
"""The shapes in which models write labelled boxes: walks a parsed value and yields each box with its label.

A box is four numbers, two points, corner keys, or a text of four numbers. Its label is that of its own
object, else the key above it, else the text beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfm_perception.answers.strict import NUMBER

MAX_DEPTH = 32
"""Levels of nesting that are read: more than any answer has."""

_LABEL_KEYS = (
    *(
        "label",
        "name",
        "class",
        "class_name",
        "category",
        "object",
        "labels",
        "names",
        "classes",
        "categories",
    ),
    *("ref", "text", "object_name", "category_name", "phrase", "phrases", "entity", "title", "description"),
)
_BOX_KEYS = frozenset(
    (
        *(
            "bbox",
            "box",
            "bbox_2d",
            "box_2d",
            "bounding_box",
            "boundingbox",
            "bboxes",
            "boxes",
            "bounding_boxes",
        ),
        *("coordinates", "coords", "position", "location", "rect"),
    )
)
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_WRAPPERS = frozenset(
    (
        *("objects", "object", "detections", "results", "result", "items", "annotations", "instances"),
        *("predictions", "detected_objects", "answer", "response", "output", "data", "image", "images"),
    )
)
_NO_LABELS = frozenset(("null", "none", "nan", "true", "false", "undefined"))
_FOUR_NUMBERS = re.compile(rf"[\s\[(]*{NUMBER}(?:[\s,]+{NUMBER}){{3}}[\s\])]*")


@dataclass(frozen=True, slots=True)
class Shape:
    """A box with its label as written, None where there is none; or the `reason` why it is no box."""

    label: str | None
    sides: tuple[float, ...] = ()
    reason: str = ""


def shapes(value: object, label_key: str, box_key: str, asked: Sequence[str] = ()) -> Iterator[Shape]:
    """The boxes in a value of lists, mappings, texts and numbers, with their labels.

    Args:
        label_key, box_key: Those of the dialect, beside the usual ones.
        asked: The labels that were asked for; `box` may be one of them.
    """
    label_keys = (folded(label_key), *_LABEL_KEYS)
    box_keys = (_BOX_KEYS - set(map(folded, asked))) | {folded(box_key)}
    return _walk(value, None, label_keys, box_keys, 0)


def is_box_key(key: str) -> bool:
    return folded(key) in _BOX_KEYS


def is_corner_key(key: str) -> bool:
    return any(folded(key) in keys for keys in _CORNERS)


def folded(key: str) -> str:
    """A key without case, quotes and angle brackets, its words joined by `_`."""
    return re.sub(r"[\s-]+", "_", key.strip(" \t\n\"'`*<>").lower())


def _walk(
    value: object, name: str | None, labels: Sequence[str], boxes: frozenset[str], depth: int
) -> Iterator[Shape]:
    if depth > MAX_DEPTH:
        return

    def down(child: object, label: str | None) -> Iterator[Shape]:
        return _walk(child, label, labels, boxes, depth + 1)

    if isinstance(value, Mapping):
        yield from _object(value, name, labels, boxes, down)
    elif isinstance(value, list):
        yield from _list(value, name, down)


def _object(
    value: Mapping[Any, Any], name: str | None, labels: Sequence[str], boxes: frozenset[str],
    down: Callable[[object, str | None], Iterator[Shape]],
) -> Iterator[Shape]:  # fmt: skip
    entries = {folded(str(key)): (str(key), child) for key, child in value.items()}
    found = next((entries[key][1] for key in labels if key in entries and _is_label(entries[key][1])), None)
    label = found if isinstance(found, str) else name
    counted = False
    for shape in _own_boxes(entries, boxes, label, found if isinstance(found, list) else None):
        counted = True
        yield shape
    for key, (written, child) in entries.items():
        if (
            key in boxes
            or (key in labels and not isinstance(child, (Mapping, list)))
            or isinstance(found, list)
        ):
            continue
        for shape in down(
            child, label if key in _WRAPPERS or key in labels or found else _name_of(written, name)
        ):
            counted = True
            yield shape
    if not counted and entries.keys() & {*labels, *boxes, "x1", "xmin"} - _WRAPPERS:
        yield Shape(label, reason="no_box")


def _own_boxes(
    entries: Mapping[str, tuple[str, Any]], boxes: frozenset[str], label: str | None, names: list[Any] | None
) -> Iterator[Shape]:
    """The boxes under an object's own box keys and corner keys; `names` is an array of labels beside them."""
    for keys in _CORNERS:
        if all(key in entries for key in keys):
            yield _shape(label, [entries[key][1] for key in keys])
            return
    if sum(key in entries for corner in _CORNERS[:1] for key in corner) >= 2:
        yield Shape(label, reason="not_four_numbers")
        return
    for key in boxes & entries.keys():
        child = entries[key][1]
        several = list(_boxes(child))
        if names is not None and len(names) == len(several):
            yield from (
                _shape(each if isinstance(each, str) else None, box)
                for each, box in zip(names, several, strict=True)
            )
        elif names is not None:
            yield Shape(None, reason="no_label")
        else:
            yield from (_shape(label, box) for box in several)


def _boxes(value: object) -> Iterator[Sequence[object]]:
    """The boxes under a key for boxes: one, several, or a text or mapping of one."""
    if isinstance(value, str):
        if _FOUR_NUMBERS.fullmatch(value):
            yield re.findall(NUMBER, value)
    elif isinstance(value, Mapping):
        entries = {folded(str(key)): child for key, child in value.items()}
        for keys in _CORNERS:
            if all(key in entries for key in keys):
                yield [entries[key] for key in keys]
                return
    elif isinstance(value, list) and value:
        points = _points(value)
        if points is not None:
            yield points
        elif all(isinstance(child, (list, Mapping)) or _is_text_box(child) for child in value):
            for child in value:
                yield from _boxes(child)
        else:
            yield value


def _list(
    value: list[Any], name: str | None, down: Callable[[object, str | None], Iterator[Shape]]
) -> Iterator[Shape]:
    if (points := _points(value)) is not None:
        yield _shape(name, points)
        return
    if sum(_number(child) is not None for child in value) > 1:
        texts = [child for child in value if isinstance(child, str) and _number(child) is None]
        sides = [child for child in value if not isinstance(child, str) or _number(child) is not None]
        pair = len(texts) == 1 and len(sides) == 4  # ["dog", 1, 2, 3, 4]
        yield _shape(texts[0], sides) if pair else _shape(name, value)
        return
    names = [child for child in value if isinstance(child, str)]
    lists = [child for child in value if isinstance(child, list)]
    if names and len(names) == len(lists) and len(value) == 2 * len(names):  # ["dog", [..], "cat", [..]]
        for label, child in zip(names, lists, strict=True):
            yield from down(child, label)
        return
    for child in value:
        yield from down(child, name)


def _points(value: list[Any]) -> Sequence[object] | None:
    """The four numbers of a box, also as two points."""
    if len(value) == 4 and all(_number(child) is not None for child in value):
        return value
    if len(value) == 2 and all(isinstance(child, list) and len(child) == 2 for child in value):
        numbers = [*value[0], *value[1]]
        return numbers if all(_number(number) is not None for number in numbers) else None
    return None


def _shape(label: str | None, values: Sequence[object]) -> Shape:
    sides = tuple(number for value in values if (number := _number(value)) is not None)
    if len(values) != 4 or len(sides) != 4:
        return Shape(label, reason="not_four_numbers")
    return Shape(label, sides)


def _number(value: object) -> float | None:
    """A number, also as a text; NaN and infinities are numbers that no box takes."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return None if isinstance(value, str) and "_" in value else float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def _is_text_box(value: object) -> bool:
    return isinstance(value, str) and bool(_FOUR_NUMBERS.fullmatch(value))


def _is_label(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, str) for each in value)
    return isinstance(value, str) and value.lower() not in _NO_LABELS


def _name_of(key: str, name: str | None) -> str | None:
    """A key as the label of the boxes below it, unless it is a wrapper such as `objects` or `<OD>`."""
    return name if folded(key) in _WRAPPERS or key.startswith("<") else key
