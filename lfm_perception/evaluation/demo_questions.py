# SPDX-License-Identifier: Apache-2.0
"""Answers to typed questions about new scenes of the demo world, in wordings that no model was trained on."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from lfm_perception.calibration import PlattScaling
from lfm_perception.decisions import Decision, decide
from lfm_perception.demo.bodies import EASY, HARD
from lfm_perception.demo.scene_questions import (
    KINDS,
    TRANSLATIONS,
    SceneQuestion,
    scene_question,
    translated_question,
)
from lfm_perception.demo.world import Snapshot, still
from lfm_perception.evaluation.detection import (
    calibration_advice,
    calibration_error,
    held_out_error,
    reliability,
)
from lfm_perception.evaluation.tables import new_table
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.media.charts import bars, reliability_chart
from lfm_perception.media.latency import latency_section
from lfm_perception.media.page import Section
from lfm_perception.questions import FramePlan
from lfm_perception.settings import QuestionSettings
from lfm_perception.typed_questions import YES
from lfm_perception.vlm import Vlm

SIDE = 256
"""Width and height of the scenes, pixels."""

ANSWER_TOKENS = 32

COLUMNS = ("asked", "correct", "within one", "calibration error")

MAX_MISTAKES = 20
"""Maximum number of wrong answers on the page."""

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


def scene_with_questions(seed: int, index: int, language: str = "en") -> tuple[Snapshot, list[SceneQuestion]]:
    """A new scene, easy and hard in turn, with one question of each kind to which it has a clear answer.

    Other languages have questions of some kinds.
    """
    rng = random.Random(f"questions {seed} {index}")
    snapshot = still(rng, SIDE, SIDE, HARD if index % 2 else EASY)

    def question(kind: str) -> SceneQuestion | None:
        if language == "en":
            return scene_question(rng, snapshot, True, kind, sentences=0.0)
        return translated_question(rng, snapshot, kind, language)

    kinds = KINDS if language == "en" else TRANSLATIONS[language]["kinds"]
    asked = [q for kind in kinds if (q := question(kind))]
    heights = [t.box.y2 - t.box.y1 for t in snapshot.objects if t.label == "person"]
    small = any(height <= TALL for height in heights)
    return snapshot, [q for q in asked if not (small and q.kind.startswith("helmet"))]


def run_questions(
    vlm: Vlm,
    settings: QuestionSettings,
    scenes: int,
    seed: int = 0,
    language: str = "en",
    most: float = math.inf,
) -> Iterator[tuple[SceneQuestion, Decision]]:
    """Ask about this number of new scenes, at most `most` questions of each kind."""
    plan = FramePlan(plan_image(SIDE, SIDE, ImageLimits()), ANSWER_TOKENS)
    counts = Counter[str]()
    for index in range(scenes):
        snapshot, questions = scene_with_questions(seed, index, language)
        for each in questions:
            if counts[each.kind] >= most:
                continue
            counts[each.kind] += 1
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


def table(reports: Sequence[KindReport]) -> Table:
    """One row for each kind of question."""
    shown = new_table("question", COLUMNS)
    for row in _rows(reports):
        shown.add_row(*row)
    return shown


def languages_table(languages: Mapping[str, Sequence[KindReport]]) -> Table:
    """The share of right answers, by language and kind of question."""
    heads, rows = _by_language(languages)
    shown = new_table(heads[0], heads[1:])
    for row in rows:
        shown.add_row(*row)
    return shown


def sections(
    asked: Sequence[tuple[SceneQuestion, Decision]],
    settings: QuestionSettings,
    languages: Mapping[str, Sequence[KindReport]],
) -> Iterator[Section]:
    """The sections of the page: accuracy by kind and language, probabilities, wrong answers, latency."""
    reports = languages["en"]
    series = {"correct": [each.correct for each in reports]}
    names = [each.kind for each in reports]
    yield Section(
        "By kind of question",
        notes=[KINDS_NOTE],
        heads=("question", *COLUMNS),
        rows=_rows(reports),
        charts=[bars("Accuracy by kind of question", series, names, "share of right answers (0 to 1)")],
    )
    if len(languages) > 1:
        heads, rows = _by_language(languages)
        yield Section("By language", notes=["Share of right answers."], heads=heads, rows=rows)
    yes, true = _yes([pair for pair in asked if pair[0].question.type == "yes_no"])
    points = [(each.mean_confidence, each.precision, each.count) for each in reliability(yes, true)]
    chart = reliability_chart(
        "Reliability diagram", points, "answers", ("probability of yes", "share of yes")
    )
    yield Section("Probability of yes", notes=[advice(asked, settings)], charts=[chart])
    wrong = sorted(
        ((d, each) for each, d in asked if d.value.lower() != each.answer.lower()),
        key=lambda pair: -(pair[0].probability or 0.0),
    )
    rows = [
        (each.question.text, each.answer.lower(), d.value.lower(), f"{d.probability or 0.0:.2f}")
        for d, each in wrong
    ]
    heads = ("question", "true answer", "answer of the model", "its probability")
    some = f"Those with the highest probability, {MAX_MISTAKES} of {len(rows)}."
    notes = [some] if len(rows) > MAX_MISTAKES else [] if rows else ["None."]
    yield Section(f"Wrong answers: {len(rows)}", notes, heads=heads, rows=rows[:MAX_MISTAKES], texts=True)
    usages = {
        kind: [d.usage for each, d in asked if each.question.type == kind]
        for kind in dict.fromkeys(each.question.type for each, _ in asked)
    }
    yield latency_section([d.usage.total_s for _, d in asked], usages)


KINDS_NOTE = (
    "At most one question of each kind about each scene, in wordings that the demo model was not trained on. "
    "Correct: share of right answers; within one: share of numbers that are wrong by one at most. "
    "Calibration error: mean of |probability of yes - share of true yes|."
)


def _rows(reports: Sequence[KindReport]) -> list[tuple[str, ...]]:
    rows = []
    for each in reports:
        measures = (each.correct, each.within_one, each.calibration_error)
        shown = ("" if measure is None else f"{measure:.3f}" for measure in measures)
        rows.append((each.kind, str(each.questions), *shown))
    return rows


def _by_language(
    languages: Mapping[str, Sequence[KindReport]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the share of right answers, of the kinds that every language has."""
    shares = {code: {each.kind: each.correct for each in found} for code, found in languages.items()}
    kinds = [kind for kind in shares["en"] if all(kind in found for found in shares.values())]
    rows = [(code, *(f"{found[kind]:.3f}" for kind in kinds)) for code, found in shares.items()]
    return ("correct in", *kinds), rows


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
        [each.answer.lower() == YES for each, _ in pairs]
    )
