# SPDX-License-Identifier: Apache-2.0
"""Objects that the image's edge cuts off."""

from __future__ import annotations

import numpy as np
import pytest
from tracks import STEP_S, following, seen

from lfm_perception.geometry import Box
from lfm_perception.scene import Detection


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_an_object_that_the_edge_cuts_off_moves_as_a_whole(edge: str) -> None:
    """It is 0.2 wide and leaves with 0.15 image sides per second, from 1.05 s on behind the edge."""
    tracker = following()
    for i in range(10):
        side = max(0.16 - 0.03 * i, 0.0)
        near, far = (side, 0.36 - 0.03 * i) if edge in ("left", "top") else (0.64 + 0.03 * i, 1.0 - side)
        box = Box(near, 0.4, far, 0.6) if edge in ("left", "right") else Box(0.4, near, 0.6, far)
        tracker.update([Detection("person", box, 0.9)], i * 0.2)
    (track,) = tracker.predict(1.8)
    speed = track.velocity.x if edge in ("left", "right") else track.velocity.y
    assert speed == pytest.approx(-0.15 if edge in ("left", "top") else 0.15, rel=0.1)
    assert {"left": track.box.x1, "top": track.box.y1}.get(edge, 0.0) == 0.0
    assert {"right": track.box.x2, "bottom": track.box.y2}.get(edge, 1.0) == 1.0


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_an_object_that_comes_into_view_keeps_its_speed(edge: str) -> None:
    """It is 0.2 wide and enters with 0.15 image sides per second; from 1.2 s on it is seen whole."""
    tracker = following()
    speeds = []
    for i in range(9):
        far = 0.01 + 0.03 * i
        near = max(far - 0.2, 0.0)
        ends = (near, far) if edge in ("left", "top") else (1.0 - far, 1.0 - near)
        box = (
            Box(ends[0], 0.4, ends[1], 0.6) if edge in ("left", "right") else Box(0.4, ends[0], 0.6, ends[1])
        )
        tracker.update([Detection("person", box, 0.9)], i * 0.2)
        speeds += [track.velocity for track in tracker.predict(i * 0.2) if i >= 5]
    for velocity in speeds:
        speed = velocity.x if edge in ("left", "right") else velocity.y
        assert speed == pytest.approx(0.15 if edge in ("left", "top") else -0.15, rel=0.1)


@pytest.mark.parametrize("speed", [0.1, 0.2, 0.4])
def test_an_object_that_comes_in_where_another_one_left_just_now_is_another_one(speed: float) -> None:
    tracker, shown = following(), list[set[int]]()
    leaves = [[seen(x, size=0.12)] for x in np.arange(0.7, 1.03, speed * STEP_S)]
    for index, detections in enumerate([*leaves, [], *reversed(leaves)]):
        tracker.update(detections, index * STEP_S)
        shown.append({track.track_id for track in tracker.predict(index * STEP_S)})
    assert set.union(*shown[: len(leaves)]) == {1}
    assert set.union(*shown[len(leaves) :]) == {2}


def test_an_object_that_an_answer_misses_while_it_leaves_is_the_same_one() -> None:
    tracker = following()
    for index in range(12):
        tracker.update([] if index == 9 else [seen(0.8 + 0.02 * index)], index * STEP_S)
        assert {track.track_id for track in tracker.predict(index * STEP_S)} <= {1}
