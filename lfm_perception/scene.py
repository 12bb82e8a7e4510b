# SPDX-License-Identifier: Apache-2.0
"""The values that travel through the package: frozen, without ROS, files or model code.

Text is safe to encode and print, and bounded, from the moment a value is made (see `text`).
Stamps are integer nanoseconds (as in `builtin_interfaces/Time`, without rounding); durations are
float seconds. Boxes are normalized (see `geometry`). Images are RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box, BoxArray, areas
from lfm_perception.text import safe_line, safe_text

Image = NDArray[np.uint8]
"""RGB image, uint8, shape (height, width, 3)."""

MAX_PIXELS = 64_000_000
"""Maximum pixels of an image, whatever way it comes in: twice 8K video (33 million), and at most 0.6 GB while
it is decoded. Headers of a few bytes can announce any size."""

MAX_SIDE = 65_535
"""Maximum width and height of an image, pixels: that of JPEG."""


def check_size(width: int, height: int, name: str) -> None:
    """Raise PerceptionError when an image of this size, called `name`, must not be decoded."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise PerceptionError(f"{name} cannot be an image of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise PerceptionError(
            f"{name} has {width} x {height} pixels, over the limit of {MAX_PIXELS:,}: send a smaller image"
        )


def check_image(image: NDArray[Any], name: str) -> None:
    """Raise PerceptionError for an array that is no RGB image of an allowed size."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise PerceptionError(
            f"{name} must be a uint8 RGB image of shape (height, width, 3), got {image.dtype} {image.shape}: "
            f"convert it first"
        )
    check_size(image.shape[1], image.shape[0], name)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image with the header it came with; `file` is the name of an image file."""

    image: Image
    stamp_ns: int
    frame_id: str = "camera"
    file: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame_id", safe_line(self.frame_id))

    @property
    def width(self) -> int:
        """Image width, pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Image height, pixels."""
        return int(self.image.shape[0])


class CoordinateStd(NamedTuple):
    """Standard deviation of each side of a box, normalized like the box itself."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One detected object. `score` is 0..1; `std` is None where the model gave no probabilities.

    `label` is the one that was asked for; `phrase` are the model's own words where they are others.
    """

    label: str
    box: Box
    score: float
    std: CoordinateStd | None = None
    phrase: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", safe_line(self.label))
        object.__setattr__(self, "phrase", safe_line(self.phrase))


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of one answer: tokens, seconds by stage, and calls of llama_decode for the answer.

    The first of these calls also evaluates the end of the question; its seconds count as `prefill_s`.
    `drafted_decisions` are the decisions of the answer for which there was a draft token, of which
    `accepted_decisions` were right.
    """

    image_tokens: int = 0
    text_tokens: int = 0
    answer_tokens: int = 0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_calls: int = 0
    drafted_decisions: int = 0
    accepted_decisions: int = 0

    @property
    def total_s(self) -> float:
        return self.encode_s + self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's answer to one question about one frame.

    `text` is the decoded answer without special tokens. `detections` is empty for captions and free
    questions. `truncated`: the token or time limit ended the answer. `rejects` counts dropped objects by
    reason. `calibrated`: the scores are no raw ones, and are published as they are. `probabilities` are those
    of the question's options, in their order; empty for other questions and truncated answers.
    """

    text: str
    detections: tuple[Detection, ...] = ()
    truncated: bool = False
    rejects: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    usage: Usage = Usage()
    calibrated: bool = False
    probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", safe_text(self.text))
        rejects = {safe_line(reason): count for reason, count in self.rejects.items()}
        if rejects != self.rejects:
            object.__setattr__(self, "rejects", MappingProxyType(rejects))


@dataclass(frozen=True, slots=True)
class View:
    """What one inference saw: a region of the frame, at a resolution, chosen for a `reason`.

    `width` and `height` are the pixels that the whole frame would have at the resolution of the picture that
    the model saw, so that a box is `box.width * view.width` picture pixels wide. `min_size`: size of the
    smallest objects that the model sees, in picture pixels.
    """

    region: Box
    width: float
    height: float
    min_size: float
    reason: str = ""

    def __str__(self) -> str:
        region = self.region
        return f"{self.reason}: x {region.x1:.2f} to {region.x2:.2f}, y {region.y1:.2f} to {region.y2:.2f}"

    def sizes(self, boxes: BoxArray) -> NDArray[np.float64]:
        """Sizes of N boxes, the square roots of their areas, in picture pixels, shape (N,)."""
        area = areas(boxes) * self.width * self.height
        return np.asarray(np.sqrt(area))


class Velocity(NamedTuple):
    """Velocity of a box centre, image sides per second. A tuple: a frozen dataclass takes twice as long."""

    x: float
    y: float

    def in_pixels(self, width: int, height: int) -> tuple[float, float]:
        """The velocity in pixels per second of a `width` x `height` image."""
        return self.x * width, self.y * height


ZERO_VELOCITY = Velocity(0.0, 0.0)
ZERO_STD = CoordinateStd(0.0, 0.0, 0.0, 0.0)


MAX_DISTANCE_M = 65.0
"""Distance from which on one is unknown, metres: 65.535 is what saturated depth images of 16 bits hold, and
depth cameras see less far."""


class Track(NamedTuple):
    """A tracked object, with its box at the requested stamp. A tuple, like `Velocity`.

    `age_s` counts from the first detection, `time_since_update_s` from the last one. `velocity_std` is the
    standard deviation of the velocity along each axis; the two are uncorrelated. `camera_velocity` is the
    part of the velocity that the camera's motion causes, as far as it is compensated. `box_std` is the
    standard deviation of the box's sides, as the filter predicts it. `distance` is that from the camera along
    its optical axis, metres, None where it is not known (see `depth`).
    """

    track_id: int
    label: str
    box: Box
    score: float
    velocity: Velocity
    age_s: float
    time_since_update_s: float
    velocity_std: Velocity = ZERO_VELOCITY
    camera_velocity: Velocity = ZERO_VELOCITY
    box_std: CoordinateStd = ZERO_STD
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A zone (`closed`) or a line of the rules as it is drawn: normalized points, and a text beside it.

    `active`: an event about it is active.
    """

    points: tuple[tuple[float, float], ...]
    closed: bool
    text: str
    active: bool


@dataclass(frozen=True, slots=True)
class RuleDrawing:
    """What the rules add to an annotated image: zones and lines, and the events of the moment in words.

    The newest events come first; `more` is the number of those that are not listed.
    """

    shapes: tuple[Shape, ...] = ()
    events: tuple[str, ...] = ()
    more: int = 0


NO_DRAWING = RuleDrawing()
"""That of a perception without rules."""


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """The value of an attribute of a track, its probability, and the stamp of the frame that showed it."""

    value: str
    probability: float
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class AlertStatus:
    """The latest answer to a standing question, about the frame of `stamp_ns`.

    `probabilities` are those of all answers, the likeliest first; `probability` is that of the answer which
    the alert watches for. `track_id` is the track that the answer is about, None for the frame; of several,
    the one with the highest probability, which is 0 while no track is there.
    """

    name: str
    probabilities: Mapping[str, float]
    probability: float
    active: bool
    stamp_ns: int
    track_id: int | None = None

    @property
    def value(self) -> str:
        """The likeliest answer."""
        return next(iter(self.probabilities))


@dataclass(frozen=True, slots=True)
class Opinion:
    """An adviser's answer to a question about a track, of which it saw a crop of the frame of `stamp_ns`.

    `source` names the adviser; `confidence` is its own, None where it gives none; `latency_s` is the time
    from question to answer. It changes nothing else: label and score of the track stay those of the model.
    """

    track_id: int
    question: str
    answer: str
    source: str
    stamp_ns: int
    confidence: float | None = None
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("question", "answer", "source"):
            object.__setattr__(self, name, safe_text(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Scene:
    """The results for one inferred frame.

    `text` is the raw detection answer. `caption` is the latest one and `caption_stamp_ns` the stamp of its
    frame, both None before the first. `truncated`, `rejects` and `usage` are the detection's; `caption_usage`
    is None on a frame without a caption. `over_latency_budget`: not even the smallest image and one object
    were expected to fit into `budget.latency`. `file` is the name of an image file. `view` is what the model
    saw of the frame, None without `fovea.mode`. `alerts` are the latest answers to the standing questions;
    those whose `stamp_ns` is the scene's were given about this frame. `attributes` are those of the tracks,
    by track id and name; `opinions` the latest second opinion about each track.
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
    file: str = ""
    view: View | None = None
    alerts: tuple[AlertStatus, ...] = ()
    attributes: Mapping[int, Mapping[str, AttributeValue]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    opinions: tuple[Opinion, ...] = ()
