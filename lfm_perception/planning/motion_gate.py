"""Whether a frame is worth the model: has the scene changed, and has the machine had its rest."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.scene import Frame, Image
from lfm_perception.settings import InferenceSettings

Glance = NDArray[np.float32]
"""A frame at a glance: grey levels 0 to 1, shape (ROWS, COLUMNS)."""

COLUMNS, ROWS = 64, 48
"""Fine enough that a thing the model could find fills some of the cells."""

CELLS = 4
"""Cells that must have changed: fewer are noise."""


def downsample(image: Image) -> Glance:
    """What the gate remembers of an image."""
    small = cv2.resize(image, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0


def frame_difference(first: Glance, second: Glance) -> float:
    """How much the cells have changed that changed most, 0 to 1; light that changes all alike does not count.

    The least change among the `CELLS` cells with the largest.
    """
    change = first - second
    change -= np.median(change)
    return float(np.partition(np.abs(change), -CELLS, axis=None)[-CELLS])


class MotionGate:
    """Remembers the frame that the model looked at last.

    Frames are compared with that one, not with the one before, so that slow changes add up.
    """

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self.reset()

    def reconfigure(self, settings: InferenceSettings) -> None:
        self._settings = settings

    def reset(self) -> None:
        """Let the next frame pass."""
        self._seen: Glance | None = None
        self._seen_ns: int | None = None
        self._rest_until_s = 0.0

    def should_infer(self, frame: Frame, now_s: float) -> bool:
        """Whether to infer a frame now; `now_s` is on the clock of `record_inference`. Changes nothing."""
        if now_s < self._rest_until_s:
            return False
        if self._seen is None or self._seen_ns is None or not self._settings.motion_threshold:
            return True
        if frame.stamp_ns - self._seen_ns >= self._settings.max_interval * 1e9:
            return True
        return frame_difference(downsample(frame.image), self._seen) >= self._settings.motion_threshold

    def record_inference(self, frame: Frame, began_s: float, ended_s: float) -> None:
        """The model looked at a frame, in that time."""
        self._seen = downsample(frame.image) if self._settings.motion_threshold else None
        self._seen_ns = frame.stamp_ns
        self._rest_until_s = ended_s + (ended_s - began_s) * (1.0 / self._settings.duty_cycle - 1.0)
