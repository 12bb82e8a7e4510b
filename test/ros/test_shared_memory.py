# SPDX-License-Identifier: Apache-2.0
"""Files of Fast DDS in shared memory: left-overs, permissions, room, and who has a segment at all."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from robot import robot

from lfm_perception.ros import shared_memory

ID = "0123456789abcdef"


def test_only_old_unlocked_files_are_removed(tmp_path: Path) -> None:
    for name in (f"fastdds_{ID}", "fastdds_port7411", f"fastdds_{ID[::-1]}", "fastdds_port7413"):
        (tmp_path / name).write_bytes(b"data")
        (tmp_path / f"{name}_el").touch()
        (tmp_path / f"sem.{name}_mutex").touch()
    (tmp_path / "fastdds_port7411_sl").touch()
    (tmp_path / "fastdds_port7000").touch()  # without a lock: nobody can tell
    assert shared_memory.clean(tmp_path) == 0, "young files are left alone"
    old_s = time.time() - 60
    for path in tmp_path.iterdir():
        os.utime(path, (old_s, old_s))
    with (tmp_path / f"fastdds_{ID}_el").open() as segment, (tmp_path / "fastdds_port7411_sl").open() as port:
        fcntl.flock(segment, fcntl.LOCK_EX)
        fcntl.flock(port, fcntl.LOCK_SH)
        assert shared_memory.clean(tmp_path) == 2
        assert shared_memory.clean(tmp_path) == 0
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("sem.")}
    assert left == {
        *(f"fastdds_{ID}", f"fastdds_{ID}_el", "fastdds_port7000"),
        *("fastdds_port7411", "fastdds_port7411_el", "fastdds_port7411_sl"),
    }


def test_the_segments_of_a_killed_node_are_removed_and_those_of_a_live_one_are_not() -> None:
    code = (
        "import sys, time, rclpy; from lfm_perception.ros import transport; transport.use_shared_memory();"
        "rclpy.init(args=[]); node = rclpy.create_node('victim'); print('up', flush=True); time.sleep(60)"
    )
    with robot() as started:
        own = shared_memory.segments(os.getpid())
        assert own
        shared_memory.restrict()
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in own)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            theirs = shared_memory.segments(process.pid)
            assert theirs
            for path in (*own, *theirs):
                os.utime(path.with_name(f"{path.name}_el"), (0, 0))  # old enough to be removed
            shared_memory.clean()
            assert all(path.exists() for path in theirs)
            process.send_signal(signal.SIGKILL)
        shared_memory.clean()
        assert not any(path.exists() for path in theirs)
        assert all(path.exists() for path in own)
        assert started.state() == "unconfigured"


def test_a_forked_process_owns_no_segment_of_its_parent() -> None:
    segment = shared_memory.FOLDER / f"fastdds_{ID}"
    lock = segment.with_name(f"{segment.name}_el")
    try:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with subprocess.Popen(["sleep", "60"], pass_fds=[file.fileno()]) as process:
                inherited = Path(f"/proc/{process.pid}/fd/{file.fileno()}").readlink()
                owners = [
                    each for each in (process.pid, os.getpid()) if segment in shared_memory.segments(each)
                ]
                process.kill()
            assert (inherited, owners) == (lock, [os.getpid()])
    finally:
        lock.unlink()


@pytest.mark.parametrize("discovery_range", ["SUBNET", "LOCALHOST"])
def test_a_health_check_has_no_segment(discovery_range: str) -> None:
    node = (
        "import rclpy, time\n"
        "from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus\n"
        "rclpy.init(args=[])\n"
        "publisher = rclpy.create_node('watched').create_publisher(DiagnosticArray, '/diagnostics', 10)\n"
        "while True:\n"
        "    publisher.publish(DiagnosticArray(status=[DiagnosticStatus(name='watched: node')]))\n"
        "    time.sleep(0.1)"
    )
    check = (
        "from lfm_perception.ros import health, shared_memory\n"
        "import os, threading\n"
        "found, done = set(), threading.Event()\n"
        "def look():\n"
        "    while not done.wait(0.01):\n"
        "        found.update(shared_memory.segments(os.getpid()))\n"
        "threading.Thread(target=look).start()\n"
        "print(health.problems('/watched', 30.0), found)\n"
        "done.set()"
    )
    environment = {key: value for key, value in os.environ.items() if "_DEFAULT_PROFILES_FILE" not in key}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = discovery_range
    with subprocess.Popen([sys.executable, "-c", node], env=environment) as process:
        said = subprocess.run(
            [sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True
        ).stdout
        process.kill()
    assert said == "[] set()\n"


def test_shared_memory_that_is_too_small_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert "is not there" in str(shared_memory.room_problem(tmp_path / "nowhere"))
    assert "--shm-size" in str(shared_memory.room_problem(Path("/proc")))  # has 0 bytes
