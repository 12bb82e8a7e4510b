# SPDX-License-Identifier: Apache-2.0
"""Resizes and tiles a frame as its image plan says, into the pixels that the vision tower reads.

The filters are the antialiased ones of the models' training, Pillow's `Image.resize` with BILINEAR or
BICUBIC: a pixel is a weighted sum of the source pixels within the filter's support, which grows with the
scale when an image shrinks; along rows first, then along columns, rounded to 8 bits each time.
`benchmarks/resize.py` compares the cost with that of Pillow and OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.extension_modules import extension_module
from lfm_perception.image_plan import ImagePlan
from lfm_perception.scene import Image, check_image

_STRIP = 48
"""Rows that are resized together: their 32-bit floats stay in the cache, and the C library reuses the memory
of a strip for the next one instead of returning it to the system (128 rows cost 2.4 times as much)."""


def resize(image: Image, plan: ImagePlan) -> Image:
    """The whole image at the planned size: uint8, shape (plan.height, plan.width, 3), C-contiguous.

    A contiguous image of that size is not copied.

    Raises:
        PerceptionError: `image` is not uint8 of shape (height, width, 3).
    """
    return _resized(image, plan.width, plan.height, plan.resample)


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
    width, height = plan.width // plan.columns, plan.height // plan.rows
    for top in range(0, plan.height, height):
        for left in range(0, plan.width, width):
            yield np.ascontiguousarray(whole[top : top + height, left : left + width])
    if plan.thumbnail_width:
        yield _resized(image, plan.thumbnail_width, plan.thumbnail_height, plan.resample)


def _resized(image: Image, width: int, height: int, resample: str) -> Image:
    check_image(image, "an image")
    source = np.ascontiguousarray(image)
    if source.shape[:2] == (height, width):
        return source
    return _resized_rows(_resized_rows(source, width, resample), height, resample)


def _resized_rows(image: Image, width: int, resample: str) -> Image:
    """The image with rows of `width` pixels, transposed."""
    if image.shape[1] == width:
        return np.asarray(cv2.transpose(image), np.uint8)
    weights = _weights(image.shape[1], width, resample)
    height, source_width = image.shape[:2]
    resized = np.empty((width, height, 3), np.uint8)
    buffer = np.empty(source_width * 3 * _STRIP, np.float32)
    for top in range(0, height, _STRIP):
        rows = image[top : top + _STRIP]
        strip = buffer[: rows.size].reshape(source_width, -1)
        strip[:] = cv2.transpose(rows).reshape(source_width, -1)
        product = weights.product(strip)
        rounded = cv2.add(product, 0.0, dtype=cv2.CV_8U)  # type: ignore[call-overload]  # saturates
        resized[:, top : top + _STRIP] = rounded.reshape(width, -1, 3)
    return resized


@dataclass(frozen=True, slots=True)
class _SparseMatrix:
    """A matrix of compressed sparse rows (CSR).

    Attributes:
        columns: Number of columns.
        ends: Where the values of each row end, after a 0. The product takes a tenth less time with indices of
            32 bits.
        places: Column of each value.
        values: float32.
    """

    columns: int
    ends: NDArray[np.int32]
    places: NDArray[np.int32]
    values: NDArray[np.float32]

    def product(self, dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """The matrix product with a C-contiguous matrix, as `scipy.sparse.csr_array` calculates it."""
        rows, vectors = len(self.ends) - 1, dense.shape[1]
        try:
            module = extension_module("scipy.sparse._sparsetools")
        except ImportError:  # it is private: another scipy may have it elsewhere
            from scipy.sparse import csr_array

            matrix = csr_array((self.values, self.places, self.ends), shape=(rows, self.columns))
            return np.asarray(matrix @ dense)
        result = np.zeros((rows, vectors), np.float32)
        module.csr_matvecs(
            rows, self.columns, vectors, self.ends, self.places, self.values, dense.ravel(), result.ravel()
        )
        return result


@lru_cache(maxsize=16)
def _weights(source: int, target: int, resample: str) -> _SparseMatrix:
    """The weights of the source pixels of a row, one row of a sparse matrix for each target pixel."""
    kernel, support = _KERNELS[resample]
    scale = source / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum(centres - support * stretch + 0.5, 0.0).astype(int)
    stop = np.minimum(centres + support * stretch + 0.5, source).astype(int)
    columns = first[:, None] + np.arange((stop - first).max())
    weights = kernel(np.abs(columns + 0.5 - centres[:, None]) / stretch)
    weights[columns >= stop[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    rows, places = np.nonzero(weights)
    values, places = weights[rows, places].astype(np.float32), columns[rows, places]
    ends = np.cumsum(np.count_nonzero(weights, axis=1))
    return _SparseMatrix(source, np.append(0, ends).astype(np.int32), places.astype(np.int32), values)


def _triangle(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - distance, 0.0)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution with a = -0.5."""
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


_KERNELS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}
"""The filters of `image.resample` with their support, in pixels of the coarser image."""
