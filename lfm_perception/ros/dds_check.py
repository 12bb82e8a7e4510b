# SPDX-License-Identifier: Apache-2.0
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
from itertools import pairwise
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_sensor_data,
)
from sensor_msgs.msg import CompressedImage, Image

from lfm_perception.ros import messages, transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.stamps import to_seconds

IMAGE_TYPES = {"sensor_msgs/msg/CompressedImage": CompressedImage, "sensor_msgs/msg/Image": Image}

WIDTH, HEIGHT, RATE_HZ = 1280, 720, 30.0
UNKNOWN_NAME = "_NODE_NAME_UNKNOWN_"
"""rmw's name of a node that is not discovered yet."""

DISCOVERY_S = 5.0
START_S = 30.0
"""Timeouts for the first image: on a topic that exists, and of a process that has to start."""


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """Messages received, their rate in Hz, and their median age on arrival by their stamps in seconds.

    `sender_hz` is the rate at which they were sent, from the shortest intervals between stamps. Rates and
    latency are 0 if fewer than two messages arrived.
    """

    count: int
    rate_hz: float
    latency_s: float
    sender_hz: float = 0.0


@dataclass(frozen=True, slots=True)
class Publisher:
    """A publisher of a topic: full name of its node, message type, and whether its QoS is compatible."""

    node: str
    type: str
    compatible: bool


@dataclass(frozen=True, slots=True)
class TopicObservation:
    """The publishers of a topic, what arrived from them, and all image topics that are published here."""

    publishers: tuple[Publisher, ...]
    statistics: TopicStatistics
    image_topics: tuple[str, ...]


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
    with spinning_node("doctor") as node:
        return _measure(node, topic, Image, qos_profile_sensor_data, seconds, timeout_s)


def observe_topic(topic: str, seconds: float, reliability: str) -> TopicObservation:
    """Find the publishers of an image topic and measure it for so many seconds.

    Args:
        topic: The topic, raw or compressed.
        reliability: That of the subscription, `reliable` or `best_effort`.
    """
    transport.use_shared_memory(transport.RECEIVER_PROFILE)
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    with spinning_node("doctor") as node:
        deadline_s = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline_s:
            names = [each.node_name for each in node.get_publishers_info_by_topic(topic)]
            if names and UNKNOWN_NAME not in names:
                break
            time.sleep(0.1)
        publishers = tuple(
            Publisher(
                f"{each.node_namespace.rstrip('/')}/{each.node_name}",
                each.topic_type,
                qos_check_compatible(each.qos_profile, qos)[0] != QoSCompatibility.ERROR,
            )
            for each in node.get_publishers_info_by_topic(topic)
        )
        kinds = {each.type for each in publishers if each.compatible} & IMAGE_TYPES.keys()
        received = TopicStatistics(0, 0.0, 0.0)
        if kinds:
            received = _measure(node, topic, IMAGE_TYPES[max(kinds)], qos, seconds, DISCOVERY_S)
        topics = node.get_topic_names_and_types()
        images = sorted(name for name, types in topics if IMAGE_TYPES.keys() & set(types))
    return TopicObservation(publishers, received, tuple(images))


def _measure(
    node: Node, topic: str, message_class: type, qos: QoSProfile, seconds: float, timeout_s: float
) -> TopicStatistics:
    times: list[float] = []
    stamps: list[int] = []
    latencies: list[float] = []
    first = threading.Event()

    def on_image(image: Any) -> None:
        times.append(time.monotonic())
        stamps.append(messages.stamp_ns(image.header.stamp))
        latencies.append(to_seconds(time.time_ns() - stamps[-1]))
        first.set()

    node.create_subscription(message_class, topic, on_image, qos)
    if first.wait(timeout_s):
        time.sleep(seconds)
    count = len(times)
    if count < 2:
        return TopicStatistics(count, 0.0, 0.0)
    intervals = sorted(b - a for a, b in pairwise(stamps) if b > a)
    shortest = intervals[: max(1, len(intervals) // 4)]
    sender_hz = 1.0 / to_seconds(round(statistics.median(shortest))) if intervals else 0.0
    rate_hz = (count - 1) / (times[-1] - times[0])
    return TopicStatistics(count, rate_hz, statistics.median(latencies), sender_hz)


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
