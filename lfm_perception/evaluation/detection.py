"""How good detections are, measured against the truth. Pure functions, no pictures, no disk.

A detection is right when it can be paired with a true object of the same label at an overlap of at
least the threshold, each object and each detection used once. Among all pairings the one with the most
pairs counts, and among those the one with the highest overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lfm_perception.calibration import IDENTITY, PlattScaling
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection

SCORE_BINS = 10


class TrueBox(Protocol):
    """Anything with a label and a box: an object of the demo world, an annotation, a detection."""

    @property
    def label(self) -> str: ...

    @property
    def box(self) -> Box: ...


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is there, by its label and its box."""

    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class Match:
    """Detection `detection` shows the true object `truth` (indices), overlapping by `iou`."""

    detection: int
    truth: int
    iou: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Hits, false boxes and missed objects. A ratio without any case is 1: nothing went wrong."""

    hits: int = 0
    false: int = 0
    missed: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.false + other.false, self.missed + other.missed)

    @property
    def precision(self) -> float:
        """Share of the detections that are right."""
        return self.hits / (self.hits + self.false) if self.hits + self.false else 1.0

    @property
    def recall(self) -> float:
        """Share of the true objects that were found."""
        return self.hits / (self.hits + self.missed) if self.hits + self.missed else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        cases = 2 * self.hits + self.false + self.missed
        return 2 * self.hits / cases if cases else 1.0


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """The detections whose score lies in `low`..`high`: how many, their mean score, share of hits."""

    low: float
    high: float
    count: int
    mean_score: float
    hit_rate: float


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """What a set of scenes says about a detector.

    `at_50`, `at_75`: tallies at IoU 0.5 and 0.75; everything below is at 0.5. `mean_iou`: of the hits,
    0 without any. `count_exact`: share of scenes with as many detections as objects. `by_label`: tallies
    in alphabetical order. `reliability`: the bins of the score that hold detections;
    `calibration_error`: mean distance of score and hit rate over those bins, weighted by their counts.
    `auroc`: how well the score ranks hits above false boxes (0.5 by chance), None without both.
    `fitted`: the calibration that suits the scores as the model gives them; `unseen_error`: the mean distance
    that it leaves, fitted to every other scene and judged on those in between, None where these are empty.
    """

    scenes: int
    at_50: Tally
    at_75: Tally
    mean_iou: float
    count_exact: float
    by_label: dict[str, Tally] = field(default_factory=dict)
    reliability: tuple[ScoreBin, ...] = ()
    calibration_error: float = 0.0
    auroc: float | None = None
    fitted: PlattScaling = IDENTITY
    unseen_error: float | None = None


def match(detections: Sequence[TrueBox], truth: Sequence[TrueBox], iou: float = 0.5) -> tuple[Match, ...]:
    """The best pairing at overlap `iou` or more, by index of detection."""
    if not detections or not truth:
        return ()
    from scipy.optimize import linear_sum_assignment

    overlap = iou_matrix(stack(d.box for d in detections), stack(t.box for t in truth))
    same = np.array([[d.label == t.label for t in truth] for d in detections])
    pairable = same & (overlap >= iou)
    # A pair outweighs any overlap, so that more pairs always win over better ones.
    most = 1 + min(overlap.shape)
    rows, columns = linear_sum_assignment(np.where(pairable, most + overlap, 0.0), maximize=True)
    return tuple(
        Match(int(row), int(column), float(overlap[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if pairable[row, column]
    )


def tally(detections: Sequence[TrueBox], truth: Sequence[TrueBox], iou: float = 0.5) -> Tally:
    """Hits, false boxes and misses of one scene."""
    hits = len(match(detections, truth, iou))
    return Tally(hits, len(detections) - hits, len(truth) - hits)


def evaluate(
    scenes: Iterable[tuple[Sequence[Detection], Sequence[TrueBox]]], calibration: PlattScaling = IDENTITY
) -> DetectionReport:
    """Judge scenes given as (detections, truth), the scores by this calibration.

    Raises ValueError when there is none.
    """
    at_50, at_75, by_label = Tally(), Tally(), dict[str, Tally]()
    counts_exact, overlaps = list[bool](), list[float]()
    scores, hits, numbers = list[float](), list[bool](), list[int]()
    for detections, truth in scenes:
        pairs = match(detections, truth, 0.5)
        at_50 += Tally(len(pairs), len(detections) - len(pairs), len(truth) - len(pairs))
        at_75 += tally(detections, truth, 0.75)
        for label in {item.label for item in (*detections, *truth)}:
            found = [d for d in detections if d.label == label]
            true = [t for t in truth if t.label == label]
            by_label[label] = by_label.get(label, Tally()) + tally(found, true, 0.5)
        counts_exact.append(len(detections) == len(truth))
        overlaps += [pair.iou for pair in pairs]
        right = {pair.detection for pair in pairs}
        scores += [detection.score for detection in detections]
        hits += [index in right for index in range(len(detections))]
        numbers += [len(counts_exact)] * len(detections)
    if not counts_exact:
        raise ValueError("there is no scene to judge")
    scored, right_ones, even = np.array(scores), np.array(hits, dtype=bool), np.array(numbers, int) % 2 == 0
    bins = reliability(scored, right_ones)
    raw = np.array([calibration.invert(score) for score in scores])
    return DetectionReport(
        scenes=len(counts_exact),
        at_50=at_50,
        at_75=at_75,
        mean_iou=float(np.mean(overlaps)) if overlaps else 0.0,
        count_exact=float(np.mean(counts_exact)),
        by_label=dict(sorted(by_label.items())),
        reliability=bins,
        calibration_error=calibration_error(bins),
        auroc=auroc(scored, right_ones),
        fitted=PlattScaling.fit(raw, right_ones),
        unseen_error=_error_unseen(raw, right_ones, even),
    )


def _error_unseen(
    raw: NDArray[np.float64], right: NDArray[np.bool_], judged: NDArray[np.bool_]
) -> float | None:
    if judged.all() or not judged.any():
        return None
    fitted = PlattScaling.fit(raw[~judged], right[~judged])
    calibrated = np.array([fitted.apply(score) for score in raw[judged].tolist()])
    return calibration_error(reliability(calibrated, right[judged]))


def reliability(
    scores: NDArray[np.float64], hits: NDArray[np.bool_], bins: int = SCORE_BINS
) -> tuple[ScoreBin, ...]:
    """Equal bins of the score from 0 to 1, the empty ones left out.

    `scores` and `hits` have shape (N,): each detection's score and whether it was right.
    """
    index = np.minimum((scores * bins).astype(int), bins - 1)
    return tuple(
        ScoreBin(
            low=i / bins,
            high=(i + 1) / bins,
            count=int(inside.sum()),
            mean_score=float(scores[inside].mean()),
            hit_rate=float(hits[inside].mean()),
        )
        for i in range(bins)
        if (inside := index == i).any()
    )


def calibration_error(bins: Sequence[ScoreBin]) -> float:
    """Expected calibration error: distance of mean score and hit rate, weighted by count; 0 without bins."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.mean_score - b.hit_rate) for b in bins) / total if total else 0.0


def auroc(scores: NDArray[np.float64], hits: NDArray[np.bool_]) -> float | None:
    """Chance that a hit scores higher than a false box, ties counting half; None without both."""
    right, wrong = np.sort(scores[hits]), scores[~hits]
    if not right.size or not wrong.size:
        return None
    below = np.searchsorted(right, wrong, side="left")
    up_to = np.searchsorted(right, wrong, side="right")
    higher = right.size - (below + up_to) / 2.0
    return float(higher.mean() / right.size)
