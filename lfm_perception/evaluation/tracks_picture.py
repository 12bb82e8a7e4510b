"""Pictures of tracks: where each was over time, above the truth, and how far their scores can be trusted."""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import cv2
import numpy as np

from lfm_perception.evaluation.detection import ReliabilityBin
from lfm_perception.evaluation.tracking import Film, Shown
from lfm_perception.geometry import Box
from lfm_perception.scene import Image

WIDTH, HEIGHT, MARGIN, HEAD = 1200, 360, 50, 30
PAPER, INK, TRUTH = (255, 255, 255), (60, 60, 60), (215, 215, 215)


def draw(films: Sequence[tuple[Film, Sequence[Sequence[Shown]]]]) -> Image:
    """One panel a film: time to the right, the boxes' centre x downwards; truth as broad grey lines, every
    track as a thin one in the colour of its id, broken where it was not shown.
    """
    return np.concatenate([_panel(film, shown) for film, shown in films])


def draw_reliability(bins: Sequence[ReliabilityBin]) -> Image:
    """How often tracks were right, upwards, over their score, to the right; on the grey line it is the same.

    The area of a point goes with the number of tracks.
    """
    image: Image = np.full((HEIGHT, HEIGHT, 3), PAPER, dtype=np.uint8)
    span, most = HEIGHT - 2 * MARGIN, max(score_bin.count for score_bin in bins)

    def place(score: float, share: float) -> tuple[int, int]:
        return round(MARGIN + score * span), round(HEIGHT - MARGIN - share * span)

    cv2.rectangle(image, place(0.0, 1.0), place(1.0, 0.0), TRUTH, 1)
    cv2.line(image, place(0.0, 0.0), place(1.0, 1.0), TRUTH, 2, cv2.LINE_AA)
    for score_bin in bins:
        radius = max(2, round(14 * math.sqrt(score_bin.count / most)))
        at = place(score_bin.mean_confidence, score_bin.precision)
        cv2.circle(image, at, radius, _colour(1), -1, cv2.LINE_AA)
    _write(image, "share of tracks that are right, by score", MARGIN, HEAD)
    for tick in (0.0, 0.5, 1.0):
        _write(image, f"{tick:.1f}", place(tick, 0.0)[0] - 10, HEIGHT - MARGIN + 20)
        _write(image, f"{tick:.1f}", 15, place(0.0, tick)[1] + 4)
    return image


def _panel(film: Film, shown: Sequence[Sequence[Shown]]) -> Image:
    image: Image = np.full((HEIGHT, WIDTH, 3), PAPER, dtype=np.uint8)
    seconds = len(film.frames) / film.fps
    for second in range(0, math.ceil(seconds), max(1, round(seconds / 12))):
        x = round(MARGIN + second / seconds * (WIDTH - 2 * MARGIN))
        cv2.line(image, (x, HEAD), (x, HEIGHT - HEAD), (240, 240, 240), 1)
        _write(image, f"{second} s", x, HEIGHT - 10)
    truth = ((figure.identity, i, figure.box) for i, frame in enumerate(film.frames) for figure in frame)
    for line in _lines(truth, len(film.frames)).values():
        _trace(image, line, TRUTH, 7)
    tracks = ((track.track_id, i, track.box) for i, frame in enumerate(shown) for track in frame)
    lines = _lines(tracks, len(film.frames))
    for track_id, line in lines.items():
        _trace(image, line, _colour(track_id), 2)
        x, y = line[0][1]
        _write(image, str(track_id), x + 3, y - 4)
    _write(image, f"{film.name}: centre from left (top) to right, {len(lines)} tracks", MARGIN, 20)
    return image


def _lines(
    boxes: Iterable[tuple[int, int, Box]], frames: int
) -> dict[int, list[tuple[int, tuple[int, int]]]]:
    """By id: frame and place in the panel."""
    lines: dict[int, list[tuple[int, tuple[int, int]]]] = defaultdict(list)
    for identity, index, box in boxes:
        x = MARGIN + index / max(frames - 1, 1) * (WIDTH - 2 * MARGIN)
        y = HEAD + (box.x1 + box.x2) / 2 * (HEIGHT - 2 * HEAD)
        lines[identity].append((index, (round(x), round(y))))
    return lines


def _trace(
    image: Image, line: Sequence[tuple[int, tuple[int, int]]], colour: tuple[int, int, int], thick: int
) -> None:
    for (before, start), (index, end) in pairwise(line):
        if index == before + 1:
            cv2.line(image, start, end, colour, thick, cv2.LINE_AA)


def _write(image: Image, text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)


def _colour(track_id: int) -> tuple[int, int, int]:
    """The golden ratio keeps the colours of neighbouring ids far apart."""
    red, green, blue = colorsys.hsv_to_rgb(math.modf(track_id * 0.618034)[0], 0.85, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)
