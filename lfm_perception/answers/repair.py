# SPDX-License-Identifier: Apache-2.0
"""The tolerant half: takes the objects out of text that no grammar constrained, and counts the broken ones.

json-repair parses what looks like JSON, lines `dog: [..]` and YAML become mappings, box tokens become
objects; `shapes` finds the boxes in the result. Each box is then looked up in the text: one whose four
numbers do not stand there one after the other is not believed. Text that is nested too deeply or too long
for json-repair, which is recursive and not linear, is refused.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

import json_repair

from lfm_perception.answers.collector import LABEL_LIMIT, Collector, Span
from lfm_perception.answers.shapes import MAX_DEPTH, Shape, folded, is_box_key, shapes
from lfm_perception.answers.strict import NUMBER
from lfm_perception.questions import Dialect

MAX_TEXT = 16_384
"""Longest text that is repaired, characters: four times the longest answer."""

_PUNCTUATION = str.maketrans("“”：，［］｛｝", '"":,[]{}')
_FOUR = rf"\s*{NUMBER}(?:\s*,\s*{NUMBER}){{3}}\s*"
_TUPLE = re.compile(rf"\(({_FOUR}(?:,\s*)?)\)")
_BARE_BOX = re.compile(rf"\[{_FOUR}(?:,\s*)?\]")
_NUMBER = re.compile(rf"(?<![\w.]){NUMBER}(?![\w.%])|(?<![\w.]){NUMBER}(?=\.(?!\d))")
_TOKENS = re.compile(
    r"<\|object_ref_start\|>(?P<qwen>[^<\n]{1,100})<\|object_ref_end\|>\s*(?P<qwen_boxes>(?:<\|box_start\|>[^<\n]*<\|box_end\|>\s*)+)"
    r"|<ref>(?P<ref>[^<\n]{1,100})</ref>\s*(?P<ref_boxes>(?:<box>[^<\n]*</box>\s*)+)"
    r"|(?P<bare_boxes>(?:<\|box_start\|>[^<\n]*<\|box_end\|>\s*|<box>[^<\n]*</box>\s*)+)"
)
_LINE = re.compile(
    r"^[ \t]*(?P<bullet>[-*•]|\d+[.)])?[ \t]*[\"'`*]*(?P<key>[^\W\d][^:\[\](){}\n\"`*]{0,99}?)[\"'`*]*"
    r"[ \t]*(?(bullet)(?::|(?=\[))|:)[ \t*]*(?P<value>[^\n]*?),?[ \t]*$",
    re.MULTILINE,
)
_PROSE = re.compile(
    r"\s(?:is|are|at|in|here|located|found|visible|follows|coordinates|position)$", re.IGNORECASE
)
_ITEM = re.compile(rf"^[ \t]*-[ \t]*(?P<number>{NUMBER})[ \t]*$", re.MULTILINE)


def repair(text: str, dialect: Dialect, collector: Collector) -> None:
    """Read a text, in which whole objects of the dialect have been blanked, into a collector."""
    if not re.search(r"\d", text) and "{" not in text:
        return
    plain = text.translate(_PUNCTUATION)
    plain = _TUPLE.sub(r"[\1]", plain)
    places = _Places(plain)
    for shape in _shapes(plain, dialect, collector):
        _collect(shape, places, collector)


def _shapes(text: str, dialect: Dialect, collector: Collector) -> Iterator[Shape]:
    for match in _TOKENS.finditer(text):
        boxes = match["qwen_boxes"] or match["ref_boxes"] or match["bare_boxes"]
        numbers = [float(number) for number in re.findall(NUMBER, boxes)]
        label = match["qwen"] or match["ref"]
        for start in range(0, len(numbers), 4):
            sides = tuple(numbers[start : start + 4])
            yield Shape(label, sides, "" if len(sides) == 4 else "not_four_numbers")
    text = _TOKENS.sub(lambda match: " " * len(match[0]), text)
    if "{" not in text and (lines := _lines(text)):
        yield from shapes(lines, dialect.label_key, dialect.box_key)
        return
    for region in _regions(text, collector):
        if _BARE_BOX.fullmatch(region):
            yield from shapes([float(side) for side in re.findall(NUMBER, region)], "", "")
        else:
            yield from shapes(_parsed(region, collector), dialect.label_key, dialect.box_key)


def _parsed(region: str, collector: Collector) -> object:
    try:
        return json_repair.loads(region, skip_json_loads=False)
    except (ValueError, RecursionError, TypeError, IndexError, KeyError, AttributeError):
        collector.reject("malformed")
        return None


def _lines(text: str) -> list[dict[str, object]]:
    """Lines `key: value` as objects: a bullet or a repeated key begins another one. YAML, in short."""
    found: list[dict[str, object]] = []
    lines = list(_LINE.finditer(text))
    keys = {folded(line["key"]) for line in lines}
    if not any(
        _BARE_BOX.fullmatch(line["value"]) or is_box_key(line["key"]) for line in lines
    ) and not keys >= {"x1", "y1"}:
        return []
    items = [(item.start(), float(item["number"])) for item in _ITEM.finditer(text)]
    for number, line in enumerate(lines):
        key, value = line["key"].strip(), line["value"].strip("\"'` ")
        if not found or (line["bullet"] and not _is_continued(line, found[-1])) or key in found[-1]:
            found.append({})
        end = lines[number + 1].start() if number + 1 < len(lines) else len(text)
        block = items[bisect_left(items, (line.end(), 0.0)) : bisect_left(items, (end, 0.0))]
        found[-1][key] = value or [side for _, side in block]
    return [_line_object(each) for each in found]


def _is_continued(line: re.Match[str], current: dict[str, object]) -> bool:
    """Whether a bullet belongs to the object above it: `- bbox: [..]` below `- label: dog`."""
    return is_box_key(line["key"]) and not any(is_box_key(key) for key in current) and bool(current)


def _line_object(entries: dict[str, object]) -> dict[str, object]:
    """An object of lines; a box text becomes numbers, below `dog` a label of up to four words."""
    found: dict[str, object] = {}
    for key, value in entries.items():
        if isinstance(value, str) and (box := _BARE_BOX.fullmatch(value)):
            sides = [float(side) for side in re.findall(NUMBER, box[0])]
            if is_box_key(key) or len(key.split()) > 4 or _PROSE.search(key):
                found.setdefault("bbox", []).append(sides)  # type: ignore[attr-defined]
            else:
                found[key] = sides
        else:
            found[key] = value
    return found


def _regions(text: str, collector: Collector) -> Iterator[str]:
    """The bracketed parts of a text. An object that the end of the text cuts off is counted and left out."""
    stack: list[int] = []
    start = deepest = 0
    for match in re.finditer(r"[\[\]{}]", text):
        place = match.start()
        if match[0] in "[{":
            start = start if stack else place
            stack.append(place)
            deepest = max(deepest, len(stack)) if len(stack) > 1 else 1
        elif stack:
            stack.pop()
            if not stack:
                yield from _region(text[start : place + 1], deepest, collector)
    if stack:
        rest = _without_cut_object(text, start, stack, collector)
        yield from _region(rest, deepest, collector)


def _region(region: str, depth: int, collector: Collector) -> Iterator[str]:
    if depth > MAX_DEPTH or len(region) > MAX_TEXT:
        collector.reject("malformed")
    elif re.search(r"\d|[\"'{:]", region):
        yield region


def _without_cut_object(text: str, start: int, stack: list[int], collector: Collector) -> str:
    """An unclosed region without its last object, unless that has its label and its box."""
    opening = next((place for place in reversed(stack) if text[place] == "{"), stack[-1])
    last = text[opening:]
    tail = last[max(last.rfind("]"), last.rfind("}")) + 1 :]
    if text[opening] == "{" and len(tail) < len(last) and not tail.strip(", \t\r\n`"):
        return text[start:]
    if text[opening] == "[" and not re.search(r"\d", tail):
        return text[start:]
    collector.reject("truncated")
    return text[start:opening]


class _Places:
    """Where boxes and labels stand in a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._spans = [match.span() for match in _NUMBER.finditer(text)]
        values = [float(text[slice(*span)]) for span in self._spans]
        self._windows: defaultdict[tuple[float, ...], list[int]] = defaultdict(list)
        for index in range(len(values) - 4, -1, -1):
            self._windows[tuple(sorted(values[index : index + 4]))].append(index)
        self._values = values

    def numbers(self, sides: tuple[float, ...]) -> list[Span] | None:
        """The spans of the next box of these sides, in their order; None where there is none."""
        windows = self._windows.get(tuple(sorted(sides)))
        if not windows:
            return None
        index = windows.pop() if len(windows) > 1 else windows[0]
        free = list(range(index, index + 4))
        spans = []
        for side in sides:
            place = next(place for place in free if self._values[place] == side)
            free.remove(place)
            spans.append(self._spans[place])
        return spans

    def label(self, label: str, first: int, last: int) -> Span | None:
        """The span of a label before the numbers, or after them."""
        start = self.text.rfind(label, max(0, first - 20 * LABEL_LIMIT), first)
        if start < 0:
            start = self.text.find(label, last, last + 2 * LABEL_LIMIT)
        return None if start < 0 else (start, start + len(label))

    def opening(self, place: int) -> Span:
        """The bracket before a place, with the comma and the space before it."""
        bracket = max(self.text.rfind(bracket, max(0, place - LABEL_LIMIT), place) for bracket in "[{")
        start = bracket = max(bracket, 0)
        while start and self.text[start - 1] in ", \t\n\r":
            start -= 1
        return start, bracket + 1


def _collect(shape: Shape, places: _Places, collector: Collector) -> None:
    if shape.reason:
        collector.reject(shape.reason)
        return
    if not all(abs(side) < float("inf") for side in shape.sides):
        collector.reject("not_finite")
        return
    spans = places.numbers(shape.sides)
    if spans is None:
        collector.reject("not_four_numbers")
        return
    first, last = min(spans)[0], max(spans)[1]
    if shape.label is None or is_box_key(shape.label):
        collector.add_unlabelled(places.opening(first), shape.sides, spans)
        return
    label_span = places.label(shape.label, first, last)
    place = min(first, label_span[0]) if label_span else first
    collector.add(places.opening(place), shape.label, label_span, shape.sides, spans)
