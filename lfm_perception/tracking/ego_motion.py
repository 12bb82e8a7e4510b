# SPDX-License-Identifier: Apache-2.0
"""Ego-motion (camera motion) estimation from sparse optical flow on a small grey image.

It takes a fraction of a millisecond a frame, and is used to compensate tracks for the camera's motion.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.downscaling import downscale_to_width
from lfm_perception.geometry import BoxArray
from lfm_perception.scene import Image
from lfm_perception.tracking.ego_motion_history import Affine, identity_affine

PixelAffine = NDArray[np.float64]
"""Affine motion in pixels of the small image, shape (2, 3)."""

Points = NDArray[np.float32]
Grey = NDArray[np.uint8]

FLOW_WIDTH = 160
"""Width in pixels of the image that optical flow is computed on; its height keeps the aspect ratio
(see `downscaling.MAX_ASPECT`)."""

CELL_SIZE = 12
"""Side of the cells in pixels. The best corner of each is tracked, so that a large moving object does not
outvote a bare floor."""

BACKGROUND_SIZE = 15
"""Side in pixels of the box blur whose result is subtracted as illumination."""

GREY_STD, GREY_MEAN = 24.0, 128.0
"""Standard deviation and mean to which the remaining brightness is normalized, of 255."""

MIN_GREY_STD = 1.0
"""Standard deviation below which an image is taken for noise and not amplified to `GREY_STD`."""

MIN_EIGENVALUE = 1e-5
"""Least corner quality (see `cv2.cornerMinEigenVal`)."""

MIN_INLIERS, MIN_INLIER_RATIO = 8, 0.15
"""Least number and least share of the tracked corners that must agree on a motion."""

EXPECTED_INLIER_FACTOR = 0.6
"""A camera that stands or continues its motion needs only this share of the best motion's inliers."""

MIN_AFFINE_INLIER_RATIO = 0.4
"""Least share of the corners that must agree on a rotation or zoom where they share no translation."""

AFFINE_INLIER_FACTOR = 1.3
"""A rotation or zoom must have this many times the inliers of the best translation."""

INLIER_DISTANCE = 0.5
"""Largest distance in pixels of an inlier from the common motion."""

MAX_KEYFRAME_AGE, MAX_KEYFRAME_SHIFT = 10, 24.0
"""Frames, and pixels of motion, after which a new keyframe is taken."""

MASK_MARGIN = 4
"""Pixels around a moving object that are masked as well."""


class EgoMotionEstimator:
    """Estimates the camera's motion from each frame to the next one. Owned by one thread.

    Frames are compared with a keyframe some frames back, so that errors do not add up frame by frame and
    objects that move by themselves have the time to stand out.
    """

    def __init__(self) -> None:
        self._keyframe: Grey | None = None
        self._previous: Grey
        self._corners: Points
        self._motion = identity_affine()
        self._pixel_motion: PixelAffine = np.eye(2, 3)
        self._age = 0

    def measure(self, image: Image, moving: BoxArray) -> Affine:
        """The motion from the previous image to this one.

        Args:
            image: the next camera image.
            moving: boxes of objects that move by themselves, `xyxy`, shape (N, 4); they are masked.

        Returns:
            The motion; the identity for the first image and where too few corners agree.
        """
        grey = _normalize(image)
        if self._keyframe is None or self._keyframe.shape != grey.shape:
            self._set_keyframe(grey, moving)
            return identity_affine()
        pixel_motion = self._motion_since_keyframe(grey)
        if pixel_motion is None and self._age > 1:  # too much has changed: compare with the previous frame
            self._set_keyframe(self._previous, moving)
            pixel_motion = self._motion_since_keyframe(grey)
        if pixel_motion is None:
            self._set_keyframe(grey, moving)
            return identity_affine()
        motion = _to_image_sides(pixel_motion, (grey.shape[1], grey.shape[0]))
        step: Affine = motion @ np.linalg.inv(self._motion)
        self._motion, self._previous = motion, grey
        self._age += 1
        if self._age >= MAX_KEYFRAME_AGE or np.abs(self._flow(self._corners)).max() > MAX_KEYFRAME_SHIFT:
            self._set_keyframe(grey, moving)
        return step

    def _set_keyframe(self, grey: Grey, moving: BoxArray) -> None:
        self._keyframe, self._previous, self._corners = grey, grey, _corners(grey, moving)
        self._motion, self._pixel_motion, self._age = identity_affine(), np.eye(2, 3), 0

    def _flow(self, corners: Points) -> Points:
        """How the last motion since the keyframe moves corners, in pixels, shape (N, 2)."""
        motion = self._pixel_motion
        return np.asarray(corners @ motion[:, :2].T + motion[:, 2] - corners, dtype=np.float32)

    def _motion_since_keyframe(self, grey: Grey) -> PixelAffine | None:
        """The motion since the keyframe that most corners share; None where too few do."""
        if self._keyframe is None or len(self._corners) < MIN_INLIERS:
            return None
        guess = (self._corners + self._flow(self._corners)).reshape(-1, 1, 2)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            self._keyframe, grey, self._corners[:, None], guess,
            winSize=(15, 15), maxLevel=2, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )  # fmt: skip
        tracked = found[:, 0] == 1
        corners, moved = self._corners[tracked], moved[tracked, 0]
        if len(corners) < MIN_INLIERS:
            return None
        shift, agree = self._translation(corners, moved)
        translation = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]])
        affine, _ = cv2.estimateAffinePartial2D(
            corners, moved, method=cv2.RANSAC, ransacReprojThreshold=INLIER_DISTANCE, maxIters=100
        )
        affine_agree = 0 if affine is None else _count_inliers(affine, corners, moved)
        shifted = agree >= max(MIN_INLIERS, MIN_INLIER_RATIO * len(corners))
        if shifted and affine_agree <= AFFINE_INLIER_FACTOR * _count_inliers(translation, corners, moved):
            self._pixel_motion = translation
        elif shifted or affine_agree >= max(MIN_INLIERS, MIN_AFFINE_INLIER_RATIO * len(corners)):
            self._pixel_motion = np.asarray(affine)
        else:
            return None
        return self._pixel_motion

    def _translation(self, corners: Points, moved: Points) -> tuple[Points, int]:
        """The translation that most corners agree on, and their number.

        Candidates are the translation of each corner, that of the last motion, and none.
        """
        flow = moved - corners
        expected = self._flow(corners.mean(axis=0, keepdims=True))[0]
        candidates = np.concatenate([flow, [expected, (0.0, 0.0)]])
        inliers = np.linalg.norm(candidates[:, None] - flow[None], axis=2) < 2.0 * INLIER_DISTANCE
        votes = inliers.sum(axis=1) / np.repeat([1.0, EXPECTED_INLIER_FACTOR], [len(flow), 2])
        best = inliers[int(votes.argmax())]
        return np.median(flow[best], axis=0), int(best.sum())


def downscale(image: Image) -> Image:
    """The image at the size that optical flow is computed on."""
    return downscale_to_width(image, FLOW_WIDTH, min_height=CELL_SIZE)


def _normalize(image: Image) -> Grey:
    """The image small and grey, without illumination and with a fixed contrast.

    Optical flow assumes constant brightness, and a camera adjusts its exposure all the time.
    """
    grey = cv2.cvtColor(downscale(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= cv2.blur(grey, (BACKGROUND_SIZE, BACKGROUND_SIZE))
    gain = GREY_STD / max(float(grey.std()), MIN_GREY_STD)
    normalized: Grey = np.clip(grey * gain + GREY_MEAN, 0.0, 255.0).astype(np.uint8)
    return normalized


def _count_inliers(motion: PixelAffine, corners: Points, moved: Points) -> int:
    errors = corners @ motion[:, :2].T + motion[:, 2] - moved
    return int((np.linalg.norm(errors, axis=1) < INLIER_DISTANCE).sum())


def _corners(grey: Grey, moving: BoxArray) -> Points:
    """The best corner of every cell that has one outside the boxes, x and y in pixels, shape (N, 2)."""
    rows, columns = grey.shape[0] // CELL_SIZE, grey.shape[1] // CELL_SIZE
    quality = cv2.cornerMinEigenVal(grey, 5) * _mask(moving, grey.shape)
    squares = quality[: rows * CELL_SIZE, : columns * CELL_SIZE].reshape(rows, CELL_SIZE, columns, CELL_SIZE)
    cells = squares.swapaxes(1, 2).reshape(rows * columns, CELL_SIZE * CELL_SIZE)
    best = cells.argmax(axis=1)
    cell = np.flatnonzero(cells[np.arange(len(cells)), best] > MIN_EIGENVALUE)
    x = cell % columns * CELL_SIZE + best[cell] % CELL_SIZE
    y = cell // columns * CELL_SIZE + best[cell] // CELL_SIZE
    return np.stack([x, y], axis=1).astype(np.float32)


def _mask(boxes: BoxArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """0 in and around the boxes, 1 elsewhere; `shape` is height and width in pixels."""
    mask = np.ones(shape, dtype=np.float32)
    margin = np.array([-MASK_MARGIN, -MASK_MARGIN, MASK_MARGIN, MASK_MARGIN])
    pixels = boxes.clip(0.0, 1.0) * np.tile(shape[::-1], 2) + margin
    for x1, y1, x2, y2 in pixels.round().astype(int).clip(0).tolist():
        mask[y1:y2, x1:x2] = 0
    return mask


def _to_image_sides(motion: PixelAffine, size: tuple[int, int]) -> Affine:
    """A motion in pixels as one in image sides. Pixel centres lie half a pixel inside."""
    to_pixels = np.array([[size[0], 0.0, -0.5], [0.0, size[1], -0.5], [0.0, 0.0, 1.0]])
    affine: Affine = np.linalg.inv(to_pixels) @ np.vstack([motion, [0.0, 0.0, 1.0]]) @ to_pixels
    return affine
