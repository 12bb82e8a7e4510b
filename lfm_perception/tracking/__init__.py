# SPDX-License-Identifier: Apache-2.0
"""Multi-object tracking: the interface `Tracker`, and the registry of its implementations.

A tracker is one file `*_tracker.py` in this package with a class under `register_tracker`; the setting
`tracker.algorithm` chooses it by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import BoxArray
from lfm_perception.scene import Detection, Track, View
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking.ego_motion_history import Affine


@dataclass(frozen=True, slots=True)
class Pending:
    """What a closer look would settle, `xyxy`, shape (N, 4) each.

    `tentative`: boxes of tracks that are not confirmed; `fragments`: parts of objects without a track, which
    the edge of a region cut off.
    """

    tentative: BoxArray
    fragments: BoxArray


class Tracker(Protocol):
    """Turns the detections of some frames into tracks at any later moment.

    Stamps are float seconds on any clock. An empty list of detections says that the frame shows nothing, and
    ages the tracks; frames without inference are left out. Track ids are positive and never reused, not even
    after `reset`. Not for several threads at once.
    """

    def update(
        self, detections: Sequence[Detection], stamp_s: float, view: View | None = None
    ) -> Mapping[str, int]:
        """Update the tracks with the detections of one frame. Never raises for what a model or a clock says.

        Detections are those in the view; None: the whole frame, finely enough for every object. A track
        counts as missed only where the view could show its object. A box that the region's edge cuts off
        starts no track.

        A frame older than the last one is rejected whole. A stamp far in the past means that the clock was
        set back, and resets the tracker first.

        Returns the number of rejected frames or detections by reason.
        """
        ...

    def pending(self, stamp_s: float) -> Pending:
        """What a closer look at the frame of that stamp would settle."""
        ...

    def add_ego_motion(self, motion: Affine, stamp_s: float) -> None:
        """Add the camera's motion from the previous camera frame to that at `stamp_s`, inferred or not."""
        ...

    def moving_boxes(self, stamp_s: float) -> BoxArray:
        """Boxes at that stamp of the objects that move by themselves, `xyxy`, shape (N, 4)."""
        ...

    def predict(self, stamp_s: float) -> tuple[Track, ...]:
        """The published tracks at `stamp_s`, in the order of their ids, without changing the tracker.

        A stamp before the last update gives the tracks as of that update.
        """
        ...

    def reset(self) -> None:
        """Remove all tracks."""
        ...

    def reconfigure(self, settings: TrackerSettings) -> None:
        """Continue with other settings and the same tracks."""
        ...


TrackerFactory = Callable[[TrackerSettings], Tracker]
F = TypeVar("F", bound=TrackerFactory)

_factories: dict[str, TrackerFactory] = {}


def register_tracker(name: str) -> Callable[[F], F]:
    """Decorator of a tracker's class, which makes it available as `tracker.algorithm: name`."""

    def register(factory: F) -> F:
        _factories[name] = factory
        return factory

    return register


def open_tracker(settings: TrackerSettings) -> Tracker:
    """The tracker that `settings.algorithm` names; raises PerceptionError where there is none."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        if module.name.endswith("_tracker"):
            importlib.import_module(module.name)
    if settings.algorithm not in _factories:
        raise PerceptionError(
            f"tracker.algorithm is {settings.algorithm!r}: choose one of {', '.join(sorted(_factories))}"
        )
    return _factories[settings.algorithm](settings)
