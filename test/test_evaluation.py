# SPDX-License-Identifier: Apache-2.0
"""Detection metrics: counts, ratios and calibration of hand-made scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.calibration import PlattScaling
from lfm_perception.evaluation.compare import Report, pairs
from lfm_perception.evaluation.detection import (
    Annotation,
    Counts,
    Match,
    auroc,
    calibration_advice,
    calibration_error,
    count_matches,
    evaluate,
    match,
    reliability,
)
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection


def found(label: str, x1: float, y1: float, x2: float, y2: float, score: float = 0.9) -> Detection:
    return Detection(label, Box(x1, y1, x2, y2), score)


@st.composite
def scenes(draw: st.DrawFn) -> list[Detection]:
    corner = st.floats(0.0, 1.0)
    boxes = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=6))
    return [
        found(
            draw(st.sampled_from(["box", "person"])),
            *(min(a, c), min(b, d), max(a, c), max(b, d)),
            draw(st.floats(0, 1)),
        )
        for a, b, c, d in boxes
    ]


def test_a_box_is_a_hit_once_with_its_label_and_enough_overlap() -> None:
    truth = [found("box", 0.0, 0.0, 0.4, 0.4)]
    twice = [found("box", 0.0, 0.0, 0.4, 0.4), found("box", 0.0, 0.0, 0.4, 0.38)]
    assert count_matches(twice, truth) == Counts(true_positives=1, false_positives=1, false_negatives=0)
    assert match(twice, truth) == (Match(detection=0, truth=0, iou=1.0),)
    assert count_matches([found("cone", 0.0, 0.0, 0.4, 0.4)], truth) == Counts(0, 1, 1)
    assert count_matches([found("box", 0.0, 0.0, 0.4, 0.19)], truth) == Counts(0, 1, 1)


def test_more_pairs_win_over_closer_ones() -> None:
    truth = [found("box", 0.0, 0.0, 0.4, 1.0), found("box", 0.12, 0.0, 0.52, 1.0)]
    detections = [found("box", 0.1, 0.0, 0.5, 1.0), found("box", 0.24, 0.0, 0.64, 1.0)]
    assert [(m.detection, m.truth) for m in match(detections, truth)] == [(0, 0), (1, 1)]


def test_ratios_without_a_case_are_one() -> None:
    assert (Counts().precision, Counts().recall, Counts().f1) == (1.0, 1.0, 1.0)
    assert Counts(true_positives=6, false_positives=2, false_negatives=4).f1 == pytest.approx(
        2 * 0.75 * 0.6 / (0.75 + 0.6)
    )


def test_a_report_counts_by_label_and_by_threshold() -> None:
    truth = [found("box", 0.0, 0.0, 0.5, 0.5), found("person", 0.6, 0.6, 0.9, 0.9)]
    near = [found("box", 0.0, 0.0, 0.5, 0.3, score=0.8), found("person", 0.6, 0.6, 0.9, 0.9, score=0.7)]
    false_positive = [found("cone", 0.1, 0.1, 0.2, 0.2, score=0.3)]
    report = evaluate([(near, truth), (false_positive, [])])
    assert report.at_50 == Counts(2, 1, 0)
    assert report.at_75 == Counts(1, 2, 1)
    assert report.mean_iou == pytest.approx(0.8)
    assert report.count_exact == 0.5
    assert report.by_label == {"box": Counts(1, 0, 0), "cone": Counts(0, 1, 0), "person": Counts(1, 0, 0)}
    assert report.auroc == 1.0
    assert report.calibration_error == pytest.approx((0.2 + 0.3 + 0.3) / 3)


def test_no_scene_is_an_error_and_an_empty_scene_is_not() -> None:
    with pytest.raises(ValueError, match="no scene"):
        evaluate([])
    report = evaluate([([], [])])
    assert (report.at_50.f1, report.count_exact, report.auroc, report.reliability) == (1.0, 1.0, None, ())


def test_platt_scaling_is_fitted_and_evaluated_on_held_out_scenes() -> None:
    rng, box, true = np.random.default_rng(0), Box(0.1, 0.1, 0.5, 0.5), PlattScaling(1.5, 2.0)
    scenes, shown = [], []
    for score in rng.uniform(0.02, 0.9, 3000).tolist():
        truth = [Annotation("box", box)] if rng.random() < true.apply(score) else []
        scenes.append(([Detection("box", box, score)], truth))
        shown.append(([Detection("box", box, true.apply(score))], truth))
    report = evaluate(scenes)
    assert report.fitted.gain == pytest.approx(1.5, rel=0.1)
    assert report.fitted.bias == pytest.approx(2.0, rel=0.1)
    assert report.calibration_error > 0.2
    assert report.held_out_error is not None
    assert report.held_out_error < 0.03
    again = evaluate(shown, true)  # scores that are calibrated already ask for the same
    assert again.fitted.gain == pytest.approx(report.fitted.gain, rel=0.02)
    assert again.calibration_error < 0.03


def test_calibrated_confidences_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.0, 1.0, 200_000)
    hits = rng.uniform(0.0, 1.0, 200_000) < scores
    bins = reliability(scores, hits)
    assert len(bins) == 10
    assert sum(b.count for b in bins) == 200_000
    assert calibration_error(bins) < 0.01
    assert calibration_error(reliability(np.full(100, 1.0), np.zeros(100, dtype=bool))) == 1.0


def test_auroc_counts_ties_as_half() -> None:
    scores = np.array([0.5, 0.5, 0.9, 0.1])
    assert auroc(scores, np.array([True, False, True, False])) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert auroc(np.array([0.5, 0.6]), np.array([True, True])) is None


@settings(deadline=None)
@given(detections=scenes(), truth=scenes())
def test_every_box_is_counted_once_and_a_stricter_threshold_never_helps(
    detections: list[Detection], truth: list[Detection]
) -> None:
    report = evaluate([(detections, truth)])
    assert report.at_50.true_positives + report.at_50.false_positives == len(detections)
    assert report.at_50.true_positives + report.at_50.false_negatives == len(truth)
    assert report.at_75.true_positives <= report.at_50.true_positives
    assert sum(report.by_label.values(), Counts()) == report.at_50
    assert all(0.5 <= pair.iou <= 1.0 + 1e-9 for pair in match(detections, truth))


@pytest.mark.parametrize(
    ("fitted", "boxes", "before", "after", "said"),
    [
        (PlattScaling(1.5, 2.0), 400, 0.2, 0.05, "Set detect.score_gain 1.50 and detect.score_bias 2.00: "),
        (PlattScaling(1.5, 2.0), 40, 0.2, 0.05, "40 boxes are too few"),
        (PlattScaling(1.5, 2.0), 400, 0.05, 0.06, "does not lower the calibration error"),
        (PlattScaling(1.5, 20.0), 400, 0.2, 0.05, "ends at its bounds"),
        (PlattScaling(1.5, 2.0), 400, None, None, "cannot be checked"),
    ],
)
def test_a_calibration_is_proposed_only_where_it_helps(
    fitted: PlattScaling, boxes: int, before: float | None, after: float | None, said: str
) -> None:
    advice = calibration_advice("detect", fitted, boxes, before, after)
    assert said in advice
    assert advice.startswith("Set") == said.startswith("Set")
    assert advice.startswith("Keep detect.score_gain and detect.score_bias: ") != said.startswith("Set")


def test_a_difference_within_the_spread_is_neither_better_nor_worse() -> None:
    def report(recall: float, objects: float) -> Report:
        return Report("x", "detection", {"figures.recall": recall, "figures.objects": objects}, {})

    def verdict(objects: float) -> str:
        found = {pair.path: pair for pair in pairs(report(0.80, objects), report(0.84, objects))}
        return found["figures.recall"].verdict

    assert verdict(50) == ""
    assert verdict(5000) == "better"


def test_counts_of_different_numbers_of_images_are_neither_better_nor_worse() -> None:
    def verdict(images: float) -> str:
        first = Report("x", "detection", {"figures.images": 50.0, "figures.false_positives": 100.0}, {})
        second = Report("y", "detection", {"figures.images": images, "figures.false_positives": 10.0}, {})
        return {pair.path: pair for pair in pairs(first, second)}["figures.false_positives"].verdict

    assert verdict(50.0) == "better"
    assert verdict(5.0) == ""
