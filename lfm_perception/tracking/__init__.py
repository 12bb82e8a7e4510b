"""Following objects over time: one interface, whatever stands behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lfm_perception.scene import Detection, Track
from lfm_perception.settings import TrackerSettings


class Tracker(Protocol):
    """Turns the detections of some frames into tracks at any later moment.

    Stamps are float seconds on any clock. An empty list of detections says that nothing was seen, and
    ages the tracks; a frame nobody looked at is simply not told. Track ids are positive and never
    given twice, not even after `reset`.
    """

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        """Take in what was seen in the frame captured at `stamp_s`.

        Raises ValueError when `stamp_s` is before that of the last update: `reset` first.
        """
        ...

    def predict(self, stamp_s: float) -> tuple[Track, ...]:
        """The published tracks at `stamp_s`, by id. Changes nothing.

        A stamp before the last update gives the tracks as of that update.
        """
        ...

    def reset(self) -> None:
        """Forget every track, for a new scene or a clock that jumped."""
        ...

    def change(self, settings: TrackerSettings) -> None:
        """Go on with other settings; what is known stays."""
        ...
