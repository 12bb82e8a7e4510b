"""Settings as a node reads them from files."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.node import Node

from lfm_perception.ros.parameters import Parameters
from lfm_perception.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_node_and_the_command_line_read_the_same_from_a_file_that_ships(file: Path) -> None:
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(file)], context=context)
    node = Node("perception", context=context)
    try:
        assert Parameters(node).settings() == Settings.load(file)
    finally:
        node.destroy_node()
        context.try_shutdown()
