# SPDX-License-Identifier: Apache-2.0
"""Attributes of tracked objects, such as `helmet: yes or no`, and the questions that give their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.typed_questions import TypedQuestion, parsed_entry

MAX_ATTRIBUTES = 16
"""Maximum number of attributes."""

MAX_PERIOD_S = 86_400.0
"""Longest time after which an attribute is asked again: a day."""

_KEYS = ("name", "values", "labels", "question", "period", "language")
_YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute that is asked about the crop of each track.

    Args:
        name: key in the scene.
        values: the values it may have.
        labels: of the tracks that have it; empty: all.
        template: the question, in which `{label}` is the label of the track.
        period_s: time after which it is asked again.
        language: of the question, which has to be given in all but English.

    Raises:
        PerceptionError: for values and questions that cannot be asked.
    """

    name: str
    values: tuple[str, ...]
    labels: tuple[str, ...] = ()
    template: str = ""
    period_s: float = 10.0
    language: str = "en"

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]{0,63}", self.name):
            raise PerceptionError(
                f"the name of an attribute has lower-case letters, digits and '_', got {shown(self.name)}"
            )
        if self.language != "en" and not self.template:
            raise PerceptionError(
                f"detect.attributes {shown(self.name)}: give its 'question' in the language {self.language}"
            )
        try:
            self.question("object")
        except PerceptionError as error:
            raise PerceptionError(f"detect.attributes {shown(self.name)}: {error}") from error

    def applies_to(self, label: str) -> bool:
        """Whether tracks of this label have the attribute."""
        return not self.labels or label in self.labels

    def question(self, label: str) -> TypedQuestion:
        """The question about the crop of a track with this label."""
        if tuple(map(str.lower, self.values)) == _YES_NO:
            template = self.template or f"Is the {{label}} wearing a {self.name}?"
            return TypedQuestion(template.replace("{label}", label), "yes_no", language=self.language)
        template = self.template or f"What is the {self.name} of the {{label}}?"
        text = template.replace("{label}", label)
        return TypedQuestion(text, "choice", self.values, language=self.language)

    @classmethod
    def from_text(cls, text: str, language: str = "en") -> Attribute:
        """The attribute of an entry of `detect.attributes`: a mapping in YAML or JSON.

        `language` is that of an entry that names none.

        Raises:
            PerceptionError: naming the key.
        """
        entry: Any = parsed_entry("detect.attributes", text)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise PerceptionError(
                "an entry of detect.attributes is a mapping with 'name' and 'values', got " + shown(text)
            )
        where = f"detect.attributes {shown(entry['name'])}"
        for key in entry:
            if key not in _KEYS:
                raise PerceptionError(f"{where} has no {shown(key)}, only {', '.join(_KEYS)}")
        period, template = entry.get("period", 10.0), entry.get("question", "")
        number = isinstance(period, (int, float)) and not isinstance(period, bool)
        if not (number and 0 <= period <= MAX_PERIOD_S):  # also refuses NaN
            raise PerceptionError(
                f"{where}: 'period' must be a number from 0 to {MAX_PERIOD_S:g}, got {shown(period)}"
            )
        chosen = entry.get("language", language)
        for key, value in (("question", template), ("language", chosen)):
            if not isinstance(value, str):
                raise PerceptionError(f"{where}: {key!r} must be text, got {shown(value)}")
        values, labels = (_texts(where, entry, key) for key in ("values", "labels"))
        return cls(entry["name"], values, labels, template, float(period), chosen)


def attributes(entries: Sequence[str], language: str = "en") -> tuple[Attribute, ...]:
    """The attributes of `detect.attributes`; those that name no language are in this one.

    Raises:
        PerceptionError: an entry cannot be used, a name is there twice, or there are too many.
    """
    if len(entries) > MAX_ATTRIBUTES:
        raise PerceptionError(f"detect.attributes holds {len(entries)} entries, more than {MAX_ATTRIBUTES}")
    found = tuple(Attribute.from_text(entry, language) for entry in entries)
    for name, count in Counter(attribute.name for attribute in found).items():
        if count > 1:
            raise PerceptionError(f"detect.attributes holds the name {shown(name)} more than once")
    return found


def _texts(where: str, entry: Mapping[Any, Any], key: str) -> tuple[str, ...]:
    values = entry.get(key, [])
    if not isinstance(values, list):
        raise PerceptionError(f"{where}: {key!r} must be a list, got {shown(values)}")
    # YAML reads a bare yes and no as true and false
    texts = tuple(_YES_NO[not each] if isinstance(each, bool) else each for each in values)
    if not all(isinstance(text, str) for text in texts):
        raise PerceptionError(f"{where}: {key!r} must be a list of texts, got {shown(values)}")
    return texts
