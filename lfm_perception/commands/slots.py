# SPDX-License-Identifier: Apache-2.0
"""Slots: the values to which the arguments of a tool call are constrained, as JSON texts.

Values are copied: numbers and names stand in the operator's own words, or in an enumeration such as the
labels in use. A model that mishears can then choose a wrong value, but never invent one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lfm_perception.commands.calls import Command

MAX_PHRASE_WORDS = 5
"""Most words of a label or a name that is not enumerated."""

MAX_VALUES = 600
"""Most values of an argument: with more, tokenizing all calls of a long command would take seconds."""

_ARTICLES = ("a", "an", "the", "no", "any", "all", "every", "each", "other", "others")
_COURTESIES = ("please", "thank", "thanks", "now", "me", "my", "you", "your")
CONNECTING_WORDS = frozenset(
    (*_ARTICLES, *_COURTESIES, "and", "or", "to", "of", "for", "is", "are", "called", "named")
)
"""English words with which no label or name begins or ends: they connect it with the rest of the command."""

_NUMBER = re.compile(r"(?<![\w.,-])([0-9]{1,9}(?:\.[0-9]{1,6})?)(?![.,]?[0-9])(\s*(?:percent\b|%))?")
_LITERAL = re.compile(r"0|[1-9][0-9]*")

# Scripts without spaces between words: each of their characters counts as a word, as does a run of katakana.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff"
# Combining marks, which `\w` leaves out: accents, Hebrew, Arabic and Indic vowels, Thai.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0971-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e"
)
_LETTERS = rf"(?:(?![{_UNSPACED}])[\w{_MARKS}])+"
_WORD = re.compile(rf"[{_KATAKANA}]+|[{_UNSPACED}]|{_LETTERS}(?:['’/&+.-]{_LETTERS})*")
_GAP = re.compile(r"[ \t]*")
_SENTENCE_END = re.compile(r"[.!?:;。！？：；]\s*$")


def values(slot: str, command: Command, earlier: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The JSON texts of all values that an argument may have, each once.

    Args:
        slot: a key of `tools.SCHEMAS`; for `labels`, the values of an item.
        earlier: JSON texts of the call's arguments before it.
    """
    found = _SLOTS[slot](command, earlier)
    return list(dict.fromkeys(found))[:MAX_VALUES]


def is_left(item: str, chosen: Sequence[str], command: Command) -> bool:
    """Whether a list with the chosen items can go on with this one: no two items are the same words of the
    command. A label in use that is not said is left until it is chosen.

    Args:
        item: the JSON text of a value, like those of `chosen`.
    """
    if item in chosen:
        return False
    taken: list[tuple[int, int]] = []
    for each in chosen:
        taken += [span for span in _spans(each, command) if not _overlaps(span, taken)][:1]
    spans = _spans(item, command, as_words=json.loads(item) in command.labels)
    return not spans or not all(_overlaps(span, taken) for span in spans)


def _spans(item: str, command: Command, *, as_words: bool = False) -> list[tuple[int, int]]:
    """Where an item is said: first and last character. As whole words, else also within them."""
    text, words = json.loads(item).lower(), f" {command.words.lower()} "
    begins = [at for at in range(1, len(words) - len(text)) if words.startswith(text, at)]
    spans = [(begin, begin + len(text)) for begin in begins]
    whole = [span for span in spans if not (words[span[0] - 1].isalnum() or words[span[1]].isalnum())]
    return whole if whole or as_words else spans


def _overlaps(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] < end and begin < span[1] for begin, end in others)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _numbers(command: Command, *, shares: bool) -> list[str]:
    """The numbers in the operator's words, as they are said; as `shares`, a percentage is divided by 100."""
    texts = []
    for match in _NUMBER.finditer(command.words):
        text, percent = match.groups()
        if not _LITERAL.fullmatch(text.partition(".")[0]):
            continue
        if shares and percent:
            text = f"{(Decimal(text) / 100).normalize():f}"
        texts.append(text)
    return texts


def _phrases(command: Command) -> list[str]:
    """The operator's words, and several in a row, as they stand; a sentence's first also in lower case.

    None begins or ends with a connecting word.
    """
    words = list(_WORD.finditer(command.words))
    phrases = []
    for first, begin in enumerate(words):
        if begin.group().lower() in CONNECTING_WORDS:
            continue
        before = command.words[: begin.start()].strip()
        begins_sentence = not before or _SENTENCE_END.search(before)
        end = begin.start()
        for word in words[first : first + MAX_PHRASE_WORDS]:
            if word is not begin and not _GAP.fullmatch(command.words, end, word.start()):
                break  # punctuation stands between them
            end = word.end()
            if word.group().lower() in CONNECTING_WORDS and word.group() != "A":  # of `gate A`
                continue
            phrase = command.words[begin.start() : end]
            phrases.append(phrase)
            if begins_sentence:
                phrases.append(phrase[0].lower() + phrase[1:])
    return phrases


def _questions(command: Command, name: str) -> list[str]:
    """`Is there a NAME?`, and the words of the operator in a row up to the next question mark."""
    questions = [f"Is there a {json.loads(name)}?"]
    end = 0
    for mark in re.finditer(r"[?？؟]", command.words):
        begins = _WORD.finditer(command.words, end, mark.start())
        end = mark.end()
        questions += [command.words[word.start() : mark.end()] for word in begins]
    return questions


def _named(enumerated: Iterable[str], command: Command) -> list[str]:
    return [_text(name) for name in (*enumerated, *_phrases(command))]


_SLOTS: Mapping[str, Callable[[Command, Mapping[str, str]], list[str]]] = {
    "labels": lambda command, earlier: _named(command.labels, command),
    "integer": lambda command, earlier: [
        text for text in _numbers(command, shares=False) if text.isdecimal()
    ],
    "number": lambda command, earlier: _numbers(command, shares=False),
    "share": lambda command, earlier: _numbers(command, shares=True),
    "name": lambda command, earlier: _named(command.labels, command),
    "alert": lambda command, earlier: _named((*command.alerts, *command.labels), command),
    "question": lambda command, earlier: [_text(each) for each in _questions(command, earlier["name"])],
}
