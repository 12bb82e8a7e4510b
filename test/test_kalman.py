# SPDX-License-Identifier: Apache-2.0
"""The Kalman filters are those of filterpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.tracking.kalman import (
    LOW_NOISE_SCALE,
    MODE_TIME_CONSTANT_S,
    Array,
    ConstantVelocityFilter,
    ImmFilter,
)


def positive(rng: np.random.Generator, *shape: int) -> Array:
    values: Array = rng.uniform(0.001, 0.3, shape)
    return values


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_the_filter_is_filterpys(seed: int) -> None:
    from filterpy.common import Q_continuous_white_noise
    from filterpy.kalman import KalmanFilter

    rng = np.random.default_rng(seed)
    start, noise, speed = rng.uniform(0.0, 1.0, (3, 4)), positive(rng, 3, 4) ** 2, positive(rng, 4)
    ours = ConstantVelocityFilter.from_measurements(start, noise, speed)
    theirs = []
    for row in range(3):
        kalman = KalmanFilter(dim_x=8, dim_z=4)
        kalman.H = np.eye(4, 8)
        kalman.x = np.concatenate([start[row], np.zeros(4)])[:, None]
        kalman.P = np.diag(np.concatenate([noise[row], speed**2]))
        theirs.append(kalman)
    for _ in range(15):
        step_s, process_noise = float(rng.uniform(0.01, 1.0)), positive(rng, 3, 4)
        measured, noise = rng.uniform(0.0, 1.0, (2, 4)), positive(rng, 2, 4) ** 2
        rows = rng.choice(3, 2, replace=False)
        ours = ours.predict(step_s, process_noise).update(rows, measured, noise)
        for row, kalman in enumerate(theirs):
            transition, drift = np.eye(8), np.zeros((8, 8))
            transition[:4, 4:] = np.eye(4) * step_s
            for axis in range(4):
                pair = np.ix_([axis, axis + 4], [axis, axis + 4])
                drift[pair] = Q_continuous_white_noise(
                    2, dt=step_s, spectral_density=process_noise[row, axis] ** 2
                )
            kalman.predict(F=transition, Q=drift)
        for index, row in enumerate(rows):
            theirs[row].update(measured[index], R=np.diag(noise[index]))
    for row, kalman in enumerate(theirs):
        np.testing.assert_allclose(ours.position[row], kalman.x[:4, 0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours.velocity[row], kalman.x[4:, 0], rtol=0, atol=1e-9)
        covariance = np.block(
            [
                [np.diag(ours.variance[row]), np.diag(ours.covariance[row])],
                [np.diag(ours.covariance[row]), np.diag(ours.velocity_variance[row])],
            ]
        )
        np.testing.assert_allclose(covariance, kalman.P, rtol=0, atol=1e-9)
        assert np.linalg.eigvalsh(covariance).min() > 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_mixture_of_filters_is_filterpys(seed: int) -> None:
    """Where x alone tells the modes apart: the correlation of x and y that mixing brings is left out here."""
    from filterpy.common import Q_continuous_white_noise
    from filterpy.kalman import IMMEstimator, KalmanFilter

    rng = np.random.default_rng(seed)
    start, noise, speed = rng.uniform(0.0, 1.0, (1, 4)), positive(rng, 1, 4) ** 2, positive(rng, 4)
    ours = ImmFilter.from_measurements(start, noise, speed)
    filters = []
    for _ in range(2):
        kalman = KalmanFilter(dim_x=4, dim_z=2)
        kalman.H = np.eye(2, 4)
        kalman.x = np.concatenate([start[0, :2], np.zeros(2)])[:, None]
        kalman.P = np.diag(np.concatenate([noise[0, :2], speed[:2] ** 2]))
        filters.append(kalman)
    step_s, process_noise = float(rng.uniform(0.1, 1.0)), positive(rng, 1, 4) * [1.0, 0.0, 1.0, 1.0]
    stays = math.exp(-step_s / MODE_TIME_CONSTANT_S)
    theirs = IMMEstimator(filters, [0.5, 0.5], np.array([[1 + stays, 1 - stays], [1 - stays, 1 + stays]]) / 2)
    for share, kalman in zip((LOW_NOISE_SCALE, 1.0), filters, strict=True):
        kalman.F[:2, 2:] = np.eye(2) * step_s
        for axis in range(2):
            pair, wander = np.ix_([axis, axis + 2], [axis, axis + 2]), (share * process_noise[0, axis]) ** 2
            kalman.Q[pair] = Q_continuous_white_noise(2, dt=step_s, spectral_density=wander)
            kalman.Q[axis, axis + 2] = kalman.Q[axis + 2, axis]
    for _ in range(10):
        measured, noise = rng.uniform(0.0, 1.0, (1, 4)), positive(rng, 1, 4) ** 2
        ours = ours.predict(step_s, process_noise).update(np.array([0]), measured, noise)
        for kalman in filters:
            kalman.R = np.diag(noise[0, :2])
        theirs.predict()
        theirs.update(measured[0, :2])
        np.testing.assert_allclose(ours.mode_probabilities[:, 0], theirs.mu, rtol=0, atol=1e-9)
        whole = np.concatenate([ours.mixed.position[0, :2], ours.mixed.velocity[0, :2]])
        np.testing.assert_allclose(whole, theirs.x[:, 0], rtol=0, atol=1e-9)
        spread = np.concatenate([ours.mixed.variance[0, :2], ours.mixed.velocity_variance[0, :2]])
        np.testing.assert_allclose(spread, np.diag(theirs.P), rtol=0, atol=1e-9)


def test_two_short_steps_are_one_long_step() -> None:
    rng = np.random.default_rng(3)
    motion = ConstantVelocityFilter.from_measurements(
        rng.uniform(0.0, 1.0, (5, 4)), positive(rng, 5, 4), positive(rng, 4)
    )
    process_noise = positive(rng, 4)
    twice, once = (
        motion.predict(0.2, process_noise).predict(0.3, process_noise),
        motion.predict(0.5, process_noise),
    )
    np.testing.assert_allclose(twice.variance, once.variance)
    np.testing.assert_allclose(twice.covariance, once.covariance)
    np.testing.assert_allclose(twice.velocity_variance, once.velocity_variance)
