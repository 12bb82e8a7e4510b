"""Following objects over time: one interface, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lfm_perception.geometry import BoxArray
from lfm_perception.scene import Detection, Track
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking.ego_motion import Affine


class Tracker(Protocol):
    """Turns the detections of some frames into tracks at any later moment.

    Stamps are float seconds on any clock. An empty list of detections says that nothing was seen, and
    ages the tracks; a frame nobody looked at is simply not told. Track ids are positive and never
    given twice, not even after `reset`.
    """

    def update(self, detections: Sequence[Detection], stamp_s: float) -> Mapping[str, int]:
        """Take in what was seen in the frame captured at `stamp_s`; returns what was refused, by reason.

        An answer about a frame before the last one is refused whole. A stamp far back means that the clock
        was set back: everything is forgotten first. Nothing that a model may say or a clock may do raises.
        """
        ...

    def add_ego_motion(self, view: Affine, stamp_s: float) -> None:
        """The camera turned or drove between the frame before and that at `stamp_s`, seen or not."""
        ...

    def moving_boxes(self, stamp_s: float) -> BoxArray:
        """Boxes at that stamp of what moves by itself, `xyxy`, shape (N, 4)."""
        ...

    def predict(self, stamp_s: float) -> tuple[Track, ...]:
        """The published tracks at `stamp_s`, in the order of their ids. Changes nothing.

        A stamp before the last update gives the tracks as of that update.
        """
        ...

    def reset(self) -> None:
        """Forget every track, for a new scene or a clock that jumped."""
        ...

    def reconfigure(self, settings: TrackerSettings) -> None:
        """Go on with other settings; what is known stays."""
        ...
