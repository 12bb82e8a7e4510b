"""The shipped model on the demo world: `ros2 launch lfm_perception demo.launch.py out:=/tmp/demo`."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess
from launch.substitutions import LaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    # colcon installs commands where `ros2 run` looks, pip on the PATH
    command = Path(get_package_prefix("lfm_perception"), "lib", "lfm_perception", "lfm-perception")
    return LaunchDescription(
        [
            DeclareLaunchArgument("out", default_value="out/demo", description="folder for video and scenes"),
            ExecuteProcess(
                cmd=[
                    str(command) if command.is_file() else "lfm-perception",
                    "run",
                    "demo",
                    "--out",
                    LaunchConfiguration("out"),
                ],
                output="screen",
            ),
        ]
    )
