"""The perception node, configured and activated, and rviz on request.

    ros2 launch lfm_perception perception.launch.py input_image_topic:=/camera/color/image_raw \
        params_file:=orin_nano_8gb model:=/models/LFM2.5-VL-450M-Q4_0.gguf

An empty argument changes nothing: the parameter file says, and what that leaves out keeps its default.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_path
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from lfm_perception.ros import transport

PACKAGE = "lfm_perception"
CONFIG = get_package_share_path(PACKAGE) / "config"
RESPAWN_DELAY_S = 2.0
ENDING_S = "20"
"""Time to end after Ctrl-C; a model that is at work on busy cores has to finish its step."""

REMAP_PRESETS = {
    "none": {},
    "nanoowl": {"image_raw": "input_image", "detections": "output_detections", "dbg_image": "output_image"},
}
"""Topics by the names that users of another node know; NanoOWL's input_query is ours too."""

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
    DeclareLaunchArgument(
        "params_file",
        default_value="perception",
        description="parameter file, or the name of one that ships: "
        + ", ".join(sorted(path.stem for path in CONFIG.glob("*.yaml"))),
    ),
    DeclareLaunchArgument(
        "model", default_value="", description="GGUF file of the language model (parameter model.path)"
    ),
    DeclareLaunchArgument(
        "mmproj",
        default_value="",
        description="GGUF file of its vision tower (parameter mmproj.path); "
        "empty: the one file mmproj*.gguf beside model",
    ),
    DeclareLaunchArgument(
        "input_image_topic", default_value="", description="where the images come from; empty: image_raw"
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="compressed: from input_image_topic/compressed (parameter node.image_transport)",
    ),
    DeclareLaunchArgument(
        "image_reliability",
        default_value="",
        choices=["", "best_effort", "reliable"],
        description="quality of service of the images (parameter node.image_reliability)",
    ),
    DeclareLaunchArgument(
        "remap_preset",
        default_value="none",
        choices=list(REMAP_PRESETS),
        description="topics by the names of another node",
    ),
    DeclareLaunchArgument("use_sim_time", default_value="false", description="time comes from /clock"),
    DeclareLaunchArgument("autostart", default_value="true", description="configure and activate the node"),
    DeclareLaunchArgument(
        "use_respawn", default_value="false", description="start the node again if it dies"
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
    DeclareLaunchArgument("use_rviz", default_value="false", description="show it in rviz"),
    DeclareLaunchArgument(
        "rviz_config", default_value=str(CONFIG / "perception.rviz"), description="what rviz shows"
    ),
    DeclareLaunchArgument(
        "rviz_fixed_frame",
        default_value="demo_camera",
        description="frame_id of the images, in which rviz shows the markers",
    ),
]


def generate_launch_description() -> LaunchDescription:
    # The node chooses its transport by itself; this is for rviz and all else that is launched with it.
    shared_memory = [SetEnvironmentVariable(*variable) for variable in transport.environment().items()]
    return LaunchDescription([*ARGUMENTS, *shared_memory, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The actions that the arguments ask for. Raises RuntimeError for files that are not there."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    sim_time = {"use_sim_time": switch("use_sim_time")}
    remaps = remappings(given["remap_preset"], given["input_image_topic"])
    node = Node(
        package=PACKAGE,
        executable="perception_node",
        name="perception",
        namespace=given["namespace"],
        parameters=[
            str(parameter_file(given["params_file"])),
            {**changes(given), **sim_time, "node.autostart": switch("autostart")},
        ],
        remappings=remaps,
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        respawn=LaunchConfiguration("use_respawn"),
        respawn_delay=RESPAWN_DELAY_S,
        sigterm_timeout=ENDING_S,
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=given["namespace"],
        parameters=[sim_time],
        remappings=remaps,
        arguments=["-d", given["rviz_config"], "-f", given["rviz_fixed_frame"]],
        condition=IfCondition(LaunchConfiguration("use_rviz")),
    )
    return [node, rviz]


def switch(argument: str) -> ParameterValue:
    return ParameterValue(LaunchConfiguration(argument), value_type=bool)


def parameter_file(given: str) -> Path:
    """The file of this path, or the one that ships under this name."""
    for path in (Path(given).expanduser(), CONFIG / f"{given}.yaml"):
        if path.is_file():
            return path
    names = ", ".join(sorted(path.stem for path in CONFIG.glob("*.yaml")))
    raise RuntimeError(f"params_file {given} is no file and none of {names}")


def changes(given: dict[str, str]) -> dict[str, str]:
    """The parameters that the arguments change."""
    changed = {
        f"node.{name}": given[name] for name in ("image_transport", "image_reliability") if given[name]
    }
    if given["model"]:
        model = Path(given["model"]).expanduser().absolute()
        if not model.is_file():
            raise RuntimeError(f"model {model} is no file")
        changed |= {"model.path": str(model), "mmproj.path": given["mmproj"] or str(mmproj_beside(model))}
    elif given["mmproj"]:
        raise RuntimeError(f"mmproj {given['mmproj']} was given without model")
    return changed


def mmproj_beside(model: Path) -> Path:
    found = sorted(model.parent.glob("mmproj*.gguf"))
    if len(found) != 1:
        raise RuntimeError(f"{model.parent} holds {len(found)} files mmproj*.gguf: name one with mmproj:=")
    return found[0]


def remappings(preset: str, image_topic: str) -> list[tuple[str, str]]:
    names = dict(REMAP_PRESETS[preset])
    if image_topic:
        names["image_raw"] = image_topic.removesuffix("/compressed")
    if "image_raw" in names:
        names["image_raw/compressed"] = f"{names['image_raw']}/compressed"
    return list(names.items())
