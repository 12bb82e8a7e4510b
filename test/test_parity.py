# SPDX-License-Identifier: Apache-2.0
"""Sizes, pixels, prompts and tile markers equal those of Transformers' preprocessing.

The numbers in `data` are Transformers' own, written by `tools/parity/reference.py`.
"""

from __future__ import annotations

import csv
import json
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image as PillowImage

from lfm_perception.engine.chat_template import apply_chat_template, tile_markers
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.planning.resize import resize
from lfm_perception.questions import Prompt
from lfm_perception.scene import Image

DATA = Path(__file__).parent / "data"
MAX_DIFFERENCE = 2
"""Gray levels of 255."""


def read(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def photograph() -> Image:
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    return np.asarray(PillowImage.open(path))


def reference_plan(limits: ImageLimits, columns: int, rows: int, width: int, height: int) -> ImagePlan:
    """The plan that the reference's grid and the size of its single tile amount to."""
    if columns * rows == 1:
        return ImagePlan(width, height)
    tile, thumbnail = limits.tile_size, (width, height) if limits.thumbnail else (0, 0)
    return ImagePlan(columns * tile, rows * tile, columns, rows, *thumbnail)


def test_2000_sizes_are_those_of_the_reference() -> None:
    limits = [ImageLimits(**{"max_tiles": 10, **each}) for each in read("limits")]
    beyond = 0
    table = (DATA / "sizes.csv").read_text().splitlines()
    assert len(table) == 2000
    for index, width, height, *reference in (map(int, row) for row in csv.reader(table)):
        expected = reference_plan(limits[index], *reference)
        if reference[2] * reference[3] > limits[index].max_tokens * 1024:
            beyond += 1  # the reference exceeds its own maximum; a plan never does
        else:
            assert plan_image(width, height, limits[index]) == expected, (width, height, limits[index])
    assert beyond < 20


@pytest.mark.parametrize("case", read("pixels"), ids=lambda case: f"{case['size']} {case['resample']}")
def test_pixels_are_those_of_the_reference(photograph: Image, case: dict[str, Any]) -> None:
    (wide, tall), (width, height) = case["part"], case["size"]
    resized = resize(photograph[:tall, :wide], ImagePlan(width, height, resample=case["resample"]))
    sampled = [resized[row, column].tolist() for row, column in case["places"]]
    assert np.abs(np.subtract(sampled, case["values"])).max() <= MAX_DIFFERENCE
    assert resized.mean() == pytest.approx(case["mean"], abs=0.2)


@pytest.mark.parametrize(("resample", "number"), [("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("size", [(448, 512), (96, 64), (384, 800), (512, 600), (512, 320), (1024, 1200)])
def test_every_pixel_is_that_of_pillow(
    photograph: Image, size: tuple[int, int], resample: str, number: int
) -> None:
    expected = PillowImage.fromarray(photograph).resize(size, PillowImage.Resampling(number))
    resized = resize(photograph, ImagePlan(size[0], size[1], resample=resample))
    assert np.abs(resized.astype(int) - np.asarray(expected)).max() <= MAX_DIFFERENCE


@pytest.mark.parametrize("case", read("prompts"), ids=lambda case: f"{case['size']} {case['user'][:20]}")
def test_prompts_and_tile_markers_are_those_of_the_reference(
    vocabulary: Vocabulary, case: dict[str, Any]
) -> None:
    width, height = case["size"]
    plan = plan_image(width, height, ImageLimits(max_tiles=10))
    chat = apply_chat_template(Prompt(case["user"], case["system"]))
    tiles = [plan.tile_tokens] * (plan.columns * plan.rows)
    tiles += [plan.tokens - sum(tiles)] if plan.thumbnail_width else []
    markers = [vocabulary.encode(marker) for marker in tile_markers(plan)]
    image = chain.from_iterable([*marker, -tokens] for marker, tokens in zip(markers, tiles, strict=True))
    assert [*vocabulary.encode(chat.before), *image, *vocabulary.encode(chat.after)] == case["tokens"]
