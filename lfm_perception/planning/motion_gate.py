# SPDX-License-Identifier: Apache-2.0
"""Motion gate and duty cycle: whether to infer a frame at all."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.scene import Frame, Image
from lfm_perception.settings import InferenceSettings
from lfm_perception.stamps import to_seconds

GrayImage = NDArray[np.float32]
"""A downsampled frame: gray levels 0 to 1, shape (ROWS, COLUMNS)."""

COLUMNS, ROWS = 64, 48
"""Fine enough that any object the model could detect fills some of the cells."""

MIN_CHANGED_CELLS = 4
"""Cells that must have changed; fewer are sensor noise."""


def downsample(image: Image) -> GrayImage:
    """The frame in the form in which the gate compares frames."""
    small = cv2.resize(image, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0


def frame_difference(first: GrayImage, second: GrayImage) -> float:
    """Largest gray-level change that at least `MIN_CHANGED_CELLS` cells exceed or reach, 0 to 1.

    The median change is subtracted first, so that a change of the light everywhere does not count.
    """
    change = first - second
    change -= np.median(change)
    return float(np.partition(np.abs(change), -MIN_CHANGED_CELLS, axis=None)[-MIN_CHANGED_CELLS])


class MotionGate:
    """Compares frames with the last inferred one (not with the previous one, so that slow changes add up)."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self.reset()

    def reconfigure(self, settings: InferenceSettings) -> None:
        self._settings = settings

    def reset(self) -> None:
        """Lets the next frame pass."""
        self._inferred: GrayImage | None = None
        self._inferred_ns = 0
        self._idle_until_s = 0.0

    def should_infer(self, frame: Frame, now_s: float) -> bool:
        """Whether to infer a frame at `now_s`, on the clock of `record_inference`. Changes nothing."""
        if now_s < self._idle_until_s:
            return False
        if self._inferred is None or not self._settings.motion_threshold:
            return True
        if to_seconds(frame.stamp_ns - self._inferred_ns) >= self._settings.max_interval:
            return True
        return frame_difference(downsample(frame.image), self._inferred) >= self._settings.motion_threshold

    def record_inference(self, frame: Frame, began_s: float, ended_s: float) -> None:
        """A frame was inferred from `began_s` to `ended_s`; the duty cycle sets how long to idle now."""
        self._inferred = downsample(frame.image) if self._settings.motion_threshold else None
        self._inferred_ns = frame.stamp_ns
        self._idle_until_s = ended_s + (ended_s - began_s) * (1.0 / self._settings.duty_cycle - 1.0)
