# SPDX-License-Identifier: Apache-2.0
"""Degraded images: repeatable, and with boxes that still hold."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from labelled import SIZE, scenes

from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.stress import STRESSES
from lfm_perception.geometry import Box


@pytest.mark.parametrize("name", STRESSES)
def test_degradations_are_repeatable_and_leave_the_original_unchanged(name: str) -> None:
    snapshot = next(s for s in scenes() if len(s.objects) > 2)
    image, truth = snapshot.frame.image, tuple(Annotation(t.label, t.box) for t in snapshot.objects)
    before = image.copy()
    degraded, carried = STRESSES[name](random.Random(3), image, truth)
    again, _ = STRESSES[name](random.Random(3), image, truth)
    other, _ = STRESSES[name](random.Random(4), image, truth)
    assert np.array_equal(image, before)
    assert degraded.dtype == np.uint8
    assert np.array_equal(degraded, again)
    assert degraded.shape != image.shape or not np.array_equal(degraded, image)
    assert degraded.shape != other.shape or not np.array_equal(degraded, other)
    assert {t.label for t in carried} <= {t.label for t in truth}
    # nothing to see is no reason to fail
    assert STRESSES[name](random.Random(3), image, ())[1] == ()


def test_low_light_is_dark_and_blur_keeps_the_light() -> None:
    image = scenes(1)[0].frame.image
    dark, _ = STRESSES["low light"](random.Random(0), image, ())
    smeared, _ = STRESSES["blur"](random.Random(0), image, ())
    assert 0.08 * image.mean() < dark.mean() < 0.3 * image.mean()
    assert smeared.mean() == pytest.approx(image.mean(), rel=0.02)
    assert cv2.Laplacian(smeared, cv2.CV_64F).var() < 0.5 * cv2.Laplacian(image, cv2.CV_64F).var()


def test_in_another_aspect_ratio_the_boxes_hold_the_same_pixels() -> None:
    shapes = set()
    for seed, snapshot in enumerate(scenes()):
        truth = tuple(Annotation(t.label, t.box) for t in snapshot.objects)
        degraded, carried = STRESSES["aspect ratio"](random.Random(seed), snapshot.frame.image, truth)
        shapes.add(degraded.shape)
        for before, after in zip(truth, carried, strict=True):
            a, b, c, d = np.rint(before.box.in_pixels(SIZE, SIZE)).astype(int)
            e, f, g, h = np.rint(after.box.in_pixels(degraded.shape[1], degraded.shape[0])).astype(int)
            assert np.array_equal(snapshot.frame.image[b:d, a:c], degraded[f:h, e:g])
    assert shapes == {(SIZE, 3 * SIZE, 3), (3 * SIZE, SIZE, 3)}


def test_occlusion_covers_a_part_of_each_object_and_removes_hidden_ones() -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    large = Annotation("forklift", Box(0.1, 0.1, 0.9, 0.9))
    hidden = Annotation("cone", Box(0.48, 0.48, 0.52, 0.52))
    degraded, carried = STRESSES["occlusion"](random.Random(0), image, (large, hidden))
    assert carried == (large,)
    inside = degraded[26:230, 26:230, 0] > 0
    assert 0.28 < inside.mean() < 0.48
    assert not degraded[:20].any()
