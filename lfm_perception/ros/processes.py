"""ROS nodes as child processes: started, watched and ended. Replaces `ros2 launch` in demo and replay."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import yaml

from lfm_perception.errors import PerceptionError

T = TypeVar("T")

PERCEPTION_MODULE = "lfm_perception.ros.node"
DEMO_CAMERA_MODULE = "lfm_perception.ros.demo_camera"

START_TIMEOUT_S = 60.0
"""Timeout for a process to appear in the ROS graph, on a slow and busy computer."""

STOP_TIMEOUT_S = 10.0
"""Time that a process has to end after each signal before it is sent the next one."""

LOG_LINES = 12
"""Lines of a process's log that are quoted in an error message."""


class NodeProcess:
    """`python -m module` as a ROS node, its output in a file. Ends with the `with` block.

    `parameters` and `remaps` are given as ROS arguments. A process that ended by itself surfaces as a
    PerceptionError with its last lines, from `check` and everything that waits for it.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        parameters: Mapping[str, object] | None = None,
        remaps: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self._log = log
        with ExitStack() as cleaning:
            folder = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="lfm_perception-"))
            file = Path(folder, "parameters.yaml")
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters or {})}}))
            arguments = ["--ros-args", *(["--params-file", str(file)] if parameters else [])]
            for name, target in (remaps or {}).items():
                arguments += ["--remap", f"{name}:={target}"]
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches this program only, which ends the others
                )
            self._cleaning = cleaning.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise PerceptionError when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise PerceptionError(f"{self.module} ended with code {code}{self.last_output()}")

    def last_output(self) -> str:
        """What the process said last, to end a message with."""
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"; {self.module} said last:", *lines]) if lines else ""

    def stop(self) -> None:
        """End the process: asked by SIGINT, then SIGTERM, at last killed."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT_S)
        self._cleaning.close()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def wait_for(
    condition: Callable[[], T | None], timeout_s: float, what: str, watch: Sequence[NodeProcess] = ()
) -> T:
    """What `condition` returns, as soon as that is true.

    Raises PerceptionError, saying `what` was waited for, after `timeout_s` or when a watched process ends.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        for process in watch:
            process.check()
        if time.monotonic() > deadline:
            words = "".join(process.last_output() for process in watch)
            raise PerceptionError(f"gave up waiting for {what} after {timeout_s:g} s{words}")
        time.sleep(0.01)
