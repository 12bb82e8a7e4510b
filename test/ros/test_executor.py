# SPDX-License-Identifier: Apache-2.0
"""The executor of the node goes on after what rclpy and callbacks raise."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation

from lfm_perception.ros.executor import CameraExecutor


def test_a_topic_that_is_removed_while_rclpy_waits_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for rclpy: it raises this once in hundreds of topics that another thread removes."""
    raised = iter(
        [rclpy_implementation.InvalidHandle("removed"), ValueError("a bug"), ExternalShutdownException()]
    )

    def spin(executor: SingleThreadedExecutor) -> None:
        raise next(raised)

    monkeypatch.setattr(SingleThreadedExecutor, "spin", spin)
    context, errors = rclpy.Context(), list[Exception]()
    rclpy.init(args=[], context=context)
    try:
        group = MutuallyExclusiveCallbackGroup()
        executor = CameraExecutor(group, lambda where, error: errors.append(error), context=context)
        with pytest.raises(ExternalShutdownException):
            executor.spin()
        executor.shutdown()
    finally:
        rclpy.try_shutdown(context=context)
    assert [str(error) for error in errors] == ["a bug"]
