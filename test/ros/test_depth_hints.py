# SPDX-License-Identifier: Apache-2.0
"""What to check when frames have no depth image."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from sensor_msgs.msg import CompressedImage

from lfm_perception.ros.depth import DepthInput
from lfm_perception.ros.executor import spinning_node
from lfm_perception.settings import Settings


def test_a_topic_of_depth_images_without_any_is_told_with_what_to_check() -> None:
    bugs: Any = SimpleNamespace(guarded=lambda where, function: function)
    settings = Settings.from_dict({"node.depth": True})
    with spinning_node("perception", namespace="/hints") as node:
        depth = DepthInput(node, lambda: settings, lambda *_: None, bugs)
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
