"""Validation of labelled boxes: each becomes a `ParsedObject` or is counted under a reason.

- Coordinates are divided by the dialect's range; their unit is never guessed from their size.
- Swapped corners are put in order. A side at most 5% outside the image is clipped, else the box is rejected.
- A label that equals an asked one but for case and spacing takes the asked spelling.
- A box without a label takes the asked label when exactly one was asked for.
- The same label with the same box is kept once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lfm_perception.geometry import Box

Span = tuple[int, int]
"""First character and the one after the last, in the parsed text."""

REJECTS: Mapping[str, str] = MappingProxyType(
    {
        "truncated": "the text ended inside the object",
        "no_label": "a box without a label, and not exactly one label was asked for",
        "bad_label": "a label that is empty, cut off, over 100 characters, or holds quotes or brackets",
        "not_asked": "a label outside the closed vocabulary",
        "no_box": "a label without a box",
        "not_four_numbers": "a box that is not made of four numbers",
        "not_finite": "a coordinate that is NaN or infinite",
        "out_of_range": "a coordinate more than 5% of the image outside of it",
        "zero_area": "a box without width or height, after clipping to the image",
        "duplicate": "the same label with the same box as an earlier object",
    }
)
"""Every reason for rejecting an object, with its description."""

OVERSHOOT = 0.05
"""Largest distance of a side outside the image that is clipped, as a fraction of the image."""

LABEL_LIMIT = 100
"""Most characters of a label."""

_BAD_IN_LABEL = re.compile(r"""[\x00-\x1f\x7f\ud800-\udfff\[\]{}"]|<\||\|>""")


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """One object of an answer, and its place in the text.

    `opening` spans the object's opening brace with the bracket or comma before it. `label_span` is None where
    the text holds no label. `number_spans` belong to x1, y1, x2, y2 of `box` in this order, also when the
    corners were swapped in the text.
    """

    label: str
    box: Box
    opening: Span
    label_span: Span | None
    number_spans: tuple[Span, Span, Span, Span]


class Collector:
    """Collects valid objects, and counts rejected ones by reason."""

    def __init__(self, labels: Sequence[str], closed: bool, coordinate_range: float) -> None:
        self.objects: list[ParsedObject] = []
        self.rejects: dict[str, int] = {}
        self._asked = {_spaced(label).casefold(): label for label in labels}
        self._only = labels[0] if len(labels) == 1 else None
        self._closed = closed
        self._range = coordinate_range
        self._labels: dict[str, tuple[str, str]] = {}
        self._seen: set[tuple[str, float, float, float, float]] = set()

    def reject(self, reason: str) -> None:
        self.rejects[reason] = self.rejects.get(reason, 0) + 1

    def add_unlabelled(self, opening: Span, sides: Sequence[float], spans: Sequence[Span]) -> None:
        """Add a box without a label, under the one label that was asked for."""
        if self._only is None:
            self.reject("no_label")
        else:
            self.add(opening, self._only, None, sides, spans)

    def add(
        self, opening: Span, text: str, text_span: Span | None, sides: Sequence[float], spans: Sequence[Span]
    ) -> None:
        """Add a box with its label's text, both as written in the answer."""
        known = self._labels.get(text)
        if known is None:
            known = self._labels[text] = self._label(text)
        label, reason = known
        if reason:
            self.reject(reason)
            return
        x1, y1, x2, y2 = sides
        x1_span, y1_span, x2_span, y2_span = spans
        if x1 > x2:
            x1, x2, x1_span, x2_span = x2, x1, x2_span, x1_span
        if y1 > y2:
            y1, y2, y1_span, y2_span = y2, y1, y2_span, y1_span
        x1, y1, x2, y2 = x1 / self._range, y1 / self._range, x2 / self._range, y2 / self._range
        # Comparisons with NaN are false, so that NaN is rejected here too.
        if not (-OVERSHOOT <= x1 <= x2 <= 1.0 + OVERSHOOT and -OVERSHOOT <= y1 <= y2 <= 1.0 + OVERSHOOT):
            self.reject("out_of_range" if all(map(math.isfinite, sides)) else "not_finite")
            return
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
        if x1 >= x2 or y1 >= y2 or (x2 - x1) * (y2 - y1) == 0.0:  # the product underflows for tiny boxes
            self.reject("zero_area")
            return
        if (label, x1, y1, x2, y2) in self._seen:
            self.reject("duplicate")
            return
        self._seen.add((label, x1, y1, x2, y2))
        number_spans = (x1_span, y1_span, x2_span, y2_span)
        self.objects.append(ParsedObject(label, Box(x1, y1, x2, y2), opening, text_span, number_spans))

    def _label(self, text: str) -> tuple[str, str]:
        """The label for a label's text, and the reason for rejecting it or an empty string."""
        label = _spaced(_unescaped(text))
        asked = self._asked.get(label.casefold())
        if asked is None:
            if not label or len(label) > LABEL_LIMIT or _BAD_IN_LABEL.search(label):
                return "", "bad_label"
            if self._closed:
                return "", "not_asked"
        return asked or label, ""


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:  # an escape that JSON does not have, as \' in a single-quoted string
        return re.sub(r"\\(.)", r"\1", text)
