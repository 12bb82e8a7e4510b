# SPDX-License-Identifier: Apache-2.0
"""Batched Kalman filters for boxes that move at nearly constant velocity.

Centre x, centre y, width and height of a box are independent axes, each with a state of position and velocity
of which the position is measured. The filter of an axis is 2 x 2 and needs no matrix library: all tracks are
predicted and updated by a few array operations, which take 11 us and 25 us for 50 tracks, where as many
`filterpy.kalman.KalmanFilter` objects of 8 x 8 take 190 us and 850 us (`benchmarks/tracking.py`, x86-64). The
tests hold the results to those of filterpy, to 1e-9.

Objects that move steadily are tracked best with low process noise, objects that turn with high process noise.
`ImmFilter` runs both filters and weighs them by their likelihood, which halves the velocity error of objects
that move steadily.

Positions are in image sides (see `geometry`), velocities in image sides per second, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.intp] | NDArray[np.bool_]

LOW_NOISE_SCALE = 0.1
"""Process noise of the low-noise mode, as a share of that of the high-noise mode."""

SHRINKAGE = 0.5
"""Shrinkage halves a velocity of this many standard deviations, and hardly changes one of many."""

LOOMING_SHRINKAGE = 0.5
"""Shrinkage halves a rate of size change of this many standard deviations."""

MAX_LOOMING = 0.5
"""Largest share of the time to contact for which an approaching object is predicted to speed up."""

MIN_SIZE = 1e-3
"""Image sides; smaller boxes have no rate of size change."""

MODE_TIME_CONSTANT_S = 1.0
"""Time constant of the mode transition matrix: after it, a box has kept its mode with probability 1/e."""


@dataclass(frozen=True, slots=True, eq=False)
class ConstantVelocityFilter:
    """Kalman filters of N boxes: an immutable value of five arrays of shape (N, 4), or (2, N, 4) in an IMM.

    `position`, `velocity`: state means [cx, cy, w, h] and their rates. `variance`, `covariance`,
    `velocity_variance`: the distinct entries of each axis's state covariance.
    """

    position: Array
    velocity: Array
    variance: Array
    covariance: Array
    velocity_variance: Array

    @classmethod
    def from_measurements(cls, measured: Array, noise: Array, velocity_std: Array) -> ConstantVelocityFilter:
        """Filters at rest at `measured` boxes with variances `noise`, shape (N, 4); `velocity_std`: (4,)."""
        zeros = np.zeros_like(measured)
        return cls(measured, zeros, noise, zeros, np.broadcast_to(velocity_std**2, measured.shape))

    def __len__(self) -> int:
        return int(self.position.shape[-2])

    def __getitem__(self, rows: Rows) -> ConstantVelocityFilter:
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return ConstantVelocityFilter(*(part.take(rows, axis=-2) for part in self._parts))

    def concatenate(self, other: ConstantVelocityFilter) -> ConstantVelocityFilter:
        """The filters of these boxes, followed by the other ones."""
        pairs = zip(self._parts, other._parts, strict=True)
        return ConstantVelocityFilter(*(np.concatenate(pair, axis=-2) for pair in pairs))

    @property
    def _parts(self) -> tuple[Array, Array, Array, Array, Array]:
        return self.position, self.velocity, self.variance, self.covariance, self.velocity_variance

    def predict(
        self, seconds: float, process_noise: Array, looming: Array | None = None
    ) -> ConstantVelocityFilter:
        """Prediction by `seconds` with white-noise acceleration, for which two short steps equal a long one.

        Args:
            seconds: time step.
            process_noise: standard deviation of the velocity's change in one second, one for each axis.
            looming: rate at which each box grows, as a share of its size per second, shape (N, 1).
        """
        diffusion = process_noise**2 * seconds
        if looming is None:
            position, velocity = self.position + self.velocity * seconds, self.velocity
        else:
            scale = 1.0 / (1.0 - np.minimum(looming * seconds, MAX_LOOMING))
            position = self.position + self.velocity * (seconds * scale)
            velocity = self.velocity * scale**2
        variance = (
            self.variance
            + (2.0 * seconds) * self.covariance
            + seconds**2 * (self.velocity_variance + diffusion / 3.0)
        )
        covariance = self.covariance + seconds * (self.velocity_variance + diffusion / 2.0)
        velocity_variance = self.velocity_variance + diffusion
        return ConstantVelocityFilter(position, velocity, variance, covariance, velocity_variance)

    def looming(self) -> Array:
        """Rate at which each box grows, shape (N, 1), as a share of its size per second.

        An object with a constant velocity is seen with 1 / distance: after `seconds`, its size and its place
        in the image have changed by velocity * seconds / (1 - looming * seconds). The rate is the lesser one
        of width and height, and 0 where these disagree, as they do when people walk and cars turn; and it is
        shrunk towards 0, the more the less certain it is.
        """
        size = np.maximum(self.position[:, 2:], MIN_SIZE)
        velocity, variance = self.velocity[:, 2:], LOOMING_SHRINKAGE**2 * self.velocity_variance[:, 2:]
        rate = velocity**3 / ((velocity**2 + variance) * size)
        low, high = rate.min(axis=1, keepdims=True), rate.max(axis=1, keepdims=True)
        return np.asarray(np.maximum(low, 0.0) + np.minimum(high, 0.0))

    def update(self, rows: NDArray[np.intp], measured: Array, noise: Array) -> ConstantVelocityFilter:
        """Update of the boxes `rows` with `measured` boxes and their measurement noise, variances (M, 4)."""
        prior = self[rows]
        innovation = measured - prior.position
        innovation_variance = prior.variance + noise
        gain = prior.variance / innovation_variance
        velocity_gain = prior.covariance / innovation_variance
        posterior = (
            prior.position + gain * innovation,
            prior.velocity + velocity_gain * innovation,
            prior.variance * noise / innovation_variance,
            prior.covariance * noise / innovation_variance,
            prior.velocity_variance - velocity_gain * prior.covariance,
        )
        parts = [part.copy() for part in self._parts]
        for part, updated in zip(parts, posterior, strict=True):
            part[..., rows, :] = updated
        return ConstantVelocityFilter(*parts)

    def shrink_velocity(self) -> ConstantVelocityFilter:
        """The same filters with velocities shrunk towards zero, the more the less certain they are.

        Most objects stand or keep their size: a velocity within its standard deviation is likely noise.
        """
        square = self.velocity**2
        shrunk = self.velocity * square / (square + SHRINKAGE**2 * self.velocity_variance)
        return replace(self, velocity=shrunk)

    def add_velocity(self, change: Array) -> ConstantVelocityFilter:
        """The same filters with `change` added to the velocities of the centres, shape (N, 2)."""
        velocity = self.velocity.copy()
        velocity[..., :2] += change
        return replace(self, velocity=velocity)

    def shift(self, rows: NDArray[np.intp], origin: Array, target: Array) -> ConstantVelocityFilter:
        """The same filters with the boxes `rows` shifted as from `origin` to `target`, shape (M, 4)."""
        position = self.position.copy()
        position[..., rows, :] = position[..., rows, :] + target - origin
        return replace(self, position=position)

    def squared_distances(self, expected: Array, measured: Array, noise: Array) -> Array:
        """Squared distances of N `expected` to M `measured` boxes with variances `noise`, shape (4, N, M).

        In standard deviations, along each axis; their sum is the squared Mahalanobis distance.
        """
        innovation = measured.T[:, None] - expected.T[:, :, None]
        distance: Array = innovation**2 / (self.variance.T[:, :, None] + noise.T[:, None])
        return distance

    def normalized_innovation(self, measured: Array, noise: Array) -> Array:
        """Innovations of `measured` boxes with variances `noise`, in their standard deviations."""
        normalized: Array = (measured - self.position) / np.sqrt(self.variance + noise)
        return normalized

    def transform(self, affine: Array) -> ConstantVelocityFilter:
        """The same boxes after an affine motion of the image, shape (3, 3), in image sides.

        Sizes are scaled as the image's area is, and not rotated.
        """
        linear, shift = affine[:2, :2], affine[:2, 2]
        if linear.tolist() == [[1.0, 0.0], [0.0, 1.0]]:  # a translation, which is frequent and much cheaper
            position = self.position.copy()
            position[..., :2] += shift
            return replace(self, position=position)
        scale = math.sqrt(abs(np.linalg.det(linear)))
        position, velocity = self.position * scale, self.velocity * scale
        position[..., :2] = self.position[..., :2] @ linear.T + shift
        velocity[..., :2] = self.velocity[..., :2] @ linear.T
        covariances = (part * scale**2 for part in self._parts[2:])
        return ConstantVelocityFilter(position, velocity, *covariances)

    def corners(self) -> Array:
        """The boxes as `xyxy`, shape (N, 4). They may leave the image; a negative size counts as 0."""
        corners = np.empty_like(self.position)
        centre, half = self.position[:, :2], np.maximum(self.position[:, 2:], 0.0) / 2.0
        np.subtract(centre, half, out=corners[:, :2])
        np.add(centre, half, out=corners[:, 2:])
        return corners


@dataclass(frozen=True, eq=False)
class ImmFilter:
    """Interacting multiple model (IMM; Blom and Bar-Shalom, 1988) of N boxes, as an immutable value.

    `modes`: the filters with low and with high process noise, shape (2, N, 4). `mode_probabilities`: shape
    (2, N).
    """

    modes: ConstantVelocityFilter
    mode_probabilities: Array

    @classmethod
    def from_measurements(cls, measured: Array, noise: Array, velocity_std: Array) -> ImmFilter:
        """See `ConstantVelocityFilter.from_measurements`; both modes are equally probable."""
        initial = ConstantVelocityFilter.from_measurements(measured, noise, velocity_std)
        modes = ConstantVelocityFilter(*(np.stack([part, part]) for part in initial._parts))
        return cls(modes, np.full((2, len(initial)), 0.5))

    @cached_property
    def mixed(self) -> ConstantVelocityFilter:
        """Mean and variance of the mixture of both modes, axis by axis."""
        return _mix(self.modes, self.mode_probabilities[1])

    def __getitem__(self, rows: Rows) -> ImmFilter:
        return ImmFilter(self.modes[rows], self.mode_probabilities[:, rows])

    def concatenate(self, other: ImmFilter) -> ImmFilter:
        """The filters of these boxes, followed by the other ones."""
        mode_probabilities = np.concatenate([self.mode_probabilities, other.mode_probabilities], axis=1)
        return ImmFilter(self.modes.concatenate(other.modes), mode_probabilities)

    def map(self, change: Callable[[ConstantVelocityFilter], ConstantVelocityFilter]) -> ImmFilter:
        """The same change applied to the filters of both modes."""
        return ImmFilter(change(self.modes), self.mode_probabilities)

    def predict(self, seconds: float, process_noise: Array, looming: Array | None = None) -> ImmFilter:
        """Interaction of the modes, and their prediction; `process_noise` is that of the high-noise mode."""
        kept = math.exp(-seconds / MODE_TIME_CONSTANT_S)
        transition = np.array([[1.0 + kept, 1.0 - kept], [1.0 - kept, 1.0 + kept]]) / 2.0
        joint = transition[:, :, None] * self.mode_probabilities[:, None]  # from mode, to mode
        mode_probabilities = joint.sum(axis=0)
        interacted = _mix(self.modes, joint[1] / mode_probabilities)
        noise = np.array([LOW_NOISE_SCALE, 1.0])[:, None, None] * process_noise
        return ImmFilter(interacted.predict(seconds, noise, looming), mode_probabilities)

    def update(self, rows: NDArray[np.intp], measured: Array, noise: Array) -> ImmFilter:
        """See `ConstantVelocityFilter.update`; the mode with the higher likelihood gains probability."""
        likelihoods = _log_likelihood(self.modes[rows], measured, noise)
        weights = self.mode_probabilities[:, rows] * np.exp(likelihoods - likelihoods.max(axis=0))
        mode_probabilities = self.mode_probabilities.copy()
        mode_probabilities[:, rows] = weights / weights.sum(axis=0)
        return ImmFilter(self.modes.update(rows, measured, noise), mode_probabilities)


def _mix(modes: ConstantVelocityFilter, high_weight: Array) -> ConstantVelocityFilter:
    """Mean and variance of the mixture of both modes, (2, N, 4), by the weight of the second, (..., N)."""
    weight = high_weight[..., None]
    (low, high), (low_velocity, high_velocity) = modes.position, modes.velocity
    offset, velocity_offset = high - low, high_velocity - low_velocity
    between = weight * (1.0 - weight)
    means = (low + weight * (high - low) for low, high in modes._parts)
    position, velocity, variance, covariance, velocity_variance = means
    return ConstantVelocityFilter(
        position,
        velocity,
        variance + between * offset**2,
        covariance + between * offset * velocity_offset,
        velocity_variance + between * velocity_offset**2,
    )


def _log_likelihood(prior: ConstantVelocityFilter, measured: Array, noise: Array) -> Array:
    """Log-likelihood of the measured centres, shape (2, N), up to a constant. Sizes tell little of modes."""
    variance = (prior.variance + noise)[..., :2]
    innovation = (measured - prior.position)[..., :2]
    log_likelihood: Array = -0.5 * (innovation**2 / variance + np.log(variance)).sum(axis=-1)
    return log_likelihood


def centre_and_size(corners: Array) -> Array:
    """[cx, cy, w, h] of `xyxy`, both of shape (N, 4)."""
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / 2.0, high - low], axis=1)
