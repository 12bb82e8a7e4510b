# SPDX-License-Identifier: Apache-2.0
"""The start of the node's processes, up to the active node: only what that needs is imported."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context
from rclpy.impl.implementation_singleton import rclpy_implementation

from lfm_perception.doctor import check_dds
from lfm_perception.errors import PerceptionError
from lfm_perception.ros.environment import MAX_DOMAIN, environment_problem
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.processes import DEMO_CAMERA_MODULE, PERCEPTION_MODULE, NodeProcess, wait_for

NEEDED = {"cv2", "lfm_perception", "numpy", "rclpy"}
NOT_NEEDED = {
    "PIL", "av", "diskcache", "filterpy", "jinja2", "json_repair", "lark", "matplotlib", "pydantic", "rich",
    "rosbags", "scipy", "typer",
}  # fmt: skip
"""Packages that nothing needs before the first frame. They took half of the start when they were imported."""


def test_until_it_is_active_a_node_imports_only_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # also in the worker process
    log = tmp_path / "log"
    with NodeProcess(PERCEPTION_MODULE, log, {"node.autostart": True}) as process:
        wait_for(lambda: "subscribed to" in log.read_text(), 60.0, "the node", [process])
        imported = set(re.findall(r"^import time:.*\| +(\w+)", log.read_text(), re.M))
    assert imported >= NEEDED
    assert sorted(NOT_NEEDED & imported) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        (PERCEPTION_MODULE, "multiprocessing"),
        (PERCEPTION_MODULE, "rclpy.node"),
        (PERCEPTION_MODULE, "lfm_perception.ros.run_node"),
        (DEMO_CAMERA_MODULE, "rclpy.node"),
    ],
)
def test_a_node_that_is_interrupted_while_it_imports_ends_without_a_traceback(
    module: str, imported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the last import a node may already run when the signal comes: then it ends with 0."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    log = tmp_path / "log"
    with NodeProcess(module, log, {"node.autostart": True}) as process:
        wait_for(lambda: re.search(rf"\| +{imported}\n", log.read_text()), 60.0, imported, [process])
        os.kill(process.pid, signal.SIGINT)
        with pytest.raises(PerceptionError, match=r"ended with code (130|0)\b") as ended:
            wait_for(lambda: False, 60.0, "its end", [process])
    said = [line for line in log.read_text().splitlines() if not line.startswith("import time:")]
    if "code 130" in str(ended.value):
        assert said == []
    assert not any("Traceback" in line for line in said)


def test_a_node_says_once_that_a_remapping_has_no_effect() -> None:
    command = [sys.executable, "-m", PERCEPTION_MODULE, "--ros-args", "-r", "dbg_image:=seen"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        assert node.stderr is not None
        give_up = threading.Timer(60.0, node.kill)
        give_up.start()
        said = next((line for line in node.stderr if "dbg_image" in line), "")
        node.send_signal(signal.SIGINT)
        assert "dbg_image" not in node.stderr.read()
        give_up.cancel()
    assert "[WARN]" in said
    assert "the remapping dbg_image:=seen has no effect: this topic is now called debug_image" in said


def test_the_import_of_a_program_changes_no_signal() -> None:
    code = "import signal; before = signal.getsignal(signal.SIGINT)"
    code += f"; import {PERCEPTION_MODULE}, {DEMO_CAMERA_MODULE}"
    code += "; assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ROS_DOMAIN_ID", "banana", "ROS_DOMAIN_ID is 'banana': set it to a whole number from 0 to 232"),
        ("ROS_LOG_DIR", "/proc/logs", "ROS cannot write its logs to /proc/logs (no such file or directory): "
         "set ROS_LOG_DIR to another folder"),
        ("ROS_LOG_DIR", "/proc", "ROS cannot write its logs to /proc (no such file or directory): "
         "set ROS_LOG_DIR to another folder"),
        ("ROS_STATIC_PEERS", ";;x y", "ROS_STATIC_PEERS is ';;x y', and 'x y' is no host: "
         "give names or addresses of hosts, separated by semicolons"),
    ],
)  # fmt: skip
def test_an_environment_in_which_ros_cannot_start_is_one_sentence(
    variable: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the node as a process, and from a node that a command makes to look at the graph."""
    monkeypatch.setenv(variable, value)
    log = tmp_path / "log"
    with (
        NodeProcess(PERCEPTION_MODULE, log) as process,
        pytest.raises(PerceptionError, match="ended with code 1"),
    ):
        wait_for(lambda: False, 60.0, "its end", [process])
    assert log.read_text() == f"the node cannot start: {said}\n"
    if variable != "ROS_LOG_DIR":  # this process has opened its logs before
        with pytest.raises(PerceptionError, match=re.escape(said)), spinning_node("curious"):
            pass
        (finding,) = [each for each in check_dds() if each.is_problem]
        assert finding.found == said


@pytest.mark.parametrize(
    "domain",
    [
        *("0", "232", "007", " 5", "5 ", "+5", "0x10", "1.5", "5abc", "5\n"),
        *("233", "9" * 5000, "08", "0 ", "0x", "٣", " ", "banana", "-5", "4294967301"),
    ],
)
def test_a_domain_is_valid_where_rcl_reads_one_that_has_ports(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    context = Context()
    try:
        rclpy.init(args=[], context=context)
        expected = context.get_domain_id() <= MAX_DOMAIN
        rclpy.try_shutdown(context=context)
    except rclpy_implementation.RCLError:
        expected = False
    problem = environment_problem()
    assert (problem is None) is expected
    assert expected or re.match("ROS_DOMAIN_ID is .*: set it to a whole number from 0 to 232", problem or "")


def test_security_without_its_files_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    with pytest.raises(PerceptionError, match="check ROS_SECURITY_KEYSTORE"), spinning_node("curious"):
        pass
