# SPDX-License-Identifier: Apache-2.0
"""The quantities that are watched for drift, and their measurement on an inferred frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np

from lfm_perception.downscaling import downscale_to_width
from lfm_perception.scene import Frame, Image, Scene
from lfm_perception.stamps import to_seconds
from lfm_perception.tracking.ego_motion import EgoMotionEstimator

Samples = Mapping[str, Sequence[float] | Sequence[str]]
"""What one frame adds to each quantity, by its name; quantities that it does not show are left out."""

WIDTH = 320
"""Width in pixels of the image that is measured."""

MAX_STEP_S = 5.0
"""Maximum time between two frames whose motion is measured, in seconds: later ones have little in common."""

CENTRE = np.array([0.5, 0.5, 1.0])
"""The centre of an image in homogeneous coordinates, image sides."""

MIN_VARIANCE = 1e-6
"""Variance of an image, of grey levels 0 to 1, below which it shows nothing to measure."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity: its kind (`number`, `count` or `name`), what it is, and what to do when it has drifted."""

    kind: str
    description: str
    remedy: str


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        "scores": Quantity("number", "score of a detection", "look for false and missed objects"),
        "labels": Quantity("name", "label of a detection", "compare with what is really there"),
        "detections": Quantity("count", "detections in a frame", "compare with what is really there"),
        "rejected objects": Quantity(
            "count", "objects in an answer that were rejected", "see their reasons in the model's status"
        ),
        "truncated answers": Quantity(
            "count", "1 for an answer that its limit ended", "raise detect.max_tokens or budget.latency"
        ),
        "brightness": Quantity("number", "mean grey level, 0 to 1", "check light, exposure and lens"),
        "sharpness": Quantity(
            "number", "variance of the Laplacian over that of the image", "clean the lens, check its focus"
        ),
        "motion": Quantity(
            "number", "speed of the camera, image widths per second", "check the camera's mounting"
        ),
    }
)
"""All quantities, in the order in which they are shown."""


class Meter:
    """Measures the quantities of consecutive inferred frames. Owned by one thread."""

    def __init__(self) -> None:
        self._ego_motion = EgoMotionEstimator()
        self._before_s: float | None = None

    def measure(self, scene: Scene, frame: Frame | None) -> Samples:
        """The samples of an inferred frame; without `frame`, those of its scene only.

        Brightness is the mean grey level. Sharpness is the variance of the Laplacian (Pech-Pacheco et al.,
        Diatom autofocusing in brightfield microscopy, ICPR 2000), divided by the variance of the image, so
        that darkness is no blur. Motion is the camera's since the frame before, from sparse optical flow,
        over the time between the two; 0 where too few points agree.
        """
        found: dict[str, Sequence[float] | Sequence[str]] = {
            "scores": [detection.score for detection in scene.detections],
            "labels": [detection.label for detection in scene.detections],
            "detections": [float(len(scene.detections))],
            "rejected objects": [float(sum(scene.rejects.values()))],
            "truncated answers": [float(scene.truncated)],
        }
        if frame is not None:
            small = downscale_to_width(frame.image, WIDTH)
            grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255.0)
            variance = float(grey.var())
            found["brightness"] = [float(grey.mean())]
            if variance > MIN_VARIANCE:
                found["sharpness"] = [float(cv2.Laplacian(grey, cv2.CV_32F).var()) / variance]
            speed = self._speed(frame, small)
            if speed is not None:
                found["motion"] = [speed]
        return found

    def _speed(self, frame: Frame, small: Image) -> float | None:
        """Image widths per second since the frame before, None where that is too long ago."""
        motion = self._ego_motion.measure(small, np.zeros((0, 4)))
        before_s, self._before_s = self._before_s, to_seconds(frame.stamp_ns)
        if before_s is None or not 0.0 < self._before_s - before_s <= MAX_STEP_S:
            return None
        x, y = (motion @ CENTRE - CENTRE)[:2]
        return math.hypot(x, y * frame.height / frame.width) / (self._before_s - before_s)
