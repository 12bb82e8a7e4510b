# SPDX-License-Identifier: Apache-2.0
"""The interface of a frame source, and the registry of all kinds of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bit_depth import AUTO
from lfm_perception.scene import Frame
from lfm_perception.stamps import MAX_GAP_S, NANOSECONDS, StampFilter

INFERENCE_RATE = 5.0
"""Default rate of inferences, frames per second of the source; tracks fill the frames in between."""

RATE_FRAMES = 30
"""First frames of a source whose stamps its rate is measured by."""

MIN_RATE, MAX_RATE = 0.01, 1000.0
"""Range of rates, frames per second."""

MAX_DAMAGED_RUN, MAX_DAMAGED_SHARE = 100, 0.1
"""Damaged frames in a row, and share of all frames, above which a source is given up."""

DAMAGED = "damaged"


class Rejects(Counter[str]):
    """The frames of a source that are passed over, counted by reason."""

    def __init__(self) -> None:
        super().__init__()
        self._frames = self._run = 0
        self._first = ""

    def good(self) -> None:
        """Count a frame that was read."""
        self._frames += 1
        self._run = 0

    def damaged(self, sentence: str) -> None:
        """Pass over a damaged frame. Raises PerceptionError when there are too many."""
        self._first = self._first or sentence
        self._frames += 1
        self._run += 1
        self[DAMAGED] += 1
        if self._run > MAX_DAMAGED_RUN or self[DAMAGED] > MAX_DAMAGED_RUN:
            self.check(in_a_row=self._run > MAX_DAMAGED_RUN)

    @contextmanager
    def passing_over(self) -> Iterator[None]:
        """Pass over the frame that cannot be read in this block."""
        try:
            yield
        except PerceptionError as error:
            self.damaged(str(error))

    def check(self, *, in_a_row: bool = False) -> None:
        """Raise PerceptionError when too many frames are damaged."""
        if in_a_row or self[DAMAGED] > MAX_DAMAGED_SHARE * self._frames:
            more = f" ({self[DAMAGED]} of {self._frames} frames are damaged)" if self._frames > 1 else ""
            raise PerceptionError(self._first + more)


@dataclass(frozen=True, slots=True)
class Source:
    """An open source; its frames are read once, in order.

    `name` is used in messages; `rate` is in frames per second, by the stamps of the first frames, and
    `declared_rate` what a file says where it says something else. `count` is the number of frames, None when
    unknown; by default every `every`-th frame is inferred. `headers`: the stamps come from message headers.
    `rejects` are the frames that were passed over so far. `pictures`: the frames are independent.
    """

    name: str
    frames: Iterator[Frame]
    rate: float
    count: int | None = None
    every: int = 1
    declared_rate: float | None = None
    headers: bool = False
    rejects: Rejects = field(default_factory=Rejects)
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read a source.

    `topic`: image topic of a bag. `rate`: images per second of a folder. `seed`: of the demo world.
    `bit_depth`: the parameter `image.bit_depth`. `rejects` takes damaged frames. `is_sequence`:
    images are the frames of one video.
    """

    topic: str | None = None
    rate: float | None = None
    seed: int = 0
    bit_depth: str = AUTO
    rejects: Rejects = field(default_factory=Rejects)
    is_sequence: bool = False


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source.

    `matches` decides whether this kind reads the text that the user gave; kinds are asked in the order of
    `position`. `accepts` names the options that apply. `open` raises PerceptionError for a source that
    cannot be read, and so does the iterator of frames at the frame where the source breaks.
    """

    position: int
    description: str
    matches: Callable[[str], bool]
    open: Callable[[str, SourceOptions], AbstractContextManager[Source]]
    accepts: frozenset[str] = frozenset()


KINDS: list[SourceKind] = []


def register(kind: SourceKind) -> None:
    """Make a kind of source available to `open_source`."""
    KINDS.append(kind)
    KINDS.sort(key=lambda each: each.position)


def accepted(source: Source, rejects: Rejects) -> Iterator[Frame]:
    """The frames whose stamps `StampFilter` accepts; the others are counted. An older one starts over.

    Raises PerceptionError at the end when too many frames were damaged.
    """
    stamps = StampFilter(headers=source.headers, max_gap_s=MAX_GAP_S if source.headers else math.inf)
    for frame in source.frames:
        rejects.good()
        rejection, _ = stamps.check(frame.stamp_ns)
        if rejection is None:
            yield frame
        else:
            rejects[rejection.reason] += 1
    rejects.check()


def default_every(rate: float) -> int:
    """The frame interval that brings a source of this rate to about `INFERENCE_RATE`."""
    return max(1, round(rate / INFERENCE_RATE))


def measured_rate(stamps_ns: Iterable[int], otherwise: float) -> float:
    """Frames per second by the median of the intervals between stamps; `otherwise` where there are none."""
    intervals = [later - earlier for earlier, later in pairwise(sorted(stamps_ns)) if later > earlier]
    rate = NANOSECONDS / median(intervals) if intervals else otherwise
    return min(max(rate, MIN_RATE), MAX_RATE)
