# SPDX-License-Identifier: Apache-2.0
"""Which attribute of which track is asked next, and the values known so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lfm_perception.attributes import Attribute
from lfm_perception.geometry import Box
from lfm_perception.planning.motion_gate import GrayImage, downsample, frame_difference
from lfm_perception.planning.regions import crop
from lfm_perception.scene import AttributeValue, Frame, Track
from lfm_perception.stamps import to_seconds

MARGIN = 0.25
"""Margin of the crop of a track on each side, in widths and heights of its box."""

MIN_SIDE = 16
"""Minimum width and height of a box that is asked about, pixels."""

CHANGED = 0.35
"""Difference of two crops (see `frame_difference`) from which on an attribute is asked again."""

KEPT_S = 60.0
"""Time for which the values of an undetected track are kept."""


@dataclass(slots=True)
class _Known:
    """What is known of one track."""

    seen_s: float = 0.0
    values: dict[str, AttributeValue] = field(default_factory=dict)
    asked: dict[str, tuple[float, GrayImage]] = field(default_factory=dict)
    """Stamp and look of the crop when each attribute was asked last."""


class AttributeSchedule:
    """The attributes of all tracks. Times are seconds of the frames' stamps."""

    def __init__(self) -> None:
        self._attributes: tuple[Attribute, ...] = ()
        self._tracks: dict[int, _Known] = {}

    def reconfigure(self, attributes: Sequence[Attribute]) -> None:
        """Applies other attributes; values of those that are gone are forgotten."""
        if tuple(attributes) != self._attributes:
            self._attributes = tuple(attributes)
            self._tracks.clear()

    def reset(self) -> None:
        """Forgets all values."""
        self._tracks.clear()

    def due(self, frame: Frame, tracks: Sequence[Track]) -> Iterator[tuple[Track, Attribute, Box]]:
        """Tracks that were detected in the frame, with an attribute to ask and the region of the crop.

        Those that were never asked come first, then the one asked longest ago; each once.
        """
        if not self._attributes:
            return
        stamp_s = to_seconds(frame.stamp_ns)
        self._tracks = {key: known for key, known in self._tracks.items() if stamp_s - known.seen_s < KEPT_S}
        waiting = []
        for track in tracks:
            known = self._tracks.setdefault(track.track_id, _Known())
            known.seen_s = stamp_s
            if is_small(track.box, frame) or track.time_since_update_s > 0.0:
                continue
            for attribute in self._attributes:
                if attribute.applies_to(track.label):
                    asked_s, _ = known.asked.get(attribute.name, (float("-inf"), None))
                    waiting.append((asked_s, track.track_id, track, attribute))
        for asked_s, _, track, attribute in sorted(waiting, key=lambda entry: entry[:2]):
            region = surroundings(track.box)
            if stamp_s - asked_s >= attribute.period_s or self._changed(frame, track, attribute, region):
                yield track, attribute, region

    def _changed(self, frame: Frame, track: Track, attribute: Attribute, region: Box) -> bool:
        _, before = self._tracks[track.track_id].asked[attribute.name]
        return frame_difference(downsample(crop(frame, region).image), before) >= CHANGED

    def record(
        self, frame: Frame, track: Track, attribute: Attribute, region: Box, value: AttributeValue | None
    ) -> None:
        """The attribute was asked about a region of the frame; None: without an answer."""
        known = self._tracks[track.track_id]
        look = downsample(crop(frame, region).image)
        known.asked[attribute.name] = to_seconds(frame.stamp_ns), look
        if value is not None:
            known.values[attribute.name] = value

    def values(self, tracks: Sequence[Track]) -> Mapping[int, Mapping[str, AttributeValue]]:
        """The known values of these tracks by track id and attribute."""
        return {
            track.track_id: dict(known.values)
            for track in tracks
            if (known := self._tracks.get(track.track_id)) and known.values
        }


def is_small(box: Box, frame: Frame) -> bool:
    """Whether a box has a side below `MIN_SIDE`."""
    return min(box.width * frame.width, box.height * frame.height) < MIN_SIDE


def surroundings(box: Box, margin: float = MARGIN) -> Box:
    """A box with a margin on each side, in its widths and heights, within the frame."""
    wide, tall = margin * box.width, margin * box.height
    return Box(
        max(box.x1 - wide, 0.0), max(box.y1 - tall, 0.0), min(box.x2 + wide, 1.0), min(box.y2 + tall, 1.0)
    )
