"""Tokens of an answer: one compiled pattern per dialect cuts any text into them.

The first alternative is a whole object in the dialect's own form, so that a well-formed answer costs one
match per object. Every alternative ends in an empty group, whose name is the kind of the token and whose
position is its end. Matching takes linear time: a lookahead that may fail ends before the next opening
bracket or, for a string, at the next quote that could open one; the last alternative takes any character.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from lfm_perception.questions import Dialect

NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"

_BRACKETS = r"\[\](){}"
_KEY = r"\s*[:：]"
_STRING_END = r"(?= \s*[,:：\])}] )"
_WORD = r"[^\W\d] \w* (?: [ -][^\W\d]\w* )*"


def _double_quoted(excluded: str = "") -> str:
    return rf'(?<=") [^"\\\n{excluded}]* (?: \\. [^"\\\n{excluded}]* )*'


def _single_quoted(excluded: str = "") -> str:
    """An apostrophe between two letters does not end the string."""
    return rf"(?<=') [^'\\\n{excluded}]* (?: (?:\\.|(?<=\w)'(?=\w)) [^'\\\n{excluded}]* )*"


_CURLY_QUOTED = rf"(?<=“) [^”\n{_BRACKETS}]*"

# A quote opens a string unless it follows a letter, a digit or a backslash (an apostrophe, an inch sign, an
# escape). A string may hold brackets only when it ends where a JSON string can end; else it stops before the
# first bracket, so that a lost quote spoils one object and not the rest of the answer.
_STRING = rf"""["'“] (?<![\w\\].) (?:
    (?: {_double_quoted()} " {_STRING_END}
      | {_single_quoted()} ' {_STRING_END}
      | {_double_quoted(_BRACKETS)} "
      | {_single_quoted(_BRACKETS)} '
      | {_CURLY_QUOTED} ”
    ) (?: (?P<string>) (?!{_KEY}) | (?P<string_key>) {_KEY} )
  | (?: {_double_quoted(_BRACKETS)} | {_single_quoted(_BRACKETS)} | {_CURLY_QUOTED} ) (?P<cut_string>)
)"""

_FOUR_NUMBERS = " , ".join(rf"\s* (?P<{name}>{NUMBER}) \s*" for name in "abcd")

_OTHER_TOKENS = (
    rf"[\[(] {_FOUR_NUMBERS} (?:,\s*)? [\])] (?P<box>)",
    r"\{ (?P<open_object>)",
    r"[\[(]+ (?=[\[(]) (?P<open_lists>)",  # all but the last of several brackets, which may open a box
    r"[\[(] (?P<open_list>)",
    r"[\])] (?P<close_list>)",
    r"\} (?P<close_object>)",
    _STRING,
    rf"{NUMBER} (?: (?P<number>) (?![\w.%]) | [\w.%]+ (?P<malformed_number>) )",
    rf"{_WORD} (?: (?P<word>) (?!{_KEY}) | (?P<word_key>) {_KEY} )",
    r". (?P<junk>)",
)


@lru_cache(maxsize=32)
def token_pattern(dialect: Dialect) -> re.Pattern[str]:
    """The pattern of all tokens; the group `object` ends a whole object as the dialect writes it."""
    sides = (rf"\s* (?P<{side}> {NUMBER} ) \s*" for side in ("x1", "y1", "x2", "y2"))
    values = {
        dialect.label_key: rf'" (?P<label> [^"\\\n{_BRACKETS}]* ) "',
        dialect.box_key: rf"\[ {' , '.join(sides)} \]",
    }
    members = (
        rf"{re.escape(json.dumps(key))} \s*:\s* {values.get(key, '[-+.0-9]+')}" for key in dialect.keys
    )
    whole = r"\{ \s*" + r" \s*,\s* ".join(members) + r" \s* \} (?P<object>)"
    return re.compile(f"(?: {' | '.join((whole, *_OTHER_TOKENS))} ) [\\s,]*", re.VERBOSE | re.DOTALL)
