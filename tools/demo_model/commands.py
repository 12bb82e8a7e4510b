# SPDX-License-Identifier: Apache-2.0
"""Commands that the demo model is trained on: their wordings, and names of which half are invented."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lfm_perception.commands import TOOLS
from lfm_perception.demo.commands import Command, command
from lfm_perception.files import parse_yaml


def _read(name: str) -> Any:
    return parse_yaml(Path(__file__).with_name(name).read_text(encoding="utf-8"))


_CONTENT, _REFUSED = _read("commands.yaml"), _read("refused_requests.yaml")
WORDINGS: Mapping[str, Sequence[str]] = _CONTENT["tools"] | {"": _REFUSED["wordings"]}
"""As `lfm_perception.demo.commands.WORDINGS`, and none of those."""

INVENTED = 0.5
"""Share of the names of things that are no words, so that the model learns to copy any word."""
TOOL_WORDS = 0.06
"""Share of the names that are words of tools, so that an alert called reset resets nothing."""
COMPOUND = 0.35
"""Share of them that are several words."""
INVENTED_WORDS = 0.25
"""Share of the verbs and things in refused requests that are no words, so that such words mean no call."""

NAMING = ("set_labels", "add_alert", "remove_alert")
"""Tools whose arguments are copied words: the hardest ones, given three times as often."""
REFUSED_SHARE = 7
"""How often a request that no tool can carry out is given, where another tool is given once."""


def trained_command(rng: random.Random, tool: str | None = None) -> Command:
    """A command of this tool, or of any tool or none; empty: a request that no tool can carry out."""
    if tool is None:
        tool = rng.choice([*TOOLS, *NAMING, *NAMING, *[""] * REFUSED_SHARE])
    return command(rng, tool, WORDINGS, _nouns(rng), _everyday_words(rng))


def _nouns(rng: random.Random) -> list[str]:
    nouns: list[str] = _CONTENT["nouns"]
    names = [_invented(rng) if rng.random() < INVENTED else noun for noun in rng.sample(nouns, 20)]
    names = [rng.choice(_CONTENT["tool_words"]) if rng.random() < TOOL_WORDS else name for name in names]
    return [f"{_first_word(rng)} {name}" if rng.random() < COMPOUND else name for name in names]


def _first_word(rng: random.Random) -> str:
    """What may stand before a name: a property, another noun, or a word that the model has not met."""
    return rng.choice((rng.choice(_CONTENT["properties"]), rng.choice(_CONTENT["nouns"]), _invented(rng)))


def _invented(rng: random.Random) -> str:
    """A word that can be pronounced and means nothing."""
    sounds = (rng.choice(part) for _ in range(rng.choice((1, 2, 2, 3))) for part in _CONTENT["syllables"])
    return "".join(sounds)


def _everyday_words(rng: random.Random) -> dict[str, str]:
    """What fills the slots of a request that no tool can carry out."""
    words = {slot: rng.choice(values) for slot, values in _REFUSED["slots"].items()}
    words["thing2"] = rng.choice(_REFUSED["slots"]["thing"])
    for slot in ("verb", "thing", "thing2"):
        if rng.random() < INVENTED_WORDS:
            words[slot] = _invented(rng)
    return words | {"n": str(rng.randint(1, 99)), "m": str(rng.randint(1, 99))}
