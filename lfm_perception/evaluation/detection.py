# SPDX-License-Identifier: Apache-2.0
"""Detection metrics against the ground truth: precision, recall, F1, calibration error, AUROC. All pure.

A detection is a true positive when it is matched with an object of the same label at an IoU of at least the
threshold; each object and each detection is matched at most once. The matching (a linear assignment) has the
highest number of pairs, and with that number the highest total IoU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lfm_perception.calibration import IDENTITY, MAX_BIAS, MAX_GAIN, MIN_GAIN, PlattScaling
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection

MIN_FITTED_BOXES = 100
"""Number of boxes below which no calibration is proposed: half of them check the fit to the other half."""

RELIABILITY_BINS = 10


class LabelledBox(Protocol):
    """Anything with a label and a box: an object of the demo world, an annotation, a detection."""

    @property
    def label(self) -> str: ...

    @property
    def box(self) -> Box: ...


Scenes = Sequence[tuple[Sequence[Detection], Sequence[LabelledBox]]]
"""Detections and ground truth, image by image."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object of the ground truth; `identity` is the same in all images, empty where it is unknown."""

    label: str
    box: Box
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """A pair of a detection and an object of the ground truth, by index, with their IoU."""

    detection: int
    truth: int
    iou: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of a comparison. A ratio without any case is 1."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def detections(self) -> int:
        return self.true_positives + self.false_positives

    @property
    def objects(self) -> int:
        return self.true_positives + self.false_negatives

    @property
    def precision(self) -> float:
        """Share of the detections that are true positives."""
        return self.true_positives / self.detections if self.detections else 1.0

    @property
    def recall(self) -> float:
        """Share of the objects that were detected."""
        return self.true_positives / self.objects if self.objects else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        cases = self.detections + self.objects
        return 2 * self.true_positives / cases if cases else 1.0


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The detections with a confidence in `low`..`high`: count, mean confidence, precision."""

    low: float
    high: float
    count: int
    mean_confidence: float
    precision: float


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """Metrics of a detector over a set of scenes.

    `at_50`, `at_75`: counts at IoU 0.5 and 0.75; everything below is at 0.5. `mean_iou`: of the true
    positives, 0 without any. `count_exact`: share of scenes with as many detections as objects. `by_label`:
    counts in alphabetical order. `reliability`: bins that hold detections. `calibration_error`: expected
    calibration error over those bins. `auroc`: how well the confidence separates true from false positives
    (0.5 by chance), None unless there are both. `fitted`: Platt scaling fitted to the raw scores;
    `held_out_error`: the calibration error that it leaves, fitted to every other scene and evaluated on the
    rest, None where either has no detections; `held_out_error_before`: that of the same scores without it.
    """

    scenes: int
    at_50: Counts
    at_75: Counts
    mean_iou: float
    count_exact: float
    by_label: dict[str, Counts] = field(default_factory=dict)
    reliability: tuple[ReliabilityBin, ...] = ()
    calibration_error: float = 0.0
    auroc: float | None = None
    fitted: PlattScaling = IDENTITY
    held_out_error: float | None = None
    held_out_error_before: float | None = None


def match(
    detections: Sequence[LabelledBox], truth: Sequence[LabelledBox], iou: float = 0.5
) -> tuple[Match, ...]:
    """The best matching at this IoU or more, in the order of the detections."""
    if not detections or not truth:
        return ()
    from scipy.optimize import linear_sum_assignment

    iou_of = iou_matrix(stack(d.box for d in detections), stack(t.box for t in truth))
    same = np.array([[d.label == t.label for t in truth] for d in detections])
    allowed = same & (iou_of >= iou)
    # One pair outweighs any sum of IoUs: more pairs always win over better ones.
    most = 1 + min(iou_of.shape)
    rows, columns = linear_sum_assignment(np.where(allowed, most + iou_of, 0.0), maximize=True)
    return tuple(
        Match(int(row), int(column), float(iou_of[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if allowed[row, column]
    )


def count_matches(
    detections: Sequence[LabelledBox], truth: Sequence[LabelledBox], iou: float = 0.5
) -> Counts:
    """True positives, false positives and false negatives of one scene."""
    matched = len(match(detections, truth, iou))
    return Counts(matched, len(detections) - matched, len(truth) - matched)


def evaluate(
    scenes: Iterable[tuple[Sequence[Detection], Sequence[LabelledBox]]], calibration: PlattScaling = IDENTITY
) -> DetectionReport:
    """Compare detections with the ground truth, scene by scene.

    Args:
        scenes: pairs of (detections, ground truth).
        calibration: the Platt scaling that the confidences already have.

    Raises:
        ValueError: there are no scenes.
    """
    at_50, at_75, by_label = Counts(), Counts(), dict[str, Counts]()
    counts_exact, ious = list[bool](), list[float]()
    scores, correct, numbers = list[float](), list[bool](), list[int]()
    for detections, truth in scenes:
        pairs = match(detections, truth)
        at_50 += Counts(len(pairs), len(detections) - len(pairs), len(truth) - len(pairs))
        at_75 += count_matches(detections, truth, 0.75)
        for label in {item.label for item in (*detections, *truth)}:
            of_label = count_matches(only_label(detections, label), only_label(truth, label))
            by_label[label] = by_label.get(label, Counts()) + of_label
        counts_exact.append(len(detections) == len(truth))
        ious += [pair.iou for pair in pairs]
        matched = {pair.detection for pair in pairs}
        scores += [detection.score for detection in detections]
        correct += [index in matched for index in range(len(detections))]
        numbers += [len(counts_exact)] * len(detections)
    if not counts_exact:
        raise ValueError("there is no scene to evaluate")
    confidences, is_correct = np.array(scores), np.array(correct, dtype=bool)
    bins = reliability(confidences, is_correct)
    even = np.array(numbers, int) % 2 == 0
    raw = np.array([calibration.invert(score) for score in scores])
    return DetectionReport(
        scenes=len(counts_exact),
        at_50=at_50,
        at_75=at_75,
        mean_iou=float(np.mean(ious)) if ious else 0.0,
        count_exact=float(np.mean(counts_exact)),
        by_label=dict(sorted(by_label.items())),
        reliability=bins,
        calibration_error=calibration_error(bins),
        auroc=auroc(confidences, is_correct),
        fitted=PlattScaling.fit(raw, is_correct),
        held_out_error=held_out_error(raw, is_correct, even),
        held_out_error_before=None
        if even.all() or not even.any()
        else calibration_error(reliability(confidences[even], is_correct[even])),
    )


AnyBox = TypeVar("AnyBox", bound=LabelledBox)


def only_label(items: Sequence[AnyBox], label: str) -> list[AnyBox]:
    """The items with this label."""
    return [item for item in items if item.label == label]


def held_out_error(
    raw: NDArray[np.float64], correct: NDArray[np.bool_], held_out: NDArray[np.bool_]
) -> float | None:
    """Calibration error of the `held_out` scores after a fit to the others; None without either."""
    if held_out.all() or not held_out.any():
        return None
    fitted = PlattScaling.fit(raw[~held_out], correct[~held_out])
    calibrated = np.array([fitted.apply(score) for score in raw[held_out].tolist()])
    return calibration_error(reliability(calibrated, correct[held_out]))


def calibration_advice(
    group: str,
    fitted: PlattScaling,
    count: int,
    before: float | None,
    after: float | None,
    scored: str = "boxes",
) -> str:
    """Whether to set a group's Platt scaling to a fitted one, in a sentence with the reason.

    Args:
        group: `detect`, `tracker` or `questions`.
        fitted: the scaling fitted to all scores.
        count: number of the scores.
        before, after: calibration error of scores held out from a fit, as they are and with the fit.
        scored: plural noun for the scored items.
    """
    names, fit = (
        f"{group}.score_gain and {group}.score_bias",
        f"gain {fitted.gain:.2f}, bias {fitted.bias:.2f}",
    )
    if count < MIN_FITTED_BOXES:
        reason = f"{count} {scored} are too few for a fit, which needs {MIN_FITTED_BOXES}"
    elif before is None or after is None:
        reason = f"a fit cannot be checked on {scored} that it was not made from"
    elif not MIN_GAIN < fitted.gain < MAX_GAIN or abs(fitted.bias) >= MAX_BIAS:
        reason = f"the fit ends at its bounds ({fit})"
    elif after >= before:
        reason = (
            f"a fit does not lower the calibration error of held-out {scored} ({before:.3f} to {after:.3f})"
        )
    else:
        lowered = f"a fit lowers the calibration error of held-out {scored} from {before:.3f} to {after:.3f}"
        return (
            f"Set {group}.score_gain {fitted.gain:.2f} and {group}.score_bias {fitted.bias:.2f}: {lowered}."
        )
    return f"Keep {names}: {reason}."


def reliability(
    confidences: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = RELIABILITY_BINS
) -> tuple[ReliabilityBin, ...]:
    """Equal bins of the confidence from 0 to 1, without the empty ones.

    `confidences` and `correct` have shape (N,): confidence, and whether it is a true positive.
    """
    index = np.minimum((confidences * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            low=i / bins,
            high=(i + 1) / bins,
            count=int(inside.sum()),
            mean_confidence=float(confidences[inside].mean()),
            precision=float(correct[inside].mean()),
        )
        for i in range(bins)
        if (inside := index == i).any()
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: |confidence - precision|, weighted by count; 0 without bins."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.mean_confidence - b.precision) for b in bins) / total if total else 0.0


def auroc(confidences: NDArray[np.float64], correct: NDArray[np.bool_]) -> float | None:
    """Probability that a true positive has the higher confidence than a false one, ties counting half.

    None unless there are both.
    """
    right, wrong = np.sort(confidences[correct]), confidences[~correct]
    if not right.size or not wrong.size:
        return None
    below = np.searchsorted(right, wrong, side="left")
    up_to = np.searchsorted(right, wrong, side="right")
    higher = right.size - (below + up_to) / 2.0
    return float(higher.mean() / right.size)
