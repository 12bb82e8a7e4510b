# SPDX-License-Identifier: Apache-2.0
"""Validation of labelled boxes: each becomes a `ParsedObject` or is counted under a reason.

- Coordinates are divided by the dialect's range. Only an answer that is in another unit as a whole is
  converted: all integers up to 1000 and some above 1 where the dialect goes to 1, or all at most 1 where it
  has integers.
- Swapped corners are put in order. A side at most 5% outside the image is clipped, else the box is rejected.
- Names that mean an asked label (`labels`) get it, and keep the model's own words as the phrase.
- A box without a label takes the asked label when exactly one was asked for.
- The same label with the same box is kept once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lfm_perception.geometry import Box
from lfm_perception.labels import label_map
from lfm_perception.questions import Dialect

Span = tuple[int, int]
"""First character and the one after the last, in the parsed text."""

RESCALED = "rescaled"

REJECTS: Mapping[str, str] = MappingProxyType(
    {
        "truncated": "the text ended inside the object",
        "malformed": "text that is nested too deeply, too long, too broken, or of no shape that is read",
        "no_label": "a box without a label, and not exactly one label was requested",
        "bad_label": "a label that is empty, cut off, over 100 characters, or holds quotes or brackets",
        "not_asked": "a label outside the closed vocabulary",
        "no_box": "a label without a box",
        "not_four_numbers": "a box that is not made of four numbers",
        "not_finite": "a coordinate that is NaN or infinite",
        "out_of_range": "a coordinate more than 5% of the image outside of it",
        "zero_area": "a box less than half a step of the dialect wide or high, after clipping to the image",
        "duplicate": "the same label with the same box as an earlier object",
        "further": "a box after the first, where the dialect asks for one",
        RESCALED: "no reject: a box in another unit than the dialect's, which has been converted",
    }
)
"""Every reason for rejecting an object, with its description."""

PER_MILLE = 1000.0
"""Coordinate range of answers in integers under a dialect whose range is 1."""

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
    corners were swapped in the text. `phrase` is the name as written, where it is another than the label.
    """

    label: str
    box: Box
    opening: Span
    label_span: Span | None
    number_spans: tuple[Span, Span, Span, Span]
    phrase: str = ""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A box as written. `label` is None for the one label that was asked for."""

    opening: Span
    label: str | None
    label_span: Span | None
    sides: tuple[float, ...]
    spans: tuple[Span, ...]


class Collector:
    """Collects labelled boxes, then validates them; counts rejected ones by reason."""

    def __init__(
        self, text: str, dialect: Dialect, labels: Sequence[str], closed: bool, synonyms: Sequence[str]
    ) -> None:
        self.objects: list[ParsedObject] = []
        self.rejects: dict[str, int] = {}
        self.asked = tuple(labels)
        self._text, self._dialect = text, dialect
        self._map = label_map(self.asked, tuple(synonyms))
        self._only = labels[0] if len(labels) == 1 else None
        self._closed = closed
        # half a step of the dialect: less is no box, or one in another unit among others
        self._least = 0.5 / (dialect.coordinate_range * 10**dialect.decimals)
        self._candidates: list[_Candidate] = []
        self._labels: dict[str, tuple[str, str, str]] = {}
        self._seen: set[tuple[str, float, float, float, float]] = set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added or rejected."""
        return not self._candidates and not self.rejects

    def reject(self, reason: str) -> None:
        self.rejects[reason] = self.rejects.get(reason, 0) + 1

    def add_unlabelled(self, opening: Span, sides: Sequence[float], spans: Sequence[Span]) -> None:
        """Add a box without a label, under the one label that was asked for."""
        if self._only is None:
            self.reject("no_label")
        else:
            self._candidates.append(_Candidate(opening, None, None, tuple(sides), tuple(spans)))

    def add(
        self, opening: Span, text: str, text_span: Span | None, sides: Sequence[float], spans: Sequence[Span]
    ) -> None:
        """Add a box with its label, both as written in the answer."""
        self._candidates.append(_Candidate(opening, text, text_span, tuple(sides), tuple(spans)))

    def finish(self) -> None:
        """Validate what was added, in the order of the text."""
        scale = self._range()
        for candidate in sorted(self._candidates, key=lambda each: each.opening):
            before = len(self.objects)
            if self._dialect.single and before:
                self.reject("further")
                continue
            self._validate(candidate, scale)
            if scale != self._dialect.coordinate_range and len(self.objects) > before:
                self.reject(RESCALED)

    def _range(self) -> float:
        """The range of the coordinates: the dialect's, unless the answer as a whole is in another unit."""
        own = float(self._dialect.coordinate_range)
        sides = [side for each in self._candidates for side in each.sides]
        if not sides:
            return own
        low, high = min(sides), max(sides)
        if own == 1.0 and 1.0 + OVERSHOOT < high <= PER_MILLE * (1.0 + OVERSHOOT):
            written = (self._text[slice(*span)] for each in self._candidates for span in each.spans)
            return PER_MILLE if all(map(_INTEGER.fullmatch, written)) else own
        decimals = any(side != int(side) for side in sides if abs(side) < 2)
        if self._dialect.decimals == 0 and low >= -OVERSHOOT:
            return 1.0 if high <= 1.0 or (decimals and high <= 1.0 + OVERSHOOT) else own
        return own

    def _validate(self, candidate: _Candidate, scale: float) -> None:
        label, phrase, reason = self._named(candidate.label)
        if reason:
            self.reject(reason)
            return
        x1, y1, x2, y2 = (side / scale for side in candidate.sides)
        x1_span, y1_span, x2_span, y2_span = candidate.spans
        if x1 > x2:
            x1, x2, x1_span, x2_span = x2, x1, x2_span, x1_span
        if y1 > y2:
            y1, y2, y1_span, y2_span = y2, y1, y2_span, y1_span
        # Comparisons with NaN are false, so that NaN is rejected here too.
        if not (-OVERSHOOT <= x1 <= x2 <= 1.0 + OVERSHOOT and -OVERSHOOT <= y1 <= y2 <= 1.0 + OVERSHOOT):
            self.reject("out_of_range" if all(map(math.isfinite, candidate.sides)) else "not_finite")
            return
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
        if min(x2 - x1, y2 - y1) < self._least:
            self.reject("zero_area")
            return
        if (label, x1, y1, x2, y2) in self._seen:
            self.reject("duplicate")
            return
        self._seen.add((label, x1, y1, x2, y2))
        number_spans = (x1_span, y1_span, x2_span, y2_span)
        box = Box(x1, y1, x2, y2)
        self.objects.append(
            ParsedObject(label, box, candidate.opening, candidate.label_span, number_spans, phrase)
        )

    def _named(self, text: str | None) -> tuple[str, str, str]:
        """Label and phrase for a label's text, and the reason for rejecting it or an empty string."""
        if text is None:
            return self._only or "", "", ""
        if text not in self._labels:
            self._labels[text] = self._label(text)
        return self._labels[text]

    def _label(self, text: str) -> tuple[str, str, str]:
        name = _spaced(text)
        label = self._map.match(name)
        if label is None and self._dialect.single:
            label = self._only  # whatever the model calls the one object
        if label == name:
            return label, "", ""
        if not name or len(name) > LABEL_LIMIT or _BAD_IN_LABEL.search(name):
            return "", "", "bad_label"
        if label is None and self._closed:
            return "", "", "not_asked"
        return label or name, name if label else "", ""


_INTEGER = re.compile(r"[-+]?[0-9]+")


def _spaced(text: str) -> str:
    return " ".join(text.split())
