# SPDX-License-Identifier: Apache-2.0
"""The demo world: a moving camera over a warehouse floor, rendered with exact ground truth.

People walk, forklifts drive, boxes, cones and pallets stand. `World` is a sequence of frames (seeded, any
frame by its index); `still` is one random scene, as the demo model is trained and tested on. Both
draw the same bodies with the same brush, so a model trained on stills works on sequences.

A body stands on the floor at `x` (image widths from the left edge) and `depth` (0 at the horizon, 1 at
the lower edge of the image); its size grows with depth. Everything is drawn back to front with
sub-pixel corners, and once more without smoothing into a map of instances, from which the visible
boxes are read. The light, blur and sensor noise come last.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lfm_perception.demo import FRAME_ID
from lfm_perception.demo.bodies import (
    EASY,
    LABELS,
    SEQUENCE,
    Body,
    Difficulty,
    colour_of,
    has_helmet,
    outline_of,
    random_body,
    random_stage,
)
from lfm_perception.demo.drawing import Instances, render
from lfm_perception.geometry import Box
from lfm_perception.scene import ZERO_VELOCITY, Frame, Velocity
from lfm_perception.stamps import from_seconds

VISIBLE_FRACTION = 0.3
"""Minimum visible share of a body inside the image for it to count as an object."""

VISIBLE_SIDE = 0.02
"""Minimum width and height of its visible box, as a share of the image."""

ATTRIBUTE_FRACTION = 0.8
"""Minimum visible share of a person of whom it can be said whether there is a helmet."""


@dataclass(frozen=True, slots=True)
class TrueObject:
    """Ground truth: the visible box, the velocity of the whole body's centre, the visible share.

    `colour` is the name of the colour of a box or forklift, empty where it has none of the named ones;
    `helmet` whether a person wears one, None for other bodies and for persons of whom less than
    ATTRIBUTE_FRACTION is visible. `number` is on the sticker of a box, empty without one.
    """

    object_id: int
    label: str
    box: Box
    velocity: Velocity
    visible: float
    colour: str = ""
    helmet: bool | None = None
    number: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A frame with its ground truth; `objects` from left to right by their left edge."""

    frame: Frame
    objects: tuple[TrueObject, ...]
    caption: str
    instances: Instances


def describe(labels: Sequence[str]) -> str:
    """The true caption of objects named from left to right."""
    if not labels:
        return "An empty warehouse floor."
    named = [f"a {label}" for label in labels]
    listed = named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]
    return f"A warehouse floor with, from left to right, {listed}."


class World:
    """A sequence of the demo world: `snapshot(i)` is frame i, the same for the same seed and size.

    `width` and `height` in pixels; `fps` frames per second; `bodies` how many move or stand about;
    `pan` how far the camera swings, in image widths (0 for a fixed camera); `numbered` gives each box a
    sticker with a number of four digits.
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        bodies: int = 7,
        pan: float = 0.12,
        *,
        numbered: bool = False,
    ) -> None:
        self.seed, self.width, self.height, self.fps, self.pan = seed, width, height, fps, pan
        # part of the seed: another word would change every world, and the figures that were measured on it
        rng = random.Random(f"film {seed}")
        self.stage = replace(random_stage(rng, SEQUENCE), blur=0.3)
        labels = [LABELS[i % len(LABELS)] if i < len(LABELS) else rng.choice(LABELS) for i in range(bodies)]
        self.bodies = tuple(random_body(rng, label, moving=True) for label in labels)
        self.phase = rng.uniform(0.0, 2.0 * math.pi)
        if numbered:
            numbers = random.Random(f"numbers {seed}")
            self.bodies = tuple(
                replace(body, number=f"{numbers.randrange(1000, 10_000)}") if body.label == "box" else body
                for body in self.bodies
            )

    def __iter__(self) -> Iterator[Snapshot]:
        index = 0
        while True:
            yield self.snapshot(index)
            index += 1

    def snapshot(self, index: int) -> Snapshot:
        seconds = index / self.fps
        pan = self._pan(seconds)
        blur_px = abs(self._pan(seconds + 0.008) - self._pan(seconds - 0.008)) * self.width
        stage = replace(
            self.stage, light=self.stage.light * (1.0 + 0.12 * math.sin(0.7 * seconds + self.phase))
        )
        shown = [self._shown(body, seconds) for body in self.bodies]
        image, instances, drawn = render(
            stage,
            shown,
            self.width,
            self.height,
            pan,
            seconds,
            blur_px,
            random.Random(f"{self.seed} {index}"),
        )
        objects = _true_objects(shown, instances, drawn, self._velocities(seconds))
        frame = Frame(image, stamp_ns=from_seconds(seconds), frame_id=FRAME_ID)
        return Snapshot(frame, objects, describe([o.label for o in objects]), instances)

    def velocities(self, index: int) -> tuple[Velocity, ...]:
        """Of all bodies at frame `index`, by `TrueObject.object_id`; much cheaper than a snapshot."""
        return tuple(self._velocities(index / self.fps))

    def shares_in_image(self, index: int) -> tuple[float, ...]:
        """The share of each body's outline between the image's edges at frame `index`, hidden or not."""
        outlines = [
            outline_of(self._shown(body, index / self.fps), self.stage, self.width, self.height)
            for body in self.bodies
        ]
        return tuple(
            max(min(x2, self.width) - max(x1, 0.0), 0.0)
            * max(min(y2, self.height) - max(y1, 0.0), 0.0)
            / ((x2 - x1) * (y2 - y1))
            for x1, y1, x2, y2 in outlines
        )

    def _pan(self, seconds: float) -> float:
        return self.pan * (0.7 * math.sin(0.45 * seconds + self.phase) + 0.3 * math.sin(1.1 * seconds))

    def _shown(self, body: Body, seconds: float) -> Body:
        moved = body.at(seconds)
        return replace(moved, x=moved.x - self._pan(seconds))

    def _velocities(self, seconds: float, dt: float = 1e-3) -> list[Velocity]:
        """Central differences of the whole bodies' box centres."""
        velocities = []
        for body in self.bodies:
            after, before = (
                outline_of(self._shown(body, seconds + s), self.stage, self.width, self.height)
                for s in (dt, -dt)
            )
            dx, dy = ((after[i] + after[i + 2] - before[i] - before[i + 2]) / (4.0 * dt) for i in (0, 1))
            velocities.append(Velocity(dx / self.width, dy / self.height))
        return velocities


def still(
    rng: random.Random,
    width: int,
    height: int,
    difficulty: Difficulty = EASY,
    labels: Sequence[str] = LABELS,
) -> Snapshot:
    """A random scene of 0 to `difficulty.max_objects` bodies, none hidden beyond its `max_overlap`.

    The bodies are of `labels`.
    """
    stage = random_stage(rng, difficulty)
    stage = replace(
        stage,
        light=rng.uniform(0.7, 1.2),
        noise=rng.uniform(0.0, 0.4),
        blur=rng.uniform(0.4, 1.1) if rng.random() < 0.5 else 0.0,
    )
    bodies: list[Body] = []
    outlines: list[tuple[float, float, float, float]] = []
    for _ in range(rng.randint(0, difficulty.max_objects)):
        for _attempt in range(12):
            body = random_body(rng, rng.choice(labels), moving=False)
            outline = outline_of(body, stage, width, height)
            if _fits(outline, outlines, width, height, difficulty):
                bodies.append(body)
                outlines.append(outline)
                break
    blur_px = rng.uniform(0.0, difficulty.motion_blur) * width if rng.random() < 0.6 else 0.0
    image, instances, drawn = render(stage, bodies, width, height, 0.0, rng.uniform(0.0, 9.0), blur_px, rng)
    objects = _true_objects(bodies, instances, drawn, [ZERO_VELOCITY] * len(bodies))
    return Snapshot(Frame(image, stamp_ns=0), objects, describe([o.label for o in objects]), instances)


def _fits(
    outline: tuple[float, ...],
    others: Sequence[tuple[float, ...]],
    width: int,
    height: int,
    limits: Difficulty,
) -> bool:
    x1, y1, x2, y2 = outline
    wide, tall = x2 - x1, y2 - y1
    if wide > 0.7 * width or y1 < 0.0 or max(-x1, x2 - width) > limits.max_cut * wide:
        return False
    for a1, b1, a2, b2 in others:
        shared = max(min(x2, a2) - max(x1, a1), 0.0) * max(min(y2, b2) - max(y1, b1), 0.0)
        if shared > limits.max_overlap * min(wide * tall, (a2 - a1) * (b2 - b1)):
            return False
    return True


def _true_objects(
    bodies: Sequence[Body], instances: Instances, drawn: Sequence[int], velocities: Sequence[Velocity]
) -> tuple[TrueObject, ...]:
    """Objects from the map of instances; bodies hidden too far are erased from it."""
    height, width = instances.shape
    objects = []
    for index, body in enumerate(bodies):
        mask = (instances == index + 1).view(np.uint8)
        left, top, wide, tall = cv2.boundingRect(mask)
        shown = cv2.countNonZero(mask)
        visible = shown / drawn[index] if drawn[index] else 0.0
        if visible < VISIBLE_FRACTION or wide < VISIBLE_SIDE * width or tall < VISIBLE_SIDE * height:
            instances[mask.view(bool)] = 0
            continue
        box = Box(left / width, top / height, (left + wide) / width, (top + tall) / height)
        clear = body.label == "person" and visible >= ATTRIBUTE_FRACTION
        helmet = has_helmet(body) if clear else None
        colour, number = colour_of(body), body.number
        objects.append(TrueObject(index, body.label, box, velocities[index], visible, colour, helmet, number))
    return _from_left(objects)


def _from_left(objects: Iterable[TrueObject]) -> tuple[TrueObject, ...]:
    return tuple(sorted(objects, key=lambda o: (o.box.x1, o.box.y1, o.object_id)))


def crop(snapshot: Snapshot, region: Box, width: int, height: int) -> Snapshot:
    """A region of a snapshot as an image of `width` x `height` pixels, with its own ground truth.

    An object that the edge of the region cuts counts as one where VISIBLE_FRACTION of the body's drawn
    pixels lie inside and its box is as large as VISIBLE_SIDE asks for; the others are erased from the map of
    instances. The region is rounded to whole pixels.
    """
    rows, columns = snapshot.instances.shape
    left, right = round(region.x1 * columns), round(region.x2 * columns)
    top, bottom = round(region.y1 * rows), round(region.y2 * rows)
    inside = snapshot.instances[top:bottom, left:right].copy()
    tall, wide = inside.shape
    objects = []
    for thing in snapshot.objects:
        mask = inside == thing.object_id + 1
        before = np.count_nonzero(snapshot.instances == thing.object_id + 1)
        visible = thing.visible * np.count_nonzero(mask) / before
        x, y, across, down = cv2.boundingRect(mask.view(np.uint8))
        if visible < VISIBLE_FRACTION or across < VISIBLE_SIDE * wide or down < VISIBLE_SIDE * tall:
            inside[mask] = 0
            continue
        velocity = Velocity(thing.velocity.x * columns / wide, thing.velocity.y * rows / tall)
        objects.append(
            replace(
                thing,
                box=Box(x / wide, y / tall, (x + across) / wide, (y + down) / tall),
                velocity=velocity,
                visible=visible,
                helmet=thing.helmet if visible >= ATTRIBUTE_FRACTION else None,
            )
        )
    seen = _from_left(objects)
    image = np.ascontiguousarray(snapshot.frame.image[top:bottom, left:right])
    if (tall, wide) != (height, width):
        shrinks = cv2.INTER_AREA if height < tall else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (width, height), interpolation=shrinks), np.uint8)
        inside = np.asarray(cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    frame = replace(snapshot.frame, image=image)
    return Snapshot(frame, seen, describe([o.label for o in seen]), inside)
