# SPDX-License-Identifier: Apache-2.0
"""Detection in nine languages."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled import scenes

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.bodies import LABELS
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.detection_trial import Trial, translated_variant
from lfm_perception.evaluation.labels import LabelledImage
from lfm_perception.evaluation.languages import LANGUAGES, TRANSLATIONS, languages
from lfm_perception.questions import BBOX, Dialect
from lfm_perception.settings import Settings


def test_every_dialect_is_asked_in_the_models_nine_languages() -> None:
    assert set(LANGUAGES) == {"en", "ar", "de", "es", "fr", "ja", "ko", "pt", "zh"}
    for name, wordings in TRANSLATIONS.items():
        assert set(wordings) == set(LANGUAGES)
        for wording in wordings.values():
            Dialect(name, wording)


def test_words_in_a_language_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("de:\n  labels: {box: Kiste}\nno:\n  wording: 'Finn {labels}.'\n", encoding="utf-8")
    german, norwegian = languages(["de", "no"], BBOX, LABELS, file)
    assert german.translate("box") == "Kiste"
    assert german.translate("person") == "person"
    assert "Finde alle" in german.dialect.prompt(["Kiste"]).user
    assert norwegian.dialect.user == "Finn {labels}."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("de: [Kiste]", "must hold languages"),
        ("de: {labels: {box: 5}}", "must hold languages"),
        ("de: {labels: {crate: Kiste}}", "has a word for 'crate', which is not among the labels"),
        ("de: {labels: {box: Ding, cone: Ding}}", "the same word for two labels"),
        ("de: {", "not valid YAML"),
        ("fi: {labels: {}}", "no wording of dialect bbox in the language 'fi'"),
    ],
)
def test_words_that_cannot_be_used_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(text)
    with pytest.raises(PerceptionError, match=sentence):
        languages([text[:2]], BBOX, LABELS, file)


def test_an_answer_in_another_language_is_mapped_to_the_labels(vlm: LlamaVlm) -> None:
    snapshot = next(s for s in scenes() if s.objects)
    labels = [snapshot.objects[0].label]
    settings = Settings().with_values({"detect.closed": True})
    (german,) = languages(["de"], BBOX, labels)
    way = translated_variant(settings, labels, type(german)("de", german.dialect, {labels[0]: "Ding"}))
    trial = Trial(vlm, settings, labels, [way], 0)
    trial.run(
        LabelledImage("one", snapshot.frame, tuple(Annotation(t.label, t.box) for t in snapshot.objects))
    )
    (detections, truth) = trial.results["de"].scenes[0]
    assert {t.label for t in truth} == set(labels)
    assert {d.label for d in detections} <= set(labels)  # the answer itself may say Ding only
