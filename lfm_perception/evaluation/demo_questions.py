# SPDX-License-Identifier: Apache-2.0
"""Answers to typed questions about new scenes of the demo world, in wordings that no model was trained on."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.calibration import PlattScaling
from lfm_perception.decisions import Decision, decide
from lfm_perception.demo.bodies import EASY, HARD
from lfm_perception.demo.scene_questions import KINDS, SceneQuestion, scene_question
from lfm_perception.demo.world import Snapshot, still
from lfm_perception.evaluation.detection import (
    calibration_advice,
    calibration_error,
    held_out_error,
    reliability,
)
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.questions import FramePlan
from lfm_perception.settings import QuestionSettings
from lfm_perception.typed_questions import YES
from lfm_perception.vlm import Vlm

SIDE = 256
"""Width and height of the scenes, pixels."""

ANSWER_TOKENS = 32

TALL = 0.3
"""Minimum height, in image heights, of a person who is asked about for a helmet."""


@dataclass(frozen=True, slots=True)
class KindReport:
    """Result of one kind of question.

    `correct`: share of right answers. `within_one`: share of numbers that are wrong by one at most, None for
    other types. `calibration_error`: of the probability of yes, None for other types.
    """

    kind: str
    questions: int
    correct: float
    within_one: float | None
    calibration_error: float | None


def scene_with_questions(seed: int, index: int) -> tuple[Snapshot, list[SceneQuestion]]:
    """A new scene, easy and hard in turn, with one question of each kind to which it has a clear answer."""
    rng = random.Random(f"questions {seed} {index}")
    snapshot = still(rng, SIDE, SIDE, HARD if index % 2 else EASY)
    asked = [q for kind in KINDS if (q := scene_question(rng, snapshot, True, kind, sentences=0.0))]
    heights = [t.box.y2 - t.box.y1 for t in snapshot.objects if t.label == "person"]
    small = any(height <= TALL for height in heights)
    return snapshot, [q for q in asked if not (small and q.kind.startswith("helmet"))]


def run_questions(
    vlm: Vlm, settings: QuestionSettings, scenes: int, seed: int = 0
) -> Iterator[tuple[SceneQuestion, Decision]]:
    """Ask about this number of new scenes."""
    plan = FramePlan(plan_image(SIDE, SIDE, ImageLimits()), ANSWER_TOKENS)
    for index in range(scenes):
        snapshot, questions = scene_with_questions(seed, index)
        for each in questions:
            answer = vlm.describe(snapshot.frame, each.question.question, plan)
            yield each, decide(each.question, answer, settings, stamp_ns=0, plan=plan.image)


def evaluate_questions(asked: Iterable[tuple[SceneQuestion, Decision]]) -> list[KindReport]:
    """Compare decisions with the true answers, by kind of question."""
    groups: defaultdict[str, list[tuple[SceneQuestion, Decision]]] = defaultdict(list)
    for each, decision in asked:
        groups[each.kind].append((each, decision))
    return [_report(kind, groups[kind]) for kind in KINDS if kind in groups]


def advice(asked: Sequence[tuple[SceneQuestion, Decision]], settings: QuestionSettings) -> str:
    """Whether to set the Platt scaling of these settings, with which was decided, to a fitted one."""
    yes, true = _yes([pair for pair in asked if pair[0].question.type == "yes_no"])
    now = PlattScaling(settings.score_gain, settings.score_bias)
    raw = np.array([now.invert(probability) for probability in yes.tolist()])
    held_out = np.arange(len(raw)) % 2 == 1
    before = calibration_error(reliability(yes[held_out], true[held_out]))
    after = held_out_error(raw, true, held_out)
    fitted = PlattScaling.fit(raw, true)
    return calibration_advice("questions", fitted, len(raw), before, after, "answers")


def _report(kind: str, pairs: Sequence[tuple[SceneQuestion, Decision]]) -> KindReport:
    right = [decision.value.lower() == each.answer.lower() for each, decision in pairs]
    within_one = error = None
    if pairs[0][0].question.type == "number":
        within_one = statistics.mean(abs(int(d.value) - int(each.answer)) <= 1 for each, d in pairs)
    if pairs[0][0].question.type == "yes_no":
        error = calibration_error(reliability(*_yes(pairs)))
    return KindReport(kind, len(pairs), statistics.mean(right), within_one, error)


def _yes(
    pairs: Sequence[tuple[SceneQuestion, Decision]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability of yes, and whether it is the true answer."""
    return np.array([d.probabilities["yes"] for _, d in pairs]), np.array(
        [each.answer == YES for each, _ in pairs]
    )
