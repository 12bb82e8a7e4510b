"""Resizes and tiles a frame as its image plan says, into the pixels that the vision tower reads."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from lfm_perception.image_plan import TILE_SIDE, ImagePlan
from lfm_perception.scene import Image, check_image


def resize(image: Image, plan: ImagePlan) -> Image:
    """The whole image at the planned size: uint8, shape (plan.height, plan.width, 3), C-contiguous.

    The filter is the one nearest to the antialiased bilinear filter of the models' training: INTER_AREA where
    the image loses pixels (mean difference 0.3 to 0.9 gray levels on frames of the demo world, INTER_LINEAR
    0.6 to 3.5), else INTER_LINEAR (0.2, INTER_AREA 1.4). A contiguous image of that size is not copied.

    Raises:
        PerceptionError: `image` is not uint8 of shape (height, width, 3).
    """
    return _resized(image, plan.width, plan.height)


def tile_image(image: Image, plan: ImagePlan) -> Iterator[Image]:
    """The tiles in the order in which the model reads them: row by row, the thumbnail last.

    A plan without a grid gives one tile. Each is uint8, shape (height, width, 3), C-contiguous. The model
    expects `<|img_row_R_col_C|>` before each tile (counted from 1) and `<|img_thumbnail|>` before the
    thumbnail, all between one `<|image_start|>` and one `<|image_end|>`.

    Raises:
        PerceptionError: as `resize` does.
    """
    whole = resize(image, plan)
    if not plan.tiled:
        yield whole
        return
    for top in range(0, plan.height, TILE_SIDE):
        for left in range(0, plan.width, TILE_SIDE):
            yield np.ascontiguousarray(whole[top : top + TILE_SIDE, left : left + TILE_SIDE])
    if plan.thumbnail_width:
        yield _resized(image, plan.thumbnail_width, plan.thumbnail_height)


def _resized(image: Image, width: int, height: int) -> Image:
    check_image(image, "an image")
    source = np.ascontiguousarray(image)
    source_height, source_width = source.shape[:2]
    if (source_width, source_height) == (width, height):
        return source
    shrinks = width * height < source_width * source_height
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(source, (width, height), interpolation=filtering), dtype=np.uint8)
