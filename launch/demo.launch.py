# SPDX-License-Identifier: Apache-2.0
"""The demo world's camera and the perception node.

    ros2 launch lfm_perception demo.launch.py use_rviz:=true

Takes the arguments of perception.launch.py too.
"""

from __future__ import annotations

from ament_index_python.packages import get_package_share_path
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from lfm_perception.ros.launch_arguments import DEMO_ARGUMENTS

PACKAGE = "lfm_perception"
PERCEPTION = get_package_share_path(PACKAGE) / "launch" / "perception.launch.py"


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(each.name, default_value=each.default, description=each.description)
        for each in DEMO_ARGUMENTS
    ]
    parameters = {
        each.name: ParameterValue(
            LaunchConfiguration(each.name), value_type=float if each.name == "rate" else int
        )
        for each in DEMO_ARGUMENTS
    }
    perception = IncludeLaunchDescription(
        str(PERCEPTION), launch_arguments={"input_image_topic": "image_raw"}.items()
    )
    camera = Node(
        package=PACKAGE,
        executable="demo_camera",
        namespace=LaunchConfiguration("namespace"),
        parameters=[parameters],
        output="screen",
    )
    return LaunchDescription([*declared, perception, camera])
