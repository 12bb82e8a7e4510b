# SPDX-License-Identifier: Apache-2.0
"""The page in which zones and lines of rules are drawn over a picture (`templates/draw.html`)."""

from __future__ import annotations

from lfm_perception.downscaling import downscale_to_side
from lfm_perception.media import images
from lfm_perception.media.page import data_uri, rendered
from lfm_perception.rules.reader import MAX_NAME, MAX_POINTS, MIN_AREA, MIN_LENGTH
from lfm_perception.rules.schema import RuleFile
from lfm_perception.scene import Image

MAX_SIDE = 1600
"""Longest side of the picture inside the page, pixels."""

LIMITS = {"points": MAX_POINTS, "area": MIN_AREA, "length": MIN_LENGTH, "name": MAX_NAME}


def draw_page(name: str, image: Image, file: RuleFile) -> str:
    """The page as HTML that needs nothing else.

    Args:
        name: what the picture is called.
        image: the picture, RGB.
        file: its zones and lines are there to be changed; empty: none.
    """
    height, width = image.shape[:2]
    shapes = [
        *(
            {"kind": "zone", "name": z.name, "points": _rounded(z.points), "anchor": z.anchor}
            for z in file.zones
        ),
        *(
            {
                "kind": "line",
                "name": each.name,
                "points": _rounded((each.start, each.end)),
                "anchor": each.anchor,
            }
            for each in file.lines
        ),
    ]
    return rendered(
        "draw.html",
        name=name,
        width=width,
        height=height,
        source=data_uri("image/jpeg", images.encode(downscale_to_side(image, MAX_SIDE), ".jpg")),
        data={"shapes": shapes, "anchor": file.anchor, "limits": LIMITS},
    )


def _rounded(points: tuple[tuple[float, float], ...]) -> list[list[float]]:
    """Points to the ten-thousandth of an image that the page keeps."""
    return [[round(x, 4), round(y, 4)] for x, y in points]
