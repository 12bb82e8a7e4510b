# SPDX-License-Identifier: Apache-2.0
"""Marked places in Markdown, whose text is generated.

A place is `<!-- NAME -->text<!-- end -->`, within a line or over several lines. Renderers show only the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

MARK = re.compile(r"<!-- (?P<name>[a-z][\w/-]*) -->(?P<text>.*?)<!-- end -->", re.DOTALL)
BAR = r"\|"
"""A bar within a cell."""

BEGINS_LINE = re.compile(r"^[\s>*-]*<!-- [a-z][\w/-]* -->[^\n]", re.MULTILINE)


def fill(page: str, texts: Mapping[str, str], name: str) -> str:
    """The page with each marked place filled from `texts`; one of several lines gets blank lines around it.

    Raises:
        ValueError: a place has no text, or begins a line, of which Markdown would not read the rest.
    """
    if begins := BEGINS_LINE.search(page):
        raise ValueError(f"{name}: {begins[0]}… begins its line: move it behind a word")

    def filled(mark: re.Match[str]) -> str:
        if mark["name"] not in texts:
            raise ValueError(f"{name}: there is no figure {mark['name']}")
        text = texts[mark["name"]]
        text = f"\n\n{text}\n\n" if "\n" in text else text
        return f"<!-- {mark['name']} -->{text}<!-- end -->"

    return MARK.sub(filled, page)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [tuple(head), ("---",) * len(head), *map(tuple, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |" for cells in lines)
