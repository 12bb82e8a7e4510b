# SPDX-License-Identifier: Apache-2.0
"""Whether an adviser may be asked, and about which tracks it is. Pure: no clock, no thread, no image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lfm_perception.geometry import shares_inside, stack
from lfm_perception.planning.attribute_schedule import surroundings
from lfm_perception.scene import Track
from lfm_perception.settings import SecondOpinionSettings

ANY_CAMERA = "*"

MIN_SIDE = 24.0
"""Shortest side of a box that the policy asks about by itself, pixels."""

EDGE = 0.002
"""Distance to the edge of the image below which an object counts as cut off by it, normalized."""

MARGIN = 0.05
"""Margin of a crop on each side, in widths and heights of the box, because the box may be too small. With a
larger one, OCR reads text beside the object."""

MAX_SHARED = 0.02
"""Largest share of a crop that the box of an occluding object, or of one with the same label, may cover."""

MAX_REMEMBERED = 1000
"""Maximum number of questions whose time is remembered, so that none is repeated too soon."""


class Policy:
    """Consent, rate and repetition. Times are seconds of any clock that does not go back. Not thread-safe."""

    def __init__(self, settings: SecondOpinionSettings) -> None:
        self._asked_s: dict[tuple[int, str], float] = {}
        self._tokens, self._counted_s = 1.0, 0.0
        self.reconfigure(settings)

    def reconfigure(self, settings: SecondOpinionSettings) -> None:
        """Apply other settings from now on."""
        self._settings, self._limits = settings, settings.limits

    def consents(self, frame_id: str) -> bool:
        """Whether crops of this camera may be handed over."""
        cameras = self._settings.cameras
        return self._settings.allowed and (ANY_CAMERA in cameras or frame_id in cameras)

    def doubtful(self, tracks: Sequence[Track], width: int, height: int) -> Iterator[tuple[Track, str, str]]:
        """Tracks of a low confidence in a frame of `width` x `height` pixels, the lowest first.

        Yields each track that was detected in this frame, the reason to ask about it, and the obstacle, empty
        where its crop can show it: it is not small, neither the image's edge nor a nearer object, one that
        stands lower in the image, hides a part of it, and the crop shows no other object of its label, whose
        text or state might be taken for its own.
        """
        boxes, labels = stack(track.box for track in tracks), np.array([track.label for track in tracks])
        crops = stack(surroundings(track.box, MARGIN) for track in tracks)
        other = ~np.eye(len(boxes), dtype=bool)
        disturbs = other & ((boxes[None, :, 3] > boxes[:, None, 3]) | (labels[None] == labels[:, None]))
        shared = (shares_inside(crops, boxes) * disturbs).max(axis=1, initial=0.0)
        at_edge = (boxes[:, :2].min(axis=1) < EDGE) | (boxes[:, 2:].max(axis=1) > 1.0 - EDGE)
        small = ((boxes[:, 2:] - boxes[:, :2]) * (width, height)).min(axis=1) < MIN_SIDE
        for index in np.argsort([track.score for track in tracks]):
            track, limit = tracks[index], self._limits.get(tracks[index].label, 0.0)
            if (track.score < limit or limit == 1.0) and track.time_since_update_s == 0.0:
                obstacle = (
                    "the image's edge cuts them off" if at_edge[index]
                    else f"they are smaller than {MIN_SIDE:g} pixels" if small[index]
                    else "another object is in their crop" if shared[index] > MAX_SHARED
                    else ""
                )  # fmt: skip
                yield track, f"confidence {track.score:.2f}, asked below {limit:g}", obstacle

    def was_asked(self, track_id: int, question: str, now_s: float) -> bool:
        """Whether this was asked less than `repeat` ago."""
        asked_s = self._asked_s.get((track_id, question))
        return asked_s is not None and now_s - asked_s < self._settings.repeat

    def admit(self, track_id: int, question: str, now_s: float) -> bool:
        """Whether the rate allows a question now, which then counts as asked.

        After a pause, a tenth of the crops of a minute may come at once.
        """
        rate = self._settings.rate
        gained = max(now_s - self._counted_s, 0.0) * rate / 60.0
        self._tokens, self._counted_s = min(self._tokens + gained, max(rate / 10.0, 1.0)), now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        while len(self._asked_s) >= MAX_REMEMBERED:
            del self._asked_s[next(iter(self._asked_s))]
        self._asked_s[track_id, question] = now_s
        return True

    def withdraw(self, track_id: int, question: str) -> None:
        """Take back an admitted question that could not be asked."""
        self._tokens += 1.0
        self._asked_s.pop((track_id, question), None)
