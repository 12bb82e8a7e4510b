# SPDX-License-Identifier: Apache-2.0
"""`eval questions`: typed questions about new scenes, compared with their true answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lfm_perception.cli.application import app
from lfm_perception.decisions import Decision, decide
from lfm_perception.demo.scene_questions import KINDS, SceneQuestion
from lfm_perception.evaluation.demo_questions import advice, evaluate_questions, scene_with_questions
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.scene import Answer
from lfm_perception.settings import QuestionSettings

PLAN = plan_image(256, 256, ImageLimits())
QUESTIONS = [question for index in range(20) for question in scene_with_questions(0, index)[1]]


def decided(question: SceneQuestion, share: float, settings: QuestionSettings) -> Decision:
    """The decision of a model that gives the true answer this probability."""
    answers = question.question.answers
    rest = (1.0 - share) / (len(answers) - 1)
    shares = tuple(share if text == question.answer else rest for text in answers)
    answer = Answer(question.answer, (), probabilities=shares)
    return decide(question.question, answer, settings, stamp_ns=0, plan=PLAN)


def test_a_model_that_knows_is_right_and_one_that_guesses_wrong_is_not() -> None:
    settings = QuestionSettings()
    right = evaluate_questions([(each, decided(each, 1.0, settings)) for each in QUESTIONS])
    assert {report.kind for report in right} == set(KINDS)
    assert {report.correct for report in right} == {1.0}
    errors = [report.calibration_error for report in right if report.calibration_error is not None]
    assert errors == pytest.approx([0.0] * len(errors), abs=1e-9)
    wrong = evaluate_questions([(each, decided(each, 0.0, settings)) for each in QUESTIONS])
    assert {report.correct for report in wrong} == {0.0}
    assert all(report.within_one is not None for report in wrong if report.kind == "count")


def test_a_scaling_is_advised_for_a_model_that_is_too_sure() -> None:
    """Right in all of the cases but sure of it only to 60%: the fit says so."""
    asked = [(each, decided(each, 0.6, QuestionSettings())) for each in QUESTIONS * 3]
    assert advice(asked, QuestionSettings()).startswith("Set questions.score_gain ")
    settings = replace(QuestionSettings(), score_gain=12.0)
    asked = [(each, decided(each, 0.6, settings)) for each in QUESTIONS * 3]
    assert advice(asked, settings).startswith("Keep questions.score_gain")


def test_scenes_are_the_same_for_the_same_seed() -> None:
    assert scene_with_questions(1, 2)[1] == scene_with_questions(1, 2)[1] != scene_with_questions(2, 2)[1]


def test_the_command_asks_every_kind_and_writes_the_figures(tmp_path: Path) -> None:
    options = ["--scenes", "6", "--most", "4", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, ["eval", "questions", *options])
    assert outcome.exit_code == 0, outcome.output
    kinds = json.loads((tmp_path / "questions.json").read_text())["kinds"]
    page = (tmp_path / "questions.html").read_text()
    for title in (
        "Accuracy by kind of question",
        "Reliability diagram",
        "Wrong answers: ",
        "Latency",
        "Setup",
    ):
        assert title in page
    assert set(kinds) <= set(KINDS)
    assert max(figures["questions"] for figures in kinds.values()) == 4
    assert all(0.0 <= figures["correct"] <= 1.0 for figures in kinds.values())
    for kind in kinds:
        assert kind in outcome.output
