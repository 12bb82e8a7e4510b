# SPDX-License-Identifier: Apache-2.0
"""The demo world's renderer: bodies drawn back to front, with a map of instances for the ground truth.

Everything is drawn with sub-pixel corners, and once more without antialiasing into the map of instances, from
which the visible boxes are read. Light, blur and sensor noise come last.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.demo.bodies import (
    Body,
    Colour,
    Stage,
    forklift_colour,
    hsv,
    is_cardboard,
    outline_of,
)
from lfm_perception.scene import Image

Point = tuple[float, float]
Instances = NDArray[np.uint8]
"""Map of instances, shape (height, width): 0 for the background, i for body i - 1."""

_SUBPIXEL_BITS = 4

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255.0, part * factor) for part in colour)
    return red, green, blue


@dataclass(slots=True)
class _Brush:
    """Draws in a body's own unit square (x to the right, y down) into the image and the instances."""

    image: Image
    instances: Instances
    identity: int
    outline: tuple[float, float, float, float]
    style: Iterator[float] = field(default_factory=lambda: iter(()))
    number: str = ""
    mirrored: bool = False

    def draw(self, colour: Colour, *points: Point) -> None:
        """A filled convex polygon."""
        x1, y1, x2, y2 = self.outline
        unit = np.array(points, dtype=np.float64)
        if self.mirrored:
            unit[:, 0] = 1.0 - unit[:, 0]
        pixels = unit * (x2 - x1, y2 - y1) + (x1, y1)
        fixed = np.round((pixels - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillConvexPoly(self.image, fixed, colour, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.fillConvexPoly(self.instances, fixed, self.identity, cv2.LINE_8, _SUBPIXEL_BITS)

    def bar(self, colour: Colour, x1: float, y1: float, x2: float, y2: float) -> None:
        """An upright rectangle."""
        self.draw(colour, (x1, y1), (x2, y1), (x2, y2), (x1, y2))

    def limb(self, colour: Colour, start: Point, end: Point, thickness: float) -> None:
        """A slanted bar of horizontal `thickness`."""
        half = thickness / 2.0
        self.draw(
            colour,
            (start[0] - half, start[1]),
            (start[0] + half, start[1]),
            (end[0] + half, end[1]),
            (end[0] - half, end[1]),
        )

    def disc(self, colour: Colour, x: float, y: float, radius: float) -> None:
        """A round of `radius` body heights."""
        x1, y1, x2, y2 = self.outline
        reach = radius * (y2 - y1) / max(x2 - x1, 1e-6)
        self.draw(colour, *((x + reach * c, y + radius * s) for c, s in _CIRCLE))

    def sticker(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """A white rectangle with the body's number, upright also on a mirrored body."""
        self.bar((245, 245, 240), x1, y1, x2, y2)
        left, top, right, bottom = self.outline
        middle = (x1 + x2) / 2.0
        x = left + (1.0 - middle if self.mirrored else middle) * (right - left)
        y = top + (y1 + y2) / 2.0 * (bottom - top)
        (wide, tall), _ = cv2.getTextSize(self.number, _FONT, 1.0, 1)
        scale = min(0.85 * (x2 - x1) * (right - left) / wide, 0.65 * (y2 - y1) * (bottom - top) / tall)
        corner = round(x - scale * wide / 2.0), round(y + scale * tall / 2.0)
        thickness = max(1, round(1.8 * scale))
        cv2.putText(self.image, self.number, corner, _FONT, scale, (25, 25, 30), thickness, cv2.LINE_AA)

    def next(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next random number of the body's appearance, scaled to low..high."""
        return low + (high - low) * next(self.style)


_CIRCLE = tuple((math.cos(i * math.pi / 6.0), math.sin(i * math.pi / 6.0)) for i in range(12))
_SKIN: tuple[Colour, ...] = ((224, 180, 150), (150, 100, 70), (95, 62, 45), (240, 200, 175))


def _person(brush: _Brush, stride: float) -> None:
    skin = _shade(_SKIN[int(brush.next(0, 3.999))], brush.next(0.85, 1.1))
    vest = brush.next() < 0.4
    hue, colourful = brush.next(), brush.next(0.3, 1.0)
    shirt = hsv(0.08 + 0.14 * hue, 0.95, 1.0) if vest else hsv(hue, colourful, brush.next(0.4, 1.0))
    trousers = hsv(brush.next(), brush.next(0.0, 0.6), brush.next(0.1, 0.45))
    for side in (-1.0, 1.0):
        foot = 0.5 + side * (0.18 + 0.2 * stride)
        brush.limb(trousers, (0.5 + side * 0.1, 0.5), (min(max(foot, 0.09), 0.91), 1.0), 0.18)
        brush.limb(
            _shade(shirt, 0.8), (0.5 + side * 0.26, 0.22), (0.5 + side * (0.4 - 0.1 * stride), 0.52), 0.15
        )
    brush.draw(shirt, (0.2, 0.19), (0.8, 0.19), (0.73, 0.55), (0.27, 0.55))
    if brush.next() < 0.5:
        brush.bar((235, 235, 225), 0.24, 0.36, 0.76, 0.4)
    brush.disc(skin, 0.5, 0.09, 0.09)
    if brush.next() < 0.5:
        brush.draw(hsv(brush.next(), 0.8, 1.0), (0.28, 0.08), (0.72, 0.08), (0.62, 0.0), (0.38, 0.0))


def _box(brush: _Brush, _: float) -> None:
    cardboard = is_cardboard(brush.next())
    colour = hsv(brush.next(0.06, 0.11), brush.next(0.3, 0.6), brush.next(0.5, 0.85))
    if not cardboard:
        colour = hsv(brush.next(0.5, 0.7), brush.next(0.0, 0.5), brush.next(0.4, 0.8))
    deep, side = brush.next(0.15, 0.3), brush.next(0.1, 0.25)
    brush.mirrored = brush.next() < 0.5
    right = 1.0 - side
    brush.draw(_shade(colour, 1.2), (0.0, deep), (right, deep), (1.0, 0.0), (side, 0.0))
    brush.draw(_shade(colour, 0.7), (right, deep), (1.0, 0.0), (1.0, 1.0 - deep), (right, 1.0))
    brush.bar(colour, 0.0, deep, right, 1.0)
    middle, half = right / 2.0, right * 0.06
    brush.bar(_shade(colour, 1.3), middle - half, deep, middle + half, 1.0)
    brush.draw(
        _shade(colour, 1.4),
        (middle - half, deep),
        (middle + half, deep),
        (middle + half + side, 0.0),
        (middle - half + side, 0.0),
    )
    if brush.number:
        front = 1.0 - deep
        brush.sticker(0.06 * right, deep + 0.25 * front, 0.94 * right, deep + 0.8 * front)


def _cone(brush: _Brush, _: float) -> None:
    colour = hsv(brush.next(0.0, 0.07), brush.next(0.8, 1.0), brush.next(0.75, 1.0))
    brush.bar(_shade(colour, 0.75), 0.0, 0.88, 1.0, 1.0)
    brush.draw(colour, (0.44, 0.0), (0.56, 0.0), (0.86, 0.9), (0.14, 0.9))
    for top, bottom in ((0.3, 0.45), (0.6, 0.74)) if brush.next() < 0.5 else ((0.4, 0.62),):
        high, low = 0.06 + 0.3 * top / 0.9, 0.06 + 0.3 * bottom / 0.9
        brush.draw(
            (240, 240, 235), (0.5 - high, top), (0.5 + high, top), (0.5 + low, bottom), (0.5 - low, bottom)
        )


def _forklift(brush: _Brush, _: float) -> None:
    hue = forklift_colour(brush.next())[1]
    colour = hsv(hue, brush.next(0.75, 1.0), brush.next(0.65, 1.0))
    dark = (40.0, 40.0, 45.0)
    brush.mirrored = brush.next() < 0.5
    brush.bar(colour, 0.0, 0.5, 0.68, 0.86)
    brush.bar(_shade(colour, 0.8), 0.0, 0.42, 0.22, 0.6)
    brush.bar(dark, 0.16, 0.06, 0.62, 0.11)
    brush.limb(dark, (0.18, 0.08), (0.14, 0.5), 0.04)
    brush.limb(dark, (0.6, 0.08), (0.66, 0.52), 0.04)
    if brush.next() < 0.6:
        brush.disc((215, 170, 140), 0.38, 0.26, 0.075)
        brush.bar(hsv(brush.next(), 0.7, 0.7), 0.28, 0.34, 0.48, 0.56)
    fork = brush.next(0.55, 0.93)
    brush.bar((112, 112, 120), 0.7, 0.0, 0.76, 0.92)
    brush.bar((125, 125, 132), 0.76, fork, 1.0, fork + 0.06)
    brush.bar((125, 125, 132), 0.76, fork - 0.2, 0.79, fork + 0.05)
    for x, radius in ((0.14, 0.12), (0.58, 0.14)):
        brush.disc((28, 28, 30), x, 1.0 - radius, radius)
        brush.disc((150, 150, 150), x, 1.0 - radius, 0.45 * radius)


def _pallet(brush: _Brush, _: float) -> None:
    wooden = brush.next() < 0.85
    colour = (
        hsv(brush.next(0.07, 0.12), brush.next(0.3, 0.65), brush.next(0.5, 0.9))
        if wooden
        else hsv(0.6, 0.8, 0.7)
    )
    brush.draw(_shade(colour, 1.15), (0.08, 0.0), (0.92, 0.0), (1.0, 0.4), (0.0, 0.4))
    for y in (0.12, 0.25):
        brush.bar(_shade(colour, 0.5), 0.06, y, 0.94, y + 0.04)
    brush.bar(colour, 0.0, 0.4, 1.0, 0.56)
    brush.bar(_shade(colour, 0.25), 0.0, 0.56, 1.0, 0.85)
    for x in (0.0, 0.42, 0.84):
        brush.bar(_shade(colour, 0.85), x, 0.56, x + 0.16, 0.86)
    brush.bar(_shade(colour, 0.9), 0.0, 0.85, 1.0, 1.0)


_DRAW: dict[str, Callable[[_Brush, float], None]] = {
    "person": _person,
    "box": _box,
    "cone": _cone,
    "forklift": _forklift,
    "pallet": _pallet,
}


def render(
    stage: Stage,
    bodies: Sequence[Body],
    width: int,
    height: int,
    pan: float,
    seconds: float,
    blur_px: float,
    rng: random.Random,
) -> tuple[Image, Instances, list[int]]:
    """The image, its map of instances, and each body's drawn pixels before others hid them."""
    image = _background(stage, width, height, pan)
    instances: Instances = np.zeros((height, width), dtype=np.uint8)
    drawn = [0] * len(bodies)
    outlines = [outline_of(body, stage, width, height) for body in bodies]
    for index in sorted(range(len(bodies)), key=lambda i: outlines[i][3]):
        body, outline = bodies[index], outlines[index]
        x1, y1, x2, y2 = outline
        if x2 < 0 or x1 > width:
            continue
        if body.style[-1] < 0.6:
            _shadow(image, outline)
        stride = math.sin(7.0 * seconds + 6.3 * body.style[0])
        brush = _Brush(image, instances, index + 1, outline, iter(body.style), body.number)
        _DRAW[body.label](brush, stride)
        top, left = max(int(y1) - 2, 0), max(int(x1) - 2, 0)
        around = instances[top : int(y2) + 3, left : int(x2) + 3]
        drawn[index] = int(np.count_nonzero(around == index + 1))
    if blur_px >= 1.5:
        cv2.blur(image, (round(blur_px), 1), dst=image)
    if stage.blur > 0.0:
        cv2.GaussianBlur(image, (3, 3), stage.blur, dst=image)
    _expose(image, stage, rng)
    return image, instances, drawn


def _background(stage: Stage, width: int, height: int, pan: float) -> Image:
    rows = np.arange(height, dtype=np.float32)[:, None] / height
    wall = np.array(stage.wall, np.float32) * (1.0 - 0.3 * (rows - 0.2))
    floor = np.array(stage.floor, np.float32) * (1.0 + 0.3 * (rows - 0.7))
    column = np.where(rows < stage.horizon, wall, floor)
    shift = round(pan * width)
    image: Image = np.repeat(np.clip(column, 0, 255).astype(np.uint8)[:, None, :], width, axis=1)
    grain = cv2.merge([_grain(0, shift, height, width)[:, :, 0]] * 3)
    cv2.addWeighted(image, 1.0, grain, stage.texture / 32.0, -4.0 * stage.texture, dst=image)
    floor_y = round(stage.horizon * height)
    for a, b, hue, colourful, bright, kind, thick, tilt in stage.marks:
        colour = hsv(hue, 0.4 * colourful, 0.2 + 0.75 * bright)
        x = round((a * 1.5 - 0.25) * width) - shift
        weight = 1 + round(thick * 0.015 * height)
        if kind < 0.4:
            cv2.line(image, (x, 0), (x, floor_y), colour, weight)
        elif kind < 0.7:
            y = round((stage.horizon + b * (1.0 - stage.horizon)) * height)
            cv2.line(
                image, (-shift, y), (width - shift, y + round((tilt - 0.5) * 0.3 * height)), colour, weight
            )
        else:
            top = round(b * stage.horizon * height)
            corner = (
                x + round((0.04 + 0.2 * thick) * width),
                min(floor_y, top + round((0.02 + 0.14 * tilt) * height)),
            )
            cv2.rectangle(image, (x, top), corner, colour, -1)
    return image


def _shadow(image: Image, outline: tuple[float, float, float, float]) -> None:
    x1, _, x2, foot = outline
    height, width = image.shape[:2]
    x, y = min(max(int((x1 + x2) / 2), 0), width - 1), min(max(int(foot), 0), height - 1)
    red, green, blue = (0.55 * float(part) for part in image[y, x])
    axes = (max(1, round((x2 - x1) / 2)), max(1, round((x2 - x1) * 0.08)))
    cv2.ellipse(image, (round((x1 + x2) / 2), round(foot)), axes, 0, 0, 360, (red, green, blue), -1)


def _expose(image: Image, stage: Stage, rng: random.Random) -> None:
    """Light and sensor noise, in place.

    The noise is a window anywhere in one fixed field. Windows that lay close to each other would look like
    something that moves, and optical flow would follow it.
    """
    height, width = image.shape[:2]
    top, left = rng.randrange(max(_GRAIN_SIDE - height, 1)), rng.randrange(max(_GRAIN_SIDE - width, 1))
    noise = _grain(top, left, height, width)
    offset = -128.0 * stage.noise + (1.0 - stage.light) * 40.0 + rng.uniform(-8.0, 8.0)
    cv2.addWeighted(image, stage.light, noise, stage.noise, offset, dst=image)


_GRAIN_SIDE = 1280


@functools.lru_cache(maxsize=1)
def _grain_field() -> Image:
    """A fixed field of Gaussian noise around 128, shape (1280, 1280, 3)."""
    rng = np.random.default_rng(20260101)
    values = 128.0 + 32.0 * rng.standard_normal((_GRAIN_SIDE, _GRAIN_SIDE, 3), dtype=np.float32)
    grain: Image = np.clip(values, 0, 255).astype(np.uint8)
    return grain


def _grain(top: int, left: int, height: int, width: int) -> Image:
    """A window of the field, which repeats itself in both directions."""
    field_ = _grain_field()
    if top + height <= _GRAIN_SIDE and left >= 0 and left + width <= _GRAIN_SIDE:
        return field_[top : top + height, left : left + width]
    rows, columns = np.arange(top, top + height), np.arange(left, left + width)
    return field_.take(rows, axis=0, mode="wrap").take(columns, axis=1, mode="wrap")
