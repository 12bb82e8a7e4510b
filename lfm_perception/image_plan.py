# SPDX-License-Identifier: Apache-2.0
"""LFM2-VL's image preprocessing as arithmetic: sizes, tiles, thumbnail and tokens. Pure functions.

One image token covers 32x32 pixels (2x2 patches of 16x16). A frame whose area is at most `pixel_tolerance`
times `max_tokens` becomes one tile with sides that are multiples of 32. A larger one becomes tiles of
`tile_size`, in the grid nearest to its aspect ratio, followed by a thumbnail of the whole frame. The sizes
are those of Transformers (`models/lfm2_vl`), which rounds halves to the even neighbour; llama.cpp rounds them
up and makes 416x288 of 400x300 where Transformers and a plan make 384x288. (The model card's one example of
tiling, 1,020 tokens for 1000x3000, is what neither computes: both give 3 x 256 + 9 x 27 = 1,011.)

Two differences are on purpose. A plan never exceeds `max_tokens`: the preprocessor does when it enlarges a
small image (100x100 at 32 to 32 tokens gives 36) and for long, thin images; a plan takes the next smaller
size, or refuses an image that is too long and thin. And where a grid of one tile is nearest (`min_tiles` 1),
Transformers cuts a tile of 512x512 but counts the tokens of a single tile; a plan is that single tile.

**llama.cpp keeps planned images unchanged.** The frame is resized here to the planned size and given to
llama.cpp tile by tile (`planning.resize.tile_image`). Load it with `image_min_tokens=1` and an
`image_max_tokens` that no tile exceeds (`max_tokens`, and 256 for tiles): every planned tile is then a
multiple of 32 on both sides, within those bounds and below the tiling threshold, and llama.cpp neither
resizes nor tiles it. llama.cpp's own tiling is not used: it cannot be configured (always up to 10 tiles and
a thumbnail), and it pads the grid with black bars, which would shift boxes.

**Boxes.** The whole frame, or the region of it that is inferred (`planning.regions`), is stretched to the
planned size, never padded. Normalized coordinates are therefore the same in the frame or region, in the
resized image and in the thumbnail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from lfm_perception.errors import PerceptionError

TOKEN_SIDE = 32
"""Pixels on each side of the square that one image token covers."""

MAX_TILE_SIZE = 1024
"""Pixels on each side of the largest tile that llama.cpp is loaded for."""

MAX_TILES = 10
"""The largest grid the models were trained with."""

SERVER_MIN_TOKENS, SERVER_MAX_TOKENS = 64, 256
"""Fewest and most image tokens of a picture or thumbnail on a server, which keeps to the model's limits."""

_TWO_TILES_SCALE = 1.0625  # 1088x544 for 1024x512: 578 tokens, multiples of 32
_PATCH_SIDE = 16
_TOKEN_AREA = TOKEN_SIDE**2


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of an image plan, as the group `image` of the parameters has them.

    `min_tokens` and `max_tokens` bound a single tile and the thumbnail; a tile of a grid has `tile_size`
    pixels on each side. A grid has `min_tiles` to `max_tiles` tiles; with `max_tiles` 1, or without
    `splitting`, a frame is never tiled. `thumbnail` adds a small view of the whole frame to a grid.
    `resample` is the filter of resizing: bilinear or bicubic.
    On a `server`, which gets the picture at its planned size, the thumbnail is made from the grid.

    Raises PerceptionError when a limit is out of range or two contradict each other.
    """

    min_tokens: int = 32
    max_tokens: int = 256
    max_tiles: int = 1
    splitting: bool = True
    thumbnail: bool = True
    min_tiles: int = 2
    tile_size: int = 512
    pixel_tolerance: float = 2.0
    resample: str = "bilinear"
    server: bool = False

    def for_server(self) -> ImageLimits:
        """These limits as a server can keep them: pictures of 64 to 256 tokens, grids with a thumbnail."""
        least, most = (
            min(max(tokens, SERVER_MIN_TOKENS), SERVER_MAX_TOKENS)
            for tokens in (self.min_tokens, self.max_tokens)
        )
        default = ImageLimits()
        return replace(
            self,
            min_tokens=least,
            max_tokens=most,
            min_tiles=default.min_tiles,
            tile_size=default.tile_size,
            pixel_tolerance=default.pixel_tolerance,
            thumbnail=True,
            server=True,
        )

    def __post_init__(self) -> None:
        if self.min_tokens < 1 or self.max_tokens < self.min_tokens:
            raise PerceptionError(
                f"image.min_tokens {self.min_tokens} is above image.max_tokens {self.max_tokens}: "
                "lower the one or raise the other"
            )
        if not 1 <= self.max_tiles <= MAX_TILES:
            raise PerceptionError(f"image.max_tiles must be 1 to {MAX_TILES}, got {self.max_tiles}")
        if self.tile_size % TOKEN_SIDE or not 0 < self.tile_size <= MAX_TILE_SIZE:
            raise PerceptionError(
                f"image.tile_size must be a multiple of {TOKEN_SIDE} up to {MAX_TILE_SIZE}, "
                f"got {self.tile_size}"
            )

    @property
    def tile_tokens(self) -> int:
        """Image tokens of one tile of a grid."""
        return self.tile_size**2 // _TOKEN_AREA

    @property
    def tiles_frames(self) -> bool:
        """Whether a large frame is tiled."""
        return self.splitting and self.max_tiles >= max(2, self.min_tiles)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How one frame is resized and tiled.

    The whole frame is resized to `width` x `height` pixels, multiples of 32, with the filter `resample`, and
    cut into `columns` x `rows` square tiles. `thumbnail_width` and `thumbnail_height` are 0 when there is no
    thumbnail.
    """

    width: int
    height: int
    columns: int = 1
    rows: int = 1
    thumbnail_width: int = 0
    thumbnail_height: int = 0
    resample: str = "bilinear"

    @property
    def tiled(self) -> bool:
        """Whether the frame is cut into tiles."""
        return self.columns * self.rows > 1

    @property
    def tile_tokens(self) -> int:
        """Image tokens of each tile of the grid, or of the single tile."""
        return self.width * self.height // (self.columns * self.rows * _TOKEN_AREA)

    @property
    def tokens(self) -> int:
        """Image tokens of tiles and thumbnail, without the text tokens that mark image, row and column."""
        return (self.width * self.height + self.thumbnail_width * self.thumbnail_height) // _TOKEN_AREA

    @property
    def marker_tokens(self) -> int:
        """Text tokens that mark begin and end of the image, each tile and the thumbnail."""
        tiles = self.columns * self.rows if self.tiled else 0
        return 2 + tiles + bool(self.thumbnail_width)

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height of the picture that a server's own preprocessing turns into this plan.

        Servers tile what has more than 512 tokens, so that two tiles need a picture that is a little larger.
        """
        scale = _TWO_TILES_SCALE if self.columns * self.rows == 2 else 1.0
        return round(self.width * scale), round(self.height * scale)


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
    columns, rows = 1, 1
    if limits.tiles_frames and _exceeds_single_tile(width, height, limits):
        columns, rows = _nearest_grid(width, height, limits)
    if columns * rows == 1:
        return ImagePlan(single_width, single_height, resample=limits.resample)
    if limits.server:
        whole = replace(limits, max_tokens=SERVER_MAX_TOKENS)
        single_width, single_height = _single_tile(columns * limits.tile_size, rows * limits.tile_size, whole)
    return ImagePlan(
        width=columns * limits.tile_size,
        height=rows * limits.tile_size,
        columns=columns,
        rows=rows,
        thumbnail_width=single_width if limits.thumbnail else 0,
        thumbnail_height=single_height if limits.thumbnail else 0,
        resample=limits.resample,
    )


def _single_tile(width: int, height: int, limits: ImageLimits) -> tuple[int, int]:
    """Width and height, multiples of 32, near the image's aspect ratio and within the limits."""
    size = _aligned(width, height)
    if _tokens(size) < limits.min_tokens:
        size = _enlarged(width, height, limits.min_tokens)
    if _tokens(size) > limits.max_tokens:
        size = _shrunk(width, height, limits.max_tokens)
    if limits.server and _tokens(size) < limits.min_tokens:  # the server would enlarge it
        size = _of_nearest_aspect(width, height, limits)
    if _tokens(size) > limits.max_tokens:
        raise PerceptionError(
            f"the image is {width}x{height}, too long and thin for {limits.max_tokens} image tokens of "
            f"{TOKEN_SIDE}x{TOKEN_SIDE} pixels: crop it, or raise image.max_tokens"
        )
    return size


def _tokens(size: tuple[int, int]) -> int:
    return size[0] * size[1] // _TOKEN_AREA


def _aligned(width: int, height: int) -> tuple[int, int]:
    """Both sides rounded to the nearest multiple of 32, halves to the even one, at least 32."""
    across, down = (max(TOKEN_SIDE, _rounded(side)) for side in (width, height))
    return across, down


def _rounded(side: int) -> int:
    return round(side / TOKEN_SIDE) * TOKEN_SIDE


def _shrunk(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Both sides scaled down to an area of `max_tokens`, then rounded down to multiples of 32."""
    factor = math.sqrt(height * width / (max_tokens * _TOKEN_AREA))
    across, down = (max(1, math.floor(side / factor / TOKEN_SIDE)) for side in (width, height))
    return across * TOKEN_SIDE, down * TOKEN_SIDE


def _of_nearest_aspect(width: int, height: int, limits: ImageLimits) -> tuple[int, int]:
    """The size within the limits whose aspect ratio is nearest to the image's."""
    sizes = (
        (columns * TOKEN_SIDE, rows * TOKEN_SIDE)
        for columns in range(1, limits.max_tokens + 1)
        for rows in range(-(-limits.min_tokens // columns), limits.max_tokens // columns + 1)
    )
    return min(sizes, key=lambda size: abs(math.log(size[0] * height / (size[1] * width))))


def _enlarged(width: int, height: int, min_tokens: int) -> tuple[int, int]:
    """Both sides scaled up to an area of `min_tokens`, then rounded up to multiples of 32."""
    factor = math.sqrt(min_tokens * _TOKEN_AREA / (height * width))
    across, down = (math.ceil(side * factor / TOKEN_SIDE) for side in (width, height))
    return across * TOKEN_SIDE, down * TOKEN_SIDE


def _exceeds_single_tile(width: int, height: int, limits: ImageLimits) -> bool:
    """Whether the image's rounded area is beyond the tolerance. A side is at least one patch here."""
    across, down = (max(_PATCH_SIDE, _rounded(side)) for side in (width, height))
    return across * down > limits.max_tokens * _TOKEN_AREA * limits.pixel_tolerance


def _nearest_grid(width: int, height: int, limits: ImageLimits) -> tuple[int, int]:
    """Columns and rows of the grid whose aspect ratio is nearest to the image's.

    Of equally near grids a larger one is chosen when the image has more than half of its pixels.
    """
    best, best_distance = (1, 1), math.inf
    for columns, rows in _grids(limits.min_tiles, limits.max_tiles):
        distance = abs(width / height - columns / rows)
        if distance < best_distance:
            best, best_distance = (columns, rows), distance
        elif distance == best_distance and 2 * width * height > columns * rows * limits.tile_size**2:
            best = columns, rows
    return best


@cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All grids of `min_tiles` to `max_tiles` tiles, in the order of their size."""
    sides = range(1, max_tiles + 1)
    grids = [(across, down) for across in sides for down in sides if min_tiles <= across * down <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))
