# SPDX-License-Identifier: Apache-2.0
"""What to check when frames have no depth image, and what a clock that is set back leaves of them."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from robot import RELIABLE, image_message
from sensor_msgs.msg import CompressedImage, Image

from lfm_perception.geometry import Box
from lfm_perception.ros.depth import DepthInput
from lfm_perception.ros.executor import spinning_node
from lfm_perception.scene import ZERO_VELOCITY, Frame, Track
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds

BUGS: Any = SimpleNamespace(guarded=lambda where, function: function)
COLOUR = np.zeros((48, 64, 3), np.uint8)
SETTINGS = Settings.from_dict({"node.depth": True})


def test_a_topic_of_depth_images_without_any_is_told_with_what_to_check() -> None:
    with spinning_node("perception", namespace="/hints") as node:
        depth = DepthInput(node, lambda: SETTINGS, lambda *_: None, BUGS)
        depth.on_frame((), 1, "camera")
        assert "nothing publishes /hints/input_depth: check the topic's name" in depth.status().message
        node.create_publisher(CompressedImage, "input_depth", 1)  # such as compressedDepth
        deadline_s = time.monotonic() + 60.0
        while not node.count_publishers("/hints/input_depth") and time.monotonic() < deadline_s:
            time.sleep(0.01)
        depth.on_frame((), 2, "camera")
        assert depth.status().message == (
            "frames without a depth image: 1; no image comes on /hints/input_depth: check that it carries "
            "sensor_msgs/Image"
        )


def test_a_clock_that_is_set_back_leaves_no_image_of_the_time_before() -> None:
    track = Track(1, "box", Box(0.2, 0.2, 0.8, 0.8), 0.9, ZERO_VELOCITY, 1.0, 0.0)
    pixels, stamp_ns = np.full((48, 64), 1500, np.uint16), from_seconds(100.0)
    with spinning_node("perception", namespace="/set_back") as node:
        depth = DepthInput(node, lambda: SETTINGS, lambda *_: None, BUGS)
        depth.start(MutuallyExclusiveCallbackGroup())
        publisher = node.create_publisher(Image, "input_depth", RELIABLE)
        deadline_s, seen = time.monotonic() + 60.0, track
        while seen.distance is None and time.monotonic() < deadline_s:
            stamp_ns += from_seconds(0.01)
            publisher.publish(image_message(pixels, "16UC1", Frame(COLOUR, stamp_ns), 64, 48, 128))
            time.sleep(0.01)
            (seen,) = depth.on_frame((track,), stamp_ns, "camera")
        assert seen.distance == 1.5
        node.destroy_publisher(publisher)
        depth.stop()
        depth.reset()
        (seen,) = depth.on_frame((track,), stamp_ns, "camera")
        assert seen.distance is None
