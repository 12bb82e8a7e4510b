# SPDX-License-Identifier: Apache-2.0
"""Slots: the values to which the arguments of a tool call are constrained, as JSON texts.

Values are copied: names stand in the operator's own words, or in an enumeration such as the labels in use,
and numbers in the words, with their units (see `numbers`). A model that mishears can then choose a wrong
value, but never invent one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lfm_perception.commands.numbers import UNSPACED, numbers

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

_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff"
# Combining marks, which `\w` leaves out: accents, Hebrew, Arabic and Indic vowels, Thai.
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u0971-\u0dff\u0e31-\u0e3a\u0e47-\u0e4e"
)
_LETTERS = rf"(?:(?![{UNSPACED}])[\w{_MARKS}])+"
# Each character of a script without spaces counts as a word, as does a run of katakana.
_WORD = re.compile(rf"[{_KATAKANA}]+|[{UNSPACED}]|{_LETTERS}(?:['’/&+.-]{_LETTERS})*")
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


def left(items: Iterable[str], chosen: Sequence[str], command: Command) -> Iterator[str]:
    """The items with which a list of the chosen ones can go on: no two items are the same words of the
    command. A label in use that is not said is left until it is chosen.

    Args:
        items: JSON texts of values, like those of `chosen`.
    """
    words = command.words.casefold()
    in_use = {_text(label) for label in command.labels}
    taken: list[tuple[int, int]] = []
    for each in sorted(chosen, key=len, reverse=True):  # a short item may also be within a longer one
        spans = _spans(each, words, each in in_use)
        taken += [span for span in spans if not _overlaps(span, taken)][:1]
    for item in items:
        spans = _spans(item, words, item in in_use)
        if item not in chosen and not (spans and all(_overlaps(span, taken) for span in spans)):
            yield item


@functools.lru_cache(maxsize=2 * MAX_VALUES)
def _spans(item: str, words: str, is_in_use: bool) -> tuple[tuple[int, int], ...]:
    """Where an item is said: first and last character. Labels in use also in the plural, others also within
    words, where they are not said as words: some scripts have no spaces.
    """
    text, padded = json.loads(item).casefold(), f" {words} "
    spans = [(at, at + len(text)) for at in range(1, len(padded) - len(text)) if padded.startswith(text, at)]
    ends = r"(s|es)?(?!\w)" if is_in_use else r"(?!\w)"
    whole = [
        (begin, end)
        for begin, end in spans
        if not padded[begin - 1].isalnum() and re.compile(ends).match(padded, end)
    ]
    return tuple(whole if whole or is_in_use else spans)


def _overlaps(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] < end and begin < span[1] for begin, end in others)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


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
    "integer": lambda command, earlier: numbers(command.words, "integer"),
    "seconds": lambda command, earlier: numbers(command.words, "seconds"),
    "share": lambda command, earlier: numbers(command.words, "share"),
    "name": lambda command, earlier: _named(command.labels, command),
    "alert": lambda command, earlier: _named((*command.alerts, *command.labels), command),
    "question": lambda command, earlier: [_text(each) for each in _questions(command, earlier["name"])],
}
