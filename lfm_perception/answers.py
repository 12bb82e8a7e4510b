"""From the model's text to detections. Pure, never raises for any text, linear in its length.

A model is asked for a JSON array of objects (see `prompts.Dialect`) and mostly writes one. Without
constrained decoding it also writes code fences and prose around it, trailing commas, single or no
quotes, numbers as strings, boxes as {"x1": ..} or [[x1, y1], [x2, y2]], one key per label
({"person": [[..], [..]]}), wrappers ({"objects": [..]}), and it stops in the middle. This module takes
every whole object out of such text and counts, by reason, the ones it had to drop.

Rules
- Numbers are read in one unit, that of the dialect or of the `coordinates` argument. Nothing is guessed
  from their size.
- Swapped corners are put in order. A side that leaves the image by at most 5% of it is clipped, further
  out the box is dropped.
- The label is the object's own, else the key the boxes are listed under, else the one label that was
  asked for. A label that differs from an asked one only in case or spacing takes its spelling.
- An object counts as whole when its label and its box are; a missing closing brace does not matter, a
  number or a label cut off by the end of the text does.
- The same label with the same box is kept once.

How it works: one compiled pattern cuts the text into tokens. Its first alternative is a whole object in
the dialect's own form, so a well-formed answer costs one match per object. Everything else goes through
a small stack of open brackets. The stack remembers the innermost 32 levels; there is no recursion.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from lfm_perception.geometry import Box
from lfm_perception.questions import Dialect
from lfm_perception.scene import CoordinateStd, Detection

Coordinates = Literal["normalized", "per_mille", "pixels"]
"""The unit of the numbers in an answer: 0..1, 0..1000, or pixels of the picture."""

Span = tuple[int, int]
"""First character and the one after the last, in the parsed text."""

REJECTS: Mapping[str, str] = MappingProxyType(
    {
        "truncated": "the text ended inside the object",
        "no_label": "a box without a name, and not exactly one label was asked for",
        "bad_label": "a name that is empty, cut off, over 100 characters, or holds quotes or brackets",
        "not_asked": "a name outside the closed vocabulary",
        "no_box": "a name without a box",
        "not_four_numbers": "a box that is not made of four numbers",
        "not_finite": "a coordinate that is NaN or infinite",
        "out_of_range": "a coordinate more than 5% of the image outside of it",
        "zero_area": "a box without width or height, after clipping to the image",
        "duplicate": "the same label with the same box as an earlier object",
    }
)
"""Every reason for which an object is dropped, in words. There are no others."""

OVERSHOOT = 0.05
"""How far outside the image a side may lie, as a part of the image, and still be clipped to it."""

LABEL_LIMIT = 100
"""Characters in the longest name that is believed."""


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """One object of an answer, and where in the text it stands.

    `opening` spans what announced the object: its opening brace, with the bracket or comma before it.
    `label_span` is None where the label was not written in the text. `number_spans` belong to x1, y1,
    x2, y2 of `box`, in this order, also when the corners were swapped in the text.
    """

    label: str
    box: Box
    opening: Span
    label_span: Span | None
    number_spans: tuple[Span, Span, Span, Span]


@dataclass(frozen=True, slots=True)
class Spread:
    """A coordinate as the model's probabilities for its last token have it, normalized."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class TokenLogProb:
    """Natural logarithm of the probability of one answer token, which spans text[start:end].

    `spread` is there where the token ends a coordinate and the choice was the model's.
    """

    start: int
    end: int
    log_prob: float
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """The objects of an answer in the order of the text, and the dropped ones by reason (`REJECTS`)."""

    objects: tuple[ParsedObject, ...]
    rejects: Mapping[str, int]

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The objects with score 1, for text whose token probabilities are not known."""
        return tuple(Detection(found.label, found.box, 1.0) for found in self.objects)

    def scored(self, tokens: Sequence[TokenLogProb], *, means: bool = False) -> tuple[Detection, ...]:
        """The objects with the score of `score` and, where the tokens tell it, the spread of their sides.

        `means`: boxes are made of the means of their sides, which are finer than the printed numbers.
        """
        return tuple(_scored(found, tokens, means) for found in self.objects)


def _scored(found: ParsedObject, tokens: Sequence[TokenLogProb], means: bool) -> Detection:
    box, std = found.box, None
    spreads = [_spread(tokens, span) for span in found.number_spans]
    known = [spread for spread in spreads if spread is not None]
    if len(known) == len(spreads):
        std = CoordinateStd(*(spread.std for spread in known))
        x1, y1, x2, y2 = (spread.mean for spread in known)
        if means and x1 < x2 and y1 < y2:
            box = Box(x1, y1, x2, y2)
    return Detection(found.label, box, score(found, tokens), std)


def _spread(tokens: Sequence[TokenLogProb], span: Span) -> Spread | None:
    """Of the token that ends the number in this span."""
    index = bisect_left(tokens, span[1], key=lambda token: token.end)
    return tokens[index].spread if index < len(tokens) and tokens[index].end == span[1] else None


def score(found: ParsedObject, tokens: Sequence[TokenLogProb]) -> float:
    """How sure the model was of one object, 0..1, from the probabilities of the tokens it wrote.

    P(opening) x geometric mean of P(label tokens) x geometric mean of P(number tokens): that there is
    one more object, what it is called, where it is. A token counts where it overlaps the span; one
    that overlaps several counts in each. A part without tokens counts 1.

    `tokens` are those of the whole answer in the order of the text; a token whose choice was forced
    has log-probability 0. The score ranks objects; it is not calibrated.
    """
    opening = sum(_log_probs(tokens, (found.opening,)))
    label = _mean(_log_probs(tokens, (found.label_span,) if found.label_span else ()))
    numbers = _mean(_log_probs(tokens, sorted(found.number_spans)))
    return math.exp(min(0.0, opening + label + numbers))


def parse(
    text: str,
    dialect: Dialect,
    *,
    labels: Sequence[str] = (),
    closed: bool = False,
    coordinates: Coordinates | None = None,
    image_size: tuple[int, int] | None = None,
) -> Parsed:
    """The objects in `text`. Never raises for any text; every box lies inside the image and has an area.

    `labels` are the names asked for; with `closed` any other name is dropped. `coordinates` overrides
    the dialect's range. `image_size` is the width and height of the picture that pixels count in.

    Raises ValueError when `coordinates` is unknown, or "pixels" without a positive `image_size`.
    """
    collector = _Collector(labels, closed, _units(dialect, coordinates, image_size))
    _Reader(text, dialect, collector).read()
    objects = sorted(collector.objects, key=lambda found: found.opening)
    return Parsed(tuple(objects), MappingProxyType(collector.rejects))


def _units(
    dialect: Dialect, coordinates: Coordinates | None, image_size: tuple[int, int] | None
) -> tuple[float, float]:
    """What 1.0 is called in the text, across and down."""
    if coordinates is None:
        return float(dialect.coordinate_range), float(dialect.coordinate_range)
    if coordinates == "normalized":
        return 1.0, 1.0
    if coordinates == "per_mille":
        return 1000.0, 1000.0
    if coordinates == "pixels":
        if image_size is None or min(image_size) < 1:
            raise ValueError(f"coordinates in pixels need the size of the image, got {image_size}")
        return float(image_size[0]), float(image_size[1])
    raise ValueError(f"coordinates must be 'normalized', 'per_mille' or 'pixels', got {coordinates!r}")


def _log_probs(tokens: Sequence[TokenLogProb], spans: Sequence[Span]) -> list[float]:
    """Of the tokens that overlap any of the spans (ascending), each once."""
    found: list[float] = []
    index = 0
    for start, end in spans:
        index = max(index, bisect_right(tokens, start, key=lambda token: token.end))
        while index < len(tokens) and tokens[index].start < end:
            found.append(tokens[index].log_prob)
            index += 1
    return found


def _mean(log_probs: Sequence[float]) -> float:
    return sum(log_probs) / len(log_probs) if log_probs else 0.0


class _Collector:
    """Turns named boxes into objects, or counts why not."""

    def __init__(self, labels: Sequence[str], closed: bool, units: tuple[float, float]) -> None:
        self.objects: list[ParsedObject] = []
        self.rejects: dict[str, int] = {}
        self._asked = {_spaced(label).casefold(): label for label in labels}
        self._only = labels[0] if len(labels) == 1 else None
        self._closed = closed
        self._units = units
        self._judged: dict[str, tuple[str, str]] = {}
        self._seen: set[tuple[str, float, float, float, float]] = set()

    def reject(self, reason: str) -> None:
        self.rejects[reason] = self.rejects.get(reason, 0) + 1

    def add_unnamed(self, opening: Span, sides: Sequence[float], spans: Sequence[Span]) -> None:
        """A box without a name: it gets the one label that was asked for, if it was one."""
        if self._only is None:
            self.reject("no_label")
        else:
            self.add(opening, self._only, None, sides, spans)

    def add(
        self, opening: Span, name: str, name_span: Span | None, sides: Sequence[float], spans: Sequence[Span]
    ) -> None:
        """A box of four numbers under a name, both as written in the text."""
        verdict = self._judged.get(name)
        if verdict is None:
            verdict = self._judged[name] = self._judge(name)
        label, objection = verdict
        if objection:
            self.reject(objection)
            return
        x1, y1, x2, y2 = sides
        x1_span, y1_span, x2_span, y2_span = spans
        if x1 > x2:
            x1, x2, x1_span, x2_span = x2, x1, x2_span, x1_span
        if y1 > y2:
            y1, y2, y1_span, y2_span = y2, y1, y2_span, y1_span
        across, down = self._units
        x1, y1, x2, y2 = x1 / across, y1 / down, x2 / across, y2 / down
        # Comparisons with NaN are false, so NaN lands here as well.
        if not (-OVERSHOOT <= x1 <= x2 <= 1.0 + OVERSHOOT and -OVERSHOOT <= y1 <= y2 <= 1.0 + OVERSHOOT):
            self.reject("out_of_range" if all(map(math.isfinite, sides)) else "not_finite")
            return
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
        if x1 >= x2 or y1 >= y2 or (x2 - x1) * (y2 - y1) == 0.0:  # the last: too small for a float
            self.reject("zero_area")
            return
        before = len(self._seen)
        self._seen.add((label, x1, y1, x2, y2))
        if len(self._seen) == before:
            self.reject("duplicate")
            return
        number_spans = (x1_span, y1_span, x2_span, y2_span)
        self.objects.append(ParsedObject(label, Box(x1, y1, x2, y2), opening, name_span, number_spans))

    def _judge(self, name: str) -> tuple[str, str]:
        """The label that a name in the text stands for, or the reason against it."""
        label = _spaced(_unescaped(name))
        asked = self._asked.get(label.casefold())
        if asked is None:
            if not label or len(label) > LABEL_LIMIT or _BAD_IN_LABEL.search(label):
                return "", "bad_label"
            if self._closed:
                return "", "not_asked"
        return asked or label, ""


_BAD_IN_LABEL = re.compile(r"""[\x00-\x1f\x7f\ud800-\udfff\[\]{}"]|<\||\|>""")


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:  # an escape that JSON does not have, as \' in a single-quoted name
        return re.sub(r"\\(.)", r"\1", text)


# --- tokens -------------------------------------------------------------------------------------------

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"

# A quote opens a string unless it follows a letter, a digit or a backslash (an apostrophe, an inch sign,
# an escape). A string may hold brackets only when it ends where a JSON string can end; else it stops
# before the first bracket, so that a lost quote spoils one object and not the rest of the answer.
#
# Every alternative ends in an empty group, whose name is the kind of the token and whose place is its
# end. Matching takes linear time: a look that may fail ends before the next opening bracket or, for a
# string, at the next quote that could open one, and the last alternative takes any character.
_TOKENS = r"""(?:
  WHOLE (?P<object>)
| [\[(] \s*(?P<a>NUMBER)\s* , \s*(?P<b>NUMBER)\s* , \s*(?P<c>NUMBER)\s* , \s*(?P<d>NUMBER)\s*
    (?:,\s*)? [\])] (?P<four>)
| \{ (?P<brace>)
| [\[(]+ (?=[\[(]) (?P<lists>)
| [\[(] (?P<list>)
| [\])] (?P<end_list>)
| \} (?P<end_object>)
| ["'“] (?<![\w\\].) (?:
    (?: (?<=") [^"\\\n]*          (?: \\.                    [^"\\\n]* )*          " (?=\s*[,:：\])}])
      | (?<=') [^'\\\n]*          (?: (?:\\.|(?<=\w)'(?=\w)) [^'\\\n]* )*          ' (?=\s*[,:：\])}])
      | (?<=") [^"\\\n\[\](){}]*  (?: \\.                    [^"\\\n\[\](){}]* )*  "
      | (?<=') [^'\\\n\[\](){}]*  (?: (?:\\.|(?<=\w)'(?=\w)) [^'\\\n\[\](){}]* )*  '
      | (?<=“) [^”\n\[\](){}]*                                                     ”
    ) (?: (?P<string>) (?!\s*[:：]) | (?P<string_key>) \s*[:：] )
  | (?: (?<=") [^"\\\n\[\](){}]*  (?: \\.                    [^"\\\n\[\](){}]* )*
      | (?<=') [^'\\\n\[\](){}]*  (?: (?:\\.|(?<=\w)'(?=\w)) [^'\\\n\[\](){}]* )*
      | (?<=“) [^”\n\[\](){}]*
    ) (?P<cut>)
  )
| NUMBER (?: (?P<number>) (?![\w.%]) | [\w.%]+ (?P<other>) )
| [^\W\d] \w* (?: [ -][^\W\d]\w* )* (?: (?P<word>) (?!\s*[:：]) | (?P<word_key>) \s*[:：] )
| . (?P<junk>)
) [\s,]*"""

_BOX_TEXT = re.compile(rf"[\s\[(]*{_NUMBER}(?:[\s,]+{_NUMBER}){{3}}[\s\])]*")
_NUMBERS = re.compile(_NUMBER)


@lru_cache(maxsize=32)
def _tokens(dialect: Dialect) -> re.Pattern[str]:
    """One pattern for all tokens. Its first alternative is a whole object as the dialect writes it."""
    sides = (rf"\s* (?P<{side}> {_NUMBER} ) \s*" for side in ("x1", "y1", "x2", "y2"))
    values = {
        dialect.label_key: r'" (?P<label> [^"\\\n\[\](){}]* ) "',
        dialect.box_key: rf"\[ {' , '.join(sides)} \]",
    }
    members = (
        rf"{re.escape(json.dumps(key))} \s*:\s* {values.get(key, '[-+.0-9]+')}" for key in dialect.keys
    )
    whole = r"\{ \s*" + r" \s*,\s* ".join(members) + r" \s* \}"
    return re.compile(_TOKENS.replace("NUMBER", _NUMBER).replace("WHOLE", whole), re.VERBOSE | re.DOTALL)


# --- structure ----------------------------------------------------------------------------------------

_LABEL_RANKS = {"label": 1, "name": 2, "class": 3, "class_name": 4, "category": 5, "object": 6}
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
_NO_NAMES = frozenset(("null", "none", "nan", "true", "false", "undefined"))

_LEVELS = 32
"""Open brackets that are remembered: more than an answer has, and few enough to search each time."""


class _Values:
    """Four values that should be a box, from one list or from corner keys.

    `named` says that they stood under a key for boxes. `key` spans another key they stood under, which
    is their label when nothing else is. `reason` is why they are no box, or empty.
    """

    __slots__ = ("key", "named", "opening", "reason", "sides", "spans")

    def __init__(self, opening: Span, values: Sequence[float | None], spans: Sequence[Span]) -> None:
        self.opening = opening
        self.sides = [value for value in values if value is not None]
        self.spans = spans
        self.reason = "" if len(self.sides) == len(values) == 4 else "not_four_numbers"
        self.named = False
        self.key: Span | None = None


class _List:
    """An open `[` or `(`. A value that is not a number is None."""

    __slots__ = ("boxes", "busy", "opening", "spans", "values")

    def __init__(self, opening: Span) -> None:
        self.opening = opening
        self.values: list[float | None] = []
        self.spans: list[Span] = []
        self.boxes: list[_Values] = []
        self.busy = False


class _Object:
    """An open `{`. `key` waits for its value; `keys` are those seen that mean something.

    `label` is None until there is one, and empty when it was cut. `busy` says that something inside
    has been counted already.
    """

    __slots__ = ("boxes", "busy", "corners", "key", "key_span", "keys", "label", "opening", "rank")

    def __init__(self, opening: Span) -> None:
        self.opening = opening
        self.key = ""
        self.key_span = opening
        self.keys: set[str] = set()
        self.label: Span | None = None
        self.rank = len(_LABEL_RANKS) + 1
        self.corners: dict[str, tuple[float | None, Span]] = {}
        self.boxes: list[_Values] = []
        self.busy = False


class _Reader:
    """Reads one text. A box travels outwards from the bracket it stands in until something names it."""

    def __init__(self, text: str, dialect: Dialect, collector: _Collector) -> None:
        self._text = text
        self._pattern = _tokens(dialect)
        self._label_ranks = {**_LABEL_RANKS, _folded(dialect.label_key): 0}
        self._box_keys = _BOX_KEYS | {_folded(dialect.box_key)}
        self._collector = collector
        self._levels: list[_List | _Object] = []

    def read(self) -> None:
        levels = self._levels
        for token in self._pattern.finditer(self._text):
            take = (_IN_BRACKETS if levels else _IN_PROSE).get(token.lastgroup)
            if take is not None:
                take(self, token)
        while levels:
            self._close(truncated=True)

    # Boxes that one token holds.

    def _object(self, token: re.Match[str]) -> None:
        spans = token.span("x1"), token.span("y1"), token.span("x2"), token.span("y2")
        sides = [float(side) for side in token.group("x1", "y1", "x2", "y2")]
        opening = self._opening(token.start())
        self._collector.add(opening, token["label"], token.span("label"), sides, spans)
        if self._levels:
            self._levels[-1].busy = True

    def _four(self, token: re.Match[str]) -> None:
        spans = token.span("a"), token.span("b"), token.span("c"), token.span("d")
        values = [float(value) for value in token.group("a", "b", "c", "d")]
        box = _Values(self._opening(token.start()), values, spans)
        self._hand([box], self._levels[-1] if self._levels else None)

    # Brackets.

    def _opening(self, bracket: int) -> Span:
        """The bracket with the comma and the space before it."""
        start = bracket
        while start and self._text[start - 1] in ", \t\n\r":
            start -= 1
        return start, bracket + 1

    def _start_object(self, token: re.Match[str]) -> None:
        top = self._levels[-1] if self._levels else None
        if isinstance(top, _Object) and not top.key and top.boxes:
            self._close()  # its own brace was lost
        self._levels.append(_Object(self._opening(token.start())))
        self._forget()

    def _start_lists(self, token: re.Match[str]) -> None:
        opening = self._opening(token.start())
        count = token.start(token.lastgroup or 0) - token.start()
        self._levels += [_List(opening) for _ in range(min(count, _LEVELS))]
        self._forget()

    def _forget(self) -> None:
        while len(self._levels) > _LEVELS:
            self._settle(self._levels.pop(0), None)

    def _end_object(self, _: re.Match[str]) -> None:
        self._end(_Object)

    def _end_list(self, _: re.Match[str]) -> None:
        self._end(_List)

    def _end(self, kind: type[_List | _Object]) -> None:
        """A closing bracket closes what was left open inside; one that was never opened means nothing."""
        levels = self._levels
        if isinstance(levels[-1], kind) or any(isinstance(level, kind) for level in levels):
            while not isinstance(levels[-1], kind):
                self._close()
            self._close()

    def _close(self, truncated: bool = False) -> None:
        level = self._levels.pop()
        self._settle(level, self._levels[-1] if self._levels else None, truncated)

    def _settle(
        self, level: _List | _Object, parent: _List | _Object | None, truncated: bool = False
    ) -> None:
        """Count what has a name inside `level`, and hand the other boxes to `parent`."""
        if isinstance(level, _Object):
            self._settle_object(level, truncated)
        else:
            self._settle_list(level, parent, truncated)
        self._hand(level.boxes, parent)
        if parent is not None:
            parent.busy |= level.busy

    def _hand(self, boxes: Sequence[_Values], parent: _List | _Object | None) -> None:
        """Give boxes without a name to the level outside of them; outside of all the asked label decides."""
        if parent is None:
            for box in boxes:
                if box.reason:
                    self._collector.reject(box.reason)
                else:
                    self._collector.add_unnamed(box.opening, box.sides, box.spans)
            return
        if isinstance(parent, _Object) and parent.key:
            self._file(boxes, parent)
            parent.key = ""
        parent.boxes += boxes

    def _settle_list(self, level: _List, parent: _List | _Object | None, truncated: bool) -> None:
        numbers = sum(value is not None for value in level.values)
        if numbers == 2 and isinstance(parent, _List) and not truncated:  # as in [[x1, y1], [x2, y2]]
            parent.values += level.values
            parent.spans += level.spans
        elif numbers > 1:  # less is prose, as in "(2 objects)"
            box = _Values(level.opening, level.values, level.spans)
            if truncated:
                box.reason = "truncated"
            level.boxes.append(box)

    def _settle_object(self, level: _Object, truncated: bool) -> None:
        self._take_corners(level, truncated)
        nameless: list[_Values] = []
        found = False
        for box in level.boxes:
            name = box.key if level.label is None else level.label
            if name is None:
                nameless.append(box)
            elif box.named or level.label is None:
                self._take(box, name, truncated)
                found = True
        level.boxes = nameless
        if not (found or nameless or level.busy) and (level.keys or truncated):
            self._collector.reject("truncated" if truncated else "no_box")
            found = True
        level.busy |= found

    def _take_corners(self, level: _Object, truncated: bool) -> None:
        if level.corners:
            keys = next((keys for keys in _CORNER_KEYS if all(key in level.corners for key in keys)), ())
            values = [level.corners[key] for key in keys]
            box = _Values(level.opening, [value for value, _ in values], [span for _, span in values])
            if truncated and box.reason:
                box.reason = "truncated"
            box.named = True
            level.boxes.append(box)

    def _take(self, box: _Values, name: Span, truncated: bool) -> None:
        if box.reason:
            self._collector.reject(box.reason)
        elif truncated and name[0] == name[1]:
            self._collector.reject("truncated")
        else:
            self._collector.add(box.opening, self._text[slice(*name)], name, box.sides, box.spans)

    def _file(self, boxes: Sequence[_Values], parent: _Object) -> None:
        """Note what the key means under which the boxes stand."""
        if parent.key in self._box_keys or parent.key in _WRAPPERS:
            for box in boxes:
                box.named = True
            if len(boxes) == 1:
                boxes[0].opening = parent.opening
        elif parent.key not in self._label_ranks and parent.key not in _CORNERS:
            for box in boxes:
                box.key = box.key or parent.key_span

    # What stands between brackets.

    def _key(self, token: re.Match[str]) -> None:
        levels = self._levels
        if isinstance(levels[-1], _List) and any(isinstance(level, _Object) for level in levels):
            while isinstance(levels[-1], _List):
                self._close()  # a list that lost its bracket
        top = levels[-1]
        if isinstance(top, _List):
            return
        start, end = _content(token)
        key = _folded(self._text[start:end])
        if key in top.keys:  # two objects that lost the brackets between them
            self._close()
            top = _Object((start, start))
            levels.append(top)
        if key in self._label_ranks or key in self._box_keys or key in _CORNERS:
            top.keys.add(key)
        top.key, top.key_span = key, (start, end)

    def _value(self, value: float | None, span: Span) -> None:
        top = self._levels[-1]
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

    def _no_number(self, token: re.Match[str]) -> None:
        self._value(None, token.span())

    def _words(self, token: re.Match[str]) -> None:
        start, end = _content(token)
        text = self._text[start:end]
        top = self._levels[-1]
        if isinstance(top, _List) or top.key in _CORNERS:
            self._value(_float(text), (start, end))
            return
        rank = self._label_ranks.get(top.key, top.rank)
        if rank < top.rank and text.lower() not in _NO_NAMES:
            top.label, top.rank = (start, end), rank
        elif top.key in self._box_keys and _BOX_TEXT.fullmatch(text):
            numbers = list(_NUMBERS.finditer(self._text, start, end))
            box = _Values(top.opening, [float(n[0]) for n in numbers], [n.span() for n in numbers])
            box.named = True
            top.boxes.append(box)
        top.key = ""

    def _cut(self, token: re.Match[str]) -> None:
        """A string without an end."""
        start = token.start()
        top = self._levels[-1]
        if isinstance(top, _List):
            self._value(None, (start, start))
            return
        rank = self._label_ranks.get(top.key, top.rank)
        if rank < top.rank:
            top.label, top.rank = (start, start), rank
        top.key = ""


_Take = Callable[[_Reader, re.Match[str]], None]

_IN_PROSE: Mapping[str | None, _Take] = {
    "object": _Reader._object,
    "four": _Reader._four,
    "brace": _Reader._start_object,
    "list": _Reader._start_lists,
    "lists": _Reader._start_lists,
}
"""What each kind of token does outside of all brackets; the others mean nothing there."""

_IN_BRACKETS: Mapping[str | None, _Take] = {
    **_IN_PROSE,
    "end_object": _Reader._end_object,
    "end_list": _Reader._end_list,
    "string_key": _Reader._key,
    "word_key": _Reader._key,
    "string": _Reader._words,
    "word": _Reader._words,
    "cut": _Reader._cut,
    "number": _Reader._number,
    "other": _Reader._no_number,
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
