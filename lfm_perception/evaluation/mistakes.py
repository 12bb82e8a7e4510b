# SPDX-License-Identifier: Apache-2.0
"""False positives and false negatives with their reasons, and thumbnails of the most instructive ones."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import cv2
import numpy as np

from lfm_perception.evaluation.detection import LabelledBox, match
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection, Image

SAME_OBJECT = 0.5
"""IoU from which on two boxes show the same object."""

NEAR = 0.1
"""IoU from which on a box is a poor localization of another."""

MAX_EXAMPLES = 24
"""Number of false positives, and of false negatives, that are kept with a thumbnail."""

THUMBNAIL = 300
"""Longer side of a thumbnail, pixels."""

MARGIN = 0.6
"""Margin around a box in its thumbnail, in box sizes."""

TRUTH_COLOUR, DETECTION_COLOUR = (86, 180, 233), (255, 140, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A false positive with its `confidence`, or a false negative, where that is None."""

    image: str
    label: str
    box: Box
    confidence: float | None
    reason: str
    thumbnail: Image | None = None

    @property
    def kind(self) -> str:
        return "false_negative" if self.confidence is None else "false_positive"

    def as_json(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "kind": self.kind,
            "label": self.label,
            "bbox": [round(side, 4) for side in self.box.xyxy.tolist()],
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "reason": self.reason,
        }

    def caption(self) -> str:
        """One line below the thumbnail."""
        confidence = "" if self.confidence is None else f" {self.confidence:.0%}"
        return f"{self.label}{confidence}: {self.reason} ({self.image})"


class Mistakes:
    """All mistakes, and thumbnails of the worst: confident false positives and large false negatives."""

    def __init__(self) -> None:
        self.all: list[Mistake] = []
        self._number = count()
        self._worst: dict[str, list[tuple[float, int, Mistake]]] = {
            "false_positive": [],
            "false_negative": [],
        }

    def add(
        self, name: str, image: Image, detections: Sequence[Detection], truth: Sequence[LabelledBox]
    ) -> None:
        """Compare the detections of an image with its ground truth."""
        for mistake in find_mistakes(name, detections, truth):
            self.all.append(mistake)
            weight = mistake.box.area if mistake.confidence is None else mistake.confidence
            worst = self._worst[mistake.kind]
            if len(worst) < MAX_EXAMPLES or weight > worst[0][0]:
                shown = replace(mistake, thumbnail=thumbnail(image, mistake.box, detections, truth))
                keep = heapq.heappush if len(worst) < MAX_EXAMPLES else heapq.heapreplace
                keep(worst, (weight, next(self._number), shown))

    def examples(self, kind: str) -> list[Mistake]:
        """The worst mistakes of a kind, `false_positive` or `false_negative`, with thumbnails."""
        return [mistake for _, _, mistake in sorted(self._worst[kind], key=lambda each: -each[0])]


def find_mistakes(
    name: str, detections: Sequence[Detection], truth: Sequence[LabelledBox]
) -> Iterator[Mistake]:
    """The false positives, then the false negatives, of an image."""
    iou = iou_matrix(stack(d.box for d in detections), stack(t.box for t in truth))
    pairs = match(detections, truth, SAME_OBJECT)
    matched, found = {pair.detection for pair in pairs}, {pair.truth for pair in pairs}
    for index, detection in enumerate(detections):
        if index in matched:
            continue
        nearest = int(iou[index].argmax()) if truth else -1
        overlap = float(iou[index, nearest]) if truth else 0.0
        if overlap < NEAR:
            reason = "nothing is there"
        elif truth[nearest].label != detection.label:
            reason = f"{'is' if overlap >= SAME_OBJECT else 'on'} a {truth[nearest].label}"
        elif nearest in found:
            reason = "duplicate"
        else:
            reason = f"poor localization, IoU {overlap:.2f}"
        yield Mistake(name, detection.label, detection.box, detection.score, reason)
    unmatched = [index for index in range(len(detections)) if index not in matched]
    for index, true in enumerate(truth):
        if index in found:
            continue
        best = max(unmatched, key=lambda i: iou[i, index], default=None)
        if best is None or iou[best, index] < NEAR:
            reason = "not detected"
        elif detections[best].label != true.label:
            reason = f"detected as a {detections[best].label}"
        else:
            reason = f"poor localization, IoU {iou[best, index]:.2f}"
        yield Mistake(name, true.label, true.box, None, reason)


def thumbnail(image: Image, box: Box, detections: Sequence[Detection], truth: Sequence[LabelledBox]) -> Image:
    """The surroundings of a box with all boxes: in blue the ground truth, in orange the detections."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box.in_pixels(width, height)
    margin = max(MARGIN * max(x2 - x1, y2 - y1), 0.08 * max(width, height))
    left, top = max(0, int(x1 - margin)), max(0, int(y1 - margin))
    right, bottom = min(width, int(x2 + margin) + 1), min(height, int(y2 + margin) + 1)
    scale = THUMBNAIL / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = np.array(cv2.resize(image[top:bottom, left:right], size, interpolation=method), np.uint8)
    for items, colour in ((truth, TRUTH_COLOUR), (detections, DETECTION_COLOUR)):
        for item in items:
            corners = (item.box.in_pixels(width, height) - (left, top, left, top)) * scale
            a, b, c, d = np.rint(corners).astype(int).tolist()
            cv2.rectangle(canvas, (a, b), (c, d), colour, 4 if item.box == box else 2, cv2.LINE_AA)
    return canvas
