# SPDX-License-Identifier: Apache-2.0
"""The demo world's hall and the bodies in it: random appearance, placement and projection."""

from __future__ import annotations

import colorsys
import math
import random
from dataclasses import dataclass, replace

LABELS = ("person", "box", "cone", "forklift", "pallet")

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What a scene may hold.

    `max_overlap`: largest share of a body's box shared with another. `max_cut`: largest share cut off
    by the left or right edge. `far` and `near`: body scale at the horizon and at the lower edge.
    `motion_blur`: longest smear, in image widths.
    """

    max_objects: int = 6
    max_overlap: float = 0.3
    far: float = 0.45
    near: float = 1.1
    motion_blur: float = 0.0
    max_cut: float = 0.15


EASY = Difficulty()
HARD = Difficulty(max_objects=10, max_overlap=0.5, far=0.28, motion_blur=0.02)
SEQUENCE = Difficulty(max_objects=8, max_overlap=0.85, far=0.5, near=1.0, motion_blur=0.01, max_cut=0.8)


_BEYOND = 0.1
_LANE = 1.0 + 2.0 * _BEYOND
"""A body that moves turns round this far outside the image, so its lane is this long."""


@dataclass(frozen=True, slots=True)
class Body:
    """One body on the floor. `style` holds the random numbers of its appearance; speeds are per second.

    `number` is on a sticker on the front of a box; empty: no sticker.
    """

    label: str
    x: float
    depth: float
    scale: float
    aspect: float
    style: tuple[float, ...]
    speed: float = 0.0
    sway: float = 0.0
    number: str = ""

    def at(self, seconds: float) -> Body:
        """The body `seconds` later: it walks to and fro across the floor, swaying in depth."""
        travelled = (self.x + _BEYOND + self.speed * seconds) % (2.0 * _LANE)
        x = min(travelled, 2.0 * _LANE - travelled) - _BEYOND if self.speed else self.x
        depth = self.depth + self.sway * math.sin(seconds * 0.6 + self.style[0] * 6.3)
        return replace(self, x=x, depth=min(max(depth, 0.02), 1.0))


@dataclass(frozen=True, slots=True)
class Stage:
    """The hall: horizon height (share of the image), colours, wall and floor marks, camera, light."""

    horizon: float
    wall: Colour
    floor: Colour
    marks: tuple[tuple[float, ...], ...]
    texture: float
    difficulty: Difficulty
    light: float = 1.0
    blur: float = 0.0
    noise: float = 0.15


_HEIGHT = {"person": 0.42, "box": 0.24, "cone": 0.24, "forklift": 0.46, "pallet": 0.13}
_ASPECT = {
    "person": (0.38, 0.5),
    "box": (0.9, 1.6),
    "cone": (0.6, 0.85),
    "forklift": (1.0, 1.35),
    "pallet": (2.5, 4.5),
}
_MIN_HEIGHT_PX = 9.0


def random_body(rng: random.Random, label: str, *, moving: bool) -> Body:
    speed = sway = 0.0
    if moving and label == "person":
        speed, sway = rng.choice((-1, 1)) * rng.uniform(0.05, 0.16), rng.uniform(0.0, 0.1)
    elif moving and label == "forklift":
        speed, sway = rng.choice((-1, 1)) * rng.uniform(0.08, 0.22), rng.uniform(0.0, 0.05)
    return Body(
        label=label,
        x=rng.uniform(0.02, 0.98),
        depth=rng.uniform(0.05, 1.0),
        scale=rng.uniform(0.75, 1.3),
        aspect=rng.uniform(*_ASPECT[label]),
        style=tuple(rng.random() for _ in range(12)),
        speed=speed,
        sway=sway,
    )


def random_stage(rng: random.Random, difficulty: Difficulty) -> Stage:
    marks = tuple(tuple(rng.random() for _ in range(8)) for _ in range(rng.randrange(6)))
    return Stage(
        horizon=rng.uniform(0.2, 0.5),
        wall=hsv(rng.random(), rng.uniform(0.0, 0.25), rng.uniform(0.35, 0.9)),
        floor=hsv(rng.random(), rng.uniform(0.0, 0.2), rng.uniform(0.25, 0.8)),
        marks=marks,
        texture=rng.uniform(1.0, 11.0),
        difficulty=difficulty,
    )


FORKLIFT_COLOURS = (
    *(("yellow", 0.13), ("yellow", 0.14), ("red", 0.0)),
    *(("orange", 0.05), ("blue", 0.6), ("green", 0.35)),
)
"""Names and hues of the colours of forklifts."""

_CARDBOARD = 0.75
"""Share of the boxes that are brown; the others are blue, grey, or between the two."""


def is_cardboard(body_style: float) -> bool:
    """Whether a box with this first number of its style is of brown cardboard."""
    return body_style < _CARDBOARD


def forklift_colour(body_style: float) -> tuple[str, float]:
    """Name and hue of the colour of a forklift with this first number of its style."""
    return FORKLIFT_COLOURS[int(body_style * 5.999)]


def colour_of(body: Body) -> str:
    """The name of the colour of a box or forklift; empty for other bodies and between two colours."""
    if body.label == "forklift":
        return forklift_colour(body.style[0])[0]
    if body.label != "box":
        return ""
    if is_cardboard(body.style[0]):
        return "brown"
    saturation = body.style[5]
    return "grey" if saturation < 0.28 else "blue" if saturation > 0.44 else ""


def has_helmet(body: Body) -> bool:
    """Whether a person wears a helmet."""
    vest = body.style[2] < 0.4  # whose colour takes one number less
    return body.style[9 if vest else 10] < 0.5


def outline_of(body: Body, stage: Stage, width: int, height: int) -> tuple[float, float, float, float]:
    """The whole body in pixels, xyxy, also where it leaves the image."""
    foot = (stage.horizon + body.depth * (1.0 - stage.horizon)) * height
    far, near = stage.difficulty.far, stage.difficulty.near
    tall = max(_HEIGHT[body.label] * body.scale * (far + (near - far) * body.depth) * height, _MIN_HEIGHT_PX)
    wide = tall * body.aspect
    left = body.x * width - wide / 2.0
    return left, foot - tall, left + wide, foot


def hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return 255.0 * red, 255.0 * green, 255.0 * blue
