"""The interface of a frame source, and the registry of all kinds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lfm_perception.scene import Frame

INFERENCE_RATE = 5.0
"""Default rate of inferences, frames per second of the source; tracks fill the frames in between."""


@dataclass(frozen=True, slots=True)
class Source:
    """An open source; its frames are read once, in order.

    `name` is used in messages; `rate` is in frames per second; `count` is the number of frames, None when
    unknown; by default every `every`-th frame is inferred.
    """

    name: str
    frames: Iterator[Frame]
    rate: float
    count: int | None = None
    every: int = 1


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """`topic`: image topic of a bag. `rate`: images per second of a folder. `seed`: of the demo world."""

    topic: str | None = None
    rate: float | None = None
    seed: int = 0


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


def default_every(rate: float) -> int:
    """The frame interval that brings a source of this rate to about `INFERENCE_RATE`."""
    return max(1, round(rate / INFERENCE_RATE))
