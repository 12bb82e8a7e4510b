# SPDX-License-Identifier: Apache-2.0
"""Image plans: the reference preprocessor's arithmetic, checked against llama.cpp."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import mtmd_cpp

from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import TOKEN_SIDE, ImageLimits, ImagePlan, plan_image
from lfm_perception.planning.resize import resize, tile_image
from lfm_perception.scene import Image

CARD = ImageLimits(min_tokens=32, max_tokens=256, max_tiles=10)
"""The limits on the model card, tiling allowed."""

sides = st.one_of(st.integers(1, 64), st.integers(1, 9000))


@st.composite
def image_limits(draw: st.DrawFn) -> ImageLimits:
    low, high = sorted((draw(st.integers(1, 512)), draw(st.integers(1, 512))))
    return ImageLimits(
        min_tokens=low,
        max_tokens=high,
        max_tiles=draw(st.integers(1, 10)),
        splitting=draw(st.booleans()),
        thumbnail=draw(st.booleans()),
        min_tiles=draw(st.integers(1, 10)),
        tile_size=32 * draw(st.integers(1, 32)),
        pixel_tolerance=draw(st.floats(1.0, 4.0)),
        resample=draw(st.sampled_from(("bilinear", "bicubic"))),
    )


def random_image(width: int, height: int) -> Image:
    """A random image, the same each time."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "tokens", "grid"),
    [
        ((256, 384), 96, (1, 1)),
        ((640, 480), 234, (1, 1)),
        ((1000, 3000), 1011, (1, 3)),
        ((1280, 720), 764, (2, 1)),
        ((1920, 1080), 2300, (4, 2)),
        ((7680, 4320), 2300, (4, 2)),
        ((1, 1), 36, (1, 1)),
    ],
)
def test_a_plan_has_the_tokens_of_the_reference_preprocessor(
    size: tuple[int, int], tokens: int, grid: tuple[int, int]
) -> None:
    plan = plan_image(*size, CARD)
    assert (plan.tokens, (plan.columns, plan.rows)) == (tokens, grid)


@given(sides, sides, image_limits())
def test_a_plan_keeps_its_limits(width: int, height: int, limits: ImageLimits) -> None:
    try:
        plan = plan_image(width, height, limits)
    except PerceptionError:
        assert max(width, height) / min(width, height) > limits.max_tokens / 2  # only thin images are refused
        return
    if plan.tiled:
        assert limits.splitting
        assert limits.max_tiles > 1
        assert 2 <= plan.columns * plan.rows <= limits.max_tiles
        assert (plan.width, plan.height) == (plan.columns * limits.tile_size, plan.rows * limits.tile_size)
        assert plan.columns * plan.rows >= limits.min_tiles
        assert bool(plan.thumbnail_width) == limits.thumbnail
    else:
        assert plan.tokens <= limits.max_tokens
        assert plan.thumbnail_width == plan.thumbnail_height == 0
    single = plan.tokens - plan.tile_tokens * plan.columns * plan.rows if plan.tiled else plan.tokens
    assert single <= limits.max_tokens
    for side in (plan.width, plan.height, plan.thumbnail_width, plan.thumbnail_height):
        assert side % TOKEN_SIDE == 0


@given(sides, sides, image_limits())
def test_a_planned_frame_is_planned_as_it_is(width: int, height: int, limits: ImageLimits) -> None:
    """llama.cpp, loaded as the module says, keeps every tile unchanged."""
    try:
        plan = plan_image(width, height, limits)
    except PerceptionError:
        return
    engine = ImageLimits(min_tokens=1, max_tokens=max_tile_tokens(limits), max_tiles=10)
    for size in tile_sizes(plan):
        assert plan_image(*size, engine) == ImagePlan(*size)


def test_one_tile_is_all_there_is_unless_tiles_are_allowed() -> None:
    for limits in (ImageLimits(), ImageLimits(max_tiles=10, splitting=False)):
        plan = plan_image(1920, 1080, limits)
        assert not plan.tiled
        assert plan.tokens == 252


def test_fewer_tiles_and_no_thumbnail_can_be_asked_for() -> None:
    plan = plan_image(1920, 1080, ImageLimits(max_tiles=3, thumbnail=False))
    assert (plan.columns, plan.rows, plan.tokens) == (2, 1, 2 * 256)


@pytest.mark.parametrize("size", [(0, 0), (0, 480), (640, 0), (-1, 5)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(PerceptionError, match="has no pixels"):
        plan_image(*size, CARD)


@pytest.mark.parametrize("limits", [CARD, ImageLimits(), ImageLimits(max_tiles=10, thumbnail=False)])
def test_an_image_too_long_and_thin_is_refused(limits: ImageLimits) -> None:
    with pytest.raises(PerceptionError, match="20000x20, too long and thin for 256 image tokens"):
        plan_image(20_000, 20, limits)


@pytest.mark.parametrize(("low", "high", "tiles"), [(0, 256, 1), (64, 32, 1), (32, 256, 0), (32, 256, 11)])
def test_limits_that_cannot_hold_are_refused(low: int, high: int, tiles: int) -> None:
    with pytest.raises(PerceptionError, match=r"image\.m"):
        ImageLimits(low, high, tiles)


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (33, 1000), (4000, 3000), (40_000, 200)])
def test_a_frame_is_resized_to_exactly_the_plan(size: tuple[int, int]) -> None:
    plan = plan_image(*size, CARD)
    resized = resize(random_image(*size), plan)
    assert resized.shape == (plan.height, plan.width, 3)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous


def test_a_frame_need_not_be_contiguous() -> None:
    image = random_image(700, 500)
    plan = plan_image(700, 500, CARD)
    mirrored = resize(image[:, ::-1], plan)
    assert np.array_equal(mirrored, resize(np.ascontiguousarray(image[:, ::-1]), plan))


def test_a_frame_of_the_planned_size_is_used_as_it_is() -> None:
    image = random_image(256, 384)
    assert resize(image, plan_image(256, 384, CARD)) is image


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_rgb_image_is_refused(image: Image) -> None:
    with pytest.raises(PerceptionError, match="must be a uint8 RGB image"):
        resize(image, ImagePlan(32, 32))


@pytest.mark.parametrize("size", [(640, 480), (100, 80), (1280, 720), (300, 2000)])
def test_a_box_is_at_the_same_place_before_and_after_resizing(size: tuple[int, int]) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = width // 4, height // 5, width // 2, height // 2
    image[y1:y2, x1:x2] = 255
    resized = resize(image, plan_image(width, height, CARD))
    rows, columns = (np.flatnonzero(resized[..., 0].max(axis=axis) > 127) for axis in (1, 0))
    found = columns[0] / resized.shape[1], rows[0] / resized.shape[0]
    ends = (columns[-1] + 1) / resized.shape[1], (rows[-1] + 1) / resized.shape[0]
    one_pixel = 1 / min(*size, *resized.shape[:2])
    assert (*found, *ends) == pytest.approx((x1 / width, y1 / height, x2 / width, y2 / height), abs=one_pixel)


def test_tiles_come_row_by_row_and_the_thumbnail_last() -> None:
    image = random_image(1920, 1080)
    plan = plan_image(1920, 1080, CARD)
    *tiles, thumbnail = tile_image(image, plan)
    whole = np.vstack([np.hstack(tiles[row * 4 : row * 4 + 4]) for row in range(2)])
    assert np.array_equal(whole, resize(image, plan))
    assert thumbnail.shape == (plan.thumbnail_height, plan.thumbnail_width, 3)
    assert all(part.flags.c_contiguous for part in (*tiles, thumbnail))


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (1000, 3000)])
def test_tiles_and_thumbnail_have_the_planned_sizes(size: tuple[int, int]) -> None:
    plan = plan_image(*size, CARD)
    assert [part.shape[1::-1] for part in tile_image(random_image(*size), plan)] == tile_sizes(plan)


def tile_sizes(plan: ImagePlan) -> list[tuple[int, int]]:
    """Width and height of each tile and the thumbnail."""
    if not plan.tiled:
        return [(plan.width, plan.height)]
    thumbnails = [(plan.thumbnail_width, plan.thumbnail_height)] if plan.thumbnail_width else []
    tile = (plan.width // plan.columns, plan.height // plan.rows)
    return [tile] * (plan.columns * plan.rows) + thumbnails


def max_tile_tokens(limits: ImageLimits) -> int:
    """Image tokens that no tile of a plan exceeds."""
    return max(limits.max_tokens, limits.tile_tokens)


# --- against llama.cpp ---------------------------------------------------------------------------------


class Preprocessor:
    """llama.cpp's own image preprocessing, asked for token counts. Bitmaps need no pixels for that."""

    def __init__(self, context: mtmd_cpp.mtmd_context_p) -> None:
        self._context = context

    def tokens(self, width: int, height: int) -> list[int]:
        """Tokens of each tile that llama.cpp makes of an image."""
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, None)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        assert bitmap is not None
        assert chunks is not None
        marker = mtmd_cpp.mtmd_default_marker()
        text = mtmd_cpp.mtmd_input_text(text=marker, text_len=len(marker), parse_special=True)
        bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
        assert mtmd_cpp.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1) == 0
        found = [
            mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)
            for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks))
            if (chunk := mtmd_cpp.mtmd_input_chunks_get(chunks, index)) is not None
            and mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE
        ]
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        mtmd_cpp.mtmd_bitmap_free(bitmap)
        return found


class Engine:
    """The demo model's text part, and preprocessors for it with any bounds."""

    def __init__(self, model: llama_cpp.llama_model_p, mmproj: Path) -> None:
        self._model = model
        self._mmproj = mmproj

    @contextmanager
    def preprocessor(self, min_tokens: int, max_tokens: int) -> Iterator[Preprocessor]:
        wanted = mtmd_cpp.mtmd_context_params_default()
        wanted.use_gpu = wanted.warmup = wanted.print_timings = False
        wanted.image_min_tokens, wanted.image_max_tokens = min_tokens, max_tokens
        context = mtmd_cpp.mtmd_init_from_file(str(self._mmproj).encode(), self._model, wanted)
        assert context is not None
        try:
            yield Preprocessor(context)
        finally:
            mtmd_cpp.mtmd_free(context)


@pytest.fixture(scope="module")
def engine(demo_model: tuple[Path, Path]) -> Iterator[Engine]:
    wanted = llama_cpp.llama_model_default_params()
    wanted.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(demo_model[0]).encode(), wanted)
    assert model is not None
    yield Engine(model, demo_model[1])
    llama_cpp.llama_model_free(model)


def random_limits(chance: random.Random) -> ImageLimits:
    low, high = sorted((chance.randint(1, 300), chance.randint(16, 512)))
    return chance.choice(
        (CARD, ImageLimits(64, 256, 10), ImageLimits(32, 128, 10), ImageLimits(low, high, 10))
    )


def random_size(chance: random.Random) -> tuple[int, int]:
    width = 2 ** chance.uniform(3, 12)
    return int(width), max(1, int(width * 2 ** chance.uniform(-2, 2)))


def test_plans_cost_what_llama_cpp_reports(engine: Engine) -> None:
    """200 random settings, three sizes each. llama.cpp passes its own maximum now and then; a plan never.
    Where half of a token's side is left over, llama.cpp rounds up and a plan to the even neighbour.
    """
    chance = random.Random(0)
    equal = beyond = 0
    for _ in range(200):
        limits = random_limits(chance)
        with engine.preprocessor(limits.min_tokens, limits.max_tokens) as preprocessor:
            for _ in range(3):
                width, height = (
                    side + (side % TOKEN_SIDE == TOKEN_SIDE // 2) for side in random_size(chance)
                )
                plan = plan_image(width, height, limits)
                reported = preprocessor.tokens(width, height)
                if len(reported) == 1 and reported[0] > limits.max_tokens:
                    beyond += 1
                    assert plan.tokens <= limits.max_tokens
                else:
                    equal += 1
                    assert plan.tokens == sum(reported), (width, height, limits)
                    assert len(tile_sizes(plan)) == len(reported)
    assert equal > 550, beyond


def test_every_tile_of_a_plan_passes_through_llama_cpp_unchanged(engine: Engine) -> None:
    """Loaded as the module says. Any tile limit, with and without a thumbnail."""
    chance = random.Random(1)
    for _ in range(100):
        base = random_limits(chance)
        limits = ImageLimits(
            base.min_tokens, base.max_tokens, chance.randint(1, 10), thumbnail=chance.random() < 0.5
        )
        with engine.preprocessor(1, max_tile_tokens(limits)) as preprocessor:
            plan = plan_image(*random_size(chance), limits)
            for width, height in set(tile_sizes(plan)):
                assert preprocessor.tokens(width, height) == [width * height // TOKEN_SIDE**2]
