# SPDX-License-Identifier: Apache-2.0
"""A simulated camera in the demo world: frames at a steady rate, each with its ground truth.

    ros2 run lfm_perception demo_camera --ros-args -p seed:=3

`topics.DEMO_CAMERA` lists its topics. A frame's stamp is the instant that it shows.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import Any

import cv2
import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from lfm_perception.demo import FRAME_ID
from lfm_perception.demo.world import Snapshot, World
from lfm_perception.errors import PerceptionError
from lfm_perception.interruption import EndRequest
from lfm_perception.parent import end_with_starter
from lfm_perception.ros import messages, shared_memory, transport
from lfm_perception.ros.endpoints import Publishers
from lfm_perception.ros.executor import starting_ros
from lfm_perception.ros.topics import DEMO_CAMERA
from lfm_perception.scene import Track
from lfm_perception.stamps import from_seconds, to_seconds

JPEG_QUALITY = 90

END_POLL_S = 0.2
"""Longest wait for a frame that is due before a signal to end is looked for."""


class DemoCamera(Node):
    """Publishes frame i of a `World` at `epoch + i / rate`; skips frames that would be late.

    Each frame is rendered in advance, so that its age on arrival is the latency of the transport. The
    sequence restarts from the clock's time when that jumps back.
    """

    def __init__(self) -> None:
        super().__init__("demo_camera")
        width = self._whole("width", 640, "pixels", 32, 4096)
        height = self._whole("height", 480, "pixels", 32, 4096)
        seed = self._whole("seed", 0, "random seed of the demo world", 0, 2**31 - 1)
        bodies = self._whole("bodies", 7, "number of people, forklifts, boxes, cones and pallets", 0, 50)
        epoch = self._whole("epoch", 0, "ROS time of the first frame, ns; 0: now", 0, 2**63 - 1)
        rate = self._number("rate", 30.0, "frames per second", 0.1, 240.0)
        self._world = World(seed, width, height, rate, bodies)
        self._epoch_ns = epoch or self.get_clock().now().nanoseconds
        self._outputs = Publishers(self, DEMO_CAMERA.publishers)
        self._prepared: tuple[int, Snapshot] | None = None
        time.sleep(-self._seconds() * rate % 1.0 / rate)  # so that the timer fires when a frame is due
        self.create_timer(1.0 / rate, self._on_frame_due)
        self.get_logger().info(f"publishing demo world {seed}, {width} x {height} at {rate:g} Hz")

    def _on_frame_due(self) -> None:
        """Publish the frame that is due, then render the next one."""
        if self._prepared is not None and self._prepared[0] <= self._due():
            index, snapshot = self._prepared
            self._publish(snapshot, self._epoch_ns + from_seconds(index / self._world.fps))
        upcoming = max(self._due() + 1, 0)
        self._prepared = upcoming, self._world.snapshot(upcoming)

    def _due(self) -> int:
        """The number of the newest frame that is due, to a quarter of a period: timers are not exact."""
        return math.floor(self._seconds() * self._world.fps + 0.25)

    def _seconds(self) -> float:
        return to_seconds(self.get_clock().now().nanoseconds - self._epoch_ns)

    def _publish(self, snapshot: Snapshot, stamp_ns: int) -> None:
        header = messages.header(stamp_ns, FRAME_ID)
        rgb = snapshot.frame.image
        truth = [
            Track(body.object_id, body.label, body.box, 1.0, body.velocity, 0.0, 0.0)
            for body in snapshot.objects
        ]
        size = self._world.width, self._world.height
        publish = self._outputs.publish
        publish("image_raw", lambda: messages.image(rgb, header))
        publish("image_raw/compressed", lambda: messages.jpeg(rgb, header, JPEG_QUALITY))
        publish("ground_truth", lambda: messages.tracks(truth, header, *size))

    def _whole(self, name: str, default: int, description: str, low: int, high: int) -> int:
        allowed = IntegerRange(from_value=low, to_value=high)
        return int(self._declare(name, default, description, integer_range=[allowed]))

    def _number(self, name: str, default: float, description: str, low: float, high: float) -> float:
        allowed = FloatingPointRange(from_value=low, to_value=high)
        return float(self._declare(name, default, description, floating_point_range=[allowed]))

    def _declare(self, name: str, default: Any, description: str, **allowed: Any) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True, **allowed)
        return self.declare_parameter(name, default, descriptor).value


def run() -> None:
    """Run the camera with the arguments of the process, until a signal or the shutdown of the context."""
    ending = EndRequest(signal.SIGINT, signal.SIGTERM)
    end_with_starter()
    transport.use_shared_memory()
    cv2.setNumThreads(1)  # the cores belong to the model
    try:
        with starting_ros():
            # a signal must not end the context within a callback
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            camera = DemoCamera()
        shared_memory.restrict()
        executor = SingleThreadedExecutor()
        executor.add_node(camera)
        while not ending.is_there:
            executor.spin_once(timeout_sec=END_POLL_S)
    except ExternalShutdownException:
        pass
    except PerceptionError as error:
        sys.exit(f"the demo camera cannot start: {error}")
    finally:
        rclpy.try_shutdown()
