# SPDX-License-Identifier: Apache-2.0
"""The decision that answers a typed question: value, calibrated probabilities and evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.scene import Answer, Usage
from lfm_perception.settings import QuestionSettings
from lfm_perception.typed_questions import MAX_OPTIONS, TypedQuestion

MIN_PROBABILITY = 1e-12
"""Probability below which an answer counts as this improbable, so that its logarithm is finite."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to a typed question about one frame, with the evidence it rests on.

    `value` is the likeliest of the question's `values` (`yes` and `no` in any language), and `probability`
    its calibrated probability, None for free text. `probabilities` of all values sum to 1.
    `track_id` is the track whose crop was shown, None for the whole frame. `plan` and `usage` tell what the
    model was shown and what it cost.
    """

    question: TypedQuestion
    value: str
    probability: float | None
    stamp_ns: int
    plan: ImagePlan
    usage: Usage
    probabilities: Mapping[str, float] = field(default_factory=dict)
    track_id: int | None = None

    @property
    def words(self) -> str:
        """The value in the language of the question: `ja`."""
        words = dict(zip(self.question.values, self.question.answers, strict=True))
        return words[self.value].lower() if self.question.type == "yes_no" else self.value

    @property
    def expectation(self) -> float | None:
        """The expected number by the probabilities; None for other types."""
        if self.question.type != "number":
            return None
        return sum(int(value) * share for value, share in self.probabilities.items())

    def to_json(self) -> dict[str, Any]:
        """The decision as a JSON object, see `answer.schema.json`. Probabilities have four decimals."""
        english = self.question.language == "en"
        shares = {value: round(share, 4) for value, share in self.probabilities.items()}
        return {
            "question": self.question.text,
            "type": self.question.type,
            "value": self.value,
            **({} if english else {"language": self.question.language, "answer": self.words}),
            **({} if self.probability is None else {"probability": round(self.probability, 4)}),
            **({"probabilities": shares} if 1 < len(shares) <= MAX_OPTIONS else {}),
            "stamp_ns": self.stamp_ns,
            **({} if self.track_id is None else {"track": self.track_id}),
            "image": [self.plan.width, self.plan.height],
            "image_tokens": self.usage.image_tokens,
            "answer_tokens": self.usage.answer_tokens,
            "milliseconds": round(1000.0 * self.usage.total_s, 1),
        }

    def __str__(self) -> str:
        return self.value if self.probability is None else f"{self.words} ({self.probability:.0%})"


def decide(
    question: TypedQuestion,
    answer: Answer,
    settings: QuestionSettings,
    *,
    stamp_ns: int,
    plan: ImagePlan,
    track_id: int | None = None,
) -> Decision:
    """The decision in a model's answer.

    Raises:
        PerceptionError: the answer holds no probabilities, because a limit ended it.
    """
    decision = Decision(question, answer.text.strip(), None, stamp_ns, plan, answer.usage, {}, track_id)
    if not question.answers:
        return decision
    probabilities = answer_probabilities(question, answer, settings)
    value = max(probabilities, key=lambda text: probabilities[text])
    return replace(decision, value=value, probability=probabilities[value], probabilities=probabilities)


def answer_probabilities(
    question: TypedQuestion, answer: Answer, settings: QuestionSettings
) -> dict[str, float]:
    """The calibrated probability of each of the question's values.

    Raises:
        PerceptionError: the answer holds no probabilities, because a limit ended it.
    """
    if len(answer.probabilities) != len(question.answers):
        raise PerceptionError(
            "the model did not answer a question within its limits: raise budget.latency or budget.tokens"
        )
    shares = calibrated(answer.probabilities, settings, binary=question.type == "yes_no")
    return dict(zip(question.values, shares, strict=True))


def calibrated(raw: Sequence[float], settings: QuestionSettings, *, binary: bool) -> tuple[float, ...]:
    """Calibrated probabilities: Platt scaling of the first of two, temperature scaling of several.

    Temperature scaling (Guo et al. 2017) is Platt scaling with the same gain for each answer and no bias.
    """
    logs = [settings.score_gain * math.log(max(share, MIN_PROBABILITY)) for share in raw]
    if binary:
        logs[0] += settings.score_bias
    peak = max(logs)
    weights = [math.exp(log - peak) for log in logs]
    return tuple(weight / sum(weights) for weight in weights)


def decision_text(decision: Decision) -> str:
    """The text of an answer on a topic: plain words for free text, else JSON."""
    if decision.probability is None:
        return decision.value
    return json.dumps(decision.to_json(), ensure_ascii=False)
