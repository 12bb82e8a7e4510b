# SPDX-License-Identifier: Apache-2.0
"""Typed questions in the model's nine languages, from the question to its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import lfm_perception
from lfm_perception.answer_forms import ANSWER_FORMS
from lfm_perception.attributes import attributes
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.cli.application import app
from lfm_perception.decisions import decision_text
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.scene_questions import COLOURS, STRANGERS, TRANSLATIONS
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.demo_questions import scene_with_questions
from lfm_perception.evaluation.languages import LANGUAGES
from lfm_perception.labels import LabelMap
from lfm_perception.perception import Perception
from lfm_perception.settings import Settings
from lfm_perception.standing_questions import StandingQuestion
from lfm_perception.tracking import open_tracker
from lfm_perception.typed_questions import TypedQuestion

BOXES = {code: entry["words"]["box"] for code, entry in TRANSLATIONS.items()}


def validator(name: str) -> Any:
    schema = json.loads(Path(lfm_perception.__file__).with_name(name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_answers_are_asked_for_in_the_models_nine_languages() -> None:
    assert set(ANSWER_FORMS) == set(LANGUAGES)
    for form in ANSWER_FORMS.values():
        assert form.yes != form.no
        assert "{options}" in form.choice
    assert len({(form.yes, form.no) for form in ANSWER_FORMS.values()}) == len(LANGUAGES)
    assert TypedQuestion("Da?", "yes_no", language="de").question.options == ("Ja", "Nein")
    assert TypedQuestion("哪个?", "choice", ("箱子", "人"), language="zh").question.prompt.user == (
        "哪个? 请用以下选项之一回答: 箱子, 人。"
    )


@pytest.mark.parametrize("code", ANSWER_FORMS)
def test_a_question_in_a_language_is_answered_in_it_and_means_the_same(vlm: LlamaVlm, code: str) -> None:
    """The demo model knows English only: what it answers does not matter here."""
    settings, frame = Settings(), World(seed=3, width=256, height=256).snapshot(0).frame
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    options = ("box", "person") if code == "en" else (BOXES[code], TRANSLATIONS[code]["words"]["person"])
    for question in (
        TypedQuestion("?", "yes_no", language=code),
        TypedQuestion("?", "choice", options, language=code),
        TypedQuestion("?", "number", maximum=3, language=code),
    ):
        text = question.to_json()
        validator("question.schema.json").validate(json.loads(text))
        assert TypedQuestion.from_json(text) == question
        decision = perception.answer(frame, question)
        assert set(decision.probabilities) == set(question.values)
        entry = json.loads(decision_text(decision))
        validator("answer.schema.json").validate(entry)
        assert entry.get("language", "en") == code
        if question.type == "yes_no":
            form = ANSWER_FORMS[code]
            said = {"yes": form.yes, "no": form.no}[decision.value].lower()
            assert entry.get("answer", decision.value) == said
            assert str(decision).startswith(said)
        elif code != "en":
            assert entry["answer"] == decision.value


def test_an_answer_in_words_fits_the_schema_too(vlm: LlamaVlm) -> None:
    settings, frame = Settings(), World(seed=3, width=256, height=256).snapshot(0).frame
    decision = Perception(settings, vlm, open_tracker(settings.tracker)).answer(frame, TypedQuestion("什么?"))
    validator("answer.schema.json").validate(decision.to_json())
    assert decision_text(decision) == decision.value


def test_the_language_of_the_settings_is_that_of_questions_that_name_none() -> None:
    entry = '{name: door, question: "Ist die Tür offen?", answer: Ja}'
    settings = Settings().with_values({"questions.language": "de", "questions.standing": [entry]})
    (alert,) = settings.questions.alerts
    assert (alert.question.answers, alert.answer) == (("Ja", "Nein"), "yes")
    assert StandingQuestion.from_text("{name: d, question: Sí, answer: sí, language: es}").answer == "yes"
    assert StandingQuestion.from_text("{name: d, question: Sí, answer: no, language: es}").answer == "no"
    assert TypedQuestion.from_json("¿?", "es").language == "es"
    assert TypedQuestion.from_json('{"question": "?", "language": "fr"}', "es").language == "fr"
    (helmet,) = attributes(["{name: helm, values: [yes, no], question: 'Trägt {label} einen Helm?'}"], "de")
    assert helmet.question("Person").question.prompt.user == (
        "Trägt Person einen Helm? Antworte mit Ja oder Nein."
    )


def test_a_question_that_names_no_language_is_asked_in_that_of_the_settings(vlm: LlamaVlm) -> None:
    settings = Settings().with_values({"questions.language": "de"})
    question = TypedQuestion("Ist da eine Kiste?", "yes_no", language="")
    assert json.loads(question.to_json()) == {"question": question.text, "type": "yes_no"}
    frame = World(seed=3, width=256, height=256).snapshot(0).frame
    decision = Perception(settings, vlm, open_tracker(settings.tracker)).answer(frame, question)
    assert decision.question.language == "de"
    assert decision.words in ("ja", "nein")


def test_a_language_that_is_not_known_is_one_sentence() -> None:
    with pytest.raises(PerceptionError, match="one of en, ar, de, es, fr, ja, ko, pt, zh, got 'fi'"):
        TypedQuestion("?", "yes_no", language="fi")
    with pytest.raises(PerceptionError, match=r"questions\.language must be one of en"):
        Settings().with_values({"questions.language": "fi"})
    with pytest.raises(PerceptionError, match="'language' of a question must be text, got 5"):
        TypedQuestion.from_json('{"question": "?", "language": 5}')
    with pytest.raises(PerceptionError, match="give its 'question' in the language de"):
        attributes(["{name: farbe, values: [rot, blau]}"], "de")


def test_names_in_every_language_are_synonyms_of_a_label() -> None:
    names = LabelMap(("box", "person"), [f"box: {', '.join(dict.fromkeys(BOXES.values()))}"])
    for name in BOXES.values():
        assert names.match(name) == "box"


def test_questions_about_the_demo_world_are_there_in_every_other_language() -> None:
    colours = {colour for each in COLOURS.values() for colour in each}
    needed = {*LABELS, *STRANGERS, *colours, "object", "left", "right"}
    assert set(TRANSLATIONS) == set(LANGUAGES) - {"en"}
    kinds = {frozenset(entry["kinds"]) for entry in TRANSLATIONS.values()}
    assert len(kinds) == 1
    for code, entry in TRANSLATIONS.items():
        assert set(entry["words"]) == needed
        asked = [q for index in range(12) for q in scene_with_questions(0, index, code)[1]]
        assert {each.kind for each in asked} == set(entry["kinds"])
        for each in asked:
            assert each.question.language == code
            assert "{" not in each.text
            if each.question.type == "choice":
                assert each.answer in each.question.options


def test_the_command_measures_languages(tmp_path: Path) -> None:
    arguments = ["eval", "questions", "--scenes", "2", "--languages", "de,zh", "--out", str(tmp_path)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "correct in" in outcome.output
    assert set(json.loads((tmp_path / "questions.json").read_text())["languages"]) == {"de", "zh"}
    assert "By language" in (tmp_path / "questions.html").read_text()
    with pytest.raises(PerceptionError, match="no questions in the language 'fi', only in: en, ar, de"):
        CliRunner().invoke(app, ["eval", "questions", "--languages", "fi"], catch_exceptions=False)
