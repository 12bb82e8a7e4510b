# SPDX-License-Identifier: Apache-2.0
"""The perception node, configured and activated, and rviz on request.

    ros2 launch lfm_perception perception.launch.py input_image_topic:=/camera/color/image_raw \
        params_file:=orin_nano_8gb model:=/models/LFM2.5-VL-450M-Q4_0.gguf

An empty argument leaves the parameter to the parameter file, or to its default.
"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_path, get_packages_with_prefixes
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from lfm_perception.files import user_path
from lfm_perception.parent import PARENT_VARIABLE
from lfm_perception.ros import launch_arguments as arguments
from lfm_perception.ros import transport

PACKAGE = "lfm_perception"
CONFIG = get_package_share_path(PACKAGE) / "config"
ARGUMENTS = arguments.perception_arguments(CONFIG)
RESPAWN_DELAY_S = 2.0
SIGTERM_TIMEOUT_S = "20"
"""Time to end after Ctrl-C; on busy cores the model takes long to finish its decoding step."""


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            each.name, default_value=each.default, description=each.description, choices=each.choices
        )
        for each in ARGUMENTS
    ]
    # The node selects its transport itself; this is for rviz and other launched nodes.
    shared_memory = [SetEnvironmentVariable(*variable) for variable in transport.environment().items()]
    # nodes end with this process, also where it is killed
    shared_memory.append(SetEnvironmentVariable(PARENT_VARIABLE, str(os.getpid())))
    return LaunchDescription([*declared, *shared_memory, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node and rviz, as the arguments say. Raises PerceptionError for what does not exist."""
    given = {each.name: LaunchConfiguration(each.name).perform(context) for each in ARGUMENTS}
    arguments.check_rviz(given, get_packages_with_prefixes())
    sim_time = {"use_sim_time": boolean("use_sim_time")}
    remappings = arguments.remappings(
        given["remap_preset"], given["input_image_topic"], given["input_depth_topic"]
    )
    overrides = {**arguments.parameter_overrides(given), **sim_time, "node.autostart": boolean("autostart")}
    parameters = arguments.parameter_file(given["params_file"], CONFIG, given["namespace"])
    node = Node(
        package=PACKAGE,
        executable="perception_node",
        name="perception",
        namespace=given["namespace"],
        parameters=[parameters, overrides],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        respawn=LaunchConfiguration("use_respawn"),
        respawn_delay=RESPAWN_DELAY_S,
        sigterm_timeout=SIGTERM_TIMEOUT_S,
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=given["namespace"],
        parameters=[sim_time],
        remappings=remappings,
        arguments=["-d", str(user_path(given["rviz_config"])), "-f", given["rviz_fixed_frame"]],
        condition=IfCondition(LaunchConfiguration("use_rviz")),
    )
    return [node, rviz]


def boolean(argument: str) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(argument), value_type=bool)
