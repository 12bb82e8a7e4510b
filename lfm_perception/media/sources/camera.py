# SPDX-License-Identifier: Apache-2.0
"""A camera of this computer as a source, by its index."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.media.sources.base import (
    Source,
    SourceKind,
    SourceOptions,
    default_every,
    measured_rate,
    register,
)
from lfm_perception.scene import Frame

FALLBACK_RATE = 30.0
"""Rate taken for cameras whose rate cannot be measured, frames per second."""

DEVICE = "/dev/video"
"""Begin of the path of a camera; the rest is its index."""

RATE_FRAMES = 8
"""Frames that the rate is measured by before the first one is read."""


@contextmanager
def _open(index: str, _: SourceOptions) -> Iterator[Source]:
    capture = cv2.VideoCapture(int(index.removeprefix(DEVICE)))
    try:
        if not capture.isOpened():
            raise PerceptionError(f"camera {index} cannot be opened: is it connected, and free?")
        stamps = [time.time_ns() for _ in range(RATE_FRAMES) if capture.grab()]
        rate = measured_rate(stamps, FALLBACK_RATE)
        frames = _frames(capture, index)
        yield Source(f"camera {index}", frames, rate, every=default_every(rate))
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, index: str) -> Iterator[Frame]:
    while True:
        ok, image = capture.read()
        if not ok:
            raise PerceptionError(f"camera {index} stopped delivering images")
        yield Frame(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), time.time_ns())


def _matches(text: str) -> bool:
    return re.fullmatch(rf"({DEVICE})?[0-9]{{1,4}}", text) is not None


register(SourceKind(3, "a camera (0 or /dev/video0)", _matches, _open))
