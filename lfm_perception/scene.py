"""The values that travel through the package. Frozen, and free of ROS, disk and model code.

Stamps are integer nanoseconds (as in `builtin_interfaces/Time`, without rounding); durations are
float seconds. Boxes are normalized (see `geometry`). Images are RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import Box

Image = NDArray[np.uint8]
"""RGB image, uint8, shape (height, width, 3)."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image with the header it came with."""

    image: Image
    stamp_ns: int
    frame_id: str = "camera"

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.shape[0])


@dataclass(frozen=True, slots=True)
class CoordinateStd:
    """Standard deviation of each side of a box, normalized like the box itself."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One object the model named. `score` is 0..1; `std` is None where the model gave no spread."""

    label: str
    box: Box
    score: float
    std: CoordinateStd | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer cost: tokens, seconds by stage, and calls of llama_decode for the answer.

    The first of these calls also reads the end of the question, and its seconds are in `prefill_s`.
    """

    image_tokens: int = 0
    text_tokens: int = 0
    answer_tokens: int = 0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_calls: int = 0

    @property
    def total_s(self) -> float:
        return self.encode_s + self.prefill_s + self.decode_s

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            image_tokens=self.image_tokens + other.image_tokens,
            text_tokens=self.text_tokens + other.text_tokens,
            answer_tokens=self.answer_tokens + other.answer_tokens,
            encode_s=self.encode_s + other.encode_s,
            prefill_s=self.prefill_s + other.prefill_s,
            decode_s=self.decode_s + other.decode_s,
            decode_calls=self.decode_calls + other.decode_calls,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one question about one frame.

    `text` is the answer as decoded, special tokens left out. `detections` is empty for captions and
    free questions. `truncated` says that the token limit ended the answer. `rejects` counts the
    objects that were dropped, by reason.
    """

    text: str
    detections: tuple[Detection, ...] = ()
    truncated: bool = False
    rejects: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    usage: Usage = Usage()


class Velocity(NamedTuple):
    """Speed of a box centre, normalized image sides per second.

    A tuple, because at camera rate a frozen dataclass would take twice as long to make.
    """

    x: float
    y: float

    def in_pixels(self, width: int, height: int) -> tuple[float, float]:
        """In pixels per second of a `width` x `height` image."""
        return self.x * width, self.y * height


ZERO_VELOCITY = Velocity(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Track:
    """An object followed over time, with its box at the stamp it was asked for.

    `age_s` counts from the first detection; `time_since_update_s` from the last one. `velocity_std` is the
    standard deviation of the velocity along each axis; the two do not depend on each other.
    """

    track_id: int
    label: str
    box: Box
    score: float
    velocity: Velocity
    age_s: float
    time_since_update_s: float
    velocity_std: Velocity = ZERO_VELOCITY


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything known about one inferred frame.

    `text` is the detection answer as it came. `caption` is the latest one and `caption_stamp_ns` the stamp
    of the frame it describes, both None before the first. `truncated`, `rejects` and `usage` are the
    detection's; `caption_usage` is None where no caption was asked for on this frame. `over_latency_budget`:
    not even the smallest picture and one object were expected to fit into `budget.latency`.
    """

    stamp_ns: int
    frame_id: str
    width: int
    height: int
    detections: tuple[Detection, ...]
    tracks: tuple[Track, ...]
    caption: str | None
    truncated: bool
    rejects: Mapping[str, int]
    usage: Usage
    caption_stamp_ns: int | None = None
    caption_usage: Usage | None = None
    text: str = ""
    over_latency_budget: bool = False
