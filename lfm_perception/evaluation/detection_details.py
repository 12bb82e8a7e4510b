# SPDX-License-Identifier: Apache-2.0
"""Behind the counts of an evaluation: thresholds, confusions, and sizes of objects. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lfm_perception.evaluation.detection import Annotation, Counts, Scenes, match

SMALL_PX, MEDIUM_PX = 32, 96
"""Sides of the squares in pixels whose areas part small, medium and large objects, as in COCO."""

SIZES = (f"small (< {SMALL_PX}² px)", f"medium (to {MEDIUM_PX}² px)", "large")
NOTHING = "(nothing)"
"""Name in a confusion matrix for no object, and for no detection."""

THRESHOLDS = np.linspace(0.0, 1.0, 101)

MAX_CONFUSED = 12
"""Number of labels in a confusion matrix; those with fewer objects are counted together."""

OTHERS = "(other labels)"


def by_threshold(scenes: Scenes) -> dict[str, Any]:
    """Precision, recall and F1 of the detections above each confidence, and the threshold of the best F1.

    Detections keep the objects that they are matched with among all detections. Of equally good thresholds
    the middle one is named. Precision is None where no detection is left. Empty without objects.
    """
    objects = sum(len(truth) for _, truth in scenes)
    if not objects:
        return {}
    pairs = [{pair.detection for pair in match(found, truth)} for found, truth in scenes]
    scores = np.array([each.score for found, _ in scenes for each in found])
    right = np.array(
        [index in p for p, (found, _) in zip(pairs, scenes, strict=True) for index in range(len(found))]
    )
    kept = scores[None, :] >= THRESHOLDS[:, None]
    true, all_ = (kept & right[None, :].astype(bool)).sum(axis=1), kept.sum(axis=1)
    f1 = 2.0 * true / (all_ + objects)
    best = np.flatnonzero(f1 >= f1.max() - 1e-9)
    middle = int(best[len(best) // 2])
    return {
        "threshold": THRESHOLDS.round(2).tolist(),
        "precision": [round(float(t / a), 4) if a else None for t, a in zip(true, all_, strict=True)],
        "recall": (true / objects).round(4).tolist(),
        "f1": f1.round(4).tolist(),
        "best": {"threshold": round(float(THRESHOLDS[middle]), 2), "f1": round(float(f1[middle]), 4)},
    }


def confusion(scenes: Scenes, labels: Sequence[str]) -> dict[str, Any]:
    """How often objects of each label (rows) were detected as each label (columns), at an IoU of 0.5.

    Detections are matched with objects of their label first, the remaining ones with any remaining object.
    The last row are detections of nothing, the last column objects that were not detected.
    """
    counts = Counter[tuple[str, str]]()
    for found, truth in scenes:
        pairs = match(found, truth)
        counts.update((truth[pair.truth].label, found[pair.detection].label) for pair in pairs)
        left = [each for i, each in enumerate(found) if i not in {pair.detection for pair in pairs}]
        missed = [each for i, each in enumerate(truth) if i not in {pair.truth for pair in pairs}]
        others = match(
            [replace(each, label="") for each in left], [Annotation("", each.box) for each in missed]
        )
        counts.update((missed[pair.truth].label, left[pair.detection].label) for pair in others)
        taken, known = {pair.detection for pair in others}, {pair.truth for pair in others}
        counts.update((NOTHING, each.label) for i, each in enumerate(left) if i not in taken)
        counts.update((each.label, NOTHING) for i, each in enumerate(missed) if i not in known)
    objects = {label: sum(n for (true, _), n in counts.items() if true == label) for label in labels}
    frequent = sorted(labels, key=lambda label: -objects[label])[:MAX_CONFUSED]
    shown = [label for label in labels if label in frequent]
    merged = Counter[tuple[str, str]]()
    for (true, said), number in counts.items():
        row, column = (name if name in (*shown, NOTHING) else OTHERS for name in (true, said))
        merged[row, column] += number
    names = [*shown, *([OTHERS] if any(OTHERS in pair for pair in merged) else []), NOTHING]
    return {"names": names, "counts": [[merged[row, column] for column in names] for row in names]}


def by_size(scenes: Scenes, sizes_px: Sequence[tuple[int, int]]) -> dict[str, Counts]:
    """Counts at an IoU of 0.5 by the size of the object, or of the box where a detection shows none.

    Args:
        sizes_px: width and height of the image of each scene.
    """
    counts = {name: Counts() for name in SIZES}
    for (found, truth), (width, height) in zip(scenes, sizes_px, strict=True):
        pairs = {pair.detection: pair.truth for pair in match(found, truth)}
        for index, each in enumerate(found):
            box = truth[pairs[index]].box if index in pairs else each.box
            counts[_size(box.area * width * height)] += Counts(index in pairs, index not in pairs, 0)
        for index, true in enumerate(truth):
            if index not in pairs.values():
                counts[_size(true.box.area * width * height)] += Counts(0, 0, 1)
    return counts


def _size(area_px: float) -> str:
    return SIZES[(area_px >= SMALL_PX**2) + (area_px >= MEDIUM_PX**2)]


def best_threshold(found: Mapping[str, Any], now: float) -> str:
    """The threshold of the best F1, in a sentence with the present one; empty without objects."""
    if not found:
        return ""
    best = found["best"]
    return (
        f"F1 is highest, {best['f1']:.3f}, at a threshold of {best['threshold']:.2f}; detect.min_score is "
        f"{now:.2f}, and detections below it are not known here."
    )
