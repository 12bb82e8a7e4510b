# SPDX-License-Identifier: Apache-2.0
"""Answers of two objects, and the objects that are read from them."""

from __future__ import annotations

from lfm_perception.answers import Parsed

PERSON = '{"label": "person", "bbox": [0.1, 0.2, 0.3, 0.4]}'
CONE = '{"label": "cone", "bbox": [0.5, 0.6, 0.7, 0.8]}'
BOTH = [("person", (0.1, 0.2, 0.3, 0.4)), ("cone", (0.5, 0.6, 0.7, 0.8))]


def named(parsed: Parsed) -> list[tuple[str, tuple[float, ...]]]:
    return [(d.label, (d.box.x1, d.box.y1, d.box.x2, d.box.y2)) for d in parsed.detections]
