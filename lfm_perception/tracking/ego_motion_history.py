# SPDX-License-Identifier: Apache-2.0
"""The camera's recent motion, to transform boxes between the images of any two moments. Numpy only."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from lfm_perception.geometry import BoxArray

Affine = NDArray[np.float64]
"""Affine motion that maps points of one image to another, shape (3, 3), in image sides (see `geometry`)."""

MAX_FRAMES = 512
"""Length of the history; at 30 Hz 17 s, which outlasts any answer."""

VELOCITY_WINDOW_S = 0.5
"""Window in which a parabola is fitted to the camera's course to get its velocity."""

MIN_PARABOLA_FRAMES = 5
"""Least number of frames for a parabola; with fewer, the velocity comes from the last two."""

MOTION_WINDOW_S = 0.5
"""Window over which the speed is measured that decides whether the camera moves."""

START_SPEED, STOP_SPEED = 0.01, 0.004
"""Image sides per second from which on a camera moves, and below which it stands again; cameras that stand
are measured to move by 0.001."""

MIN_FRAME_S = 1e-3
"""Least time between two frames: from less, which no camera has, no rate of motion can be told."""


def identity_affine() -> Affine:
    """The motion of a camera that stands."""
    return np.eye(3)


def transform_boxes(boxes: BoxArray, motion: Affine) -> BoxArray:
    """Boxes of the first image in the second one, `xyxy`, shape (N, 4)."""
    corners: BoxArray = (boxes.reshape(-1, 2) @ motion[:2, :2].T + motion[:2, 2]).reshape(-1, 4)
    return corners


class EgoMotionHistory:
    """Motions from a reference image to the images of the last frames. Empty, it is a camera that stands."""

    def __init__(self) -> None:
        self._motions = deque[tuple[float, Affine]](maxlen=MAX_FRAMES)

    def __bool__(self) -> bool:
        return bool(self._motions)

    def add(self, motion: Affine, stamp_s: float) -> None:
        """Appends the motion from the previous frame to that at `stamp_s`; an earlier stamp starts anew.

        A frame less than `MIN_FRAME_S` after the previous one is taken to be of the same moment.
        """
        if self._motions and stamp_s <= self._motions[-1][0]:
            self._motions.clear()
        last_s, last = self._motions[-1] if self._motions else (-math.inf, identity_affine())
        if stamp_s - last_s < MIN_FRAME_S:
            stamp_s = last_s
            self._motions.pop()
        self._motions.append((stamp_s, motion @ last))

    def rebase(self, stamp_s: float) -> None:
        """Makes the image at `stamp_s` the reference, which bounds errors, and drops what is long before."""
        while len(self._motions) > 1 and self._motions[1][0] <= stamp_s - MOTION_WINDOW_S:
            self._motions.popleft()
        inverse = np.linalg.inv(self.at(stamp_s))
        for index, (stamp, motion) in enumerate(self._motions):
            self._motions[index] = (stamp, motion @ inverse)

    def at(self, stamp_s: float) -> Affine:
        """Motion from the reference image to that at a stamp.

        Interpolated between two frames, constant before the first and after the last one.
        """
        motions = self._motions
        if not motions or stamp_s <= motions[0][0]:
            return motions[0][1] if motions else identity_affine()
        if motions[-1][0] <= stamp_s:
            return motions[-1][1]
        index = next(index for index in range(len(motions) - 2, -1, -1) if motions[index][0] <= stamp_s)
        (before_s, before), (after_s, after) = motions[index], motions[index + 1]
        share = (stamp_s - before_s) / (after_s - before_s)
        motion: Affine = before + share * (after - before)
        return motion

    def is_moving(self, stamp_s: float, *, was_moving: bool) -> bool:
        """Whether the camera moves at that stamp, to and fro or steadily, given whether it moved before."""
        now = self.at(stamp_s)
        offsets = [
            now @ np.linalg.inv(motion) - identity_affine()
            for at_s, motion in self._motions
            if at_s > stamp_s - MOTION_WINDOW_S
        ]
        corners = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]).T
        distance = max((float(np.abs(offset @ corners).max()) for offset in offsets), default=0.0)
        return distance / MOTION_WINDOW_S > (STOP_SPEED if was_moving else START_SPEED)

    def velocity(self, stamp_s: float) -> Affine:
        """Motion per second: a point [x, y, 1] of the reference image moves by `velocity @ point`."""
        recent = [
            (at_s - stamp_s, motion)
            for at_s, motion in self._motions
            if -VELOCITY_WINDOW_S <= at_s - stamp_s <= 0.0
        ]
        degree = 2 if len(recent) >= MIN_PARABOLA_FRAMES else 1
        recent = recent if degree == 2 else recent[-2:]
        if len(recent) < 2:
            return np.zeros((3, 3))
        seconds, motions = zip(*recent, strict=True)
        powers = np.vander(seconds, degree + 1, increasing=True)
        coefficients = np.linalg.solve(powers.T @ powers, powers.T @ np.reshape(motions, (-1, 9)))
        velocity: Affine = coefficients[1].reshape(3, 3)
        return velocity
