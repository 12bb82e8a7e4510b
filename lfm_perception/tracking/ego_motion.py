"""How the camera moves: from sparse optical flow on a small picture, a fraction of a millisecond a frame.

An `Affine` maps points of one image to another, shape (3, 3), in image sides (see `geometry`).
`EgoMotionEstimator` measures it from frame to frame, and `EgoMotionHistory` keeps it for a while, so
that boxes can be carried between any two moments.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray
from lfm_perception.scene import Image

Affine = NDArray[np.float64]
Points = NDArray[np.float32]
Grey = NDArray[np.uint8]

SMALL_WIDTH = 160
"""Pixels; the height follows."""

CELL = 12
"""Small pixels. The best corner of each such square is followed, so that every part of the image has its
say and a large object in motion does not outvote a bare floor."""

LIGHT = 15
"""Small pixels over which brightness is taken for light, and..."""

CONTRAST, MIDDLE_GREY = 24.0, 128.0
"""...standard deviation and mean, of 255, that the rest is given; that of..."""

FLATTEST = 1.0
"""...a picture with less is noise, and not raised to it."""

FAINTEST = 1e-5
"""Smallest eigenvalue (see `cv2.cornerMinEigenVal`) of what can be followed at all."""

LEAST_CORNERS = 8
"""Corners that must move together, and..."""

LEAST_SHARE = 0.15
"""...share of all that were followed, for the motion to be the camera's."""

EXPECTED_SHARE = 0.6
"""A camera that stands, or moves on as before, needs only this share of the best motion's corners."""

TURN_SHARE = 1.3
"""A camera that turns or drives must explain this many times the corners that a mere shift explains."""

REFERENCE_FRAMES = 10
REFERENCE_SHIFT = 24.0
"""A reference is used for so many frames, and until the image has moved by so many small pixels."""

BESIDE = 4
"""Small pixels around a moving object that are left out as well."""

OFF_BY = 0.5
"""Small pixels that a corner may be off the common motion."""

REMEMBERED = 512
"""Frames; at 30 Hz 17 s, which outlasts any answer."""

RATE_S = 0.5
"""Over which the course of the camera is taken for its motion at a moment, as a parabola, and..."""

RATE_FRAMES = 5
"""...from so many frames at least; for what is less, from the last two."""

SPEED_S = 0.5
"""Over which the speed of the camera is taken, for deciding whether it moves at all."""

FAST, SLOW = 0.01, 0.004
"""Image sides per second. A camera that gets faster than the one moves, until it is slower than the other.
A camera that stands is measured to move by 0.001."""


def still() -> Affine:
    """Nothing has moved."""
    return np.eye(3)


class EgoMotionEstimator:
    """Measures the view from each frame to the next one. Owned by one thread.

    Frames are compared with a reference some frames back, so that errors do not add up frame by frame and
    what moves by itself has had the time to stand out.
    """

    def __init__(self) -> None:
        self._reference: Grey | None = None
        self._before: Grey
        self._corners: Points
        self._view = still()
        self._flow: Points = np.zeros(2, dtype=np.float32)
        self._frames = 0

    def measure(self, image: Image, moving: BoxArray) -> Affine:
        """From the image before to this one; still for the first one and where the motion cannot be told.

        `moving`: what moves by itself, `xyxy`, shape (N, 4), which is left out.
        """
        grey = _evenly_lit(image)
        if self._reference is None or self._reference.shape != grey.shape:
            self._refer_to(grey, moving)
            return still()
        motion = self._motion_to(grey)
        if (
            motion is None and self._frames > 1
        ):  # too much has changed since the reference: from frame to frame
            self._refer_to(self._before, moving)
            motion = self._motion_to(grey)
        if motion is None:
            self._refer_to(grey, moving)
            return still()
        now = _in_sides(motion, (grey.shape[1], grey.shape[0]))
        step: Affine = now @ np.linalg.inv(self._view)
        self._view, self._before = now, grey
        self._frames += 1
        if self._frames >= REFERENCE_FRAMES or np.abs(self._flow).max() > REFERENCE_SHIFT:
            self._refer_to(grey, moving)
        return step

    def _refer_to(self, grey: Grey, moving: BoxArray) -> None:
        self._reference, self._before, self._corners = grey, grey, _corners(grey, moving)
        self._view, self._flow, self._frames = still(), np.zeros(2, dtype=np.float32), 0

    def _motion_to(self, grey: Grey) -> NDArray[np.float64] | None:
        """The motion in pixels since the reference that most corners share, shape (2, 3), if enough do."""
        if self._reference is None or len(self._corners) < LEAST_CORNERS:
            return None
        guess = (self._corners + self._flow).reshape(-1, 1, 2)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            self._reference, grey, self._corners[:, None], guess,
            winSize=(15, 15), maxLevel=2, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )  # fmt: skip
        followed = found[:, 0] == 1
        corners, moved = self._corners[followed], moved[followed, 0]
        flow = moved - corners
        guesses = np.concatenate([flow, [self._flow, (0.0, 0.0)]])
        agrees = np.linalg.norm(guesses[:, None] - flow[None], axis=2) < 2.0 * OFF_BY
        votes = agrees.sum(axis=1) / np.repeat([1.0, EXPECTED_SHARE], [len(flow), 2])
        best = agrees[int(votes.argmax())]
        if best.sum() < max(LEAST_CORNERS, LEAST_SHARE * len(flow)):
            return None
        self._flow = np.median(flow[best], axis=0)
        shift = np.array([[1.0, 0.0, self._flow[0]], [0.0, 1.0, self._flow[1]]])
        turn, _ = cv2.estimateAffinePartial2D(
            corners, moved, method=cv2.RANSAC, ransacReprojThreshold=OFF_BY, maxIters=100
        )
        if turn is not None and _agree(turn, corners, moved) > TURN_SHARE * _agree(shift, corners, moved):
            return np.asarray(turn, dtype=np.float64)
        return shift


def shrunk(image: Image) -> Image:
    """The image as small as it is looked at here."""
    height, width = image.shape[:2]
    size = (SMALL_WIDTH, max(round(SMALL_WIDTH * height / width), CELL))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _evenly_lit(image: Image) -> Grey:
    """The image small and grey, without its large-scale light and shade and in a fixed contrast.

    Optical flow takes equal brightness for equal places, and a camera adjusts its exposure all the time.
    """
    grey = cv2.cvtColor(shrunk(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= cv2.blur(grey, (LIGHT, LIGHT))
    gain = CONTRAST / max(float(grey.std()), FLATTEST)
    even: Grey = np.clip(grey * gain + MIDDLE_GREY, 0.0, 255.0).astype(np.uint8)
    return even


def _agree(motion: NDArray[np.float64], corners: Points, moved: Points) -> int:
    """How many corners moved that way, to `OFF_BY`."""
    off = corners @ motion[:, :2].T + motion[:, 2] - moved
    return int((np.linalg.norm(off, axis=1) < OFF_BY).sum())


def _corners(grey: Grey, moving: BoxArray) -> Points:
    """The best corner of every cell that has one beside the boxes, x and y in pixels, shape (N, 2)."""
    rows, columns = grey.shape[0] // CELL, grey.shape[1] // CELL
    quality = cv2.cornerMinEigenVal(grey, 5) * _beside(moving, grey.shape)
    squares = quality[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    cells = squares.swapaxes(1, 2).reshape(rows * columns, CELL * CELL)
    best = cells.argmax(axis=1)
    cell = np.flatnonzero(cells[np.arange(len(cells)), best] > FAINTEST)
    x = cell % columns * CELL + best[cell] % CELL
    y = cell // columns * CELL + best[cell] // CELL
    return np.stack([x, y], axis=1).astype(np.float32)


def moved(boxes: BoxArray, view: Affine) -> BoxArray:
    """Boxes of the old image in the new one, `xyxy`, shape (N, 4)."""
    corners: BoxArray = (boxes.reshape(-1, 2) @ view[:2, :2].T + view[:2, 2]).reshape(-1, 4)
    return corners


def _beside(boxes: BoxArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """1 where no box is, 0 in and around the boxes; `shape` is height and width in pixels."""
    mask = np.ones(shape, dtype=np.float32)
    pixels = boxes.clip(0.0, 1.0) * np.tile(shape[::-1], 2) + np.array([-BESIDE, -BESIDE, BESIDE, BESIDE])
    for x1, y1, x2, y2 in pixels.round().astype(int).clip(0).tolist():
        mask[y1:y2, x1:x2] = 0
    return mask


def _in_sides(motion: NDArray[np.float64], size: tuple[int, int]) -> Affine:
    """An affine motion of pixels, shape (2, 3), as a view. Pixel centres lie half a pixel in."""
    to_pixels = np.array([[size[0], 0.0, -0.5], [0.0, size[1], -0.5], [0.0, 0.0, 1.0]])
    view: Affine = np.linalg.inv(to_pixels) @ np.vstack([motion, [0.0, 0.0, 1.0]]) @ to_pixels
    return view


class EgoMotionHistory:
    """Where the camera looked, for the last frames: views from one image to that of each stamp.

    As long as nothing was added, it is a camera that stands still.
    """

    def __init__(self) -> None:
        self._steps = deque[tuple[float, Affine]](maxlen=REMEMBERED)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, view: Affine, stamp_s: float) -> None:
        """The view from the frame before to that at `stamp_s`. A stamp that does not follow begins anew."""
        if self._steps and stamp_s <= self._steps[-1][0]:
            self._steps.clear()
        last = self._steps[-1][1] if self._steps else still()
        self._steps.append((stamp_s, view @ last))

    def count_from(self, stamp_s: float) -> None:
        """Begin at the image at that stamp, so that errors do not add up, and drop what lies long before."""
        while len(self._steps) > 1 and self._steps[1][0] <= stamp_s - SPEED_S:
            self._steps.popleft()
        back = np.linalg.inv(self.to(stamp_s))
        for index, (stamp, view) in enumerate(self._steps):
            self._steps[index] = (stamp, view @ back)

    def moves(self, stamp_s: float, *, already: bool) -> bool:
        """Whether the camera moves at that stamp, to and fro or on and on, given whether it did before."""
        now = self.to(stamp_s)
        views = [
            now @ np.linalg.inv(view) - still() for at_s, view in self._steps if at_s > stamp_s - SPEED_S
        ]
        corners = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]).T
        speed = max((float(np.abs(view @ corners).max()) for view in views), default=0.0) / SPEED_S
        return speed > (SLOW if already else FAST)

    def rate(self, stamp_s: float) -> Affine:
        """What the camera does at that stamp, per second, to places of the image counted from.

        To a place [x, y, 1] it does `rate @ [x, y, 1]`.
        """
        recent = [(at_s - stamp_s, view) for at_s, view in self._steps if -RATE_S <= at_s - stamp_s <= 0.0]
        degree = 2 if len(recent) >= RATE_FRAMES else 1
        recent = recent if degree == 2 else recent[-2:]
        if len(recent) < 2:
            return np.zeros((3, 3))
        seconds, views = zip(*recent, strict=True)
        powers = np.vander(seconds, degree + 1, increasing=True)
        courses = np.linalg.solve(powers.T @ powers, powers.T @ np.reshape(views, (-1, 9)))
        rate: Affine = courses[1].reshape(3, 3)
        return rate

    def to(self, stamp_s: float) -> Affine:
        """From the image counted from to that at a stamp.

        Between two frames in proportion; before the first and after the last frame as there.
        """
        steps = self._steps
        if not steps or stamp_s <= steps[0][0]:
            return steps[0][1] if steps else still()
        for index in range(len(steps) - 1, -1, -1):
            before_s, before = steps[index]
            if before_s <= stamp_s:
                if index == len(steps) - 1:
                    return before
                after_s, after = steps[index + 1]
                share = (stamp_s - before_s) / (after_s - before_s)
                view: Affine = before + share * (after - before)
                return view
        return steps[0][1]
