# SPDX-License-Identifier: Apache-2.0
"""A bag through the perception node: `ros2 launch lfm_perception replay.launch.py bag:=FOLDER out:=RESULTS`.

Takes the arguments of perception.launch.py too, except those that the bag determines.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_path
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
    Shutdown,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from lfm_perception.files import user_path
from lfm_perception.ros.launch_arguments import REPLAY_ARGUMENTS, replay_command, see_packages_of

PACKAGE = "lfm_perception"
PROGRAM = Path(get_package_prefix(PACKAGE), "lib", PACKAGE, "lfm-perception")
PERCEPTION = get_package_share_path(PACKAGE) / "launch" / "perception.launch.py"
SIGTERM_TIMEOUT_S = "15"
"""Time to finish the results after Ctrl-C."""


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(each.name, default_value=each.default, description=each.description)
        for each in REPLAY_ARGUMENTS
    ]
    perception = IncludeLaunchDescription(
        str(PERCEPTION),
        launch_arguments={
            "use_sim_time": "true",
            "autostart": "false",  # the player activates the node, once it publishes /clock
            "image_reliability": "reliable",
            "input_image_topic": "image_raw",
            "remap_preset": "none",
        }.items(),
    )
    return LaunchDescription([*declared, OpaqueFunction(function=play), perception])


def play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, and the bag's image transport. Raises PerceptionError for a bag that cannot be played."""
    given = {each.name: LaunchConfiguration(each.name).perform(context) for each in REPLAY_ARGUMENTS}
    see_packages_of(PROGRAM)
    from lfm_perception.media.bags import image_topic, open_bag

    bag = user_path(given["bag"])
    with open_bag(bag) as reader:
        compressed = image_topic(reader, bag, given["topic"] or None).compressed
    player = ExecuteProcess(
        cmd=[ExecutableInPackage("lfm-perception", PACKAGE), *replay_command(given)],
        output="screen",
        sigterm_timeout=SIGTERM_TIMEOUT_S,
        on_exit=[Shutdown(reason="the bag has been played")],
    )
    return [SetLaunchConfiguration("image_transport", "compressed" if compressed else "raw"), player]
