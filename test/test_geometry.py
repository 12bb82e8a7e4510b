# SPDX-License-Identifier: Apache-2.0
"""Boxes: what exists is inside the image, and overlap behaves as overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.geometry import Box, iou_matrix, stack

unit = st.floats(0.0, 1.0)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (x1, x2), (y1, y2) = sorted((draw(unit), draw(unit))), sorted((draw(unit), draw(unit)))
    return Box(x1, y1, x2, y2)


@pytest.mark.parametrize(
    "sides",
    [(0.5, 0.0, 0.4, 1.0), (0.0, 0.5, 1.0, 0.4), (-0.01, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.01)],
)
def test_a_box_is_ordered_corners_inside_the_image(sides: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="not ordered corners inside 0"):
        Box(*sides)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", range(4))
def test_a_box_has_no_side_that_is_not_finite(bad: float, side: int) -> None:
    sides = [0.1, 0.2, 0.3, 0.4]
    sides[side] = bad
    with pytest.raises(ValueError, match="not finite"):
        Box(*sides)


def test_a_box_in_pixels_scales_each_axis_by_its_side() -> None:
    assert Box(0.25, 0.5, 0.5, 1.0).in_pixels(640, 480).tolist() == [160.0, 240.0, 320.0, 480.0]


def test_no_boxes_stack_to_an_empty_array_of_four_columns() -> None:
    assert stack([]).shape == (0, 4)
    assert iou_matrix(stack([]), stack([Box(0, 0, 1, 1)])).shape == (0, 1)


@given(st.lists(boxes(), max_size=5), st.lists(boxes(), max_size=5))
def test_overlap_is_symmetric_and_between_0_and_1(first: list[Box], second: list[Box]) -> None:
    overlap = iou_matrix(stack(first), stack(second))
    assert overlap.shape == (len(first), len(second))
    assert np.all((overlap >= 0.0) & (overlap <= 1.0))
    assert np.array_equal(overlap, iou_matrix(stack(second), stack(first)).T)


@given(boxes())
def test_a_box_overlaps_itself_wholly_unless_it_has_no_area(box: Box) -> None:
    own = iou_matrix(stack([box]), stack([box]))[0, 0]
    assert own == (1.0 if box.area > 0.0 else 0.0)


def test_half_covered_boxes_overlap_by_a_third() -> None:
    left, middle = stack([Box(0.0, 0.0, 0.4, 1.0)]), stack([Box(0.2, 0.0, 0.6, 1.0)])
    assert iou_matrix(left, middle)[0, 0] == pytest.approx(1 / 3)
