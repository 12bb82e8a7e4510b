# SPDX-License-Identifier: Apache-2.0
"""Degraded images with their ground truth, as the cameras of robots deliver them at times.

Each degradation is a function of a random generator, an image and its objects that returns the degraded
image and the objects in it; the same seed gives the same result. The arguments are not changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.evaluation.detection import Annotation
from lfm_perception.geometry import Box
from lfm_perception.media import images
from lfm_perception.scene import Image

GRAY = 127
"""Value of covered, added and lost pixels."""

LEAST_VISIBLE = 0.3
"""Minimum visible share of an object; others are removed from the ground truth."""

JPEG_QUALITY = 8
SLICE = 16
"""Height of the rows of blocks in which JPEG is sent, and lost, pixels."""


Truth = tuple[Annotation, ...]
Stress = Callable[[random.Random, Image, Sequence[Annotation]], tuple[Image, Truth]]


def low_light(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> tuple[Image, Truth]:
    """A tenth to a quarter of the light, with the noise of a sensor that has too little of it."""
    light = rng.uniform(0.1, 0.25)
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0.0, 1.0, image.shape)
    darker = image * light
    # shot noise goes with the root of the light; a few levels come from reading the sensor
    return _as_pixels(darker + noise * (2.0 + 0.5 * np.sqrt(darker))), tuple(truth)


def blur(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> tuple[Image, Truth]:
    """Motion blur of 3 to 5 per cent of the image's width, in any direction."""
    length = max(3, round(rng.uniform(0.03, 0.05) * image.shape[1]))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1.0
    centre = ((length - 1) / 2, (length - 1) / 2)
    turned = cv2.warpAffine(
        kernel, cv2.getRotationMatrix2D(centre, rng.uniform(0.0, 180.0), 1.0), (length, length)
    )
    smeared = cv2.filter2D(image, -1, turned / turned.sum(), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smeared, np.uint8), tuple(truth)


def occlusion(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> tuple[Image, Truth]:
    """A grey bar over the middle 30 to 45 per cent of each object; its ends remain visible.

    So boxes stay valid, except those of small objects that are hidden by another one's bar.
    """
    height, width = image.shape[:2]
    covered = np.zeros((height, width), bool)
    for item in truth:
        x1, y1, x2, y2 = item.box.in_pixels(width, height)
        share, upright = rng.uniform(0.3, 0.45), rng.random() < 0.5
        if upright:
            x1, x2 = _middle(x1, x2, share)
        else:
            y1, y2 = _middle(y1, y2, share)
        covered[round(y1) : round(y2), round(x1) : round(x2)] = True
    hidden = np.where(covered[:, :, None], np.uint8(GRAY), image)
    return hidden, tuple(item for item in truth if _visible(covered, item.box) >= LEAST_VISIBLE)


def aspect_ratio(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> tuple[Image, Truth]:
    """A grey border that makes the image three times as wide or as high, at a random position in it."""
    height, width = image.shape[:2]
    wide = rng.random() < 0.5
    across, down = (3, 1) if wide else (1, 3)
    left, top = (rng.uniform(0.0, 1.0) * (times - 1) for times in (across, down))
    left, top = round(left * width) / width, round(top * height) / height
    canvas = np.full((down * height, across * width, 3), GRAY, np.uint8)
    y, x = round(top * height), round(left * width)
    canvas[y : y + height, x : x + width] = image

    def moved(box: Box) -> Box:
        return Box(
            (left + box.x1) / across, (top + box.y1) / down, (left + box.x2) / across, (top + box.y2) / down
        )

    return canvas, tuple(replace(item, box=moved(item.box)) for item in truth)


def jpeg_damage(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> tuple[Image, Truth]:
    """Coarse JPEG, with the ends of some rows of blocks lost as over a bad radio link."""
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", colours, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    damaged = images.decode(data, "the degraded image")
    height, width = image.shape[:2]
    rows = -(-height // SLICE)
    for row in rng.sample(range(rows), max(1, round(0.12 * rows))):
        damaged[row * SLICE : (row + 1) * SLICE, round(rng.uniform(0.1, 0.9) * width) :] = GRAY
    return damaged, tuple(truth)


STRESSES: dict[str, Stress] = {
    "low light": low_light,
    "blur": blur,
    "occlusion": occlusion,
    "aspect ratio": aspect_ratio,
    "jpeg damage": jpeg_damage,
}


def _as_pixels(values: NDArray[np.float64]) -> Image:
    return np.clip(np.rint(values), 0.0, 255.0).astype(np.uint8)


def _middle(low: float, high: float, share: float) -> tuple[float, float]:
    centre, half = (low + high) / 2.0, (high - low) * share / 2.0
    return centre - half, centre + half


def _visible(covered: NDArray[np.bool_], box: Box) -> float:
    """The visible share of a box."""
    height, width = covered.shape
    x1, y1, x2, y2 = box.in_pixels(width, height)
    inside = covered[int(y1) : max(round(y2), int(y1) + 1), int(x1) : max(round(x2), int(x1) + 1)]
    return 1.0 - float(inside.mean())
