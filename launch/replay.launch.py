"""A bag through the perception node: `ros2 launch lfm_perception replay.launch.py bag:=FOLDER out:=RESULTS`.

Takes the arguments of perception.launch.py too, but for those that the bag decides.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_path
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

from lfm_perception.media.bags import image_topic, open_bag

PACKAGE = "lfm_perception"
PERCEPTION = get_package_share_path(PACKAGE) / "launch" / "perception.launch.py"
WRITING_S = "15"
"""Time to finish the results after Ctrl-C."""

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="rosbag2 with images: folder, .mcap or .db3"),
    DeclareLaunchArgument("out", default_value="out/replay", description="folder for the results"),
    DeclareLaunchArgument("topic", default_value="", description="image topic, if the bag has several"),
    DeclareLaunchArgument(
        "pace",
        default_value="1.0",
        description="1: as recorded, 2: twice as fast, 0: each image waits for the answer to the one before",
    ),
    DeclareLaunchArgument("loops", default_value="1", description="how often the bag is played"),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
]


def generate_launch_description() -> LaunchDescription:
    perception = IncludeLaunchDescription(
        str(PERCEPTION),
        launch_arguments={
            "use_sim_time": "true",
            "autostart": "false",  # the player does it, once there is a clock
            "image_reliability": "reliable",
            "input_image_topic": "image_raw",
            "remap_preset": "none",
        }.items(),
    )
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=play), perception])


def play(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player, and how images come from it. Raises PerceptionError for a bag that cannot be played."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    bag = Path(given["bag"])
    with open_bag(bag) as reader:
        compressed = image_topic(reader, bag, given["topic"] or None).compressed
    namespace = given["namespace"].strip("/")
    player = ExecuteProcess(
        cmd=[
            ExecutableInPackage("lfm-perception", PACKAGE),
            *("replay", str(bag), "--out", given["out"]),
            *("--node", f"/{namespace}/perception" if namespace else "/perception"),
            *("--pace", given["pace"], "--loops", given["loops"]),
            *(["--topic", given["topic"]] if given["topic"] else []),
        ],
        output="screen",
        sigterm_timeout=WRITING_S,
        on_exit=[Shutdown(reason="the bag has been played")],
    )
    return [SetLaunchConfiguration("image_transport", "compressed" if compressed else "raw"), player]
