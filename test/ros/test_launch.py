# SPDX-License-Identifier: Apache-2.0
"""The launch files as a ROS machine runs them: `ros2 launch` on this package in a colcon workspace.

Needs ROS 2's launch, and this package built and sourced; `colcon test` brings both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
if find_spec("launch_ros") is None:
    pytest.skip("ROS 2's launch is not installed", allow_module_level=True)

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

try:
    get_package_prefix("lfm_perception")
except PackageNotFoundError:
    pytest.skip("this package is not in a sourced workspace (colcon build)", allow_module_level=True)

import robot  # noqa: F401 - a domain of its own, and images through shared memory
import yaml
from lifecycle_msgs.msg import State
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import Image
from test_replay import recorded
from vision_msgs.msg import Detection2DArray

from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import LifecycleClient
from lfm_perception.ros.processes import wait_for

PATIENCE_S = 120.0
QUICK = {"/**": {"ros__parameters": {"image": {"max_tokens": 64}, "tracker": {"min_hits": 1}}}}


class Launched:
    """A `ros2 launch`, and what it printed."""

    def __init__(self, log: Path, file: str, *arguments: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["ros2", "launch", "lfm_perception", file, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def ended(self) -> int:
        return self._process.wait(PATIENCE_S)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self._process.send_signal(signal.SIGINT)
        return self.ended()

    def end(self) -> None:
        """Ctrl-C where it still runs, and none of its processes left, whatever happened."""
        try:
            if self._process.poll() is None:
                self.interrupt()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def launched(log: Path, file: str, *arguments: str) -> Iterator[Launched]:
    running = Launched(log, file, *arguments)
    try:
        yield running
    finally:
        running.end()
        print(running.said)  # which pytest shows when a test fails


@pytest.fixture(scope="module")
def user() -> Iterator[Node]:
    with spinning_node("user") as node:
        yield node


@pytest.fixture
def quick(tmp_path: Path) -> str:
    """The launch argument for quick answers."""
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(QUICK))
    return f"params_file:={path}"


def becomes_active(user: Node, name: str) -> None:
    """Wait until a node is active, also through a start that takes long."""
    lifecycle = LifecycleClient(user, name)
    deadline = time.monotonic() + PATIENCE_S
    while lifecycle.state() != State.PRIMARY_STATE_ACTIVE:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def arrives(user: Node, topic: str, kind: type) -> Any:
    """The next message of a topic."""
    heard: list[Any] = []
    subscription = user.create_subscription(kind, topic, heard.append, qos_profile_sensor_data)
    try:
        wait_for(lambda: heard, PATIENCE_S, f"a message on {topic}")
        return heard[0]
    finally:
        user.destroy_subscription(subscription)


def processes(running: Launched, executable: str) -> list[int]:
    """Process ids that the launch reported for an executable, in the order of their start."""
    lines = [line for line in running.said.splitlines() if f"[{executable}-" in line]
    return [int(line.split("pid [")[1].rstrip("]")) for line in lines if "process started with pid [" in line]


@pytest.mark.parametrize("file", ["perception", "replay", "demo"])
def test_a_launch_file_shows_its_arguments(file: str) -> None:
    shown = subprocess.run(
        ["ros2", "launch", "--show-args", "lfm_perception", f"{file}.launch.py"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert {"'namespace':", "'params_file':", "'model':", "'use_rviz':"} <= set(shown.stdout.split())


def test_the_demo_comes_up_by_itself_and_ends_with_ctrl_c(tmp_path: Path, user: Node, quick: str) -> None:
    with launched(tmp_path / "log", "demo.launch.py", quick, "width:=320", "height:=240", "rate:=10") as demo:
        becomes_active(user, "/perception")
        image = arrives(user, "/image_raw", Image)
        assert (image.width, image.height) == (320, 240)
        assert arrives(user, "/detections", Detection2DArray).header.frame_id == "demo_camera"
        pids = processes(demo, "perception_node") + processes(demo, "demo_camera")
        assert demo.interrupt() == 0
        assert demo.said.count("process has finished cleanly") == len(pids) == 2


def test_a_node_that_is_killed_comes_back_active(tmp_path: Path, user: Node, quick: str) -> None:
    # the dead one is remembered for a while
    arguments = (quick, "use_respawn:=true", "namespace:=killed", "input_depth_topic:=depth/aligned")
    with launched(tmp_path / "log", "perception.launch.py", *arguments) as running:
        becomes_active(user, "/killed/perception")
        assert user.count_subscribers("/killed/depth/aligned") == 1, "the topic of depth images"
        os.kill(processes(running, "perception_node")[-1], signal.SIGKILL)
        wait_for(
            lambda: running.said.count("subscribed to /killed/image_raw") == 2,
            PATIENCE_S,
            "the node to come back",
        )
        assert len(processes(running, "perception_node")) == 2


def test_without_autostart_the_node_waits(tmp_path: Path, user: Node) -> None:
    with launched(tmp_path / "log", "perception.launch.py", "autostart:=false"):
        assert LifecycleClient(user, "/perception").state() == State.PRIMARY_STATE_UNCONFIGURED


def test_two_cameras_run_side_by_side_one_by_the_names_of_nanoowl(
    tmp_path: Path, user: Node, quick: str
) -> None:
    small = ("width:=320", "height:=240", "rate:=5")
    other = ("namespace:=cam2", "remap_preset:=nanoowl", "seed:=1")
    with (
        launched(tmp_path / "one", "demo.launch.py", quick, *small, "namespace:=cam1"),
        launched(tmp_path / "two", "demo.launch.py", quick, *small, *other),
    ):
        becomes_active(user, "/cam1/perception")
        becomes_active(user, "/cam2/perception")
        arrives(user, "/cam1/detections", Detection2DArray)
        arrives(user, "/cam2/output_detections", Detection2DArray)
        arrives(user, "/cam2/output_image", Image)
        names = {name for name, _ in user.get_topic_names_and_types()}
        assert {"/cam1/debug_image", "/cam2/tracks", "/cam2/input_query"} <= names
        assert "/cam2/debug_image" not in names


def test_a_bag_is_played_and_the_launch_ends_with_it(tmp_path: Path, quick: str) -> None:
    bag = recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=True, frames=4)
    out = tmp_path / "out"
    arguments = (quick, f"bag:={bag}", f"out:={out}", "pace:=0", "namespace:=cam1")
    with launched(tmp_path / "log", "replay.launch.py", *arguments) as running:
        assert running.ended() == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["answered"]) == (4, 4)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (
            "params_file:=orin_nano",
            "params_file 'orin_nano' cannot be read (no such file or directory) and is none of agx_orin, cpu",
        ),
        ("model:=/no/model.gguf", "model /no/model.gguf cannot be read (no such file or directory)"),
        ("mmproj:=/no/mmproj.gguf", "mmproj '/no/mmproj.gguf' was given without model"),
    ],
)
def test_a_file_that_is_not_there_stops_the_launch_with_a_sentence(
    tmp_path: Path, argument: str, said: str
) -> None:
    with launched(tmp_path / "log", "perception.launch.py", argument) as running:
        assert running.ended() == 1
        assert said in running.said


def test_a_model_brings_the_vision_tower_beside_it(
    tmp_path: Path, user: Node, quick: str, demo_model: tuple[Path, Path]
) -> None:
    model, mmproj = (tmp_path / path.name for path in demo_model)
    model.symlink_to(demo_model[0])
    with launched(tmp_path / "none", "perception.launch.py", f"model:={model}") as running:
        assert running.ended() == 1
        assert "holds 0 files mmproj*.gguf: name one with mmproj:=" in running.said
    mmproj.symlink_to(demo_model[1])
    with launched(tmp_path / "log", "perception.launch.py", quick, f"model:={model}") as running:
        becomes_active(user, "/perception")
        assert f"loading {model.name}" in running.said
