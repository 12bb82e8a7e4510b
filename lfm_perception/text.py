# SPDX-License-Identifier: Apache-2.0
"""Text from outside, made safe to encode, print and publish. Every text that leaves the package passes here.

Labels, answers, reject reasons and frame ids pass when their values are made (`scene`), sentences of errors
in `PerceptionError`, strings of messages in `cdr`; other text passes where it is logged or published.
"""

from __future__ import annotations

import re

MAX_LABEL = 200
"""Longest label, reject reason or frame id, characters."""

MAX_TEXT = 100_000
"""Longest answer or caption, characters."""

MAX_SENTENCE = 300
"""Longest sentence of an error, a log line or a diagnostic message, characters."""

_TAIL = 120
"""Characters of a long sentence's end that are kept: the way out stands there."""

REPLACEMENT = "\ufffd"

# Control characters but tab and line feed, line and paragraph separators, overrides of the writing direction,
# surrogates and noncharacters (which UTF-8 or its readers refuse), and invisible tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)


def safe_text(text: str, limit: int = MAX_TEXT) -> str:
    """The text with unsafe characters replaced, cut to `limit` characters; keeps tabs and line feeds."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if is_safe(text) else _UNSAFE.sub(REPLACEMENT, text)


def is_safe(text: str) -> bool:
    """Whether `safe_text` keeps the text as it is, apart from its length."""
    return text.isprintable() or not _UNSAFE.search(text)


def safe_line(text: str, limit: int = MAX_LABEL) -> str:
    """`safe_text` on one line."""
    if len(text) <= limit and text.isprintable():
        return text
    return safe_text(" ".join(text[: 4 * limit].split()), limit)


def sentence(text: str) -> str:
    """A sentence on one line with beginning and end, and at most `MAX_SENTENCE` characters."""
    if len(text) <= MAX_SENTENCE and text.isprintable():
        return text
    line = safe_line(text, len(text) + 1)
    if len(line) <= MAX_SENTENCE:
        return line
    return f"{line[: MAX_SENTENCE - _TAIL - 3]} … {line[-_TAIL:]}"
