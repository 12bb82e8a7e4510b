"""Answers: the model's text becomes detections. Pure functions, in time linear in the length of the text.

A model is asked for a JSON array of objects (see `questions.Dialect`). `tokens` matches objects in the
dialect's own form as a whole, `repair` reads all other text, `collector` validates labels and boxes, and
`scoring` turns token log-probabilities into confidences and coordinate spreads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lfm_perception.answers.collector import REJECTS, Collector, ParsedObject
from lfm_perception.answers.repair import Reader
from lfm_perception.answers.scoring import Spread, TokenLogProb, score, scored_detection
from lfm_perception.questions import Dialect
from lfm_perception.scene import Detection

__all__ = ["REJECTS", "Parsed", "ParsedObject", "Spread", "TokenLogProb", "parse", "score"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """The objects of an answer in the order of the text, and the number of rejected ones by reason."""

    objects: tuple[ParsedObject, ...]
    rejects: Mapping[str, int]

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The objects with score 1, for text without token probabilities."""
        return tuple(Detection(found.label, found.box, 1.0) for found in self.objects)

    def scored(self, tokens: Sequence[TokenLogProb], *, means: bool = False) -> tuple[Detection, ...]:
        """The objects with scores and, where all four sides have one, coordinate standard deviations.

        Args:
            tokens: Those of the whole answer in the order of the text.
            means: Replaces printed coordinates by the means of their distributions, which are finer.
        """
        return tuple(scored_detection(found, tokens, means) for found in self.objects)


def parse(text: str, dialect: Dialect, *, labels: Sequence[str] = (), closed: bool = False) -> Parsed:
    """The objects in `text`. Never raises for any text; every box lies inside the image and has an area.

    Args:
        text: The model's answer.
        dialect: Keys, their order and the range of the coordinates. The unit is never guessed.
        labels: The labels that were asked for.
        closed: Rejects every other label.
    """
    collector = Collector(labels, closed, float(dialect.coordinate_range))
    Reader(text, dialect, collector).read()
    objects = sorted(collector.objects, key=lambda found: found.opening)
    return Parsed(tuple(objects), MappingProxyType(collector.rejects))
