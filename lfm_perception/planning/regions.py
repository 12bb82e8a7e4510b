# SPDX-License-Identifier: Apache-2.0
"""A region of a frame as a frame of its own, and boxes from the one to the other. Pure functions."""

from __future__ import annotations

from dataclasses import replace

from lfm_perception.geometry import Box, shares_inside, stack
from lfm_perception.questions import Draft
from lfm_perception.scene import Answer, CoordinateStd, Detection, Frame

MIN_DRAFTED_SHARE = 0.3
"""Share of an object inside the region from which on the model is expected to name it."""


def crop(frame: Frame, region: Box) -> Frame:
    """The region of a frame, not copied."""
    left, top, right, bottom = region.in_pixels(frame.width, frame.height).round().astype(int).tolist()
    return replace(frame, image=frame.image[top:bottom, left:right])


def from_region(answer: Answer, region: Box) -> Answer:
    """The answer about a region, with the detections where they are in the frame."""
    return replace(answer, detections=tuple(_in_frame(found, region) for found in answer.detections))


def to_region(draft: Draft, region: Box) -> Draft:
    """The parts of a draft's boxes inside the region, where they are in it, without objects outside of it."""
    shares = shares_inside(stack(box for _, box in draft), region.xyxy[None])[:, 0].tolist()
    return tuple(
        (label, _in_region(box, region))
        for (label, box), share in zip(draft, shares, strict=True)
        if share >= MIN_DRAFTED_SHARE
    )


def _in_frame(found: Detection, region: Box) -> Detection:
    box, std, wide, tall = found.box, found.std, region.width, region.height
    x1, x2 = (min(region.x1 + wide * side, 1.0) for side in (box.x1, box.x2))
    y1, y2 = (min(region.y1 + tall * side, 1.0) for side in (box.y1, box.y2))
    if std is not None:
        std = CoordinateStd(std.x1 * wide, std.y1 * tall, std.x2 * wide, std.y2 * tall)
    return replace(found, box=Box(x1, y1, x2, y2), std=std)


def _in_region(box: Box, region: Box) -> Box:
    def scaled(side: float, low: float, high: float) -> float:
        return min((min(max(side, low), high) - low) / (high - low), 1.0)

    x1, x2 = (scaled(side, region.x1, region.x2) for side in (box.x1, box.x2))
    y1, y2 = (scaled(side, region.y1, region.y2) for side in (box.y1, box.y2))
    return Box(x1, y1, x2, y2)
