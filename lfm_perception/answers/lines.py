# SPDX-License-Identifier: Apache-2.0
"""Lists, tables and YAML as objects: lines `dog: [..]`, `| dog | 0.1 | 0.2 | 0.3 | 0.4 |`, `label: dog`."""

from __future__ import annotations

import re
from bisect import bisect_left

from lfm_perception.answers.shapes import folded, is_box_key, is_corner_key
from lfm_perception.answers.strict import NUMBER

FOUR = rf"\s*{NUMBER}(?:\s*,\s*{NUMBER}){{3}}\s*"
BARE_BOX = re.compile(rf"\[{FOUR}(?:,\s*)?\]")

_KEY = r"[\"'`*]*(?P<key>[^\W\d][^:\[\](){}|\n\"`*]{0,99}?)[\"'`*]*"
_BULLET = r"^[ \t]*(?P<bullet>[-*•]|\d+[.)])?[ \t]*"
_LINE = re.compile(
    rf"{_BULLET}{_KEY}[ \t]*(?(bullet)(?::|(?=\[))|:)[ \t*]*(?P<value>[^\n]*?),?[ \t]*$", re.MULTILINE
)
_ITEM = re.compile(
    rf"^[ \t]*-[ \t]*(?P<number>{NUMBER})[ \t]*$|^[ \t]*(?:-[ \t]*)?(?P<box>\[{FOUR}\]),?[ \t]*$",
    re.MULTILINE,
)
_ROW = re.compile(
    rf"^[ \t|]*(?:[-*•]|\d+[.)])?[ \t]*{_KEY}[ \t]*(?:[-=]>|[→|,=\t])[ \t]*"
    rf"(?P<box>\[{FOUR}\]|{NUMBER}(?:[ \t]*[|,\t][ \t]*{NUMBER}){{3}})[ \t|]*$",
    re.MULTILINE,
)
_PROSE = re.compile(
    r"\s(?:is|are|at|in|here|located|found|visible|follows|coordinates|position)$", re.IGNORECASE
)
_MAX_WORDS = 4
"""Most words of a name before a colon: longer ones are prose."""


def lines(text: str) -> list[dict[str, object]]:
    """The objects of lines `key: value`: a bullet or a repeated key begins another one. None: empty."""
    text = _ROW.sub(_as_line, text)
    found: list[dict[str, object]] = []
    matches = list(_LINE.finditer(text))
    items = [(item.start(), item) for item in _ITEM.finditer(text)]
    keys = {folded(line["key"]) for line in matches}
    boxes = any(BARE_BOX.fullmatch(line["value"]) or is_box_key(line["key"]) for line in matches)
    if not (boxes or keys >= {"x1", "y1"} or (matches and any(item["box"] for _, item in items))):
        return []
    heading = ""
    for number, line in enumerate(matches):
        key, value = line["key"].strip(), line["value"].strip("\"'` ")
        if not found or (line["bullet"] and not _is_continued(line, found[-1])) or key in found[-1]:
            found.append({})
        end = matches[number + 1].start() if number + 1 < len(matches) else len(text)
        block = [item for _, item in items[_place(items, line.end()) : _place(items, end)]]
        if value or block:
            if heading and not found[-1] and (is_box_key(key) or is_corner_key(key)):
                found[-1]["label"] = heading
            found[-1][key] = value or _sides(block)
        elif not is_box_key(key):
            heading = key if _is_name(key) else ""
            found.append({})
    return [_object(each) for each in found if each]


def _as_line(row: re.Match[str]) -> str:
    """A row of a table as `name: [x1, y1, x2, y2]`, unless its four numbers cannot be corners."""
    sides = re.findall(NUMBER, row["box"])
    x1, y1, x2, y2 = map(float, sides)
    is_box = x1 < x2 and y1 < y2 and _is_name(row["key"].strip())
    return f"- {row['key'].strip()}: [{', '.join(sides)}]" if is_box else row[0]


def _place(items: list[tuple[int, re.Match[str]]], start: int) -> int:
    return bisect_left(items, start, key=lambda item: item[0])


def _sides(block: list[re.Match[str]]) -> list[object]:
    """The numbers, or the boxes, of the items below a key."""
    return [
        float(item["number"]) if item["number"] else [float(side) for side in re.findall(NUMBER, item["box"])]
        for item in block
    ]


def _is_continued(line: re.Match[str], current: dict[str, object]) -> bool:
    """Whether a bullet belongs to the object above it: `- bbox: [..]` below `- label: dog`."""
    return is_box_key(line["key"]) and not any(is_box_key(key) for key in current) and bool(current)


def _is_name(key: str) -> bool:
    return len(key.split()) <= _MAX_WORDS and not _PROSE.search(key)


def _object(entries: dict[str, object]) -> dict[str, object]:
    """An object of lines; a box text becomes numbers, below a name or without a label."""
    found: dict[str, object] = {}
    for key, value in entries.items():
        if isinstance(value, str) and (box := BARE_BOX.fullmatch(value)):
            sides = [float(side) for side in re.findall(NUMBER, box[0])]
            if is_box_key(key) or not _is_name(key):
                found.setdefault(key if is_box_key(key) else "bbox", []).append(sides)  # type: ignore[attr-defined]
            else:
                found[key] = sides
        else:
            found[key] = value
    return found
