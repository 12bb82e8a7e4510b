# SPDX-License-Identifier: Apache-2.0
"""What the engine is asked in several tests, and counts of what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from lfm_perception.engine import native
from lfm_perception.engine.kv_cache import Embeddings
from lfm_perception.engine.vision import VisionEncoder
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Frame, Image

FIND = detect(BBOX, ("person", "box", "cone", "forklift", "pallet"))
SMALL = FramePlan(plan_image(256, 256, ImageLimits(32, 64)), 200)
LARGE = FramePlan(plan_image(2048, 1024, ImageLimits(32, 256, 8)), 200)
"""2 x 4 tiles and a thumbnail: seconds of work."""

LARGE_CAPTION = FramePlan(plan_image(640, 480, ImageLimits(32, 256)), 30)


def noise(width: int = 256, height: int = 256, seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), 0)


@dataclass
class Computed:
    """Counts of the engine's computations during a test."""

    tiles: int = 0
    """Tiles that the vision tower has encoded."""
    tokens: int = 0
    """Tokens and image embeddings in calls of llama_decode."""
    codes: list[int] = field(default_factory=list)
    """Return codes of llama_decode: 0, or 2 when it was aborted."""


def count_computations(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """Counts from now on, until the test ends."""
    counts = Computed()
    encode, decode = VisionEncoder.encode, native.llama_cpp.llama_decode

    def counted_encode(self: VisionEncoder, tile: Image) -> Embeddings:
        counts.tiles += 1
        return encode(self, tile)

    def counted_decode(context: object, batch: native.llama_cpp.llama_batch) -> int:
        counts.tokens += batch.n_tokens
        counts.codes.append(int(decode(context, batch)))
        return counts.codes[-1]

    monkeypatch.setattr(VisionEncoder, "encode", counted_encode)
    monkeypatch.setattr(native.llama_cpp, "llama_decode", counted_decode)
    return counts
