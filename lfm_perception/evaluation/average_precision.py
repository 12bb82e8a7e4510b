"""Average precision by the rules of COCO: how well detections, the surest first, find what is there.

For each label the detections of all images are taken in the order of their scores. In each image a
detection is a hit when it overlaps a true object that no surer one has taken; of several it takes the one it
overlaps most. Precision at a recall is the best that is reached at that recall or beyond, and the average
is over 101 recalls from 0 to 1. The tests hold it equal to pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lfm_perception.evaluation.detection import TrueBox
from lfm_perception.geometry import iou_matrix, stack
from lfm_perception.scene import Detection

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The overlaps (IoU) over which COCO's main figure is averaged."""

RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 100
"""Of one label in one image; less sure ones do not count."""

Scenes = Sequence[tuple[Sequence[Detection], Sequence[TrueBox]]]
"""What was found and what is there, image by image."""


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """Of one label, or the mean of several.

    `overall`: mean over the overlaps 0.5, 0.55, ... 0.95; `at_50` and `at_75`: at one of them. `curve`:
    precision at each of `RECALLS`, at an overlap of 0.5.
    """

    overall: float
    at_50: float
    at_75: float
    curve: tuple[float, ...]


def average_precision(scenes: Scenes) -> dict[str, AveragePrecision]:
    """By label in alphabetical order, of the labels that are there at all."""
    labels = sorted({true.label for _, truth in scenes for true in truth})
    return {label: _of_curves(_curves(scenes, label)) for label in labels}


def mean_precision(by_label: Sequence[AveragePrecision]) -> AveragePrecision | None:
    """The mean over labels, each counting the same; None without any."""
    if not by_label:
        return None
    return AveragePrecision(
        overall=float(np.mean([each.overall for each in by_label])),
        at_50=float(np.mean([each.at_50 for each in by_label])),
        at_75=float(np.mean([each.at_75 for each in by_label])),
        curve=tuple(np.mean([each.curve for each in by_label], axis=0).tolist()),
    )


def _of_curves(curves: NDArray[np.float64]) -> AveragePrecision:
    means = curves.mean(axis=1)
    at_50, at_75 = OVERLAPS.index(0.5), OVERLAPS.index(0.75)
    return AveragePrecision(
        float(means.mean()), float(means[at_50]), float(means[at_75]), tuple(curves[at_50].tolist())
    )


def _curves(scenes: Scenes, label: str) -> NDArray[np.float64]:
    """Precision at each overlap and recall, shape (10, 101)."""
    scores, hits, objects = [], [], 0
    for detections, truth in scenes:
        there = [true for true in truth if true.label == label]
        found = sorted((d for d in detections if d.label == label), key=lambda d: -d.score)[:MOST_DETECTIONS]
        overlap = iou_matrix(stack(d.box for d in found), stack(t.box for t in there))
        scores += [detection.score for detection in found]
        hits.append(np.array([_hits(overlap, least) for least in OVERLAPS], dtype=bool))
        objects += len(there)
    order = np.argsort(-np.array(scores), kind="stable")
    right = np.concatenate(hits, axis=1)[:, order].cumsum(axis=1)
    return np.array([_curve(row, objects) for row in right])


def _hits(overlap: NDArray[np.float64], least: float) -> list[bool]:
    """Which detections (rows, the surest first) take an object (columns) that they overlap enough."""
    free = np.ones(overlap.shape[1], dtype=bool)
    hits = []
    for row in overlap:
        taken = max(
            (column for column in np.flatnonzero(free) if row[column] >= least),
            key=lambda column: (row[column], column),
            default=None,
        )
        hits.append(taken is not None)
        if taken is not None:
            free[taken] = False
    return hits


def _curve(right: NDArray[np.int64], objects: int) -> NDArray[np.float64]:
    """Precision at each recall, of so many hits after each detection; 0 beyond the recall that is reached."""
    precision = right / np.arange(1, right.size + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(right / objects, RECALLS, side="left")
    return np.append(best, 0.0)[reached]
