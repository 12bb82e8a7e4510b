"""Repair: takes every whole object out of any text, and counts the broken ones.

Without constrained decoding a model also writes code fences and prose around its answer, trailing commas,
single or no quotes, numbers as strings, boxes as {"x1": ..} or [[x1, y1], [x2, y2]], one key per label
({"person": [[..], [..]]}), wrappers ({"objects": [..]}), and it stops in the middle.

The tokens of the text go through a stack of open brackets, which keeps the innermost 32 levels; there is no
recursion. A box moves outwards from its bracket until something labels it: the object's own label, else the
key above it, else the one label that was asked for. An object is whole when its label and its box are. A
missing closing brace does not matter; a number or a label cut off by the end of the text does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from lfm_perception.answers.collector import Collector, Span
from lfm_perception.answers.tokens import NUMBER, token_pattern
from lfm_perception.questions import Dialect

_BOX_TEXT = re.compile(rf"[\s\[(]*{NUMBER}(?:[\s,]+{NUMBER}){{3}}[\s\])]*")
_NUMBERS = re.compile(NUMBER)

_LABEL_RANKS = {"label": 1, "name": 2, "class": 3, "class_name": 4, "category": 5, "object": 6}
"""Keys for labels; of several in one object the lowest rank counts. The dialect's own key has rank 0."""

_NO_RANK = len(_LABEL_RANKS) + 1
_NO_LABELS = frozenset(("null", "none", "nan", "true", "false", "undefined"))
_BOX_KEYS = frozenset(
    ("bbox", "box", "bbox_2d", "bounding_box", "boundingbox", "bboxes", "boxes", "bounding_boxes")
)
_CORNER_KEYS = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_CORNERS = frozenset(key for keys in _CORNER_KEYS for key in keys)
_WRAPPERS = frozenset(
    (
        *("objects", "object", "detections", "results", "result", "items", "annotations", "instances"),
        *("predictions", "detected_objects", "answer", "response", "output", "data", "image", "images"),
    )
)

_MAX_DEPTH = 32
"""Open brackets on the stack: more than an answer has, and few enough to search for each token."""


@dataclass(slots=True)
class _Candidate:
    """Values that should be a box, from one bracket or from corner keys.

    `reason` says why they are not a box, or is empty. `is_box` is set below a key for boxes. `key` spans
    another key above them, which labels them when the object has no label.
    """

    opening: Span
    sides: list[float]
    spans: Sequence[Span]
    reason: str
    is_box: bool = False
    key: Span | None = None

    @classmethod
    def of(cls, opening: Span, values: Sequence[float | None], spans: Sequence[Span]) -> _Candidate:
        """A candidate of values, None for each that is not a number."""
        sides = [value for value in values if value is not None]
        return cls(opening, sides, spans, "" if len(sides) == len(values) == 4 else "not_four_numbers")


@dataclass(slots=True)
class _List:
    """An open `[` or `(` with its values (None: not a number) and the boxes in it that have no label yet.

    `counted` is set when something inside has been collected or rejected.
    """

    opening: Span
    boxes: list[_Candidate] = field(default_factory=list)
    counted: bool = False
    values: list[float | None] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class _Object:
    """An open `{`. `key` waits for its value; `keys` are the known keys seen so far.

    `label` is None until there is one, and an empty span when it was cut off. `rank` is that of its key.
    """

    opening: Span
    boxes: list[_Candidate] = field(default_factory=list)
    counted: bool = False
    key: str = ""
    key_span: Span = (0, 0)
    keys: set[str] = field(default_factory=set)
    label: Span | None = None
    rank: int = _NO_RANK
    corners: dict[str, tuple[float | None, Span]] = field(default_factory=dict)


_Level = _List | _Object


class Reader:
    """Reads one text into a collector."""

    def __init__(self, text: str, dialect: Dialect, collector: Collector) -> None:
        self._text = text
        self._pattern = token_pattern(dialect)
        self._label_ranks = {**_LABEL_RANKS, _folded(dialect.label_key): 0}
        self._box_keys = _BOX_KEYS | {_folded(dialect.box_key)}
        self._collector = collector
        self._stack: list[_Level] = []

    def read(self) -> None:
        stack = self._stack
        for token in self._pattern.finditer(self._text):
            handle = (_IN_BRACKETS if stack else _IN_PROSE).get(token.lastgroup)
            if handle is not None:
                handle(self, token)
        while stack:
            self._close(truncated=True)

    # Boxes in one token.

    def _whole_object(self, token: re.Match[str]) -> None:
        spans = token.span("x1"), token.span("y1"), token.span("x2"), token.span("y2")
        sides = [float(side) for side in token.group("x1", "y1", "x2", "y2")]
        opening = self._opening(token.start())
        self._collector.add(opening, token["label"], token.span("label"), sides, spans)
        if self._stack:
            self._stack[-1].counted = True

    def _box(self, token: re.Match[str]) -> None:
        spans = token.span("a"), token.span("b"), token.span("c"), token.span("d")
        values = [float(value) for value in token.group("a", "b", "c", "d")]
        box = _Candidate.of(self._opening(token.start()), values, spans)
        self._move_outwards([box], self._stack[-1] if self._stack else None)

    # Brackets.

    def _opening(self, bracket: int) -> Span:
        """The bracket with the comma and the space before it."""
        start = bracket
        while start and self._text[start - 1] in ", \t\n\r":
            start -= 1
        return start, bracket + 1

    def _open_object(self, token: re.Match[str]) -> None:
        top = self._stack[-1] if self._stack else None
        if isinstance(top, _Object) and not top.key and top.boxes:
            self._close()  # its own brace is missing
        self._stack.append(_Object(self._opening(token.start())))
        self._limit_depth()

    def _open_lists(self, token: re.Match[str]) -> None:
        opening = self._opening(token.start())
        count = token.start(token.lastgroup or 0) - token.start()
        self._stack += [_List(opening) for _ in range(min(count, _MAX_DEPTH))]
        self._limit_depth()

    def _limit_depth(self) -> None:
        while len(self._stack) > _MAX_DEPTH:
            self._settle(self._stack.pop(0), None)

    def _close_up_to(self, kind: type[_List | _Object]) -> None:
        """Close the innermost bracket of this kind and all inside it, if there is one."""
        stack = self._stack
        if isinstance(stack[-1], kind) or any(isinstance(level, kind) for level in stack):
            while not isinstance(stack[-1], kind):
                self._close()
            self._close()

    def _close(self, truncated: bool = False) -> None:
        level = self._stack.pop()
        self._settle(level, self._stack[-1] if self._stack else None, truncated)

    def _settle(self, level: _Level, parent: _Level | None, truncated: bool = False) -> None:
        """Collect the labelled boxes of a closed level; its other boxes move outwards to the parent."""
        if isinstance(level, _Object):
            self._settle_object(level, truncated)
        else:
            self._settle_list(level, parent, truncated)
        self._move_outwards(level.boxes, parent)
        if parent is not None:
            parent.counted |= level.counted

    def _move_outwards(self, boxes: Sequence[_Candidate], parent: _Level | None) -> None:
        """Give boxes without a label to the parent; outside of all brackets the asked label decides."""
        if parent is None:
            for box in boxes:
                if box.reason:
                    self._collector.reject(box.reason)
                else:
                    self._collector.add_unlabelled(box.opening, box.sides, box.spans)
            return
        if isinstance(parent, _Object) and parent.key:
            self._apply_key(boxes, parent)
            parent.key = ""
        parent.boxes += boxes

    def _settle_list(self, level: _List, parent: _Level | None, truncated: bool) -> None:
        numbers = sum(value is not None for value in level.values)
        if numbers == 2 and isinstance(parent, _List) and not truncated:  # as in [[x1, y1], [x2, y2]]
            parent.values += level.values
            parent.spans += level.spans
        elif numbers > 1:  # fewer are prose, as in "(2 objects)"
            box = _Candidate.of(level.opening, level.values, level.spans)
            if truncated:
                box.reason = "truncated"
            level.boxes.append(box)

    def _settle_object(self, level: _Object, truncated: bool) -> None:
        self._add_corner_box(level, truncated)
        unlabelled: list[_Candidate] = []
        found = False
        for box in level.boxes:
            label = box.key if level.label is None else level.label
            if label is None:
                unlabelled.append(box)
            elif box.is_box or level.label is None:
                self._collect(box, label, truncated)
                found = True
        level.boxes = unlabelled
        if not (found or unlabelled or level.counted) and (level.keys or truncated):
            self._collector.reject("truncated" if truncated else "no_box")
            found = True
        level.counted |= found

    def _add_corner_box(self, level: _Object, truncated: bool) -> None:
        if level.corners:
            keys = next((keys for keys in _CORNER_KEYS if all(key in level.corners for key in keys)), ())
            corners = [level.corners[key] for key in keys]
            box = _Candidate.of(level.opening, [value for value, _ in corners], [span for _, span in corners])
            if truncated and box.reason:
                box.reason = "truncated"
            box.is_box = True
            level.boxes.append(box)

    def _collect(self, box: _Candidate, label: Span, truncated: bool) -> None:
        if box.reason:
            self._collector.reject(box.reason)
        elif truncated and label[0] == label[1]:
            self._collector.reject("truncated")
        else:
            self._collector.add(box.opening, self._text[slice(*label)], label, box.sides, box.spans)

    def _apply_key(self, boxes: Sequence[_Candidate], parent: _Object) -> None:
        """Note on the boxes the meaning of the key above them."""
        if parent.key in self._box_keys or parent.key in _WRAPPERS:
            for box in boxes:
                box.is_box = True
            if len(boxes) == 1:
                boxes[0].opening = parent.opening
        elif parent.key not in self._label_ranks and parent.key not in _CORNERS:
            for box in boxes:
                box.key = box.key or parent.key_span

    # Keys and values.

    def _key(self, token: re.Match[str]) -> None:
        stack = self._stack
        if isinstance(stack[-1], _List) and any(isinstance(level, _Object) for level in stack):
            while isinstance(stack[-1], _List):
                self._close()  # a list without its closing bracket
        top = stack[-1]
        if isinstance(top, _List):
            return
        start, end = _content(token)
        key = _folded(self._text[start:end])
        if key in top.keys:  # two objects without the brackets between them
            self._close()
            top = _Object((start, start))
            stack.append(top)
        if key in self._label_ranks or key in self._box_keys or key in _CORNERS:
            top.keys.add(key)
        top.key, top.key_span = key, (start, end)

    def _value(self, value: float | None, span: Span) -> None:
        top = self._stack[-1]
        if isinstance(top, _List):
            top.values.append(value)
            top.spans.append(span)
        else:
            if top.key in _CORNERS and span[1] < len(self._text):  # at the end it may lack digits
                top.corners[top.key] = value, span
            top.key = ""

    def _number(self, token: re.Match[str]) -> None:
        start, end = token.start(), token.start("number")
        self._value(float(self._text[start:end]), (start, end))

    def _string(self, token: re.Match[str]) -> None:
        start, end = _content(token)
        text = self._text[start:end]
        top = self._stack[-1]
        if isinstance(top, _List) or top.key in _CORNERS:
            self._value(_float(text), (start, end))
            return
        if text.lower() not in _NO_LABELS and self._set_label(top, (start, end)):
            pass
        elif top.key in self._box_keys and _BOX_TEXT.fullmatch(text):
            numbers = list(_NUMBERS.finditer(self._text, start, end))
            box = _Candidate.of(top.opening, [float(n[0]) for n in numbers], [n.span() for n in numbers])
            box.is_box = True
            top.boxes.append(box)
        top.key = ""

    def _cut_string(self, token: re.Match[str]) -> None:
        start = token.start()
        top = self._stack[-1]
        if isinstance(top, _List):
            self._value(None, (start, start))
            return
        self._set_label(top, (start, start))
        top.key = ""

    def _set_label(self, level: _Object, span: Span) -> bool:
        """Take a string as the object's label when its key ranks before that of the label so far."""
        rank = self._label_ranks.get(level.key, level.rank)
        if rank < level.rank:
            level.label, level.rank = span, rank
            return True
        return False


_Handlers = Mapping[str | None, Callable[[Reader, re.Match[str]], None]]

_IN_PROSE: _Handlers = {
    "object": Reader._whole_object,
    "box": Reader._box,
    "open_object": Reader._open_object,
    "open_list": Reader._open_lists,
    "open_lists": Reader._open_lists,
}
"""Handlers of tokens outside of all brackets, where other tokens mean nothing."""

_IN_BRACKETS: _Handlers = {
    **_IN_PROSE,
    "close_object": lambda reader, _: reader._close_up_to(_Object),
    "close_list": lambda reader, _: reader._close_up_to(_List),
    "string_key": Reader._key,
    "word_key": Reader._key,
    "string": Reader._string,
    "word": Reader._string,
    "cut_string": Reader._cut_string,
    "number": Reader._number,
    "malformed_number": lambda reader, token: reader._value(None, token.span()),
}


def _content(token: re.Match[str]) -> Span:
    """The span of a string without its quotes, or of a bare word."""
    kind = token.lastgroup or ""
    quote = 1 if kind in ("string", "string_key") else 0
    return token.start() + quote, token.start(kind) - quote


@lru_cache(maxsize=256)
def _folded(key: str) -> str:
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def _float(text: str) -> float | None:
    """The number, NaN or infinity that a string or a bare word spells, else None."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None
