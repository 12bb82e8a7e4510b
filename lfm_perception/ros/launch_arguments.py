# SPDX-License-Identifier: Apache-2.0
"""The arguments of the launch files, and the parameters, remappings and files that follow from them.

Imports neither `launch` nor rclpy, so that it can be tested without ROS.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import open_file, parse_yaml, read_text, user_path
from lfm_perception.ros.environment import environment_problem
from lfm_perception.text import safe_line

REMAP_PRESETS: Mapping[str, Mapping[str, str]] = {
    "none": {},
    "nanoowl": {"image_raw": "input_image", "detections": "output_detections", "debug_image": "output_image"},
}
"""Remappings to the topic names of other nodes; NanoOWL's `input_query` is the same."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A launch argument; without a default it is required."""

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...] | None = None


OPEN_FILES = "/dev/fd/", "/proc/"
"""Begins of the paths of a shell's `<(command)`, which are pipes that end."""

MAX_NAME = 255
"""Maximum length of a node's full name."""

NAMESPACE = Argument("namespace", "", "namespace of the node and its topics")


def perception_arguments(config: Path) -> tuple[Argument, ...]:
    """The arguments of perception.launch.py; `config` is the folder of the installed parameter files."""
    return (
        NAMESPACE,
        Argument(
            "params_file",
            "perception",
            f"path of a parameter file, or name of an installed one: {_names(config)}",
        ),
        Argument("model", "", "GGUF file of the language model (parameter model.path)"),
        Argument("mmproj", "", "GGUF file of the vision tower (parameter mmproj.path); "
                 "empty: the only file mmproj*.gguf beside model"),
        Argument("input_image_topic", "", "camera topic; empty: image_raw"),
        Argument("input_depth_topic", "", "topic of depth images aligned to the camera's "
                 "(sets node.depth); empty: no depth, unless params_file sets node.depth"),
        Argument("image_transport", "", "compressed: subscribe to input_image_topic/compressed "
                 "(parameter node.image_transport)", ("", "raw", "compressed")),
        Argument("image_reliability", "", "reliability of the image subscription "
                 "(parameter node.image_reliability)", ("", "best_effort", "reliable")),
        Argument("remap_preset", "none", "topic names of another node", tuple(REMAP_PRESETS)),
        Argument("use_sim_time", "false", "use the time of /clock"),
        Argument("autostart", "true", "configure and activate the node"),
        Argument("use_respawn", "false", "restart the node when it dies"),
        Argument("log_level", "info", "debug, info, warn, error or fatal"),
        Argument("use_rviz", "false", "start rviz"),
        Argument("rviz_config", str(config / "perception.rviz"), "configuration file of rviz"),
        Argument("rviz_fixed_frame", "demo_camera", "fixed frame of rviz: frame_id of the images"),
    )  # fmt: skip


DEMO_ARGUMENTS = (
    Argument("seed", "0", "random seed of the demo world"),
    Argument("width", "640", "width of the images, pixels"),
    Argument("height", "480", "height of the images, pixels"),
    Argument("rate", "30", "frame rate, Hz"),
    Argument("bodies", "7", "number of people, forklifts, boxes, cones and pallets"),
)
"""The arguments of demo.launch.py: parameters of the demo camera."""

REPLAY_ARGUMENTS = (
    Argument("bag", None, "rosbag2 with images: folder, .mcap or .db3"),
    Argument("out", "out/replay", "folder for the results"),
    Argument("topic", "", "image topic, for a bag that has several"),
    Argument("pace", "1.0", "playback speed; 0: each image waits for the inference of the previous one"),
    Argument("loops", "1", "number of times the bag is played"),
    NAMESPACE,
)
"""The arguments of replay.launch.py."""


USAGE = (
    "usage: perception_node --ros-args [--params-file FILE] [-p NAME:=VALUE] [-r image_raw:=TOPIC] "
    "[-r __ns:=/NAMESPACE] [--log-level LEVEL]"
)

_OF_NODES = re.compile(r"""^[^#\n]*\bros__parameters["']?\s*:""", re.M)


def parameter_file(given: str, config: Path, namespace: str = "") -> str | dict[str, str]:
    """The file at this path, or the installed one of this name; a settings file as the parameter for it.

    Raises:
        PerceptionError: neither can be read, or the file has no entry for the node in this namespace.
    """
    own = user_path(given)
    for path in (own, config / f"{given}.yaml"):
        if not _unreadable(path):
            if is_settings_file(path):
                return {"settings_file": str(path.absolute())}
            if problem := parameter_file_problem(path, perception_name(namespace)):
                raise PerceptionError(problem)
            return str(path)
    raise PerceptionError(
        f"params_file {shown(given)} cannot be read ({_unreadable(own)}) and is none of {_names(config)}"
    )


def parameter_file_problem(path: Path, node: str) -> str | None:
    """Why a node of this full name takes nothing from a parameter file, in a sentence; None if it does."""
    try:
        content = parse_yaml(read_text(path))
    except PerceptionError as error:
        return f"the parameter file {path}: {error}"
    names = sorted(_node_names(content))
    if not names:
        return f"{path} is neither a settings file nor a parameter file of ROS: it holds no groups of names"
    if any(_matches(name, node) for name in names):
        return None
    return f"{path} has no entry for {node}, only for {', '.join(names[:3])}: name it `{node}:` or `/**:`"


def is_settings_file(path: Path) -> bool:
    """Whether a file has groups of settings at its top, and not the names of nodes."""
    try:
        text = read_text(path)
        if _OF_NODES.search(text):  # seen without parsing, for which the node's start would wait
            return False
        content = parse_yaml(text)
    except PerceptionError:
        return False
    return isinstance(content, Mapping) and bool(content) and not _node_names(content)


def accepted_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a node, with settings files that were given as parameter files made parameters.

    Raises PerceptionError for a parameter file that is a named pipe, which ROS would wait for.
    """
    accepted = list(arguments)
    for index, (option, value) in enumerate(pairwise(arguments)):
        if option == "--params-file" and _is_pipe(Path(value)) and not value.startswith(OPEN_FILES):
            raise PerceptionError(f"the parameter file {value} is a pipe: give a file")
        if option == "--params-file" and is_settings_file(Path(value)):
            accepted[index : index + 2] = ["-p", f"settings_file:={Path(value).absolute()}"]
    return accepted


def parameter_file_problems(arguments: Sequence[str], node: str) -> list[str | None]:
    """Why a node of this full name takes nothing from the parameter files among these arguments."""
    files = [Path(value) for option, value in pairwise(arguments) if option == "--params-file"]
    return [parameter_file_problem(file, node) for file in files]


def start_problem(error: str, arguments: Sequence[str]) -> str:
    """Why ROS cannot start with these arguments, where its own message is hard to read."""
    for problem in filter(
        None, (environment_problem(error), *parameter_file_problems(arguments, "/perception"))
    ):
        return problem
    if found := re.search(r"Couldn't parse ([a-z ]+): '(.*?)'", error):
        return f"'{found[2]}' is no {found[1]}; {USAGE}"
    told = error.removeprefix("failed to initialize rcl: ").partition(", at /")[0].rstrip(".")
    return f"{told}; {USAGE}"


def ignored_arguments(arguments: Sequence[str]) -> str | None:
    """Which arguments are ignored because they do not stand after `--ros-args`; None if none."""
    ignored = list(itertools.takewhile(lambda each: each != "--ros-args", arguments[1:]))
    if not ignored:
        return None
    return f"'{safe_line(' '.join(ignored))}' is ignored: write --ros-args before the arguments of ROS"


def _unreadable(path: Path) -> str:
    """Why there is no regular file at a path that can be opened; empty where there is one."""
    try:
        open_file(path).close()
    except OSError as error:
        return os_reason(error)
    return ""


def _is_pipe(path: Path) -> bool:
    """Whether a path leads to a named pipe; where it cannot be examined, ROS says why."""
    try:
        return path.is_fifo()
    except OSError:
        return False


def _node_names(content: object, prefix: str = "") -> set[str]:
    """The full node names, with wildcards, for which a parameter file holds parameters."""
    names = set[str]()
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if key == "ros__parameters":
            names.add(prefix or "/")
        elif isinstance(value, Mapping) and len(prefix) < MAX_NAME:
            names |= _node_names(value, f"{prefix}/{str(key).strip('/')}")
    return names


def _matches(pattern: str, node: str) -> bool:
    """Whether a node name with the wildcards `*` (one part) and `**` (any parts) matches a full name."""
    parts = {"*": "/[^/]+", "**": "(/[^/]+)*"}
    expression = "".join(parts.get(part, f"/{re.escape(part)}") for part in pattern.strip("/").split("/"))
    return re.fullmatch(expression, node) is not None


def parameter_overrides(given: Mapping[str, str]) -> dict[str, str | bool]:
    """The parameters that the arguments set; empty arguments set none.

    Raises:
        PerceptionError: a model file cannot be read or chosen.
    """
    overrides: dict[str, str | bool] = {
        f"node.{name}": given[name] for name in ("image_transport", "image_reliability") if given[name]
    }
    if given["input_depth_topic"]:
        overrides["node.depth"] = True
    if given["model"]:
        model = _gguf_file("model", given["model"])
        mmproj = _gguf_file("mmproj", given["mmproj"]) if given["mmproj"] else _mmproj_beside(model)
        overrides |= {"model.path": str(model), "mmproj.path": str(mmproj)}
    elif given["mmproj"]:
        raise PerceptionError(f"mmproj {shown(given['mmproj'])} was given without model")
    return overrides


def check_rviz(given: Mapping[str, str], packages: Collection[str]) -> None:
    """Raise PerceptionError when rviz is wanted and not among the installed packages."""
    if given["use_rviz"].lower() in ("true", "1") and "rviz2" not in packages:
        raise PerceptionError(
            "use_rviz:=true needs the package rviz2, which is not installed: "
            "sudo apt install ros-$ROS_DISTRO-rviz2, or leave use_rviz out"
        )


def remappings(preset: str, image_topic: str, depth_topic: str = "") -> list[tuple[str, str]]:
    """The topic remappings of a preset, with the topics of images and of depth images that are given."""
    names = dict(REMAP_PRESETS[preset])
    if image_topic:
        names["image_raw"] = image_topic.removesuffix("/compressed")
    if "image_raw" in names:
        names["image_raw/compressed"] = f"{names['image_raw']}/compressed"
    if depth_topic:
        names["input_depth"] = depth_topic
    return list(names.items())


def perception_name(namespace: str) -> str:
    """The full name of the perception node in a namespace."""
    return "/".join(["", *filter(None, [namespace.strip("/")]), "perception"])


def replay_command(given: Mapping[str, str]) -> list[str]:
    """The arguments of `lfm-perception` that play the bag to the launched node."""
    return [
        *("replay", str(user_path(given["bag"])), "--out", str(user_path(given["out"]))),
        *("--node", perception_name(given["namespace"])),
        *("--pace", given["pace"], "--loops", given["loops"]),
        *(["--topic", given["topic"]] if given["topic"] else []),
    ]


def _gguf_file(name: str, given: str) -> Path:
    path = user_path(given).absolute()
    if reason := _unreadable(path):
        raise PerceptionError(f"{name} {path} cannot be read ({reason}): give the path of a GGUF file")
    return path


def _mmproj_beside(model: Path) -> Path:
    found = sorted(model.parent.glob("mmproj*.gguf"))
    if len(found) != 1:
        raise PerceptionError(f"{model.parent} holds {len(found)} files mmproj*.gguf: name one with mmproj:=")
    return found[0]


def _names(config: Path) -> str:
    return ", ".join(sorted(path.stem for path in config.glob("*.yaml")))


def see_packages_of(program: Path) -> None:
    """Let this process import the packages of the Python that a program's first line names.

    `ros2 launch` runs with the system's Python, which lacks what `make robot` installs beside it.
    """
    with program.open("rb") as file:
        python = Path(os.fsdecode(file.readline().removeprefix(b"#!").strip()))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.path.append(str(python.parent.parent / "lib" / version / "site-packages"))
