# SPDX-License-Identifier: Apache-2.0
"""Typed questions: yes/no, choice, number and free text.

Questions of every type but text have a fixed set of answers. The model's probability of each is read: that
of constrained decoding over the tokens of the answers (`engine/options.py`).
A new type is one entry in `QUESTION_TYPES`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lfm_perception.answer_forms import ANSWER_FORMS, AnswerForm
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import parse_json, parse_yaml
from lfm_perception.questions import Prompt, Question, check_label, check_prompt_text
from lfm_perception.text import safe_text

MAX_QUESTION_LENGTH = 1000
"""Maximum length of a question, characters."""

MAX_OPTIONS = 100
"""Maximum number of options of a choice."""

MAX_OPTION_LENGTH = 100
"""Maximum length of an option, characters."""

MAX_OPTION_TOKENS = 48
"""Most tokens of an option, so that it is decoded in one batch."""

MAX_NUMBER = 999
"""Largest number that can be asked for: up to here a number is one token in most vocabularies."""

MAXIMUM = 10
"""Largest number of a question that names none."""

YES, NO = "yes", "no"
"""The answers to a yes/no question, in any language."""


@dataclass(frozen=True, slots=True)
class TypedQuestion:
    """A question with the type of its answer.

    Args:
        text: the question in words, any language.
        type: a key of `QUESTION_TYPES`.
        options: the answers of a choice.
        minimum, maximum: of a number, inclusive.
        language: in which the answer is asked for, a key of `ANSWER_FORMS`; empty: that of the settings.
        track: id of the track about whose crop it is; None: about the whole frame.
        second_opinion: whether an adviser is asked about that track too.

    Raises:
        PerceptionError: for a text that cannot be asked, and for options or a range that cannot be answered.
    """

    text: str
    type: str = "text"
    options: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = MAXIMUM
    language: str = "en"
    track: int | None = None
    second_opinion: bool = False

    def __post_init__(self) -> None:
        if len(self.text) > MAX_QUESTION_LENGTH:
            raise PerceptionError(
                f"a question of {len(self.text)} characters is longer than {MAX_QUESTION_LENGTH}: shorten it"
            )
        object.__setattr__(self, "text", safe_text(self.text))
        check_prompt_text("a question", self.text)
        if self.type not in QUESTION_TYPES:
            raise PerceptionError(
                f"the type of a question must be one of {', '.join(QUESTION_TYPES)}, got {shown(self.type)}"
            )
        if self.language and self.language not in ANSWER_FORMS:
            raise PerceptionError(
                f"the language of a question must be one of {', '.join(ANSWER_FORMS)}, "
                f"got {shown(self.language)}"
            )
        if self.options and self.type != "choice":
            raise PerceptionError(f"a question of type {self.type} has no options: its type is choice")
        if self.second_opinion and self.track is None:
            raise PerceptionError("a second opinion is about a track: give its id under 'track'")
        QUESTION_TYPES[self.type].check(self)

    @property
    def answers(self) -> tuple[str, ...]:
        """All texts that the model may answer; empty for free text."""
        return QUESTION_TYPES[self.type].answers(self)

    @property
    def values(self) -> tuple[str, ...]:
        """What the answers mean: `YES` and `NO`, or the answers themselves."""
        return (YES, NO) if self.type == "yes_no" else self.answers

    @property
    def form(self) -> AnswerForm:
        """How the answer is asked for."""
        return ANSWER_FORMS[self.language or "en"]

    @property
    def question(self) -> Question:
        """The question as the model is asked, with the form of the answer."""
        suffix = QUESTION_TYPES[self.type].suffix(self)
        return Question(Prompt(f"{self.text.strip()} {suffix}".strip()), options=self.answers)

    @classmethod
    def from_json(cls, text: str, language: str = "en") -> TypedQuestion:
        """A question from a person or a program: plain words, or a JSON object (`question.schema.json`).

        `{"question": "Is the door open?", "type": "yes_no"}`; a choice has `options`, a number `minimum` and
        `maximum`. `language` is that of a question that names none.

        Raises:
            PerceptionError: for JSON that is no question, naming the key.
        """
        if not text.lstrip().startswith("{"):
            return cls(text, language=language)
        try:
            entry = parse_json(text)
        except PerceptionError as error:
            raise PerceptionError(f"a question that begins with {{ must be JSON: {error}") from error
        return cls.from_mapping(entry, language)

    def to_json(self) -> str:
        """The question as `from_json` reads it: words for free text, else JSON."""
        if self.type == "text" and self.track is None and not self.text.lstrip().startswith("{"):
            return self.text
        entry: dict[str, Any] = {"question": self.text, "type": self.type}
        if self.language:
            entry["language"] = self.language
        if self.options:
            entry["options"] = list(self.options)
        if self.type == "number":
            entry.update(minimum=self.minimum, maximum=self.maximum)
        if self.track is not None:
            entry["track"] = self.track
        if self.second_opinion:
            entry["second_opinion"] = True
        return json.dumps(entry, ensure_ascii=False)

    @classmethod
    def from_mapping(cls, entry: Any, language: str = "en") -> TypedQuestion:
        """A question from the mapping of `from_json`. Raises PerceptionError, naming the key."""
        if not isinstance(entry, Mapping) or not isinstance(entry.get("question"), str):
            raise PerceptionError("a question in JSON must be an object with the text under 'question'")
        if entry.get("type") == "memory":
            raise PerceptionError("a question of type memory is answered by a node with memory.enabled only")
        for key, value in entry.items():
            kind = QUESTION_KEYS.get(key)
            if kind is None:
                raise PerceptionError(f"a question has no {shown(key)}, only {', '.join(QUESTION_KEYS)}")
            if type(value) is not kind:
                raise PerceptionError(f"{key!r} of a question must be {_NAMES[kind]}, got {shown(value)}")
        options = tuple(entry.get("options", ()))
        if not all(isinstance(option, str) for option in options):
            raise PerceptionError(
                "'options' of a question must be texts, yes, no and numbers in quotes, "
                f"got {shown(list(options))}"
            )
        has_range = bool({"minimum", "maximum"} & entry.keys())
        guessed = "choice" if options else "number" if has_range else "text"
        if has_range and entry.get("type", guessed) != "number":
            raise PerceptionError("only a question of type number has a 'minimum' and a 'maximum'")
        if "maximum" not in entry and entry.get("minimum", 0) >= MAXIMUM:
            raise PerceptionError(
                f"a question with 'minimum' {entry['minimum']} needs a 'maximum' too, "
                f"which is {MAXIMUM} by default"
            )
        return cls(
            text=entry["question"],
            type=entry.get("type", guessed),
            options=options,
            minimum=entry.get("minimum", 0),
            maximum=entry.get("maximum", MAXIMUM),
            language=entry.get("language", language),
            track=entry.get("track"),
            second_opinion=entry.get("second_opinion", False),
        )


def parsed_entry(parameter: str, text: str) -> Any:
    """An entry of a parameter that lists questions, from YAML or JSON. Raises PerceptionError, naming it."""
    try:
        return parse_yaml(text)
    except PerceptionError as error:
        advice = "" if str(error).endswith("in quotes") else "; put the question in quotes"
        raise PerceptionError(f"{parameter}: {shown(text)} is {error}{advice}") from error


QUESTION_KEYS = {
    "question": str,
    "type": str,
    "options": list,
    "minimum": int,
    "maximum": int,
    "language": str,
    "track": int,
    "second_opinion": bool,
}
"""The keys of a question in JSON, and the types of their values."""

_NAMES = {str: "text", list: "a list", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class QuestionType:
    """One type of answers: which there are, and what is added to the question to ask for one of them."""

    answers: Callable[[TypedQuestion], tuple[str, ...]]
    suffix: Callable[[TypedQuestion], str]
    check: Callable[[TypedQuestion], None] = lambda question: None


def _check_options(question: TypedQuestion) -> None:
    options = question.options
    if not 2 <= len(options) <= MAX_OPTIONS:
        raise PerceptionError(f"a choice has 2 to {MAX_OPTIONS} options, got {len(options)}")
    for option in options:
        check_label("an option", option)
        check_prompt_text("an option", option)
        if len(option) > MAX_OPTION_LENGTH:
            raise PerceptionError(
                f"an option of {len(option)} characters is longer than {MAX_OPTION_LENGTH}: shorten it"
            )
    stripped = [unicodedata.normalize("NFC", option.strip()) for option in options]
    for option in stripped:
        if stripped.count(option) > 1:
            raise PerceptionError(f"the option {shown(option)} is there more than once")


def _check_range(question: TypedQuestion) -> None:
    if not 0 <= question.minimum < question.maximum <= MAX_NUMBER:
        raise PerceptionError(
            f"the range of a number lies within 0 to {MAX_NUMBER}, its minimum below its maximum, "
            f"got {question.minimum} to {question.maximum}"
        )


QUESTION_TYPES: Mapping[str, QuestionType] = {
    "yes_no": QuestionType(
        lambda question: (question.form.yes, question.form.no), lambda question: question.form.yes_no
    ),
    "choice": QuestionType(
        lambda question: tuple(option.strip() for option in question.options),
        lambda question: question.form.choice.replace("{options}", ", ".join(question.answers)),
        _check_options,
    ),
    "number": QuestionType(
        lambda question: tuple(map(str, range(question.minimum, question.maximum + 1))),
        lambda question: question.form.number,
        _check_range,
    ),
    "text": QuestionType(lambda question: (), lambda question: ""),
}
"""The types of questions by their names."""
