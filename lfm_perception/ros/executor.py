"""The executor of the perception node: one thread for what is quick, others for what may take long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import rclpy
from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
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


@contextmanager
def spinning_node(name: str, *, namespace: str = "") -> Iterator[Node]:
    """A node in a context of its own, its callbacks served by a thread until the end."""
    context = Context()
    rclpy.init(args=[], context=context)
    try:
        node = Node(name, namespace=namespace, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=_spin, args=(executor,), name=f"{name} executor", daemon=True)
        thread.start()
        try:
            yield node
        finally:
            executor.shutdown()
            thread.join()
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()
