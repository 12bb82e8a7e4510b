# SPDX-License-Identifier: Apache-2.0
"""Text in images: all languages of the model are legible, Arabic is shaped, nothing leaves the image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import features

from lfm_perception.media.text import TextRenderer
from lfm_perception.scene import Image

WORDS = {
    "Arabic": ("رجل", "باب"),
    "Chinese": ("人在盒子", "叉车托盘"),
    "English": ("person", "pallet"),
    "French": ("déjà", "reçu"),
    "German": ("Größe", "Füße"),
    "Japanese": ("箱の横", "ひとり"),
    "Korean": ("상자", "사람"),
    "Portuguese": ("ação", "avião"),
    "Spanish": ("niño", "señal"),
}


def drawn(text: str, *, bold: bool = False) -> Image:
    canvas: Image = np.zeros((60, 300, 3), np.uint8)
    TextRenderer(24).draw(canvas, text, 10, 40, (255, 200, 0), bold=bold)
    return canvas


@pytest.mark.parametrize("language", WORDS)
def test_words_of_a_language_are_drawn_and_differ(language: str) -> None:
    if language in ("Chinese", "Japanese", "Korean") and not hasattr(cv2, "FontFace"):
        pytest.skip(f"{language} needs OpenCV 5, or a font of the system, which may be missing")
    first, second = (drawn(word) for word in WORDS[language])
    assert (first.max(axis=(0, 1)) == (255, 200, 0)).all()
    assert (first != second).any(), "a font without these letters shows the same box for all"
    assert not (drawn(WORDS[language][0][:1] * 2) == drawn(WORDS[language][1][-1:] * 2)).all()


def test_the_width_is_that_of_the_drawn_text() -> None:
    columns = np.flatnonzero(drawn("person #3").max(axis=(0, 2)))
    assert columns[-1] - columns[0] == pytest.approx(TextRenderer(24).width("person #3"), abs=4)
    assert TextRenderer(24).width("person", bold=True) > TextRenderer(24).width("person")


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow was built without raqm, which shapes Arabic")
def test_arabic_letters_are_joined_and_run_from_right_to_left() -> None:
    renderer = TextRenderer(24)
    assert renderer.width("بب") < 2 * renderer.width("ب"), "the joined forms are narrower"
    lam_first = np.flatnonzero(drawn("لا").max(axis=(0, 2)))
    assert lam_first[-1] - lam_first[0] < renderer.width("ل") + renderer.width("ا")


@pytest.mark.parametrize(("x", "baseline"), [(-40, 20), (290, 40), (10, -5), (10, 90), (-900, -900)])
def test_text_over_the_edge_is_clipped(x: int, baseline: int) -> None:
    canvas: Image = np.zeros((60, 300, 3), np.uint8)
    TextRenderer(24).draw(canvas, "forklift 箱", x, baseline, (255, 255, 255))
    assert canvas.shape == (60, 300, 3)


def test_text_without_ink_draws_nothing() -> None:
    assert not drawn("").any()
    assert not drawn("   ").any()


@pytest.mark.parametrize("bold", [False, True])
def test_a_text_that_is_too_wide_keeps_its_beginning_and_its_end(bold: bool) -> None:
    text, renderer = "person with a long name of a label #123 90%", TextRenderer(12)
    for room in (0, 40, 120, 200):
        fitted = renderer.fitted(text, room, bold=bold)
        before, _, after = fitted.partition("…")
        assert text.startswith(before)
        assert text.endswith(after)
        assert renderer.width(fitted, bold=bold) <= room or fitted == "…"
    assert fitted.endswith("#123 90%")
    assert renderer.fitted(text, renderer.width(text, bold=bold), bold=bold) == text
