# SPDX-License-Identifier: Apache-2.0
"""Runs the perception node in this process, until a signal or the shutdown of the context ends it."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions

from lfm_perception.errors import PerceptionError
from lfm_perception.interruption import EndRequest
from lfm_perception.ros import shared_memory, transport
from lfm_perception.ros.executor import CameraExecutor, starting_ros
from lfm_perception.ros.launch_arguments import (
    USAGE,
    accepted_arguments,
    ignored_arguments,
    parameter_file_problems,
    start_problem,
)
from lfm_perception.ros.node import PerceptionNode
from lfm_perception.ros.remappings import remapping_problems
from lfm_perception.text import sentence

M_ARENA_MAX, ARENAS = -8, 2
"""Option of glibc's mallopt and its value. By default glibc keeps up to eight arenas per core for the threads
that come and go with every session, and their fragmentation adds up to a growing RSS."""

END_TIMEOUT_S = 5.0
"""Longest wait for the callback that runs when the node ends."""


def run() -> None:
    """Run a node with the arguments of the process. Exits with a sentence if it cannot start."""
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(print(USAGE))
    problem = transport.use_shared_memory()
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    cv2.setNumThreads(1)  # the cores belong to the model
    ending = EndRequest(signal.SIGINT, signal.SIGTERM)
    try:
        given = accepted_arguments(sys.argv)
        with starting_ros():
            _start_ros(given)
            node = PerceptionNode()
    except PerceptionError as error:
        sys.exit(sentence(f"the node cannot start: {error}"))
    shared_memory.restrict()
    executor = CameraExecutor(node.transition_group, node.unexpected.record)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()
        ending.put()

    spinning = threading.Thread(target=spin, name="executor", daemon=True)
    spinning.start()
    if not ending.is_there:
        threading.Thread(
            target=node.unexpected.guarded("start", node.bring_up), name="transition", daemon=True
        ).start()
    # beside the loading of the model
    name, of_rules = node.get_fully_qualified_name(), bool(node.get_parameter("rules.actions").value)
    files, remapped = parameter_file_problems(given, name), remapping_problems(given, name, of_rules=of_rules)
    for warning in (problem, ignored_arguments(sys.argv), *files, *remapped):
        if warning is not None:
            node.get_logger().warning(sentence(warning))
    ending.wait()
    node.unexpected.guarded("end", node.release)()
    executor.shutdown()
    spinning.join(END_TIMEOUT_S)
    node.destroy_node()  # and with it the shared memory
    rclpy.try_shutdown()
    shared_memory.remove_own()


def _start_ros(arguments: Sequence[str]) -> None:
    """Initialize rclpy. Raises PerceptionError."""
    try:
        # the context stays valid until the node has published its end
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        raise PerceptionError(start_problem(str(error), arguments)) from error
