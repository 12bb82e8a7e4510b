# SPDX-License-Identifier: Apache-2.0
"""Average precision by the rules of COCO, computed by pycocotools."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import LabelledBox, Scenes

RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True, eq=False)
class AveragePrecision:
    """Average precision of one label, or the mean of several.

    `precision` has shape (10, 101): at the IoU thresholds 0.5, 0.55, ... 0.95 and each of `RECALLS`.
    """

    precision: NDArray[np.float64]

    @property
    def overall(self) -> float:
        """Mean over all IoU thresholds."""
        return float(self.precision.mean())

    @property
    def at_50(self) -> float:
        return float(self.precision[0].mean())

    @property
    def at_75(self) -> float:
        return float(self.precision[5].mean())

    @property
    def curve(self) -> list[float]:
        """Precision at each of `RECALLS`, at an IoU of 0.5."""
        return [float(value) for value in self.precision[0]]


def require_pycocotools() -> None:
    """Raises PerceptionError when pycocotools is not installed."""
    try:
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise PerceptionError(
            "average precision needs pycocotools, which is not installed: pip install 'lfm_perception[eval]'"
        ) from error


def average_precision(scenes: Scenes) -> dict[str, AveragePrecision]:
    """Average precision by label, in alphabetical order, of the labels in the ground truth.

    At most 100 detections of a label count in one image, those with the highest confidence.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = sorted({true.label for _, truth in scenes for true in truth})
    if not labels:
        return {}
    categories, number = {label: index for index, label in enumerate(labels)}, count(1)
    truth, found = COCO(), COCO()
    images = [{"id": image} for image in range(len(scenes))]
    for dataset, boxes in ((truth, [each for _, each in scenes]), (found, [each for each, _ in scenes])):
        dataset.dataset = {
            "images": images,
            "categories": [{"id": index} for index in categories.values()],
            "annotations": [
                {"id": next(number), "image_id": image, **_annotation(item, categories[item.label])}
                for image, items in enumerate(boxes)
                for item in items
                if item.label in categories
            ],
        }
    with redirect_stdout(io.StringIO()):  # it prints its progress
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # shape (10 IoU thresholds, 101 recalls, labels): all areas, at most 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return {label: AveragePrecision(precision[:, :, index]) for label, index in categories.items()}


def mean_precision(by_label: Sequence[AveragePrecision]) -> AveragePrecision | None:
    """The mean over labels, each with the same weight; None without any."""
    return AveragePrecision(np.mean([each.precision for each in by_label], axis=0)) if by_label else None


def _annotation(item: LabelledBox, category: int) -> dict[str, Any]:
    box = item.box
    return {
        "category_id": category,
        "bbox": [box.x1, box.y1, box.width, box.height],
        "area": box.width * box.height,
        "iscrowd": 0,
        "score": getattr(item, "score", 1.0),
    }
