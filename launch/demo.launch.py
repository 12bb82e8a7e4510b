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

PACKAGE = "lfm_perception"
PERCEPTION = get_package_share_path(PACKAGE) / "launch" / "perception.launch.py"

CAMERA = {
    "seed": ("0", int, "which film of the demo world"),
    "width": ("640", int, "of the images, pixels"),
    "height": ("480", int, "of the images, pixels"),
    "rate": ("30.0", float, "images per second"),
    "bodies": ("7", int, "people, forklifts, boxes, cones and pallets"),
}
"""The camera's parameters that are launch arguments: default, type, meaning."""


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=words)
        for name, (default, _, words) in CAMERA.items()
    ]
    parameters = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (_, kind, _) in CAMERA.items()
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
    return LaunchDescription([*arguments, perception, camera])
