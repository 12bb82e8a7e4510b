# SPDX-License-Identifier: Apache-2.0
"""Numbers and labels of an answer have the model's own probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from fake_models import GREEDY, ScriptedModel, decode

from lfm_perception.answers import parse
from lfm_perception.engine.decoding import (
    Sampler,
)
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import Logits
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, Draft


class DigitsModel(ScriptedModel):
    """Scripted: writes numbers of `digits` decimals, normally distributed around the wanted ones."""

    def __init__(
        self, vocabulary: Vocabulary, objects: Draft, digits: int, offset: float, std: float
    ) -> None:
        text = BBOX.spell([(label, [f"{side:.{digits}f}" for side in box.xyxy]) for label, box in objects])
        super().__init__(vocabulary, text)
        self.text, self._offset, self._std = text, offset, std
        count = 10**digits
        self._values = np.arange(count) / count
        self._digits = [vocabulary.tokenize(f"0.{number:0{digits}d}")[-1] for number in range(count)]

    def after(self, tokens: Sequence[int]) -> Logits:
        logits = super().after(tokens)
        wanted = int(logits.argmax())
        if wanted in self._digits:
            away = self._values - self._values[self._digits.index(wanted)] - self._offset
            logits[self._digits] = 20.0 - 0.5 * (away / self._std) ** 2
        return logits


@pytest.mark.parametrize(("digits", "offset", "std"), [(2, 0.003, 0.009), (3, 0.0004, 0.003)])
def test_the_number_of_digits_is_the_models(
    vocabulary: Vocabulary, digits: int, offset: float, std: float
) -> None:
    objects = (("box", Box(0.25, 0.31, 0.56, 0.75)),)
    model = DigitsModel(vocabulary, objects, digits, offset, std)
    decoded = decode(Grammar(vocabulary, BBOX, None), model, Sampler(GREEDY), 300)
    assert decoded.text == model.text
    (found,) = parse(decoded.text, BBOX).scored(decoded.tokens, means=True)
    assert found.box.xyxy == pytest.approx(objects[0][1].xyxy + offset, abs=5e-4)
    assert found.std is not None
    assert found.std == pytest.approx([std] * 4, rel=0.05)


def test_spellings_of_one_number_count_together(vocabulary: Vocabulary) -> None:
    """Scripted: 0.5, 0.50 and 0.500 are equally likely, and so are 0.12 and 0.120."""

    class Undecided(ScriptedModel):
        def after(self, tokens: Sequence[int]) -> Logits:
            logits = super().after(tokens)
            wanted = int(logits.argmax())
            for spellings in (("5", "50", "500"), ("12", "120")):
                same = [vocabulary.tokenize(f"0.{digits}")[-1] for digits in spellings]
                if wanted in same:
                    logits[same] = 20.0
                    logits[wanted] = 20.001
            return logits

    text = '[{"label": "box", "bbox": [0.12, 0.120, 0.5, 0.500]}]'
    grammar = Grammar(vocabulary, BBOX, None)
    decoded = decode(grammar, Undecided(vocabulary, text), Sampler(GREEDY), 300)
    assert decoded.text == text
    (found,) = parse(decoded.text, BBOX).scored(decoded.tokens, means=True)
    assert found.score == pytest.approx(1.0, abs=1e-4)
    assert found.box.xyxy == pytest.approx([0.12, 0.12, 0.5, 0.5], abs=1e-6)
    assert found.std is not None
    assert found.std.x1 == pytest.approx(
        0.01 / math.sqrt(12)
    )  # a number is at least as uncertain as its rounding
    assert found.std.y1 == pytest.approx(0.001 / math.sqrt(12))


def test_a_closed_label_is_compared_with_the_other_labels_only(vocabulary: Vocabulary) -> None:
    """Scripted: the model wants to write `robot`, which the grammar forbids, and else rather `box`."""

    class Stranger(ScriptedModel):
        def after(self, tokens: Sequence[int]) -> Logits:
            logits = super().after(tokens)
            box, person, robot = (vocabulary.tokenize(f'"{name}"')[1] for name in ("box", "person", "robot"))
            if int(logits.argmax()) == box:
                logits[[robot, box, person]] = 30.0, 20.0, 20.0 - math.log(3.0)
            return logits

    text = BBOX.answer([("box", Box(0.25, 0.3, 0.5, 0.75))])
    for labels, score in ((("box", "person"), 0.75), (("box",), 1.0)):
        decoded = decode(Grammar(vocabulary, BBOX, labels), Stranger(vocabulary, text), Sampler(GREEDY), 300)
        assert decoded.text == text
        assert parse(text, BBOX).scored(decoded.tokens)[0].score == pytest.approx(score, abs=1e-3)
