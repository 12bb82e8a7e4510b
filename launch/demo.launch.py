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

CAMERA = [
    DeclareLaunchArgument("seed", default_value="0", description="which film of the demo world"),
    DeclareLaunchArgument("width", default_value="640", description="of the images, pixels"),
    DeclareLaunchArgument("height", default_value="480", description="of the images, pixels"),
    DeclareLaunchArgument("rate", default_value="30", description="images per second"),
    DeclareLaunchArgument(
        "bodies", default_value="7", description="people, forklifts, boxes, cones, pallets"
    ),
]
"""The camera's parameters."""


def generate_launch_description() -> LaunchDescription:
    parameters = {
        argument.name: ParameterValue(
            LaunchConfiguration(argument.name), value_type=float if argument.name == "rate" else int
        )
        for argument in CAMERA
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
    return LaunchDescription([*CAMERA, perception, camera])
