"""Annotated images: tracks and detections drawn over the frame, with caption and figures in a strip below.

Thick coloured boxes are tracks (one colour per id, an arrow to the centre predicted for half a second
later); thin white boxes are detections without a track.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from lfm_perception.colours import Colour, track_colour
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.media.text import TextRenderer
from lfm_perception.scene import ZERO_VELOCITY, Detection, Frame, Image, Scene, Track, Usage, Velocity
from lfm_perception.stamps import to_seconds

SHORTEST_SIDE, LONGEST_SIDE = 640, 1280
"""Range of the longer side of the drawn frame, pixels: small frames stay legible."""

NARROWEST = 480
"""Minimum width of the annotated image, pixels, for the text below a narrower frame."""

ARROW_S = 0.5
"""Prediction horizon of the velocity arrow, seconds."""

SAME_OBJECT = 0.5
"""IoU with a track from which on a detection is not drawn."""

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
STRIP: Colour = (24, 26, 31)
QUIET: Colour = (165, 172, 184)
BADGE: Colour = (255, 196, 61)


@dataclass(frozen=True, slots=True)
class View:
    """The content of one annotated image: a frame, the tracks at its stamp and the latest scene.

    `seconds` counts from the start of the recording; `inference_s` is the time the scene's inference took.
    """

    frame: Frame
    seconds: float
    tracks: Sequence[Track]
    scene: Scene | None
    inference_s: float

    @property
    def since_inference_s(self) -> float | None:
        """Seconds since the frame of the scene; None before the first."""
        return None if self.scene is None else to_seconds(self.frame.stamp_ns - self.scene.stamp_ns)


class Overlay:
    """Draws the annotated images of one recording, all of one size, derived from the first frame's.

    `badge` is a note on every image, such as the kind of model. Frames of another shape get black borders.
    """

    def __init__(self, width: int, height: int, badge: str = "") -> None:
        longest = max(width, height)
        scale = min(max(longest, SHORTEST_SIDE), LONGEST_SIDE) / longest
        self._frame = _even(width * scale), _even(height * scale)
        self.width = max(self._frame[0], NARROWEST)
        self._size = round(10 + self.width / 128)
        self._line = round(self._size * 1.5)
        self.height = _even(self._frame[1] + 3 * self._line + self._size)
        self._badge = badge
        self._text = TextRenderer(self._size)

    def draw(self, view: View) -> Image:
        """The annotated image, RGB, shape (self.height, self.width, 3)."""
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        canvas[self._frame[1] :] = STRIP
        place = self._fitted(view.frame)
        method = cv2.INTER_AREA if place.width < view.frame.width else cv2.INTER_CUBIC
        resized = cv2.resize(view.frame.image, (place.width, place.height), interpolation=method)
        canvas[place.top : place.top + place.height, place.left : place.left + place.width] = resized
        marks = [_mark(track) for track in view.tracks]
        if view.scene is not None and view.since_inference_s == 0.0:
            detections = view.scene.detections
            marks = [replace(mark, text=mark.text + _phrase(mark.box, detections)) for mark in marks]
            marks += [_mark(detection) for detection in _untracked(detections, view.tracks)]
        for mark in marks:
            self._draw_outline(canvas, place, mark)
        for mark in marks:
            self._draw_name(canvas, place, mark)
        self._draw_strip(canvas, view)
        return canvas

    def _fitted(self, frame: Frame) -> _Place:
        scale = min(self._frame[0] / frame.width, self._frame[1] / frame.height)
        wide, tall = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        return _Place((self.width - wide) // 2, (self._frame[1] - tall) // 2, wide, tall)

    def _draw_outline(self, canvas: Image, place: _Place, mark: _Mark) -> None:
        x1, y1, x2, y2 = place.pixels(mark.box)
        corner, opposite = (round(x1), round(y1)), (round(x2), round(y2))
        cv2.rectangle(canvas, corner, opposite, mark.colour, mark.thickness, cv2.LINE_AA)
        dx, dy = mark.velocity.x * ARROW_S * place.width, mark.velocity.y * ARROW_S * place.height
        length = math.hypot(dx, dy)
        if length >= self._size / 2:
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            start, end = (round(x), round(y)), (round(x + dx), round(y + dy))
            for thickness, ink in ((4, BLACK), (2, mark.colour)):
                cv2.arrowedLine(canvas, start, end, ink, thickness, cv2.LINE_AA, 0, min(0.5, 8 / length))

    def _draw_name(self, canvas: Image, place: _Place, mark: _Mark) -> None:
        x, y = (round(side) for side in place.pixels(mark.box)[:2])
        chip_wide, chip_tall = (
            self._text.width(mark.text, bold=True) + self._size // 2,
            round(self._size * 1.3),
        )
        x = min(max(x - 1, 0), max(self.width - chip_wide, 0))
        y = y - chip_tall if y >= chip_tall else y
        cv2.rectangle(canvas, (x, y), (x + chip_wide, y + chip_tall), mark.colour, cv2.FILLED)
        baseline = y + round(self._size * 0.98)
        self._text.draw(canvas, mark.text, x + self._size // 4, baseline, _ink(mark.colour), bold=True)

    def _draw_strip(self, canvas: Image, view: View) -> None:
        margin = self._size // 2
        baseline = self._frame[1] + self._line
        caption = view.scene.caption if view.scene and view.scene.caption else ""
        for line in self._wrapped(caption, self.width - 2 * margin, 2):
            self._text.draw(canvas, line, margin, baseline, WHITE)
            baseline += self._line
        room = self.width - 2 * margin
        baseline = self._frame[1] + 3 * self._line
        if self._badge:
            wide = self._text.width(self._badge) + 2 * margin
            corner = self.width - margin - wide, baseline - self._size
            cv2.rectangle(canvas, corner, (corner[0] + wide, baseline + margin), BADGE, cv2.FILLED)
            self._text.draw(canvas, self._badge, corner[0] + margin, baseline, BLACK)
            room -= wide + margin
        facts = _facts(view)
        while len(facts) > 1 and self._text.width("  |  ".join(facts)) > room:
            facts.pop()
        self._text.draw(canvas, "  |  ".join(facts), margin, baseline, QUIET)

    def _wrapped(self, text: str, room: int, lines: int) -> list[str]:
        """The text in at most `lines` lines of this width in pixels, with an ellipsis where it is cut."""
        words = text.split()
        # Chinese and Japanese put no spaces between words: any of their characters may end a line.
        gap, parts = (" ", words) if len(words) > 1 else ("", list(text.strip()))
        wrapped = [""]
        for part in parts:
            longer = wrapped[-1] + gap + part if wrapped[-1] else part
            if not wrapped[-1] or self._text.width(longer) <= room:
                wrapped[-1] = longer
            elif len(wrapped) < lines:
                wrapped.append(part)
            else:
                wrapped[-1] += "…"
                break
        return wrapped


@dataclass(frozen=True, slots=True)
class _Place:
    """The frame's rectangle on the canvas, pixels."""

    left: int
    top: int
    width: int
    height: int

    def pixels(self, box: Box) -> list[float]:
        """The corners of a normalized box on the canvas, `xyxy`."""
        x1, y1, x2, y2 = box.in_pixels(self.width, self.height).tolist()
        return [self.left + x1, self.top + y1, self.left + x2, self.top + y2]


@dataclass(frozen=True, slots=True)
class _Mark:
    """One box to draw, with its text and the arrow of its velocity."""

    box: Box
    text: str
    colour: Colour
    thickness: int
    velocity: Velocity


def _mark(item: Track | Detection) -> _Mark:
    if isinstance(item, Track):
        text = f"{item.label} #{item.track_id} {item.score:.0%}"
        return _Mark(item.box, text, track_colour(item.track_id), 2, item.velocity)
    name = f"{item.label} ({item.phrase})" if item.phrase else item.label
    return _Mark(item.box, f"{name} {item.score:.0%}", WHITE, 1, ZERO_VELOCITY)


def _phrase(box: Box, detections: Sequence[Detection]) -> str:
    """The model's own words for a track: those of the detection that overlaps it most."""
    overlap = iou_matrix(stack([box]), stack(found.box for found in detections))[0]
    if not (overlap >= SAME_OBJECT).any():
        return ""
    phrase = detections[int(overlap.argmax())].phrase
    return f" ({phrase})" if phrase else ""


def _facts(view: View) -> list[str]:
    """The figures below the caption, the most important first."""
    facts = [f"{view.seconds:.2f} s"]
    if view.scene is None or view.since_inference_s is None:
        return facts
    age_s = view.since_inference_s
    facts.append("inferred" if age_s == 0.0 else f"predicted {age_s:+.2f} s")
    usage, caption = view.scene.usage, view.scene.caption_usage or Usage()
    facts.append(f"{view.inference_s * 1e3:.0f} ms")
    facts.append(f"{usage.image_tokens} + {usage.answer_tokens + caption.answer_tokens} tokens")
    facts.append(f"{len(view.tracks)} objects" if len(view.tracks) != 1 else "1 object")
    return facts


def _untracked(detections: Sequence[Detection], tracks: Sequence[Track]) -> list[Detection]:
    overlap = iou_matrix(stack(d.box for d in detections), stack(t.box for t in tracks))
    return [d for d, row in zip(detections, overlap, strict=True) if not (row >= SAME_OBJECT).any()]


def _ink(colour: Colour) -> Colour:
    """Black or white, the one that is more legible on the colour."""
    red, green, blue = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE


def _even(length: float) -> int:
    """Rounded to an even number of pixels, as video needs, at least 2."""
    return max(2, 2 * round(length / 2))
