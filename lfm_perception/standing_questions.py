# SPDX-License-Identifier: Apache-2.0
"""Standing questions: asked again and again, with an alert that is on while the answer is likely enough."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfm_perception.attributes import Attribute
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.typed_questions import QUESTION_KEYS, TypedQuestion, parsed_entry

MAX_STANDING_QUESTIONS = 32
"""Maximum number of standing questions: each has two topics."""

MAX_SECONDS = 86_400.0
"""Largest period and duration: a day."""

FRAME, TRACK = "frame", "track"
"""What a question is about, beside labels."""


@dataclass(frozen=True, slots=True)
class StandingQuestion:
    """A question that is asked every `period_s` seconds about the frame, or about each track.

    `about` is `FRAME`, `TRACK` for every track, or a label for the tracks that have it. Its alert is on once
    the probability of `answer` has been at least `threshold` for `for_s` seconds, and off below
    `threshold - hysteresis`; of several tracks, the likeliest one counts.

    Raises:
        PerceptionError: for a question without probabilities and values that contradict each other.
    """

    name: str
    question: TypedQuestion
    answer: str = "yes"
    period_s: float = 2.0
    threshold: float = 0.5
    hysteresis: float = 0.1
    for_s: float = 0.0
    about: str = FRAME

    def __post_init__(self) -> None:
        where = f"questions.standing {shown(self.name)}"
        if not re.fullmatch("[a-z][a-z0-9_]{0,63}", self.name):
            raise PerceptionError(
                f"{where}: a name is part of topics: lower-case letters, digits and '_', at most 64"
            )
        values = self.question.values
        answers = {text.lower(): value for text, value in zip(self.question.answers, values, strict=True)}
        answers.update({value.lower(): value for value in values})  # yes and no in any language
        answers.update(zip(values, values, strict=True))  # where case alone tells options apart
        if not answers:
            raise PerceptionError(
                f"{where}: 'type' must be yes_no, choice or number: text has no probability"
            )
        if self.about == FRAME and "{label}" in self.question.text:
            raise PerceptionError(f"{where}: a question about the frame has no {{label}}: give 'about'")
        if self.question.track is not None:
            raise PerceptionError(f"{where}: a track ends, so name none: 'about' takes a label, or {TRACK}")
        if self.attribute is not None and self.question.type == "number":
            raise PerceptionError(f"{where}: about tracks, 'type' must be yes_no or choice, got number")
        answer = answers.get(self.answer) or answers.get(self.answer.lower())
        if answer is None:
            raise PerceptionError(
                f"{where}: 'answer' must be one of {', '.join(values[:8])}, got {shown(self.answer)}"
            )
        object.__setattr__(self, "answer", answer)
        if not (0.0 < self.threshold <= 1.0 and 0.0 <= self.hysteresis < self.threshold):
            raise PerceptionError(
                f"{where}: 'threshold' must be above 0, at most 1, and above 'hysteresis', "
                f"got {self.threshold:g} and {self.hysteresis:g}"
            )

    @property
    def attribute(self) -> Attribute | None:
        """The attribute of tracks whose values are the answers; None for a question about the frame."""
        if self.about == FRAME:
            return None
        labels = () if self.about == TRACK else (self.about,)
        values, asked = self.question.values, self.question
        return Attribute(self.name, values, labels, asked.text, self.period_s, asked.language)

    @classmethod
    def from_text(cls, text: str, language: str = "en") -> StandingQuestion:
        """The standing question of an entry of `questions.standing`: a mapping in YAML or JSON.

        `language` is that of a question that names none.

        Raises:
            PerceptionError: naming the question and the key.
        """
        entry: Any = parsed_entry("questions.standing", text)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise PerceptionError(
                "an entry of questions.standing is a mapping with 'name' and 'question', got " + shown(text)
            )
        where = f"questions.standing {shown(entry['name'])}"
        for key in entry:
            if key not in _KEYS and key not in QUESTION_KEYS:
                raise PerceptionError(
                    f"{where} has no {shown(key)}, only {', '.join({**_KEYS, **QUESTION_KEYS})}"
                )
        asked = {key: value for key, value in entry.items() if key not in _KEYS}
        try:
            typed = {"type": "yes_no", **asked} if _yes_no(asked) else asked
            question = TypedQuestion.from_mapping(typed, language)
            values: Any = {_KEYS[key]: _value(key, value) for key, value in entry.items() if key in _KEYS}
        except PerceptionError as error:
            raise PerceptionError(f"{where}: {error}") from error
        return cls(question=question, **values)


def standing_questions(entries: Sequence[str], language: str = "en") -> tuple[StandingQuestion, ...]:
    """The standing questions of `questions.standing`; those that name no language are in this one.

    Raises:
        PerceptionError: an entry cannot be used, a name is there twice, or there are too many.
    """
    if len(entries) > MAX_STANDING_QUESTIONS:
        raise PerceptionError(
            f"questions.standing holds {len(entries)} questions, more than {MAX_STANDING_QUESTIONS}"
        )
    questions = tuple(StandingQuestion.from_text(entry, language) for entry in entries)
    for name, count in Counter(question.name for question in questions).items():
        if count > 1:
            raise PerceptionError(f"questions.standing holds the name {shown(name)} more than once")
    return questions


class Alert:
    """Whether the alert of a standing question is on: threshold, duration and hysteresis."""

    def __init__(self, question: StandingQuestion) -> None:
        self._question = question
        self._likely_since_s: float | None = None
        self.active = False

    def update(self, probability: float, stamp_s: float) -> bool:
        """The state of the alert after an answer about the frame of this stamp, in seconds."""
        question = self._question
        if probability >= question.threshold:
            if self._likely_since_s is None or stamp_s < self._likely_since_s:
                self._likely_since_s = stamp_s
            self.active |= stamp_s - self._likely_since_s >= question.for_s
        else:
            self._likely_since_s = None
            self.active &= probability >= question.threshold - question.hysteresis
        return self.active


_KEYS = {
    "name": "name",
    "answer": "answer",
    "period": "period_s",
    "threshold": "threshold",
    "hysteresis": "hysteresis",
    "for": "for_s",
    "about": "about",
}


def _yes_no(asked: Mapping[str, Any]) -> bool:
    return not {"options", "minimum", "maximum"} & asked.keys()


def _value(key: str, value: Any) -> str | float:
    if key in ("name", "answer", "about"):
        return ("no", "yes")[value] if isinstance(value, bool) else str(value)  # YAML reads yes as true
    most = 1.0 if key in ("threshold", "hysteresis") else MAX_SECONDS
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value <= most):  # also refuses NaN
        raise PerceptionError(f"{key!r} must be a number from 0 to {most:g}, got {shown(value)}")
    return float(value)
