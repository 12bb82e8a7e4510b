# SPDX-License-Identifier: Apache-2.0
"""ROS nodes as child processes of demo and replay, which run without `ros2 launch`."""

from __future__ import annotations

import os
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
from lfm_perception.parent import PARENT_VARIABLE

T = TypeVar("T")

PERCEPTION_MODULE = "lfm_perception.ros.perception_node"
DEMO_CAMERA_MODULE = "lfm_perception.ros.demo_camera"

START_TIMEOUT_S = 60.0
"""Timeout for a process to appear in the ROS graph, on a slow and busy computer."""

STOP_TIMEOUT_S = 10.0
"""Time that a process has to end after each signal before it is sent the next one."""

LOG_LINES = 12
"""Lines of a process's log that are quoted in an error message."""


class NodeProcess:
    """A ROS node as the process `python -m module`, with its output in the file `log`.

    `parameters` are passed in a parameter file. The process is stopped at the end of the `with` block. If it
    ended before, `check` and `wait_for` raise a PerceptionError with the last lines of its output.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        parameters: Mapping[str, object] | None = None,
    ) -> None:
        self.module = module
        self._log = log
        with ExitStack() as cleaning:
            folder = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="lfm_perception-"))
            file = Path(folder, "parameters.yaml")
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters or {})}}))
            arguments = ["--ros-args", *(["--params-file", str(file)] if parameters else [])]
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C signals this process only, which stops the others
                    env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
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
        """The last lines of the process's output, as the end of an error message."""
        lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([f"; last output of {self.module}:", *lines]) if lines else ""

    def stop(self) -> None:
        """End the process by SIGINT, then SIGTERM, then SIGKILL."""
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
    condition: Callable[[], T | None], timeout_s: float, what: str, processes: Sequence[NodeProcess] = ()
) -> T:
    """Poll `condition` until its result is true, and return that.

    Raises:
        PerceptionError: it did not become true within `timeout_s`, or one of `processes` ended; the message
            names `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            output = "".join(process.last_output() for process in processes)
            raise PerceptionError(f"gave up waiting for {what} after {timeout_s:g} s{output}")
        time.sleep(0.01)
