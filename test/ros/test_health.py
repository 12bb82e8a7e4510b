# SPDX-License-Identifier: Apache-2.0
"""The health check that docker makes: a node is well when its diagnostics come without an error."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from lifecycle_msgs.msg import Transition
from robot import robot  # isort: split - chooses how messages travel

from lfm_perception.ros.health import problems


def test_a_node_is_well_until_its_camera_is_silent() -> None:
    with robot({"node.camera_timeout": 2.0}) as started:
        name = started.node.get_fully_qualified_name()
        assert problems(name) == [f"{name.lstrip('/')}: node: is not configured"]
        assert started.change(Transition.TRANSITION_CONFIGURE)
        assert problems(name, 30.0) == []
        assert started.change(Transition.TRANSITION_ACTIVATE)
        while not (found := problems(name, 30.0)):
            pass
        assert found[0].startswith(f"{name.lstrip('/')}: camera: no usable image on ")
