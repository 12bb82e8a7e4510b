# SPDX-License-Identifier: Apache-2.0
"""The tolerant half: takes the objects out of text that no grammar constrained, and counts the broken ones.

json-repair parses what looks like JSON, `lines` turns lists, tables and YAML into mappings, box tokens become
objects; `shapes` finds the boxes in the result. Each box is then looked up in the text: one whose four
numbers do not stand there one after the other is not believed. Text that is nested too deeply or too long
for json-repair, which is recursive and not linear, is refused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from lfm_perception.answers.collector import LABEL_LIMIT, Collector, Span
from lfm_perception.answers.lines import BARE_BOX, FOUR, lines
from lfm_perception.answers.shapes import MAX_DEPTH, Shape, is_box_key, shapes
from lfm_perception.answers.strict import NUMBER
from lfm_perception.questions import Dialect

MAX_TEXT = 16_384
"""Longest text that is repaired, characters: four times the longest answer."""

_PUNCTUATION = str.maketrans("“”：，［］｛｝", '"":,[]{}')
_TUPLE = re.compile(rf"\(({FOUR}(?:,\s*)?)\)")
_PAIR = rf"\(\s*({NUMBER}\s*,\s*{NUMBER})\s*\)"
_PAIRS = re.compile(rf"\(?{_PAIR}\s*,?\s*(?:to\s*)?{_PAIR}\)?")
_ESCAPED = re.compile(r'\{\s*\\"')
_NUMBER = re.compile(rf"(?<![\w.]){NUMBER}(?![\w.%])|(?<![\w.]){NUMBER}(?=\.(?!\d))")
_TOKENS = re.compile(
    r"<\|object_ref_start\|>(?P<qwen>[^<\n]{1,100})<\|object_ref_end\|>\s*(?P<qwen_boxes>(?:<\|box_start\|>[^<\n]*<\|box_end\|>\s*)+)"
    r"|<ref>(?P<ref>[^<\n]{1,100})</ref>\s*(?P<ref_boxes>(?:<box>[^<\n]*</box>\s*)+)"
    r"|(?P<bare_boxes>(?:<\|box_start\|>[^<\n]*<\|box_end\|>\s*|<box>[^<\n]*</box>\s*)+)"
)
_UNREAD = re.compile(rf"[\[(]{FOUR}[\])]|\d\.\d+(?:[^\w.]+\d\.\d+){{3}}")


def repair(text: str, dialect: Dialect, collector: Collector) -> None:
    """Read a text, in which whole objects of the dialect have been blanked, into a collector."""
    if not re.search(r"\d", text) and "{" not in text:
        return
    plain = text.translate(_PUNCTUATION)
    if _ESCAPED.search(plain):  # JSON within a JSON string
        plain = plain.replace('\\"', ' "').replace("\\n", "  ")
    places = _Places(plain)
    plain = _TUPLE.sub(r"[\1]", plain)
    plain = _PAIRS.sub(r"[\1, \2]", plain)
    for shape in _shapes(plain, dialect, collector):
        _collect(shape, places, collector)
    if collector.is_empty and _UNREAD.search(plain):
        collector.reject("malformed")


def _shapes(text: str, dialect: Dialect, collector: Collector) -> Iterator[Shape]:
    for match in _TOKENS.finditer(text):
        boxes = match["qwen_boxes"] or match["ref_boxes"] or match["bare_boxes"]
        numbers = [float(number) for number in re.findall(NUMBER, boxes)]
        label = match["qwen"] or match["ref"]
        for start in range(0, len(numbers), 4):
            sides = tuple(numbers[start : start + 4])
            yield Shape(label, sides, "" if len(sides) == 4 else "not_four_numbers")
    text = _TOKENS.sub(lambda match: " " * len(match[0]), text)
    if "{" not in text and (objects := lines(text)):
        yield from shapes(objects, dialect.label_key, dialect.box_key, collector.asked)
        return
    for region in _regions(text, collector):
        if BARE_BOX.fullmatch(region):
            yield from shapes([float(side) for side in re.findall(NUMBER, region)], "", "")
        else:
            yield from shapes(_parsed(region, collector), dialect.label_key, dialect.box_key, collector.asked)


def _parsed(region: str, collector: Collector) -> object:
    import json_repair  # here: answers of a grammar never need it

    try:
        return json_repair.loads(region, skip_json_loads=False)
    except (ValueError, RecursionError, TypeError, IndexError, KeyError, AttributeError):
        collector.reject("malformed")
        return None


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
    if shape.label is None or (is_box_key(shape.label) and shape.label.lower() != "box"):
        collector.add_unlabelled(places.opening(first), shape.sides, spans)
        return
    label_span = places.label(shape.label, first, last)
    place = min(first, label_span[0]) if label_span else first
    collector.add(places.opening(place), shape.label, label_span, shape.sides, spans)
