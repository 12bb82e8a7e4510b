# SPDX-License-Identifier: Apache-2.0
"""Executors: of the perception node, and of a helper node that spins in a thread."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.task import Task

from lfm_perception.errors import PerceptionError
from lfm_perception.ros.environment import environment_problem
from lfm_perception.ros.unexpected import UnexpectedErrors

START_POLL_S = 0.001
"""Polling period while a transition's thread starts."""

ERROR_PAUSE_S = 0.01
"""Pause after an unexpected exception, so that one that repeats leaves the processor to others."""


SPIN_POLL_S = 0.05
"""Longest time until a spinning node notices its end, seconds."""


class CameraExecutor(SingleThreadedExecutor):
    """Runs callbacks on the spinning thread; those of `slow_group` run on a thread of their own each.

    rclpy's MultiThreadedExecutor yields a callback again until a thread starts it, which keeps all threads
    from starting (https://github.com/ros2/rclpy/issues/1452): images arrived up to 0.5 s late, or not at all.

    Args:
        on_error: receives the exceptions that rclpy itself or a callback raises; spinning goes on.
    """

    def __init__(
        self,
        slow_group: CallbackGroup,
        on_error: Callable[[str, Exception], None],
        *,
        context: Context | None = None,
    ) -> None:
        super().__init__(context=context)
        self._slow_group, self._on_error = slow_group, on_error

    def spin(self) -> None:
        """Execute callbacks until the executor or its context is shut down."""
        while self._spin_to_error():
            time.sleep(ERROR_PAUSE_S)

    def _spin_to_error(self) -> bool:
        try:
            super().spin()
        except ExternalShutdownException:
            raise
        except rclpy_implementation.InvalidHandle:
            return True  # another thread removed a topic that rclpy was about to wait for
        except Exception as error:
            self._on_error("a callback", error)
            return True
        return False

    def wait_for_ready_callbacks(self, *args: Any, **kwargs: Any) -> Any:
        """The next callback for the spinning thread; starts the slow ones that are ready before it."""
        while True:
            task, entity, node = super().wait_for_ready_callbacks(*args, **kwargs)
            if entity is None or entity.callback_group is not self._slow_group:
                return task, entity, node
            self._start(task)

    def _start(self, task: Task[None]) -> None:
        """Start a task on a thread of its own. It would be yielded again until that thread executes it."""
        threading.Thread(target=self._run, args=(task,), name="transition", daemon=True).start()
        while not (task.executing() or task.done()):
            time.sleep(START_POLL_S)

    def _run(self, task: Task[None]) -> None:
        task()
        error = task.exception()
        if isinstance(error, Exception):
            self._on_error("a transition", error)


@contextmanager
def starting_ros() -> Iterator[None]:
    """Raise PerceptionError where ROS, or a node, cannot start in this block."""
    if problem := environment_problem():
        raise PerceptionError(problem)
    with warnings.catch_warnings():
        # of rclpy, about a node that it could not make
        warnings.filterwarnings("ignore", "Failed to fini", RuntimeWarning)
        try:
            yield
        except RuntimeError as error:
            if problem := environment_problem(str(error)):
                raise PerceptionError(problem) from error
            if isinstance(error, rclpy_implementation.RCLError):
                raise PerceptionError(f"ROS cannot start: {error}") from error
            raise


@contextmanager
def spinning_node(name: str, *, namespace: str = "") -> Iterator[Node]:
    """A node in a context of its own, whose callbacks run in a thread until the block ends.

    An exception, of a callback or of a message that cannot be read, costs that message and is logged once.

    Raises:
        PerceptionError: ROS cannot start in this environment.
    """
    context = Context()
    with starting_ros():
        rclpy.init(args=[], context=context)
    try:
        with starting_ros():
            node = Node(name, namespace=namespace, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        ending = threading.Event()
        errors = UnexpectedErrors(node.get_logger())
        spin = threading.Thread(
            target=_spin, args=(executor, ending, errors), name=f"{name} executor", daemon=True
        )
        spin.start()
        try:
            yield node
        finally:
            ending.set()
            spin.join()  # first: a callback under way must not find its executor destroyed
            executor.shutdown()
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _spin(executor: SingleThreadedExecutor, ending: threading.Event, errors: UnexpectedErrors) -> None:
    while not ending.is_set():
        try:
            executor.spin_once(timeout_sec=SPIN_POLL_S)
        except ExternalShutdownException:  # noqa: PERF203 - it waits for most of the time
            return
        except Exception as error:
            errors.record("a callback", error)
            ending.wait(ERROR_PAUSE_S)
