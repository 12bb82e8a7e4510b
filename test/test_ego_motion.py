# SPDX-License-Identifier: Apache-2.0
"""A camera that moves: its motion is measured, and tracks move with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tracks import following, seen

from lfm_perception.demo.world import World
from lfm_perception.geometry import stack
from lfm_perception.scene import Track
from lfm_perception.tracking.ego_motion import EgoMotionEstimator
from lfm_perception.tracking.ego_motion_history import EgoMotionHistory, identity_affine
from lfm_perception.tracking.kalman import (
    Array,
)


def turned(by: float) -> Array:
    """The view after the image has moved to the left by that share of its width."""
    view = identity_affine()
    view[0, 2] = -by
    return view


def test_the_motion_of_the_image_is_measured_beside_what_moves_in_it() -> None:
    world = World(seed=5, pan=0.5)
    camera, shift = EgoMotionEstimator(), 0.0
    bodies = [body for body, _ in enumerate(world.bodies) if world.bodies[body].speed]
    for index in range(30):
        snapshot = world.snapshot(index)
        moving = stack(thing.box for thing in snapshot.objects if thing.object_id in bodies)
        shift += float(camera.measure(snapshot.frame.image, moving)[0, 2])
    ahead = world.velocities(0)
    standing = next(i for i, body in enumerate(world.bodies) if not body.speed)
    true = sum(world.velocities(index)[standing].x for index in range(29)) / world.fps
    assert abs(ahead[standing].x) > 0.01
    assert shift == pytest.approx(true, abs=0.01)


def test_a_change_of_light_is_no_motion() -> None:
    camera = EgoMotionEstimator()
    spots = np.random.default_rng(5).uniform(60.0, 120.0, (480, 640, 3))
    wall = np.asarray(cv2.GaussianBlur(spots, (0, 0), 6.0), dtype=np.float64) * 4.0 - 270.0
    for i in range(20):
        light = (1.0 + 0.3 * np.sin(i)) * wall + 30.0 * np.cos(2.0 * i)
        view = camera.measure(light.clip(0, 255).astype(np.uint8), np.empty((0, 4)))
        np.testing.assert_allclose(view, identity_affine(), atol=0.001)


def test_an_image_without_anything_to_follow_stands_still() -> None:
    camera = EgoMotionEstimator()
    for shade in (0, 90, 255):
        image = np.full((120, 160, 3), shade, dtype=np.uint8)
        np.testing.assert_array_equal(camera.measure(image, np.empty((0, 4))), identity_affine())


def test_a_path_leads_from_the_image_it_counts_from_to_any_moment() -> None:
    path = EgoMotionHistory()
    for i in range(10):
        path.add(turned(0.01 if i else 0.0), i * 0.1)
    path.rebase(0.2)
    assert path.at(0.6)[0, 2] == pytest.approx(-0.04)
    assert path.at(0.25)[0, 2] == pytest.approx(-0.005)
    path.rebase(0.6)
    assert path.at(0.2)[0, 2] == pytest.approx(0.04)
    path.rebase(0.85)
    assert path.at(0.9)[0, 2] - path.at(0.7)[0, 2] == pytest.approx(-0.02)
    assert path.velocity(0.9)[0, 2] == pytest.approx(-0.1)


def test_frames_with_almost_the_same_stamp_are_one_moment() -> None:
    history, step = EgoMotionHistory(), identity_affine()
    step[0, 2] = 0.01
    for stamp_s in (1.0, 1.0 + 1e-9, 1.0 + 2e-9, 1.04, 1.04 + 1e-9):
        history.add(step, stamp_s)
    assert history.at(1.04)[0, 2] == pytest.approx(0.05)
    assert history.velocity(1.05)[0, 2] == pytest.approx(0.02 / 0.04)


def test_a_camera_that_turns_faster_and_faster_has_its_rate_of_the_moment() -> None:
    path = EgoMotionHistory()
    for i in range(15):
        path.add(turned(0.01 * ((i / 30) ** 2 - (max(i - 1, 0) / 30) ** 2)), i / 30)
    assert path.velocity(14 / 30)[0, 2] == pytest.approx(-0.02 * 14 / 30)


def shaken(mode: str) -> tuple[tuple[Track, ...], float]:
    """Tracks of a thing that stands while the camera turns to and fro, and where the thing is then."""
    tracker = following(camera_motion_compensation=mode)
    place = 0.5
    for i in range(61):
        by = 0.01 if i // 10 % 2 else -0.01  # 0.3 image widths per second, at 30 Hz
        place -= by
        tracker.add_ego_motion(turned(by), i / 30)
        if i % 5 == 0 and i <= 55:
            tracker.update([seen(place)], i / 30)
    return tracker.predict(2.0), place


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_tracks_move_with_a_camera_that_moves(mode: str) -> None:
    (left_alone,), place = shaken("off")
    (carried,), _ = shaken(mode)

    def off(track: Track) -> float:
        return abs((track.box.x1 + track.box.x2) / 2 - place)

    assert off(carried) < 0.01 < 0.03 < off(left_alone)


def test_a_speed_is_the_one_in_the_image() -> None:
    tracker = following(camera_motion_compensation="on")
    for i in range(31):
        tracker.add_ego_motion(turned(0.01), i / 30)
        if i % 5 == 0:
            tracker.update([seen(0.8 - 0.01 * i)], i / 30)
    assert tracker.predict(1.0)[0].velocity.x == pytest.approx(-0.3, rel=0.1)


def test_a_camera_at_rest_changes_nothing() -> None:
    watched, blind = following(), following()
    for i in range(20):
        watched.add_ego_motion(identity_affine(), i / 30)
        for tracker in (watched, blind):
            if i % 5 == 0:
                tracker.update([seen(0.3 + i / 100)], i / 30)
    assert watched.predict(0.7) == blind.predict(0.7)
