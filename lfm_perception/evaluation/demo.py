# SPDX-License-Identifier: Apache-2.0
"""Detection quality on the demo world: new scenes, several variants of the question, and the ground truth."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lfm_perception.demo.bodies import EASY, HARD, LABELS, Difficulty
from lfm_perception.demo.questions import HELD_OUT
from lfm_perception.demo.world import Snapshot, TrueObject, crop, describe, still
from lfm_perception.evaluation.detection import DetectionReport, count_matches, evaluate
from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.media.charts import bars, reliability_chart
from lfm_perception.media.latency import STAGES, latency_section
from lfm_perception.media.page import Section
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, Dialect, FramePlan, Prompt, Question, ask, detect
from lfm_perception.scene import Answer, Detection, Usage
from lfm_perception.vlm import Vlm

ANSWER_TOKENS = 400
CAPTION_TOKENS = 64
SAME_EDGE = 0.02
"""Objects whose left edges are closer than this (image widths) may be named in either order."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant of the question. `scenes` seeds the scenes: trials with the same name share them.

    With a `share` below 1 the image is a part of a larger scene, this share of its sides.
    """

    name: str
    question: Callable[[random.Random, Snapshot], Question]
    scenes: str = "easy"
    difficulty: Difficulty = EASY
    width: int = 256
    height: int = 256
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class TrialReport:
    """Result of a trial. `detection` is None for captions. `correct`: share of captions that are entirely
    true, or of answers without a false positive. `usages`: cost of each answer.
    """

    name: str
    scenes: int
    detection: DetectionReport | None
    correct: float
    usages: tuple[Usage, ...]

    @property
    def usage(self) -> Usage:
        """Medians over the scenes."""
        return _median(self.usages)


def _all_labels(dialect: Dialect) -> Callable[[random.Random, Snapshot], Question]:
    return lambda rng, snapshot: detect(dialect, LABELS)


def _reworded(dialect: Dialect) -> Callable[[random.Random, Snapshot], Question]:
    return lambda rng, snapshot: detect(replace(dialect, user=rng.choice(HELD_OUT[dialect.name])), LABELS)


def _absent(rng: random.Random, snapshot: Snapshot) -> Question:
    missing = sorted(set(LABELS) - {thing.label for thing in snapshot.objects})
    return detect(BBOX, [rng.choice(missing or ["dog"])])


TRIALS = (
    Trial("easy", _all_labels(BBOX)),
    Trial("hard", _all_labels(BBOX), "hard", HARD),
    Trial("384x288", _all_labels(BBOX), "384x288", width=384, height=288),
    Trial("512x384", _all_labels(BBOX), "512x384", width=512, height=384),
    Trial("crop", _all_labels(BBOX), "crop", HARD, share=0.5),
    Trial("subset", lambda rng, _: detect(BBOX, rng.sample(LABELS, rng.randint(1, len(LABELS) - 1)))),
    Trial("absent label", _absent),
    Trial("reworded", _reworded(BBOX)),
    Trial("bbox_2d", _all_labels(BBOX_2D)),
    Trial("bbox_2d reworded", _reworded(BBOX_2D)),
    Trial("caption", lambda rng, snapshot: ask(CAPTION)),
    Trial("caption reworded", lambda rng, _: ask(Prompt(rng.choice(HELD_OUT["caption"])))),
)


def run_trial(
    vlm: Vlm, trial: Trial, scenes: int, seed: int = 0
) -> Iterator[tuple[Question, Snapshot, Answer]]:
    """Ask about this number of new scenes, one at a time."""
    image = plan_image(trial.width, trial.height, ImageLimits())
    for index in range(scenes):
        snapshot = _scene(random.Random(f"evaluation {seed} {trial.scenes} {index}"), trial)
        question = trial.question(random.Random(f"{seed} {trial.name} {index}"), snapshot)
        limit = ANSWER_TOKENS if question.dialect else CAPTION_TOKENS
        yield question, snapshot, vlm.describe(snapshot.frame, question, FramePlan(image, limit))


def _scene(rng: random.Random, trial: Trial) -> Snapshot:
    if trial.share >= 1.0:
        return still(rng, trial.width, trial.height, trial.difficulty)
    whole = still(rng, round(trial.width / trial.share), round(trial.height / trial.share), trial.difficulty)
    left, top = (rng.uniform(0.0, 1.0 - trial.share) for _ in range(2))
    return crop(whole, Box(left, top, left + trial.share, top + trial.share), trial.width, trial.height)


def evaluate_trial(trial: Trial, asked: Sequence[tuple[Question, Snapshot, Answer]]) -> TrialReport:
    """Compare the answers of a trial with the ground truth."""
    usages = tuple(answer.usage for _, _, answer in asked)
    if asked[0][0].dialect is None:
        correct = [caption_is_true(answer.text, snapshot.objects) for _, snapshot, answer in asked]
        return TrialReport(trial.name, len(asked), None, statistics.mean(correct), usages)
    pairs: list[tuple[Sequence[Detection], Sequence[TrueObject]]] = [
        (answer.detections, [thing for thing in snapshot.objects if thing.label in question.labels])
        for question, snapshot, answer in asked
    ]
    report = evaluate(pairs)
    clean = [count_matches(detections, truth).false_positives == 0 for detections, truth in pairs]
    return TrialReport(trial.name, len(asked), report, statistics.mean(clean), usages)


def caption_is_true(text: str, objects: Sequence[TrueObject]) -> bool:
    """Whether a caption names exactly these objects, from left to right."""
    remaining = sorted(objects, key=lambda thing: thing.box.x1)
    named = [word for word in text.replace(",", " ").replace(".", " ").split() if word in LABELS]
    if text.strip() != describe(named):
        return False
    for label in named:
        fitting = next((thing for thing in remaining if thing.label == label), None)
        if fitting is None or fitting.box.x1 > remaining[0].box.x1 + SAME_EDGE:
            return False
        remaining.remove(fitting)
    return not remaining


def as_json(report: TrialReport) -> dict[str, Any]:
    """The figures of a trial, ready for `json.dumps`."""
    shown: dict[str, Any] = {
        "scenes": report.scenes,
        "correct": report.correct,
        "usage": asdict(report.usage),
    }
    if report.detection:
        d = report.detection
        shown |= {
            "precision": d.at_50.precision,
            "recall": d.at_50.recall,
            "f1": d.at_50.f1,
            "f1_at_75": d.at_75.f1,
            "mean_iou": d.mean_iou,
            "count_exact": d.count_exact,
            "by_label": {
                label: {"precision": t.precision, "recall": t.recall, "f1": t.f1, **asdict(t)}
                for label, t in d.by_label.items()
            },
            "reliability": [asdict(score_bin) for score_bin in d.reliability],
            "calibration_error": d.calibration_error,
            "auroc": d.auroc,
            "fitted": asdict(d.fitted),
            "held_out_calibration_error": d.held_out_error,
        }
    return shown


def sections(reports: Sequence[TrialReport]) -> Iterator[Section]:
    """The sections of the page: accuracy by trial, and latency."""
    asked = [report for report in reports if report.detection]
    series = {
        "F1": [report.detection.at_50.f1 if report.detection else math.nan for report in reports],
        "correct": [report.correct for report in reports],
    }
    rows = [demo_row(report) for report in reports]
    charts = [bars("Accuracy by trial", series, [report.name for report in reports], "F1, correct (0 to 1)")]
    if asked and asked[0].detection and asked[0].detection.reliability:
        points = [
            (each.mean_confidence, each.precision, each.count) for each in asked[0].detection.reliability
        ]
        charts.append(
            reliability_chart(f"Reliability diagram of the trial {asked[0].name}", points, "detections")
        )
    usages = {report.name: report.usages for report in reports}
    totals = [usage.total_s for report in reports for usage in report.usages]
    yield Section(
        "By trial",
        [TRIALS_NOTE],
        heads=("trial", *DEMO_COLUMNS[:6]),
        rows=[row[:7] for row in rows],
        charts=charts,
    )
    yield latency_section(totals, usages)


TRIALS_NOTE = (
    "Detections match at an IoU of 0.5; IoU is the mean over the true positives, count the share of "
    "scenes with as many detections as objects, correct the share of answers without a false positive "
    "or, for captions, of those that are entirely true."
)
DEMO_COLUMNS = ("precision", "recall", "F1", "IoU", "count", "correct", *STAGES)


def demo_row(report: TrialReport) -> tuple[str, ...]:
    """The name of a trial, and its figures in the order of `DEMO_COLUMNS`."""
    d = report.detection
    measures = (d.at_50.precision, d.at_50.recall, d.at_50.f1, d.mean_iou, d.count_exact) if d else ()
    shown = [f"{measure:.3f}" for measure in measures] or ["-"] * 5
    times = (getattr(report.usage, f"{stage}_s") for stage in STAGES)
    return report.name, *shown, f"{report.correct:.3f}", *(f"{1000 * each:.0f}" for each in times)


def _median(usages: Sequence[Usage]) -> Usage:
    medians = {
        each.name: statistics.median(getattr(usage, each.name) for usage in usages) for each in fields(Usage)
    }
    return Usage(**{name: value if name.endswith("_s") else round(value) for name, value in medians.items()})
