# SPDX-License-Identifier: Apache-2.0
"""Thresholds, confusions and sizes behind the counts of an evaluation, on hand-made scenes."""

from __future__ import annotations

from lfm_perception.evaluation.detection import Counts
from lfm_perception.evaluation.detection_details import (
    MAX_CONFUSED,
    NOTHING,
    OTHERS,
    SIZES,
    best_threshold,
    by_size,
    by_threshold,
    confusion,
)
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection

LEFT, RIGHT, MIDDLE = Box(0.0, 0.0, 0.3, 0.3), Box(0.7, 0.0, 1.0, 0.3), Box(0.35, 0.5, 0.65, 0.8)


def found(label: str, box: Box, score: float = 0.9) -> Detection:
    return Detection(label, box, score)


def test_the_best_threshold_leaves_out_false_positives_and_keeps_true_ones() -> None:
    truth = [found("box", LEFT), found("box", RIGHT)]
    detections = [found("box", LEFT, 0.8), found("box", RIGHT, 0.6), found("box", MIDDLE, 0.3)]
    curves = by_threshold([(detections, truth)])
    assert curves["best"] == {"threshold": 0.46, "f1": 1.0}  # the middle of 0.31 to 0.6
    at = {threshold: index for index, threshold in enumerate(curves["threshold"])}
    assert (curves["precision"][at[0.0]], curves["recall"][at[0.0]]) == (0.6667, 1.0)
    assert (curves["precision"][at[0.7]], curves["recall"][at[0.7]]) == (1.0, 0.5)
    assert (curves["precision"][at[0.9]], curves["recall"][at[0.9]], curves["f1"][at[0.9]]) == (
        None,
        0.0,
        0.0,
    )
    assert "1.000, at a threshold of 0.46; detect.min_score is 0.25" in best_threshold(curves, 0.25)


def test_without_objects_there_is_no_best_threshold() -> None:
    assert by_threshold([([found("box", LEFT)], [])]) == {}
    assert best_threshold({}, 0.0) == ""


def test_confusions_are_counted_once_and_after_the_right_matches() -> None:
    truth = [found("box", LEFT), found("person", RIGHT), found("cone", MIDDLE)]
    detections = [
        found("cone", LEFT),
        found("box", LEFT),
        found("person", RIGHT),
        found("cone", Box(0, 0.9, 0.1, 1)),
    ]
    table = confusion(
        [(detections, truth), ([found("person", LEFT)], [found("box", LEFT)])], ["box", "person", "cone"]
    )
    assert table["names"] == ["box", "person", "cone", NOTHING]
    assert table["counts"] == [
        [1, 1, 0, 0],  # one box was called a person
        [0, 1, 0, 0],
        [0, 0, 0, 1],  # the cone was missed
        [0, 0, 2, 0],  # a duplicate under another label, and a detection of nothing
    ]


def test_labels_with_few_objects_are_counted_together() -> None:
    labels = [f"label {index}" for index in range(MAX_CONFUSED + 3)]
    table = confusion([([found(label, LEFT)], [found(label, LEFT)] * 1) for label in labels], labels)
    assert table["names"] == [*labels[:MAX_CONFUSED], OTHERS, NOTHING]
    assert table["counts"][MAX_CONFUSED][MAX_CONFUSED] == 3
    assert sum(map(sum, table["counts"])) == len(labels)


def test_sizes_are_areas_in_pixels_of_the_object_that_was_matched() -> None:
    small, large = Box(0.0, 0.0, 0.04, 0.04), Box(0.2, 0.2, 0.8, 0.8)
    scene = (
        [found("box", small), found("box", Box(0.0, 0.5, 0.1, 0.6))],
        [found("box", small), found("box", large)],
    )
    counts = by_size([scene, scene], [(640, 480), (64, 48)])
    assert counts == {
        SIZES[0]: Counts(2, 1, 0) + Counts(0, 0, 0),
        SIZES[1]: Counts(0, 1, 1),
        SIZES[2]: Counts(0, 0, 1),
    }
