# SPDX-License-Identifier: Apache-2.0
"""A simulated model that sees an object if it is large enough in picture pixels, and sequences for it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lfm_perception.demo.bodies import LABELS, Body, Difficulty, Stage, outline_of, random_body, random_stage
from lfm_perception.evaluation.foveation import FPS, ImageSequence
from lfm_perception.evaluation.tracking import TrackingSequence, TrueObject
from lfm_perception.geometry import WHOLE, Box, shares_inside, stack
from lfm_perception.planning.regions import to_region
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, CoordinateStd, Detection, Frame, Usage
from lfm_perception.stamps import from_seconds, to_seconds
from lfm_perception.vlm import Health

MIN_VISIBLE = 0.3
"""Share of an object, inside the image and not hidden by nearer ones, from which on it counts."""

DEEP = Difficulty(far=0.1, near=0.9)
"""A deep hall: at 1280x720 objects are 15 to 180 pixels large."""

CAST = (*LABELS, "person", "person", "person", "cone", "forklift")
"""Labels of the bodies of a sequence."""


def walking_sequence(seed: int, seconds: float, width: int = 1280, height: int = 720) -> ImageSequence:
    """People and forklifts that move among standing things, before a still camera, without pictures.

    The bodies are those of the demo world, most of them in the back half of the hall.
    """
    rng = random.Random(f"walking {seed}")
    stage = random_stage(rng, DEEP)
    bodies = [in_perspective(random_body(rng, label, moving=True), DEEP, rng) for label in CAST]
    frames = tuple(
        tuple(_objects([body.at(index / FPS) for body in bodies], stage, width, height))
        for index in range(round(seconds * FPS))
    )
    blank = np.broadcast_to(np.uint8(0), (height, width, 3))
    truth = TrackingSequence(f"walking {seed}", FPS, width, height, frames)
    return ImageSequence(truth, lambda index: Frame(blank, from_seconds(index / FPS)), still=True)


def in_perspective(body: Body, hall: Difficulty, rng: random.Random) -> Body:
    """The body somewhere in the hall, more often at its back, and as fast as it seems from there."""
    depth = 0.03 + 0.95 * rng.random() ** 2
    scale = hall.far + (hall.near - hall.far) * depth
    return replace(body, depth=depth, speed=scale * body.speed, sway=scale * body.sway)


def _objects(bodies: Sequence[Body], stage: Stage, width: int, height: int) -> Iterator[TrueObject]:
    """The visible bodies; nearer ones hide those behind."""
    frame = np.array([width, height, width, height], np.float64)
    nearer: list[Box] = []
    for row in sorted(range(len(bodies)), key=lambda row: -bodies[row].depth):
        outline = np.array(outline_of(bodies[row], stage, width, height)) / frame
        inside = float(shares_inside(outline[None], WHOLE.xyxy[None])[0, 0])
        box = Box(*outline.clip(0.0, 1.0).tolist())
        hidden = float(shares_inside(stack([box]), stack(nearer)).max(initial=0.0))
        nearer.append(box)
        if inside * (1.0 - hidden) >= MIN_VISIBLE:
            yield TrueObject(row, bodies[row].label, box)


class PixelLimitedVlm:
    """A simulated model that sees an object if it is large enough in the picture, wherever it looks.

    It is a model of nothing else: the chance of a detection depends on the size of the visible part in
    picture pixels alone, and so does the error of a side. The same object in the same frame has the same luck
    under every plan, so that plans are compared on equal terms.
    """

    SIZE, SLOPE, BEST = 14.0, 1.5, 0.95
    """Size in picture pixels at which the chance is half of the best one, its slope, and the best chance."""

    PIXEL_ERROR, RELATIVE_ERROR = 0.5, 0.03
    """Standard deviations of a side, which add up: in picture pixels, and in sizes of the box."""

    FALSE_POSITIVES, FLIPPED_LABELS = 0.15, 0.03
    """False boxes per picture, and share of wrong labels."""

    OBJECT_TOKENS = 25

    def __init__(self, sequence: TrackingSequence, seed: int) -> None:
        self._sequence, self._seed = sequence, seed

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`."""
        index = round(to_seconds(frame.stamp_ns) * self._sequence.fps)
        image, region = plan.image, plan.region or WHOLE
        rng = random.Random(f"{self._seed} {self._sequence.name} {index}")
        found = []
        for truth in self._sequence.frames[index]:
            luck, flip, other = rng.random(), rng.random(), rng.choice(LABELS)
            errors = np.array([rng.gauss(0.0, 1.0) for _ in range(4)])
            label = other if flip < self.FLIPPED_LABELS else truth.label
            for _, box in to_region(((label, truth.box),), region):
                size = math.sqrt(box.area * image.width * image.height)
                if luck < self.BEST / (1.0 + math.exp((self.SIZE - size) / self.SLOPE)):
                    found.append(self._detection(label, box, errors, image.width, image.height))
        if rng.random() < self.FALSE_POSITIVES:
            wide, tall = (rng.uniform(16.0, 60.0) / side for side in (image.width, image.height))
            x, y = rng.uniform(0.0, 1.0 - wide), rng.uniform(0.0, 1.0 - tall)
            found.append(Detection(rng.choice(LABELS), Box(x, y, x + wide, y + tall), 0.9))
        kept = found[: plan.answer_tokens // self.OBJECT_TOKENS]
        usage = Usage(image_tokens=image.tokens, answer_tokens=2 + self.OBJECT_TOKENS * len(kept))
        return Answer("[]", tuple(kept), truncated=len(kept) < len(found), usage=usage, calibrated=True)

    def _detection(
        self, label: str, box: Box, errors: NDArray[np.float64], width: int, height: int
    ) -> Detection:
        """A detection of the part `box`, with errors in standard deviations; none at the picture's edges."""
        pixels, sizes = np.array([width, height] * 2), np.array([box.width, box.height] * 2)
        std = np.hypot(self.PIXEL_ERROR / pixels, self.RELATIVE_ERROR * sizes)
        sides = np.where((box.xyxy <= 0.0) | (box.xyxy >= 1.0), box.xyxy, box.xyxy + errors * std)
        (x1, x2), (y1, y2) = sorted(sides[[0, 2]].clip(0.0, 1.0)), sorted(sides[[1, 3]].clip(0.0, 1.0))
        place = Box(*map(float, (x1, y1, x2, y2)))
        return Detection(label, place, 0.9, CoordinateStd(*std.tolist()))

    def cancel(self) -> None:
        """See `Vlm.cancel`."""

    def health(self) -> Health:
        """See `Vlm.health`."""
        return Health()

    def close(self) -> None:
        """See `Vlm.close`."""
