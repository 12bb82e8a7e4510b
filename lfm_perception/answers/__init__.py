# SPDX-License-Identifier: Apache-2.0
"""Answers: the model's text becomes detections. Pure functions, in time linear in the length of the text.

A model is asked for a JSON array of objects (see `questions.Dialect`). `strict` matches whole objects in the
dialect's own form, `repair` and `shapes` read all other text, `collector` validates labels and boxes, and
`scoring` turns token log-probabilities into confidences and coordinate spreads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lfm_perception.answers.collector import REJECTS, RESCALED, Collector, ParsedObject
from lfm_perception.answers.repair import repair
from lfm_perception.answers.scoring import Spread, TokenLogProb, score, scored_detection
from lfm_perception.answers.strict import SIDES, object_pattern
from lfm_perception.questions import Dialect
from lfm_perception.scene import Detection

__all__ = [
    "REJECTS", "RESCALED", "Parsed", "ParsedObject", "Spread", "TokenLogProb", "parse", "score",
    "without_thinking",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parsed:
    """The objects of an answer in the order of the text, and the number of rejected ones by reason."""

    objects: tuple[ParsedObject, ...]
    rejects: Mapping[str, int]

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The objects with score 1, for text without token probabilities."""
        return tuple(Detection(found.label, found.box, 1.0, None, found.phrase) for found in self.objects)

    def scored(self, tokens: Sequence[TokenLogProb], *, means: bool = False) -> tuple[Detection, ...]:
        """The objects with scores and, where all four sides have one, coordinate standard deviations.

        Args:
            tokens: Those of the whole answer in the order of the text.
            means: Replaces printed coordinates by the means of their distributions, which are finer.
        """
        return tuple(scored_detection(found, tokens, means) for found in self.objects)


def parse(
    text: str,
    dialect: Dialect,
    *,
    labels: Sequence[str] = (),
    closed: bool = False,
    synonyms: Sequence[str] = (),
) -> Parsed:
    """The objects in `text`. Never raises for any text; every box lies inside the image and has an area.

    Args:
        text: The model's answer.
        dialect: Keys, their order and the range of the coordinates.
        labels: The labels that were asked for; names that mean one of them get it.
        closed: Rejects all other names.
        synonyms: Further names of labels, as in `detect.synonyms`.
    """
    text = without_thinking(text)
    collector = Collector(text, dialect, labels, closed, synonyms)
    pattern = object_pattern(dialect)
    for found in pattern.finditer(text):
        sides = [float(side) for side in found.group(*SIDES)]
        spans = [found.span(side) for side in SIDES]
        collector.add(_opening(text, found.start()), found["label"], found.span("label"), sides, spans)
    rest = pattern.sub(lambda found: " " * len(found[0]), text)
    if not _ONLY_ARRAY.fullmatch(rest):
        repair(rest, dialect, collector)
    collector.finish()
    return Parsed(tuple(collector.objects), MappingProxyType(collector.rejects))


def without_thinking(text: str) -> str:
    """The text with as many spaces in place of reasoning, which may be cut off at either end."""
    return _THINKING.sub(lambda found: re.sub(r"\S", " ", found[0]), text)


_TAG = r"(?:\w+:)?(?:think|thinking|thought|thoughts|reasoning|reflection)"
_OPEN = rf"(?:<{_TAG}(?:\s[^<>]*)?>|◁think▷|\[THINK\]|<\|begin_of_thought\|>|<\|START_THINKING\|>)"
_CLOSE = rf"(?:</{_TAG}>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>|<\|END_THINKING\|>)"
_CHANNEL = r"<\|channel\|>(?!final)\w+.*?(?=<\|channel\|>|\Z)"
_THINKING = re.compile(
    rf"{_OPEN}.*?(?:{_CLOSE}|\Z)|\A(?:(?!{_OPEN}).)*?{_CLOSE}|{_CHANNEL}", re.DOTALL | re.IGNORECASE
)
"""Reasoning as DeepSeek, Qwen, Seed, Kimi, Magistral and Cohere tag it, and the channels of gpt-oss."""

_ONLY_ARRAY = re.compile(r"[\s,]*(?:\[[\s,]*\])?[\s,]*")


def _opening(text: str, brace: int) -> tuple[int, int]:
    """The brace of an object with the bracket or comma and the space before it."""
    start = brace
    while start and text[start - 1] in ", \t\n\r":
        start -= 1
    return start, brace + 1
