"""Many boxes in motion at once: Kalman filters at nearly constant velocity, as arrays.

Centre x, centre y, width and height of a box move independently of each other, each with a state of
position and velocity, and each is measured itself. The filter of such an axis is 2 x 2 and its equations
need no matrix library, so those of all tracks are a few array operations: 50 tracks take 11 us to predict
and 25 us to fuse, where as many `filterpy.kalman.KalmanFilter` objects of 8 x 8 take 190 us and 850 us
(`benchmarks/tracking.py`, x86-64). The results are those of filterpy to 1e-9, which the tests hold it to.

What walks on and what turns round want different filters: one that trusts its velocity, and one that follows.
`ImmFilter` runs both and weighs them by how well each expected what was measured, which halves the error of
the velocity of what walks on.

Positions are in image sides (see `geometry`), velocities in image sides per second, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CALM = 0.1
"""Share of its process_noise that a box has in its calm mode."""

DOUBT = 0.5
"""A velocity of so many of its standard deviations is believed by half, one of many of them wholly."""

STEADY_S = 1.0
"""Seconds after which the mode of a box is as good as unknown: it was kept with 1/e."""


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """The filters of N boxes. Values: every change gives new ones.

    `position`, `velocity`: [cx, cy, w, h] and their rates, shape (N, 4). `variance`, `covariance`,
    `velocity_variance`: the three different entries of each axis's 2 x 2 covariance, shape (N, 4).
    """

    position: Array
    velocity: Array
    variance: Array
    covariance: Array
    velocity_variance: Array

    @classmethod
    def starting(cls, measured: Array, noise: Array, speed: Array) -> Motion:
        """At rest where it was measured, shape (N, 4); `noise`: variances, `speed`: its likely size."""
        at_rest = np.zeros_like(measured)
        return cls(measured, at_rest, noise, at_rest, np.broadcast_to(speed**2, measured.shape))

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Motion:
        return Motion(*(part[rows] for part in self._parts))

    def joined(self, others: Motion) -> Motion:
        """These boxes, then the others."""
        return Motion(*(np.concatenate(pair) for pair in zip(self._parts, others._parts, strict=True)))

    @property
    def _parts(self) -> tuple[Array, Array, Array, Array, Array]:
        return self.position, self.velocity, self.variance, self.covariance, self.velocity_variance

    def after(self, seconds: float, process_noise: Array) -> Motion:
        """That much later. `process_noise`: how much velocities change in a second, shape (N, 4) or (4,).

        Velocity wanders as white noise would drive it, so that two short steps equal a long one.
        """
        wander = process_noise**2 * seconds
        moved = self.position + self.velocity * seconds
        variance = (
            self.variance
            + (2.0 * seconds) * self.covariance
            + seconds**2 * (self.velocity_variance + wander / 3.0)
        )
        covariance = self.covariance + seconds * (self.velocity_variance + wander / 2.0)
        return Motion(moved, self.velocity, variance, covariance, self.velocity_variance + wander)

    def fused(self, rows: NDArray[np.intp], measured: Array, noise: Array) -> Motion:
        """After the boxes of `rows` were measured, shape (M, 4), with the variances `noise`, shape (M, 4)."""
        before = self[rows]
        total = before.variance + noise
        gain, velocity_gain = before.variance / total, before.covariance / total
        surprise = measured - before.position
        after = Motion(
            before.position + gain * surprise,
            before.velocity + velocity_gain * surprise,
            before.variance * noise / total,
            before.covariance * noise / total,
            before.velocity_variance - velocity_gain * before.covariance,
        )
        parts = [part.copy() for part in self._parts]
        for part, fresh in zip(parts, after._parts, strict=True):
            part[rows] = fresh
        return Motion(*parts)

    def believed(self) -> Motion:
        """The same with the velocities shrunk towards rest, the more the less sure they are.

        Much stands, or keeps its size: a measured velocity that its noise explains is best taken for none.
        """
        square = self.velocity**2
        return replace(self, velocity=self.velocity * square / (square + DOUBT**2 * self.velocity_variance))

    def faster(self, by: Array) -> Motion:
        """The same with another velocity of the centres; `by` has shape (N, 2)."""
        velocity = self.velocity + np.pad(by, ((0, 0), (0, 2)))
        return replace(self, velocity=velocity)

    def placed(self, rows: NDArray[np.intp], position: Array) -> Motion:
        """The same with the boxes of `rows` elsewhere; `position` has shape (M, 4)."""
        everywhere = self.position.copy()
        everywhere[rows] = position
        return replace(self, position=everywhere)

    def distance(self, expected: Array, measured: Array, noise: Array) -> Array:
        """Squared Mahalanobis distance of each box to each of M measurements, shape (N, M).

        `expected`: where the boxes are taken to be measured, shape (N, 4). `measured` and its variances
        `noise` have shape (M, 4).
        """
        surprise = measured[None] - expected[:, None]
        total = self.variance[:, None] + noise[None]
        distance: Array = (surprise**2 / total).sum(axis=2)
        return distance

    def seen_from(self, view: Array) -> Motion:
        """The same boxes after the camera has moved: `view` takes places of the old image to the new one.

        Shape (3, 3), affine, in image sides. Sizes follow its scale along each side; turns are taken to be
        small.
        """
        linear, shift = view[:2, :2], view[:2, 2]
        if linear.tolist() == [[1.0, 0.0], [0.0, 1.0]]:  # most are, and much is saved
            position = self.position.copy()
            position[:, :2] += shift
            return Motion(position, *self._parts[1:])
        scale = np.tile(np.hypot(linear[0], linear[1]), 2)
        turned = linear.T
        position, velocity = self.position * scale, self.velocity * scale
        position[:, :2] = self.position[:, :2] @ turned + shift
        velocity[:, :2] = self.velocity[:, :2] @ turned
        spread = scale**2
        return Motion(
            position,
            velocity,
            self.variance * spread,
            self.covariance * spread,
            self.velocity_variance * spread,
        )

    def corners(self) -> Array:
        """`xyxy`, shape (N, 4). May leave the image; a width or height below 0 counts as 0."""
        corners = np.empty_like(self.position)
        centre, half = self.position[:, :2], np.maximum(self.position[:, 2:], 0.0) / 2.0
        np.subtract(centre, half, out=corners[:, :2])
        np.add(centre, half, out=corners[:, 2:])
        return corners


@dataclass(frozen=True, slots=True, eq=False)
class ImmFilter:
    """Boxes that sometimes keep their velocity and sometimes change it: an interacting multiple model.

    `modes`: the filters of N boxes if they were calm, and if they were agile. `chances`: of each mode, shape
    (2, N). `whole`: both together, with the mean and the spread of the mixture (Blom and Bar-Shalom, "The
    interacting multiple model algorithm", 1988), axis by axis as everything here.
    """

    modes: tuple[Motion, Motion]
    chances: Array
    whole: Motion

    @classmethod
    def of(cls, modes: tuple[Motion, Motion], chances: Array) -> ImmFilter:
        return cls(modes, chances, _mixture(modes, chances))

    @classmethod
    def starting(cls, measured: Array, noise: Array, speed: Array) -> ImmFilter:
        """See `Motion.starting`; nothing is known of the mode."""
        motion = Motion.starting(measured, noise, speed)
        return cls((motion, motion), np.full((2, len(motion)), 0.5), motion)

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> ImmFilter:
        calm, agile = self.modes
        return ImmFilter((calm[rows], agile[rows]), self.chances[:, rows], self.whole[rows])

    def joined(self, others: ImmFilter) -> ImmFilter:
        """These boxes, then the others."""
        (calm, agile), (calmer, more_agile) = self.modes, others.modes
        return ImmFilter(
            (calm.joined(calmer), agile.joined(more_agile)),
            np.concatenate([self.chances, others.chances], axis=1),
            self.whole.joined(others.whole),
        )

    def each(self, change: Callable[[Motion], Motion]) -> ImmFilter:
        """After the same was done to every mode."""
        calm, agile = self.modes
        return ImmFilter.of((change(calm), change(agile)), self.chances)

    def after(self, seconds: float, process_noise: Array) -> ImmFilter:
        """That much later; the mode may have changed meanwhile. `process_noise` is that of the agile mode."""
        stays = math.exp(-seconds / STEADY_S)
        switch = np.array([[1.0 + stays, 1.0 - stays], [1.0 - stays, 1.0 + stays]]) / 2.0
        joint = switch[:, :, None] * self.chances[:, None]  # from mode, to mode
        chances = joint.sum(axis=0)
        origins = joint / chances
        calm, agile = (_mixture(self.modes, origins[:, to]) for to in (0, 1))
        return ImmFilter.of(
            (calm.after(seconds, CALM * process_noise), agile.after(seconds, process_noise)), chances
        )

    def fused(self, rows: NDArray[np.intp], measured: Array, noise: Array) -> ImmFilter:
        """See `Motion.fused`. The mode that expected the measurement better becomes the likelier one."""
        calm, agile = (mode.fused(rows, measured, noise) for mode in self.modes)
        fits = np.stack([_log_likelihood(mode[rows], measured, noise) for mode in self.modes])
        weights = self.chances[:, rows] * np.exp(fits - fits.max(axis=0))
        chances = self.chances.copy()
        chances[:, rows] = weights / weights.sum(axis=0)
        return ImmFilter.of((calm, agile), chances)


def _mixture(modes: tuple[Motion, Motion], chances: Array) -> Motion:
    """Mean and spread of boxes that are in either mode, by its chance, shape (2, N)."""
    calm, agile = modes
    share = chances[1][:, None]
    off, velocity_off = agile.position - calm.position, agile.velocity - calm.velocity
    apart = share * (1.0 - share)

    def blend(low: Array, high: Array) -> Array:
        blended: Array = low + share * (high - low)
        return blended

    return Motion(
        blend(calm.position, agile.position),
        blend(calm.velocity, agile.velocity),
        blend(calm.variance, agile.variance) + apart * off**2,
        blend(calm.covariance, agile.covariance) + apart * off * velocity_off,
        blend(calm.velocity_variance, agile.velocity_variance) + apart * velocity_off**2,
    )


def _log_likelihood(motion: Motion, measured: Array, noise: Array) -> Array:
    """Of measured boxes, shape (N,), but for a constant. Their sizes say little about how they move."""
    total = (motion.variance + noise)[:, :2]
    likelihood: Array = -0.5 * ((measured - motion.position)[:, :2] ** 2 / total + np.log(total)).sum(axis=1)
    return likelihood


def centre_and_size(corners: Array) -> Array:
    """[cx, cy, w, h] of `xyxy`, both of shape (N, 4)."""
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / 2.0, high - low], axis=1)
