"""Pictures made harder, with their truth: what a robot's camera does on a bad day.

Each is a function of a random generator, a picture and its objects that gives the harder picture and the
objects in it; the same generator gives the same. None changes what it is given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.evaluation.detection import Annotation
from lfm_perception.geometry import Box
from lfm_perception.media import images
from lfm_perception.scene import Image

GRAY = 127
"""What covers, borders and lost parts look like."""

LEAST_VISIBLE = 0.3
"""An object of which less is left is none any more."""

JPEG_QUALITY = 8
SLICE = 16
"""Pixels: rows of blocks in which JPEG is sent, and lost."""


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
    """Smeared by a motion of 3 to 5 per cent of the picture's width, in any direction."""
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
    """A grey bar over the middle of each object, 30 to 45 per cent of it; its ends stay in sight.

    So the boxes stay what they are, but for those of small objects that vanish below another one's bar.
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
    """Three times as wide or as high as before, by a grey border; the picture lies anywhere in it."""
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

    return canvas, tuple(Annotation(item.label, moved(item.box)) for item in truth)


def jpeg_damage(rng: random.Random, image: Image, truth: Sequence[Annotation]) -> tuple[Image, Truth]:
    """Coarse JPEG, and as after a bad radio link the ends of a few rows of blocks are lost."""
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", colours, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    damaged = images.decode(data, "the coarse picture")
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
    """The share of a box that is not covered."""
    height, width = covered.shape
    x1, y1, x2, y2 = box.in_pixels(width, height)
    inside = covered[int(y1) : max(round(y2), int(y1) + 1), int(x1) : max(round(x2), int(x1) + 1)]
    return 1.0 - float(inside.mean())
