"""How well images come through DDS on this computer: sent by another process, or on any topic.

    python -m lfm_perception.ros.dds_check TOPIC

sends 1280 x 720 bgr8 images at 30 Hz on that topic, best effort, until it is ended.
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

from lfm_perception.ros import transport
from lfm_perception.ros.executor import spinning_node

WIDTH, HEIGHT, RATE_HZ = 1280, 720, 30.0
DISCOVERY_S = 5.0
START_S = 30.0
"""How long the first image of a camera, or of a process that has to start, is waited for."""


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """What came on a topic. `rate_hz` in images per second; `latency_s` is the median age on arrival by their
    stamps; both 0 when nothing came.
    """

    count: int
    rate_hz: float
    latency_s: float


def measure_dds(seconds: float) -> TopicStatistics:
    """Send images from one process to another for so long."""
    topic = f"/lfm_perception_doctor_{uuid.uuid4().hex[:12]}"
    transport.use_shared_memory()
    command = [sys.executable, "-m", "lfm_perception.ros.dds_check", topic]
    sender = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # it is ended in the middle
    try:
        return measure_topic(topic, seconds, timeout_s=START_S)
    finally:
        sender.terminate()
        sender.wait()


def measure_topic(topic: str, seconds: float, *, timeout_s: float = DISCOVERY_S) -> TopicStatistics:
    """Count the images on a topic, for so long from the first on, which is waited for with patience."""
    transport.use_shared_memory()
    times: list[float] = []
    delays: list[float] = []
    first = threading.Event()

    def arrived(image: Image) -> None:
        times.append(time.monotonic())
        stamp_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
        delays.append((time.time_ns() - stamp_ns) / 1e9)
        first.set()

    with spinning_node("doctor") as node:
        node.create_subscription(Image, topic, arrived, qos_profile_sensor_data)
        if first.wait(timeout_s):
            time.sleep(seconds)
    if len(times) < 2:
        return TopicStatistics(len(times), 0.0, 0.0)
    return TopicStatistics(len(times), (len(times) - 1) / (times[-1] - times[0]), statistics.median(delays))


def _send(topic: str) -> None:
    transport.use_shared_memory()
    rclpy.init()
    node = Node("doctor_sender")
    publisher = node.create_publisher(Image, topic, qos_profile_sensor_data)
    image = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH)
    image.data = array.array("B", bytes(3 * WIDTH * HEIGHT))

    def send() -> None:
        image.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(image)

    node.create_timer(1.0 / RATE_HZ, send)
    rclpy.spin(node)


if __name__ == "__main__":
    _send(sys.argv[1])
