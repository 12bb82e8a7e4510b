"""A camera in the demo world: frames at a steady rate, each with the truth about what it shows.

    ros2 run lfm_perception demo_camera --ros-args -p seed:=3

Publishes `image_raw` (rgb8), `image_raw/compressed` (JPEG, made only for subscribers) and `ground_truth`,
the true visible boxes with the body's number as `id`. A frame's stamp is the instant it shows.
"""

from __future__ import annotations

import array
import math
import time
from collections.abc import Sequence
from typing import Any

import cv2
import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from lfm_perception.demo.world import Snapshot, World
from lfm_perception.ros import messages, transport
from lfm_perception.scene import Track

JPEG_QUALITY = 90
FRAME_ID = "demo_camera"
LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


class DemoCamera(Node):
    """Shows frame i of a `World` at `epoch + i / rate`, skipping frames that it comes too late for.

    Each frame is drawn before its time and published at it, so that its age on arrival is that of the
    transport. A clock that jumps back shows the film again from there.
    """

    def __init__(self) -> None:
        super().__init__("demo_camera")
        width = self._whole("width", 640, "pixels", 32, 4096)
        height = self._whole("height", 480, "pixels", 32, 4096)
        seed = self._whole("seed", 0, "which film of the demo world", 0, 2**31 - 1)
        bodies = self._whole("bodies", 7, "people, forklifts, boxes, cones and pallets", 0, 50)
        epoch = self._whole("epoch", 0, "when the film begins, ns of the ROS clock; 0: now", 0, 2**63 - 1)
        rate = self._number("rate", 30.0, "frames per second", 0.1, 240.0)
        self._world = World(seed, width, height, rate, bodies)
        self._epoch_ns = epoch or self.get_clock().now().nanoseconds
        self._images = self.create_publisher(Image, "image_raw", qos_profile_sensor_data)
        self._jpegs = self.create_publisher(CompressedImage, "image_raw/compressed", qos_profile_sensor_data)
        self._truth = self.create_publisher(Detection2DArray, "ground_truth", LATEST)
        self._prepared: tuple[int, Snapshot] | None = None
        time.sleep(-self._seconds() * rate % 1.0 / rate)  # so that the timer fires as a frame falls due
        self.create_timer(1.0 / rate, self._show)
        self.get_logger().info(f"showing film {seed} of the demo world, {width} x {height} at {rate:g} Hz")

    def _show(self) -> None:
        """Publish the frame whose time has come, then draw the next one."""
        if self._prepared is not None and self._prepared[0] <= self._due():
            index, snapshot = self._prepared
            self._publish(snapshot, self._epoch_ns + round(index * 1e9 / self._world.fps))
        upcoming = max(self._due() + 1, 0)
        self._prepared = upcoming, self._world.snapshot(upcoming)

    def _due(self) -> int:
        """The newest frame whose time has come, to a quarter of a period: timers are not exact."""
        return math.floor(self._seconds() * self._world.fps + 0.25)

    def _seconds(self) -> float:
        return (self.get_clock().now().nanoseconds - self._epoch_ns) / 1e9

    def _publish(self, snapshot: Snapshot, stamp_ns: int) -> None:
        header = messages.header(stamp_ns, FRAME_ID)
        rgb = snapshot.frame.image
        self._images.publish(messages.image(rgb, header))
        if self._jpegs.get_subscription_count():
            bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
            data = array.array("B", jpeg.tobytes())
            self._jpegs.publish(CompressedImage(header=header, format="jpeg", data=data))
        truth = [
            Track(body.object_id, body.label, body.box, 1.0, body.velocity, 0.0, 0.0)
            for body in snapshot.objects
        ]
        self._truth.publish(messages.tracks(truth, header, self._world.width, self._world.height))

    def _whole(self, name: str, default: int, words: str, low: int, high: int) -> int:
        allowed = IntegerRange(from_value=low, to_value=high)
        return int(self._declare(name, default, words, integer_range=[allowed]))

    def _number(self, name: str, default: float, words: str, low: float, high: float) -> float:
        allowed = FloatingPointRange(from_value=low, to_value=high)
        return float(self._declare(name, default, words, floating_point_range=[allowed]))

    def _declare(self, name: str, default: Any, words: str, **allowed: Any) -> Any:
        descriptor = ParameterDescriptor(description=words, read_only=True, **allowed)
        return self.declare_parameter(name, default, descriptor).value


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until Ctrl-C or the end of the context."""
    transport.use_shared_memory()
    cv2.setNumThreads(1)  # the cores belong to the model
    rclpy.init(args=None if arguments is None else list(arguments))
    try:
        rclpy.spin(DemoCamera())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
