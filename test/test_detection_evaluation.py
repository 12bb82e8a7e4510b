# SPDX-License-Identifier: Apache-2.0
"""Detection quality on labelled images: mistakes, reports, comparison."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from labelled import IMAGES, scenes, write_coco
from pages import LATENCY_CHARTS, check_charts

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.cli import main
from lfm_perception.demo.bodies import LABELS
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.compare import compare, pairs
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.detection_page import platt_scaling_advice
from lfm_perception.evaluation.detection_trial import Trial, figures, plain_variant
from lfm_perception.evaluation.labels import LabelledImage
from lfm_perception.evaluation.stress import STRESSES
from lfm_perception.geometry import Box
from lfm_perception.scene import Image
from lfm_perception.settings import Settings


def test_mistakes_are_kept_with_their_reason(vlm: LlamaVlm) -> None:
    snapshot = next(s for s in scenes() if len(s.objects) > 2)
    first, *others = (Annotation(t.label, t.box) for t in snapshot.objects)
    renamed = Annotation(next(label for label in LABELS if label != first.label), first.box)
    unseen = Annotation("person", Box(0.0, 0.0, 0.05, 0.05))
    settings = Settings()
    trial = Trial(vlm, settings, LABELS, [plain_variant(settings, LABELS)], 0)
    trial.run(LabelledImage("one", snapshot.frame, (renamed, *others, unseen)))
    by_reason = {mistake.reason: mistake for mistake in trial.mistakes.all}
    assert by_reason[f"is a {renamed.label}"].label == first.label
    assert by_reason[f"detected as a {first.label}"].confidence is None
    assert by_reason["not detected"].box == unseen.box
    (false,) = trial.mistakes.examples("false_positive")
    assert false.thumbnail is not None
    assert max(false.thumbnail.shape) == 300
    found = figures(trial.results["plain"], LABELS)
    assert found["precision"] == pytest.approx((len(others)) / (len(others) + 1), abs=1e-4)
    assert found["recall"] == pytest.approx(len(others) / (len(others) + 2), abs=1e-4)
    assert found["by_label"]["person"]["objects"] >= 1


def test_an_image_that_fails_in_one_variant_is_no_result(vlm: LlamaVlm) -> None:
    def fail(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> NoReturn:
        raise PerceptionError("this image cannot be degraded")

    settings, (snapshot,) = Settings(), scenes(1)
    variants = [plain_variant(settings, LABELS), plain_variant(settings, LABELS, "failing", fail)]
    trial = Trial(vlm, settings, LABELS, variants, 0)
    with pytest.raises(PerceptionError, match="cannot be degraded"):
        trial.run(LabelledImage("one", snapshot.frame, ()))
    assert trial.images == 0


def run(*words: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command on a few images, in all variants."""
    folder = tmp_path_factory.mktemp("results")
    write_coco(folder / "coco", scenes())
    words = ("--stress", "--languages", "en,zh", "--set", "sampling.temperature=0")
    assert run("eval", "detection", folder / "coco", "--out", folder / "out", *words) in (0, None)
    return folder / "out"


def test_the_command_measures_the_model_on_labelled_images(results: Path) -> None:
    found = json.loads((results / "detection.json").read_text())
    objects = sum(len(snapshot.objects) for snapshot in scenes())
    plain = found["figures"]
    assert (plain["images"], plain["objects"]) == (IMAGES, objects)
    assert plain["f1"] > 0.8
    assert plain["ap_50"] > 0.8
    assert plain["ap"] <= plain["ap_50"]
    assert sum(each["objects"] for each in plain["by_label"].values()) == objects
    assert set(found["stress"]) == set(STRESSES)
    assert found["stress"]["low light"]["f1"] < plain["f1"]
    # the wording of the dialect in English is the plain question
    assert found["languages"]["en"]["f1"] == plain["f1"]
    assert set(found["languages"]) == {"en", "zh"}
    wrong = [each for each in found["mistakes"] if each["kind"] == "false_positive"]
    assert len(wrong) == plain["false_positives"]


def test_the_page_needs_nothing_else(results: Path) -> None:
    page = (results / "detection.html").read_text()
    found = json.loads((results / "detection.json").read_text())
    assert page.count("http") == 0
    assert page.count("<img") == page.count('src="data:image/') > 5
    quality = ("F1", "precision", "recall")
    shown = [name for name, each in found["figures"]["by_label"].items() if each["objects"]]
    check_charts(
        results / "detection.html",
        {
            "Average precision by label": ("average precision (0 to 1)", "AP50", *shown),
            "Precision-recall curves, IoU 0.5": ("recall", "precision", "mean of all", *shown),
            "F1, precision and recall against the confidence threshold": (
                *("confidence threshold", *quality),
                f"best threshold, {found['figures']['thresholds']['best']['threshold']:.2f}",
            ),
            "Reliability diagram": (
                "confidence",
                "precision",
                "detections",
                "perfect calibration",
                "measured",
            ),
            "Confusion matrix": ("true label", "detected label", "(nothing)", *LABELS),
            "Quality by object size": ("F1, precision, recall (0 to 1)", *quality, "medium"),
            "Degraded images": ("F1, AP50 (0 to 1)", "plain", *STRESSES),
            "By language": ("F1, AP50 (0 to 1)", "en", "zh"),
            **LATENCY_CHARTS,
        },
    )
    assert "demo model" in page
    assert platt_scaling_advice(found["figures"]) in page
    assert f"{found['figures']['ap_50']:.3f}" in page
    for name in (*STRESSES, *LABELS, "By language"):
        assert name in page


def test_two_runs_are_shown_side_by_side(
    results: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = results / "detection.json"
    content = json.loads(first.read_text())
    content["figures"]["ap_50"] /= 2
    content["settings"]["image.max_tokens"] = 64
    second = tmp_path / "other.json"
    second.write_text(json.dumps(content))
    assert run("eval", "compare", first, second, "--out", tmp_path / "out") in (0, None)
    assert "worse" in capfd.readouterr().out
    assert run("eval", "detection", "--compare", first, second) in (0, None)
    assert "worse" in capfd.readouterr().out
    page = (tmp_path / "out" / "compare.html").read_text().replace("<wbr>", "")
    assert "settings.image.max_tokens" in page
    shown = ("F1 (0 to 1)", "A", "B")
    check_charts(
        tmp_path / "out" / "compare.html",
        {
            "Latency": ("latency (ms)", "A", "B", "p50"),
            "AP50 by label": ("AP50 (0 to 1)", LABELS[0]),
            **{f"F1 {kind}": shown for kind in ("by object size", "on degraded images", "by language")},
        },
    )
    assert page.count("http") == 0
    (changed,) = [pair for pair in pairs(*compare(first, second)) if pair.first != pair.second]
    assert (changed.path, changed.verdict) == ("figures.ap_50", "worse")


def test_reports_of_different_kinds_are_refused(results: Path, tmp_path: Path) -> None:
    detection, other = results / "detection.json", tmp_path / "other.json"
    for text, sentence in (
        ("{", "not valid JSON"),
        ("[]", "is no report"),
        ('{"kind": "bench"}', "give two of a kind"),
    ):
        other.write_text(text)
        with pytest.raises(PerceptionError, match=sentence):
            compare(detection, other)


def test_without_pycocotools_the_way_out_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # so importing it fails
    assert run("eval", "detection", tmp_path, "--out", tmp_path / "out") == 1
    assert "pip install 'lfm_perception[eval]'" in capfd.readouterr().err


def test_the_command_refuses_unusable_input_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_coco(tmp_path / "coco", scenes(1))
    out = tmp_path / "out"

    def refused(*words: object) -> str:
        assert run("eval", "detection", *words) == 1
        assert not out.exists()
        return capfd.readouterr().err

    assert "there is no" in refused(tmp_path / "gone", "--out", out)
    assert "no label is called 'dog'; there are: person" in refused(folder, "--out", out, "--labels", "dog")
    assert "there are no labels" in refused(folder, "--out", out, "--annotations", tmp_path / "gone.json")
    assert "in the language 'fi'" in refused(folder, "--out", out, "--languages", "fi")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot write to" in refused(folder, "--out", blocked / "out")
