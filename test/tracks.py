# SPDX-License-Identifier: Apache-2.0
"""A tracker and detections for it: what the tests of the tracker share."""

from __future__ import annotations

from typing import Any

from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import Tracker, open_tracker

STEP_S = 0.2


def seen(x: float, y: float = 0.5, size: float = 0.1, label: str = "box", score: float = 0.9) -> Detection:
    """A square detection around (x, y), cut at the image's edge."""
    sides = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
    return Detection(label, Box(*(min(max(side, 0.0), 1.0) for side in sides)), score)


def following(**values: Any) -> Tracker:
    return open_tracker(TrackerSettings(**values))
