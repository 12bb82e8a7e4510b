# SPDX-License-Identifier: Apache-2.0
"""Average precision is that of COCO."""

from __future__ import annotations

import random

import pytest

from lfm_perception.demo.bodies import LABELS
from lfm_perception.evaluation.average_precision import average_precision, mean_precision
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection


def random_scenes(seed: int) -> list[tuple[list[Detection], list[Annotation]]]:
    """Crowded scenes of near misses, with equal scores among them; corners on a grid of 64."""
    rng = random.Random(seed)

    def box() -> Box:
        x, y = rng.randrange(40), rng.randrange(40)
        return Box(x / 64, y / 64, (x + rng.randint(4, 24)) / 64, (y + rng.randint(4, 24)) / 64)

    def near(box: Box) -> Box:
        moved = [min(max(round(64 * side) + rng.choice((-2, -1, 0, 0, 1, 2)), 0), 64) for side in box.xyxy]
        x1, y1, x2, y2 = moved
        return Box(x1 / 64, y1 / 64, max(x2, x1 + 1) / 64, max(y2, y1 + 1) / 64)

    made = []
    for _ in range(12):
        truth = [Annotation(rng.choice(LABELS), box()) for _ in range(rng.randrange(7))]
        found = [(t.label if rng.random() < 0.8 else rng.choice(LABELS), near(t.box)) for t in truth * 2]
        found = [pair for pair in found if rng.random() < 0.7]
        found += [(rng.choice(LABELS), box()) for _ in range(rng.randrange(4))]
        made.append(([Detection(label, b, rng.randrange(20) / 20) for label, b in found], truth))
    return made


@pytest.mark.parametrize(
    ("seed", "overall", "at_50", "at_75"),
    [
        (0, 0.247004, 0.465817, 0.261584),
        (1, 0.233007, 0.530114, 0.135949),
        (2, 0.228490, 0.508890, 0.189741),
        (3, 0.204464, 0.491626, 0.131912),
        (4, 0.246709, 0.474306, 0.227429),
        (5, 0.222411, 0.432929, 0.183206),
        (6, 0.238976, 0.502998, 0.172882),
        (7, 0.298090, 0.514188, 0.292315),
    ],
)
def test_average_precision_is_that_of_coco(seed: int, overall: float, at_50: float, at_75: float) -> None:
    mean = mean_precision(list(average_precision(random_scenes(seed)).values()))
    assert mean is not None
    assert (mean.overall, mean.at_50, mean.at_75) == pytest.approx((overall, at_50, at_75), abs=1e-6)


def test_average_precision_of_each_label_and_its_curve() -> None:
    found = average_precision(random_scenes(0))
    assert {label: each.overall for label, each in found.items()} == pytest.approx(
        {"box": 0.269087, "cone": 0.186271, "forklift": 0.376361, "pallet": 0.210408, "person": 0.192895},
        abs=1e-6,
    )
    assert found["box"].curve[::10] == pytest.approx(
        [1.0, 1.0, 1.0, 0.4, 0.4, 0.4, 0.333333, 0.333333, 0.0, 0.0, 0.0], abs=1e-6
    )


def test_a_more_confident_false_positive_costs_half_of_the_precision() -> None:
    there = Annotation("box", Box(0.0, 0.0, 0.5, 0.5))
    right = Detection("box", there.box, 0.6)
    false_positive = Detection("box", Box(0.6, 0.6, 0.9, 0.9), 0.9)
    assert average_precision([([right], [there])])["box"].overall == pytest.approx(1.0)
    assert average_precision([([right, false_positive], [there])])["box"].at_50 == pytest.approx(0.5)
    assert average_precision([([false_positive], [there])])["box"].at_50 == 0.0
    assert average_precision([([], [there])])["box"].at_50 == 0.0
    assert average_precision([([false_positive], [])]) == {}
    assert mean_precision([]) is None
