# SPDX-License-Identifier: Apache-2.0
"""What is asked of an adviser and what comes of it, as values and as JSON (`opinion.schema.json`)."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import cv2

from lfm_perception.downscaling import downscale_to_side
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.planning.attribute_schedule import surroundings
from lfm_perception.planning.regions import crop
from lfm_perception.scene import Frame, Image, Opinion
from lfm_perception.second_opinion.policy import MARGIN
from lfm_perception.stamps import split_stamp

SCHEMA = Path(__file__).parent / "opinion.schema.json"
VERSION = 1

QUALITIES = (90, 75, 60, 40)
"""JPEG qualities that are tried until a crop is small enough."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A question about a track, with the crop that the adviser sees, RGB.

    `reason` says why it is asked. `jpeg` is what is handed over, empty until then.
    """

    request_id: str
    track_id: int
    label: str
    box: Box
    stamp_ns: int
    frame_id: str
    question: str
    reason: str
    image: Image
    asked_s: float
    jpeg: bytes = b""

    def __str__(self) -> str:
        height, width = self.image.shape[:2]
        return (
            f"{self.label} #{self.track_id} of {self.frame_id}, {width} x {height} px, {len(self.jpeg)} bytes"
        )


class AdviserError(PerceptionError):
    """An adviser gave no answer that can be used; `kind` is what failures are counted under."""

    def __init__(self, kind: str, sentence: object) -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Reply:
    """What an adviser said: the answer in words with its own confidence, if it has one, or the failure."""

    request: Request
    answer: str = ""
    confidence: float | None = None
    error: AdviserError | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A crop that was handed over, and the opinion about it, or the problem why there is none."""

    request: Request
    source: str
    opinion: Opinion | None
    problem: str = ""


def cropped(frame: Frame, box: Box, max_side: int) -> Image:
    """The surroundings of a box, copied, at most `max_side` pixels wide and high; at least one pixel."""
    image = crop(frame, surroundings(box, MARGIN)).image
    if image.size == 0:
        x, y = int(box.x1 * (frame.width - 1)), int(box.y1 * (frame.height - 1))
        image = frame.image[y : y + 1, x : x + 1]
    small = downscale_to_side(image, max_side)
    return image.copy() if small is image else small


def encoded(image: Image, max_bytes: int) -> bytes:
    """The image as JPEG, in the best of `QUALITIES` that has at most `max_bytes`.

    Raises:
        AdviserError: it is larger in all of them.
    """
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    for quality in QUALITIES:
        jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
        if len(jpeg) <= max_bytes:
            return jpeg
    raise AdviserError(
        "too large",
        f"a crop has {len(jpeg)} bytes, over second_opinion.max_bytes {max_bytes}: raise it",
    )


def request_to_json(request: Request) -> dict[str, Any]:
    """The part of the schema that is known when a question is asked."""
    sec, nanosec = split_stamp(request.stamp_ns)
    height, width = request.image.shape[:2]
    return {
        "version": VERSION,
        "request_id": request.request_id,
        "stamp": {"sec": sec, "nanosec": nanosec},
        "frame_id": request.frame_id,
        "track_id": request.track_id,
        "label": request.label,
        "bbox": [round(side, 5) for side in astuple(request.box)],
        "question": request.question,
        "reason": request.reason,
        "crop": {"width": width, "height": height, "bytes": len(request.jpeg)},
    }


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome by the schema, ready for `json.dumps`."""
    opinion = outcome.opinion
    confidence = opinion.confidence if opinion else None
    return {
        **request_to_json(outcome.request),
        "source": outcome.source,
        "answer": opinion.answer if opinion else None,
        "confidence": None if confidence is None else round(confidence, 5),
        "latency_s": round(opinion.latency_s, 6) if opinion else None,
        "problem": outcome.problem or None,
    }
