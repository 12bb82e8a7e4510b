# SPDX-License-Identifier: Apache-2.0
"""Postprocessing of detections: calibration, minimum score, maximum area, non-maximum suppression (NMS)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lfm_perception.calibration import calibrated
from lfm_perception.geometry import WHOLE, Box, iou_matrix, stack
from lfm_perception.scene import Answer, Detection
from lfm_perception.settings import DetectSettings

LOW_SCORE = "low score"
"""Reason for rejecting a detection below `detect.min_score`."""

WHOLE_IMAGE = "whole image"
"""Reason for rejecting a box above `detect.max_area`, which models write for an absent object."""

DUPLICATE = "duplicate"
"""Reason for rejecting a detection whose IoU with one of a higher score, of any label, is `detect.nms_iou`
or more."""


def postprocess(
    answer: Answer, settings: DetectSettings, region: Box = WHOLE
) -> tuple[tuple[Detection, ...], Counter[str]]:
    """The detections with calibrated scores, in the answer's order, and all rejects by reason.

    `region` is the part of the frame that the model saw.
    """
    rejects = Counter(answer.rejects)
    scored = calibrated(answer, settings)
    rejects[LOW_SCORE] += len(answer.detections) - len(scored)
    small = [found for found in scored if found.box.area <= settings.max_area * region.area]
    rejects[WHOLE_IMAGE] += len(scored) - len(small)
    kept = suppressed(small, settings.nms_iou)
    rejects[DUPLICATE] += len(small) - len(kept)
    return kept, +rejects


def suppressed(detections: Sequence[Detection], min_iou: float) -> tuple[Detection, ...]:
    """Class-agnostic non-maximum suppression of detections with an IoU of `min_iou` or more."""
    iou = iou_matrix(*[stack(found.box for found in detections)] * 2)
    kept: list[int] = []
    for row in sorted(range(len(detections)), key=lambda row: -detections[row].score):
        if not kept or iou[row, kept].max() < min_iou:
            kept.append(row)
    return tuple(detections[row] for row in sorted(kept))
