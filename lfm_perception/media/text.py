# SPDX-License-Identifier: Apache-2.0
"""Text in images, drawn by Pillow: nine languages, Arabic shaped and right to left (where Pillow has raqm).

DejaVu Sans has Latin and Arabic letters. Chinese, Japanese and Korean need a font of the system, which
fontconfig finds (`apt install fonts-noto-cjk`); without one, the font inside OpenCV 5 or newer is used.
"""

from __future__ import annotations

import re
import subprocess
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from lfm_perception.colours import Colour
from lfm_perception.scene import Image

EAST_ASIAN = re.compile("[\u1100-\u11ff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef]")
"""Characters that DejaVu Sans lacks."""

LANGUAGES = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\u1100-\u11ff\uac00-\ud7ff]"),
    "zh-cn": EAST_ASIAN,
}
"""Language tags of fontconfig, and the characters that choose them, the first that occurs."""

OPENCV_WEIGHTS = (400, 600)


class TextRenderer:
    """Draws and measures text of one size, `size` pixels per em, regular or bold."""

    def __init__(self, size: int) -> None:
        self.size = size

    def width(self, text: str, *, bold: bool = False) -> int:
        """The advance width in pixels."""
        return _rendered(text, self.size, bold)[2]

    def fitted(self, text: str, room: int, *, bold: bool = False) -> str:
        """The text, or of one that is wider than so many pixels the beginning and the end."""
        if self.width(text, bold=bold) <= room:
            return text

        def shortened(kept: int) -> str:
            return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"

        def width(kept: int) -> int:
            return self.width(shortened(kept), bold=bold)

        kept = bisect_right(range(len(text)), room, key=width)
        return shortened(max(kept - 1, 0))

    def draw(
        self, canvas: Image, text: str, x: int, baseline: int, colour: Colour, *, bold: bool = False
    ) -> None:
        """Blend the text into the canvas (RGB, uint8), clipped at its edges.

        Args:
            x: left end of the text in pixels.
            baseline: row of the baseline in pixels.
        """
        mask, (left, top), _ = _rendered(text, self.size, bold)
        left, top = left + x, top + baseline
        rows = slice(max(top, 0), max(min(top + mask.shape[0], canvas.shape[0]), 0))
        columns = slice(max(left, 0), max(min(left + mask.shape[1], canvas.shape[1]), 0))
        target = canvas[rows, columns]
        alpha = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, None]
        if target.size:
            ink = np.array(colour, np.float32)
            target[:] = np.round(target + (ink - target) * (alpha.astype(np.float32) / 255.0))


@lru_cache(maxsize=512)
def _rendered(text: str, size: int, bold: bool) -> tuple[NDArray[np.uint8], tuple[int, int], int]:
    """Coverage 0 to 255, shape (height, width), its offset from the baseline, and the advance width."""
    if (face := _opencv_face(text)) is not None:
        return _by_opencv(face, text, size, OPENCV_WEIGHTS[bold])
    font = _font(_font_file(text, bold), size)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    image = PillowImage.new("L", (max(int(right - left), 1), max(int(bottom - top), 1)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font, anchor="ls")
    return np.asarray(image), (int(left), int(top)), round(font.getlength(text))


def _by_opencv(
    face: Any, text: str, size: int, weight: int
) -> tuple[NDArray[np.uint8], tuple[int, int], int]:
    width = int(cv2.getTextSize((0, 0), text, (0, 0), face, size, weight)[2])
    mask: NDArray[np.uint8] = np.zeros((2 * size, max(width, 1)), np.uint8)
    cv2.putText(mask, text, (0, round(1.4 * size)), (255,), face, size, weight)
    return mask, (0, -round(1.4 * size)), width


@lru_cache(maxsize=16)
def _font(file: str, size: int) -> Any:
    return ImageFont.truetype(file, size)


def _opencv_face(text: str) -> Any:
    """OpenCV's own font for text that no other font can show; None in all other cases."""
    if not EAST_ASIAN.search(text) or _system_font(_language(text), False) or not hasattr(cv2, "FontFace"):
        return None
    return cv2.FontFace("sans")


def _font_file(text: str, bold: bool) -> str:
    if EAST_ASIAN.search(text) and (found := _system_font(_language(text), bold)):
        return found
    return _dejavu(bold)


def _language(text: str) -> str:
    return next((tag for tag, letters in LANGUAGES.items() if letters.search(text)), "zh-cn")


@lru_cache(maxsize=8)
def _system_font(language: str, bold: bool) -> str:
    """A font file of the system that has the language; empty without one."""
    weight = "bold" if bold else "regular"
    command = ["fc-match", "--format=%{lang}\n%{file}", f"sans:lang={language}:weight={weight}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", timeout=5.0)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    languages, _, file = done.stdout.partition("\n")
    return file if language in languages.lower().split("|") and Path(file).is_file() else ""


@lru_cache(maxsize=2)
def _dejavu(bold: bool) -> str:
    """DejaVu Sans of the system, or the one that matplotlib brings."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    system = Path("/usr/share/fonts/truetype/dejavu", name)
    if system.is_file():
        return str(system)
    import matplotlib as mpl

    return str(Path(mpl.get_data_path(), "fonts", "ttf", name))
