# SPDX-License-Identifier: Apache-2.0
"""Parameters of foveated inference (`planning/fovea.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.settings.spec import parameter


@dataclass(frozen=True, slots=True)
class FoveaSettings:
    """Foveated inference: regions of the frame at a finer resolution, between views of the whole frame."""

    mode: str = parameter(
        "off",
        "inference of regions where they are worth most; auto: where the whole frame is shrunk a lot",
        ("off", "on", "auto"),
    )
    region_size: float = parameter(
        0.5, "width and height of a region, as fractions of the frame's", (0.25, 0.9)
    )
    whole_every: int = parameter(
        2, "inferences from one view of the whole frame to the next; 1: no regions", (1, 100)
    )
    min_object_size: float = parameter(
        17.0,
        "size from which on the model detects most objects: square root of the area in the resized image",
        (1.0, 200.0),
        "px",
    )
