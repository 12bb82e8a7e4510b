"""LFM2-VL's image preprocessing as integer arithmetic: sizes, tiles, thumbnail and tokens. Pure functions.

One image token covers 32x32 pixels (2x2 patches of 16x16). A frame whose area is at most twice `max_tokens`
becomes one tile with sides that are multiples of 32. A larger one becomes 2 to 10 tiles of 512x512, in the
grid nearest to its aspect ratio, followed by a thumbnail of the whole frame. The sizes are those of llama.cpp
(`tools/mtmd/mtmd-image.cpp`) and Transformers (`models/lfm2_vl`), in 32-bit floats as llama.cpp computes
them, so that a frame on the border between two sizes falls on the same side. (The model card's one example
of tiling, 1,020 tokens for 1000x3000, is what neither computes: both give 3 x 256 + 9 x 27 = 1,011.)

One difference is on purpose: a plan never exceeds `max_tokens`. The preprocessor does when it enlarges a
small image (100x100 at 32 to 32 tokens gives 36) and for long, thin images; a plan takes the next smaller
size, or refuses an image that is too long and thin.

**llama.cpp keeps planned images unchanged.** The frame is resized here to the planned size and given to
llama.cpp tile by tile (`planning.resize.tile_image`). Load it with `image_min_tokens=1` and an
`image_max_tokens` that no tile exceeds (`max_tokens`, and 256 for tiles): every planned tile is then a
multiple of 32 on both sides, within those bounds and below the tiling threshold, and llama.cpp neither
resizes nor tiles it. llama.cpp's own tiling is not used: it cannot be configured (always up to 10 tiles and
a thumbnail), and it pads the grid with black bars, which would shift boxes.

**Boxes.** The whole frame is stretched to the planned size, never cropped or padded. Normalized coordinates
are therefore the same in the frame, in the resized image and in the thumbnail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from lfm_perception.errors import PerceptionError

TOKEN_SIDE = 32
"""Pixels on each side of the square that one image token covers."""

TILE_SIDE = 512
"""Pixels on each side of a tile."""

TILE_TOKENS = (TILE_SIDE // TOKEN_SIDE) ** 2

MAX_TILES = 10
"""The largest grid the models were trained with."""

_PATCH_SIDE = 16
_TOKEN_AREA = TOKEN_SIDE**2
_TILING_TOLERANCE = 2.0  # `max_pixels_tolerance` of the preprocessor


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of an image plan.

    `min_tokens` and `max_tokens` bound a single tile and the thumbnail; a tile of a grid always has 256
    tokens. `max_tiles` is 1 to 10; with 1, or without `splitting`, a frame is never tiled. `thumbnail` adds
    a small view of the whole frame to a grid.

    Raises PerceptionError when a limit is out of range or the two bounds contradict each other.
    """

    min_tokens: int = 32
    max_tokens: int = 256
    max_tiles: int = 1
    splitting: bool = True
    thumbnail: bool = True

    def __post_init__(self) -> None:
        if self.min_tokens < 1 or self.max_tokens < self.min_tokens:
            raise PerceptionError(
                f"image.min_tokens {self.min_tokens} and image.max_tokens {self.max_tokens} contradict each "
                f"other: give 1 <= min_tokens <= max_tokens"
            )
        if not 1 <= self.max_tiles <= MAX_TILES:
            raise PerceptionError(f"image.max_tiles must be 1 to {MAX_TILES}, got {self.max_tiles}")


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How one frame is resized and tiled.

    The whole frame is resized to `width` x `height` pixels: multiples of 32 for a single tile, and
    `columns * 512` x `rows * 512` for a grid. `thumbnail_width` and `thumbnail_height` are 0 when there
    is no thumbnail.
    """

    width: int
    height: int
    columns: int = 1
    rows: int = 1
    thumbnail_width: int = 0
    thumbnail_height: int = 0

    @property
    def tiled(self) -> bool:
        """Whether the frame is cut into tiles of 512x512."""
        return self.columns * self.rows > 1

    @property
    def tokens(self) -> int:
        """Image tokens of tiles and thumbnail, without the text tokens that mark image, row and column."""
        return (self.width * self.height + self.thumbnail_width * self.thumbnail_height) // _TOKEN_AREA


def plan_image(width: int, height: int, limits: ImageLimits) -> ImagePlan:
    """Plans a frame of `width` x `height` pixels.

    A single tile or a thumbnail never has more than `limits.max_tokens` tokens; a small frame is enlarged to
    `limits.min_tokens` where that fits.

    Raises:
        PerceptionError: the image has no pixels, or is too long and thin for `limits.max_tokens`.
    """
    if width < 1 or height < 1:
        raise PerceptionError(f"the image is {width}x{height} and has no pixels: check the image source")
    single_width, single_height = _single_tile(width, height, limits)
    tiling = limits.splitting and limits.max_tiles > 1
    if not (tiling and _exceeds_single_tile(width, height, limits.max_tokens)):
        return ImagePlan(single_width, single_height)
    columns, rows = _nearest_grid(width, height, limits.max_tiles)
    return ImagePlan(
        width=columns * TILE_SIDE,
        height=rows * TILE_SIDE,
        columns=columns,
        rows=rows,
        thumbnail_width=single_width if limits.thumbnail else 0,
        thumbnail_height=single_height if limits.thumbnail else 0,
    )


def _single_tile(width: int, height: int, limits: ImageLimits) -> tuple[int, int]:
    """Width and height, multiples of 32, near the image's aspect ratio and within the limits."""
    size = _aligned(width, height)
    if _tokens(size) < limits.min_tokens:
        size = _enlarged(width, height, limits.min_tokens)
    if _tokens(size) > limits.max_tokens:
        size = _shrunk(width, height, limits.max_tokens)
    if _tokens(size) > limits.max_tokens:
        raise PerceptionError(
            f"the image is {width}x{height}, too long and thin for {limits.max_tokens} image tokens of "
            f"{TOKEN_SIDE}x{TOKEN_SIDE} pixels: crop it, or raise image.max_tokens"
        )
    return size


def _tokens(size: tuple[int, int]) -> int:
    return size[0] * size[1] // _TOKEN_AREA


def _aligned(width: int, height: int) -> tuple[int, int]:
    """Both sides rounded to the nearest multiple of 32, halves up, at least 32."""
    across, down = (max(1, (2 * side + TOKEN_SIDE) // (2 * TOKEN_SIDE)) for side in (width, height))
    return across * TOKEN_SIDE, down * TOKEN_SIDE


def _shrunk(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Both sides scaled down to an area of `max_tokens`, then rounded down to multiples of 32."""
    area = np.float32(height) * np.float32(width)
    factor = np.sqrt(area / np.float32(max_tokens * _TOKEN_AREA))
    across, down = (
        max(1, int(np.floor(np.float32(side) / factor / np.float32(TOKEN_SIDE)))) for side in (width, height)
    )
    return across * TOKEN_SIDE, down * TOKEN_SIDE


def _enlarged(width: int, height: int, min_tokens: int) -> tuple[int, int]:
    """Both sides scaled up to an area of `min_tokens`, then rounded up to multiples of 32."""
    area = np.float32(height) * np.float32(width)
    factor = np.sqrt(np.float32(min_tokens * _TOKEN_AREA) / area)
    across, down = (
        int(np.ceil(np.float32(side) * factor / np.float32(TOKEN_SIDE))) for side in (width, height)
    )
    return across * TOKEN_SIDE, down * TOKEN_SIDE


def _exceeds_single_tile(width: int, height: int, max_tokens: int) -> bool:
    """Whether the image's rounded area is more than twice `max_tokens`.

    Here, unlike in `_aligned`, halves round to the even neighbour and a side is at least one patch.
    """
    across, down = (max(_PATCH_SIDE, round(side / TOKEN_SIDE) * TOKEN_SIDE) for side in (width, height))
    return across * down > max_tokens * _TOKEN_AREA * _TILING_TOLERANCE


def _nearest_grid(width: int, height: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the grid whose aspect ratio is nearest to the image's.

    Of equally near grids a larger one is chosen when the image has more than half of its pixels.
    """
    aspect = np.float32(width) / np.float32(height)
    best, best_distance = (1, 1), np.float32(np.inf)
    for columns, rows in _grids(max_tiles):
        distance = abs(aspect - np.float32(columns) / np.float32(rows))
        if distance < best_distance:
            best, best_distance = (columns, rows), distance
        elif distance == best_distance and 2 * width * height > columns * rows * TILE_SIDE**2:
            best = columns, rows
    return best


@cache
def _grids(max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All grids of 2 to `max_tiles` tiles, in the order of their size."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if 2 <= columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))
