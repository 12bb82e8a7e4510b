"""The executor of the perception node: one thread for what is quick, others for what may take long."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Task

BEGIN_S = 0.001
"""Time between looks at whether a thread has begun."""


class CameraExecutor(SingleThreadedExecutor):
    """Runs callbacks on the thread that spins, those of the group `apart` each on a thread of its own.

    rclpy's MultiThreadedExecutor hands a callback out again and again until some thread begins with it, and
    by that keeps all threads from beginning (https://github.com/ros2/rclpy/issues/1452): images came up to
    half a second late, or not at all.
    """

    def __init__(self, apart: CallbackGroup, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._apart = apart

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """The next callback for the thread that spins; starts those that come before it and run apart."""
        while True:
            task, entity, node = super().wait_for_ready_callbacks(*args, **kwargs)
            if entity is None or entity.callback_group is not self._apart:
                return task, entity, node
            self._start(task)

    def _start(self, task: Task[None]) -> None:
        """Run a task on a thread of its own. Until that is under way the task would be offered again."""
        threading.Thread(target=task, name="transition", daemon=True).start()
        while not (task.executing() or task.done()):
            time.sleep(BEGIN_S)
