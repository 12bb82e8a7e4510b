"""Rate and latency of images over DDS on this computer, from a process of its own or on any topic.

    python -m lfm_perception.ros.dds_check TOPIC

publishes 1280 x 720 bgr8 images at 30 Hz on that topic, best effort, until it is terminated.
"""

from __future__ import annotations

import array
import statistics
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass

import rclpy
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from lfm_perception.ros import messages, transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.stamps import to_seconds

WIDTH, HEIGHT, RATE_HZ = 1280, 720, 30.0
DISCOVERY_S = 5.0
START_S = 30.0
"""Timeouts for the first image: on a topic that exists, and of a process that has to start."""


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """Messages received, their rate in Hz, and their median age on arrival by their stamps in seconds.

    Rate and latency are 0 if fewer than two messages arrived.
    """

    count: int
    rate_hz: float
    latency_s: float


def measure_dds(seconds: float) -> TopicStatistics:
    """Measure images from another process for so many seconds."""
    topic = f"/lfm_perception_doctor_{uuid.uuid4().hex[:12]}"
    command = [sys.executable, "-m", "lfm_perception.ros.dds_check", topic]
    sender = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # it is terminated while publishing
    try:
        return measure_topic(topic, seconds, timeout_s=START_S)
    finally:
        sender.terminate()
        sender.wait()


def measure_topic(topic: str, seconds: float, *, timeout_s: float = DISCOVERY_S) -> TopicStatistics:
    """Measure a topic for so many seconds after its first image, for which `timeout_s` is allowed."""
    transport.use_shared_memory(transport.RECEIVER_PROFILE)
    times: list[float] = []
    latencies: list[float] = []
    first = threading.Event()

    def on_image(image: Image) -> None:
        times.append(time.monotonic())
        latencies.append(to_seconds(time.time_ns() - messages.stamp_ns(image.header.stamp)))
        first.set()

    with spinning_node("doctor") as node:
        node.create_subscription(Image, topic, on_image, qos_profile_sensor_data)
        if first.wait(timeout_s):
            time.sleep(seconds)
    count = len(times)
    if count < 2:
        return TopicStatistics(count, 0.0, 0.0)
    return TopicStatistics(count, (count - 1) / (times[-1] - times[0]), statistics.median(latencies))


def _publish(topic: str) -> None:
    transport.use_shared_memory()
    rclpy.init()
    node = Node("dds_check")
    publisher = node.create_publisher(Image, topic, qos_profile_sensor_data)
    image = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH)
    image.data = array.array("B", bytes(3 * WIDTH * HEIGHT))

    def publish() -> None:
        image.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(image)

    node.create_timer(1.0 / RATE_HZ, publish)
    rclpy.spin(node)


if __name__ == "__main__":
    _publish(sys.argv[1])
