# SPDX-License-Identifier: Apache-2.0
"""Colours that images, charts and markers share."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def track_colour(track_id: int, saturation: float = 0.7, value: float = 1.0) -> Colour:
    """The colour of a track: the golden ratio keeps the hues of consecutive ids far apart."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * 0.618034 % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


IDLE: Colour = (165, 172, 184)
ACTIVE: Colour = (255, 96, 64)
"""Colours of the zones and lines of rules: without an active event, and with one (`ACTIVE`)."""
