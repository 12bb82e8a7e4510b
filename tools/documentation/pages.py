# SPDX-License-Identifier: Apache-2.0
"""All files that are generated, or that have marked places, with their text as it must be."""

from __future__ import annotations

from pathlib import Path

from demo_model import card

from documentation import commands, figures, modules, parameters, topics
from documentation.marks import MARK, fill
from lfm_perception.settings.documentation import as_yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MARKED = ("*.md", "docs/*.md")
"""Where pages with marked places are."""


def generated() -> dict[Path, str]:
    """The text of each generated file, and of each page with marked places."""
    texts = {
        **topics.texts(),
        **figures.texts(ROOT),
        "modules": modules.text(ROOT),
        "commands": commands.text(),
    }
    whole = {ROOT / "config" / "perception.yaml": as_yaml()}
    whole |= {DOCS / page: text for page, text in parameters.pages().items()}
    whole[card.CARD] = card.text(card.read())
    marked = {}
    for path in (path for pattern in MARKED for path in sorted(ROOT.glob(pattern))):
        page = path.read_text(encoding="utf-8")
        if path not in whole and MARK.search(page):
            marked[path] = fill(page, texts, path.name)
    return {**whole, **marked}


def stale() -> list[Path]:
    """Pages of groups of parameters that do not exist any more."""
    return sorted(set((DOCS / "parameters").glob("*.md")) - generated().keys())
