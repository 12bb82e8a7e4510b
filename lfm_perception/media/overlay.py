# SPDX-License-Identifier: Apache-2.0
"""Annotated images: tracks and detections drawn over the frame, on request with caption and figures.

Thick coloured boxes are tracks: one colour per id, an arrow to the centre half a second later as far as the
object itself moves, and fading with the time since the last detection. Thin white boxes are detections
without a track; on independent pictures, where nothing is tracked, they are thick, one colour per label.
Corners in the badge's colour are those of the region that the last inference saw. Zones and lines of the
rules are grey, and red while an event about them is active. The events of the moment are listed at the top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.colours import ACTIVE, IDLE, Colour, track_colour
from lfm_perception.geometry import WHOLE, Box, iou_matrix, stack
from lfm_perception.media.text import TextRenderer
from lfm_perception.scene import (
    NO_DRAWING,
    ZERO_VELOCITY,
    AttributeValue,
    Detection,
    Frame,
    Image,
    RuleDrawing,
    Scene,
    Shape,
    Track,
    Usage,
    Velocity,
)
from lfm_perception.stamps import to_seconds

SHORTEST_SIDE, LONGEST_SIDE = 640, 1280
"""Range of the longer side of the drawn frame, pixels: small frames stay legible."""

NARROWEST = 480
"""Minimum width of the annotated image, pixels, for the text below a narrower frame."""

FADED_S, MIN_STRENGTH = 2.0, 0.3
"""Prediction age at which a track would be invisible, seconds, and the least opacity it is drawn with."""

LINE_STRENGTH = 0.65
"""Opacity of the dark band behind the figures on the frame's lower edge."""

ARROW_S = 0.5
"""Prediction horizon of the velocity arrow, seconds."""

SAME_OBJECT = 0.5
"""IoU with a track from which on a detection is not drawn."""

MAX_BELOW = 8
"""Number of rows below a box in which its text may stand: below the events, and a few other texts."""

CORNER_SHARE = 0.15
"""Length of the lines at the corners of a region, as a share of its sides."""

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
    rules: RuleDrawing = NO_DRAWING

    @property
    def since_inference_s(self) -> float | None:
        """Seconds since the frame of the scene; None before the first."""
        return None if self.scene is None else to_seconds(self.frame.stamp_ns - self.scene.stamp_ns)


class Overlay:
    """Draws the annotated images of one recording, all of one size.

    Args:
        width, height: size of the frames in pixels; those of another shape get black borders.
        badge: note on every image, such as the kind of model.
        panel: `strip` draws the frame at a legible size of even sides, as video needs, with caption, figures
            and badge below it. Otherwise the image has the frame's size: `line` writes figures and badge on
            its lower edge, an empty text nothing.
    """

    def __init__(self, width: int, height: int, badge: str = "", *, panel: str = "line") -> None:
        self._panel, self._badge = panel, badge
        if panel == "strip":
            longest = max(width, height)
            scale = min(max(longest, SHORTEST_SIDE), LONGEST_SIDE) / longest
            self._frame = _even(width * scale), _even(height * scale)
            self.width = max(self._frame[0], NARROWEST)
        else:
            self._frame = width, height
            self.width = width
        self._size = round(10 + self.width / 128)
        self._line = round(self._size * 1.5)
        self._band = self._line + self._size // 2 if panel == "line" else 0
        strip = 3 * self._line + self._size if panel == "strip" else 0
        self.height = _even(height * scale + strip) if strip else height
        self._text = TextRenderer(self._size)

    def draw(self, view: View) -> Image:
        """The annotated image, RGB, shape (self.height, self.width, 3)."""
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        canvas[self._frame[1] :] = STRIP
        place = self._fitted(view.frame)
        method = cv2.INTER_AREA if place.width < view.frame.width else cv2.INTER_CUBIC
        resized = cv2.resize(view.frame.image, (place.width, place.height), interpolation=method)
        canvas[place.top : place.top + place.height, place.left : place.left + place.width] = resized
        if view.scene is not None and view.scene.view is not None and view.scene.view.region != WHOLE:
            self._draw_region(canvas, place.pixels(view.scene.view.region))
        for shape in view.rules.shapes:
            self._draw_shape(canvas, place, shape)
        marks = _marks(view)
        for mark in marks:
            self._draw_outline(canvas, place, mark)
        taken = self._draw_events(canvas, view.rules)
        for shape in view.rules.shapes:
            self._draw_count(canvas, place, shape, taken)
        for mark in sorted(marks, key=lambda mark: mark.box.y1):
            self._draw_name(canvas, place, mark, taken)
        if self._panel == "strip":
            self._draw_caption(canvas, view)
        if self._panel:
            self._draw_figures(canvas, view, len(marks))
        return canvas

    def _fitted(self, frame: Frame) -> _Place:
        scale = min(self._frame[0] / frame.width, self._frame[1] / frame.height)
        wide, tall = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        return _Place((self.width - wide) // 2, (self._frame[1] - tall) // 2, wide, tall)

    def _draw_region(self, canvas: Image, corners: Sequence[float]) -> None:
        """Draw the corners of a region."""
        x1, y1, x2, y2 = (round(side) for side in corners)
        across, down = (max(round(CORNER_SHARE * side), 1) for side in (x2 - x1, y2 - y1))
        for x, inward in ((x1, across), (x2 - 1, -across)):
            for y, downward in ((y1, down), (y2 - 1, -down)):
                cv2.line(canvas, (x, y), (x + inward, y), BADGE, 2)
                cv2.line(canvas, (x, y), (x, y + downward), BADGE, 2)

    def _draw_shape(self, canvas: Image, place: _Place, shape: Shape) -> None:
        """Draw the outline of a zone, or a line."""
        points = np.array([place.point(*point) for point in shape.points], np.int32)
        for thickness, ink in ((4, BLACK), (2, ACTIVE if shape.active else IDLE)):
            cv2.polylines(canvas, [points], shape.closed, ink, thickness, cv2.LINE_AA)

    def _draw_count(self, canvas: Image, place: _Place, shape: Shape, taken: list[_Chip]) -> None:
        """Draw the text of a zone or a line near its highest point, if it covers no other text."""
        x, y = place.point(*min(shape.points, key=lambda point: point[1]))
        text = self._text.fitted(shape.text, self.width - self._size // 2)
        wide = self._text.width(text) + self._size // 2
        chip = self._free_place([x, y, x, y], wide, round(self._size * 1.3), taken)
        if not _covered([chip], taken).any():
            self._draw_chip(canvas, chip, text, STRIP, ACTIVE if shape.active else IDLE)
            taken.append(chip)

    def _draw_events(self, canvas: Image, rules: RuleDrawing) -> list[_Chip]:
        """List the events at the top of the frame, as far as it has room; the places that this takes."""
        shown, tall = list(rules.events), round(self._size * 1.3)
        if rules.more:
            shown.append(f"{rules.more} more event{'s' if rules.more > 1 else ''}")
        chips = []
        for index, event in enumerate(shown[: max(self._frame[1] - self._band, 0) // tall]):
            text = self._text.fitted(event, self.width - self._size // 2)
            chips.append(_Chip(0, index * tall, self._text.width(text) + self._size // 2, tall))
            self._draw_chip(canvas, chips[-1], text, ACTIVE, _ink(ACTIVE))
        return chips

    def _draw_chip(self, canvas: Image, chip: _Chip, text: str, ground: Colour, ink: Colour) -> None:
        canvas[chip.y : chip.y + chip.height, chip.x : chip.x + chip.width] = ground
        self._text.draw(canvas, text, chip.x + self._size // 4, chip.y + round(self._size * 0.98), ink)

    def _draw_outline(self, canvas: Image, place: _Place, mark: _Mark) -> None:
        x1, y1, x2, y2 = place.pixels(mark.box)
        corner, opposite = (round(x1), round(y1)), (round(x2), round(y2))
        around = slice(max(corner[1] - 4, 0), opposite[1] + 4), slice(max(corner[0] - 4, 0), opposite[0] + 4)
        before = canvas[around].copy()
        cv2.rectangle(canvas, corner, opposite, mark.colour, mark.thickness, cv2.LINE_AA)
        canvas[around] = _faded(before, canvas[around], mark.strength)
        dx, dy = mark.velocity.x * ARROW_S * place.width, mark.velocity.y * ARROW_S * place.height
        length = math.hypot(dx, dy)
        if length >= self._size / 2:
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            start, end = (round(x), round(y)), (round(x + dx), round(y + dy))
            for thickness, ink in ((4, BLACK), (2, mark.colour)):
                cv2.arrowedLine(canvas, start, end, ink, thickness, cv2.LINE_AA, 0, min(0.5, 8 / length))

    def _draw_name(self, canvas: Image, place: _Place, mark: _Mark, taken: list[_Chip]) -> None:
        """Draw the text of a box where it covers no other text, if there is such a place near the box."""
        text = self._text.fitted(mark.text, self.width - self._size // 2, bold=True)
        wide = self._text.width(text, bold=True) + self._size // 2
        chip = self._free_place(place.pixels(mark.box), wide, round(self._size * 1.3), taken)
        taken.append(chip)
        around = slice(chip.y, chip.y + chip.height), slice(chip.x, chip.x + chip.width)
        before = canvas[around].copy()
        canvas[around] = mark.colour
        baseline = chip.y + round(self._size * 0.98)
        self._text.draw(canvas, text, chip.x + self._size // 4, baseline, _ink(mark.colour), bold=True)
        canvas[around] = _faded(before, canvas[around], mark.strength)

    def _free_place(self, corners: list[float], wide: int, tall: int, taken: Sequence[_Chip]) -> _Chip:
        """Above the box, in its upper edge, below it, or further along it: the least covered place."""
        x1, y1, x2, y2 = (round(side) for side in corners)
        lowest = max(self._frame[1] - tall, 0)
        rows = [y1 - tall, y1, y2, *range(y1 + tall, y2, tall), *range(y1 - 2 * tall, y1 - 6 * tall, -tall)]
        rows += range(y2 + tall, y2 + MAX_BELOW * tall, tall)
        chips = [
            _Chip(min(max(x, 0), max(self.width - wide, 0)), y, wide, tall)
            for y in rows
            for x in (x1 - 1, x2 - wide)
            if 0 <= y <= lowest
        ] or [_Chip(min(max(x1 - 1, 0), max(self.width - wide, 0)), min(max(y1, 0), lowest), wide, tall)]
        return chips[int(_covered(chips, taken).argmin())]

    def _draw_caption(self, canvas: Image, view: View) -> None:
        margin = self._size // 2
        baseline = self._frame[1] + self._line
        caption = view.scene.caption if view.scene and view.scene.caption else ""
        for line in self._wrapped(caption, self.width - 2 * margin, 2):
            self._text.draw(canvas, line, margin, baseline, WHITE)
            baseline += self._line

    def _draw_figures(self, canvas: Image, view: View, objects: int) -> None:
        margin = self._size // 2
        room = self.width - 2 * margin
        baseline = self.height - round(0.7 * self._size)
        if self._band:
            band = canvas[-self._band :]
            band[:] = _faded(band, np.full_like(band, STRIP), LINE_STRENGTH)
        if self._badge:
            wide = self._text.width(self._badge) + 2 * margin
            corner = self.width - margin - wide, baseline - self._size
            cv2.rectangle(canvas, corner, (corner[0] + wide, baseline + margin), BADGE, cv2.FILLED)
            self._text.draw(canvas, self._badge, corner[0] + margin, baseline, BLACK)
            room -= wide + margin
        facts = _facts(view, objects)
        while facts and self._text.width(" | ".join(facts)) > room:
            facts.pop()
        self._text.draw(canvas, " | ".join(facts), margin, baseline, QUIET)

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

    def point(self, x: float, y: float) -> tuple[int, int]:
        """A normalized point on the canvas."""
        return self.left + round(x * self.width), self.top + round(y * self.height)

    def pixels(self, box: Box) -> list[float]:
        """The corners of a normalized box on the canvas, `xyxy`."""
        x1, y1, x2, y2 = box.in_pixels(self.width, self.height).tolist()
        return [self.left + x1, self.top + y1, self.left + x2, self.top + y2]


@dataclass(frozen=True, slots=True)
class _Mark:
    """One box to draw, with its text and the arrow of its velocity; `strength` 1 is opaque."""

    box: Box
    text: str
    colour: Colour
    thickness: int
    velocity: Velocity = ZERO_VELOCITY
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class _Chip:
    """The rectangle of a text, pixels."""

    x: int
    y: int
    width: int
    height: int


def _covered(chips: Sequence[_Chip], taken: Sequence[_Chip]) -> NDArray[np.int64]:
    """The area of each chip that the taken ones cover, pixels."""
    corners, others = (
        np.array([(each.x, each.y, each.x + each.width, each.y + each.height) for each in found], np.int64)
        for found in (chips, taken)
    )
    corners, others = corners.reshape(-1, 1, 4), others.reshape(1, -1, 4)
    sides = np.minimum(corners[..., 2:], others[..., 2:]) - np.maximum(corners[..., :2], others[..., :2])
    return np.asarray(sides.clip(min=0).prod(axis=2).sum(axis=1), np.int64)


def _marks(view: View) -> list[_Mark]:
    """The tracks and, on an inferred frame, the detections without a track."""
    known: Mapping[int, Mapping[str, AttributeValue]] = view.scene.attributes if view.scene else {}
    marks = [_track_mark(track, known.get(track.track_id, {})) for track in view.tracks]
    if view.scene is None or view.since_inference_s != 0.0:
        return marks
    detections = view.scene.detections
    marks = [replace(mark, text=mark.text + _phrase(mark.box, detections)) for mark in marks]
    untracked = _untracked(detections, view.tracks)
    return marks + [_mark(each, thick=bool(view.scene.file and not view.tracks)) for each in untracked]


def _track_mark(track: Track, attributes: Mapping[str, AttributeValue]) -> _Mark:
    values = "".join(f", {name} {attribute.value}" for name, attribute in attributes.items())
    away = "" if track.distance is None else f" {track.distance:.1f} m"
    text = f"{track.label} #{track.track_id} {track.score:.0%}{away}{values}"
    # an object that stands has no velocity of its own, however the camera moves
    own = Velocity(track.velocity.x - track.camera_velocity.x, track.velocity.y - track.camera_velocity.y)
    strength = max(1.0 - track.time_since_update_s / FADED_S, MIN_STRENGTH)
    return _Mark(track.box, text, track_colour(track.track_id), 2, own, strength)


def _mark(found: Detection, *, thick: bool) -> _Mark:
    name = f"{found.label} ({found.phrase})" if found.phrase else found.label
    colour = track_colour(sum(found.label.encode())) if thick else WHITE
    return _Mark(found.box, f"{name} {found.score:.0%}", colour, 1 + thick)


def _faded(before: Image, after: Image, strength: float) -> Image:
    """A mixture of both; `strength` is the share of `after`."""
    if strength >= 1.0 or not after.size:
        return after
    return np.asarray(cv2.addWeighted(after, strength, before, 1.0 - strength, 0.0), np.uint8)


def _phrase(box: Box, detections: Sequence[Detection]) -> str:
    """The model's own words for a track: those of the detection that overlaps it most."""
    overlap = iou_matrix(stack([box]), stack(found.box for found in detections))[0]
    if not (overlap >= SAME_OBJECT).any():
        return ""
    phrase = detections[int(overlap.argmax())].phrase
    return f" ({phrase})" if phrase else ""


def _facts(view: View, objects: int) -> list[str]:
    """The figures below the caption, the most important first."""
    facts = [f"time {view.seconds:.2f} s", f"{objects} object{'' if objects == 1 else 's'}"]
    if view.scene is None or view.since_inference_s is None:
        return facts
    facts += [f"alert {each.name} {each.probability:.0%}" for each in view.scene.alerts if each.active]
    age_s = view.since_inference_s
    facts.append("inferred" if age_s == 0.0 else f"predicted {age_s:.2f} s")
    usage, caption = view.scene.usage, view.scene.caption_usage or Usage()
    facts.append(f"inference {view.inference_s * 1e3:.0f} ms")
    facts.append(f"{usage.image_tokens} image + {usage.answer_tokens + caption.answer_tokens} answer tokens")
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
