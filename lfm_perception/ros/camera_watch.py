# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a camera: its stamps, and what to check when it is silent or loses images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from lfm_perception.live import LiveStatistics
from lfm_perception.ros.transport import PROFILE
from lfm_perception.stamps import Rejection, to_seconds, unstamped

MAX_LOST_SHARE = 0.5
"""Share of lost images from which a camera is a WARN."""

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

SENDER_PROFILE = f"give the camera's process the Fast DDS profile {PROFILE.name} (docs: Large images)"


def stamp_problem(stamp_ns: int, now_ns: int, tolerance_s: float) -> Rejection | None:
    """Why the stamp of an image is rejected, None if it is not.

    Args:
        now_ns: time of the node's clock; 0 before the first message of simulated time.
        tolerance_s: maximum lead of the stamp over it.
    """
    if rejection := unstamped(stamp_ns):
        return rejection
    ahead_s = to_seconds(stamp_ns - now_ns)
    if now_ns and ahead_s > tolerance_s:
        return Rejection(
            "from the future",
            f"a frame is stamped {ahead_s:.3f} s in the future, over node.future_tolerance {tolerance_s:g}, "
            f"and is rejected: compare the clocks of camera and node",
        )
    return None


def silence(topic: str, live: LiveStatistics, hint: str) -> str:
    """The sentence about a camera without usable images."""
    return f"no usable image on {topic} for {round(live.time_since_frame_s, 1)} s: {hint}"


def loss(topic: str, live: LiveStatistics) -> str:
    """The sentence about a camera of whose images most are lost."""
    return f"about {live.lost_share:.0%} of the images on {topic} are lost, by their stamps: {SENDER_PROFILE}"


def silence_hint(node: Node, topic: str, subscription: Any, live: LiveStatistics) -> str:
    """What to check first when the subscription of images on a topic receives no usable one."""
    wanted = _type_name(subscription.msg_type)
    publishers: Sequence[Any] = node.get_publishers_info_by_topic(topic)
    if not publishers:
        return _unpublished(node, topic, wanted)
    other = [each for each in publishers if each.topic_type != wanted]
    if len(other) == len(publishers):
        return f"it carries {other[0].topic_type}, not {wanted}: {_remedy_of_type(other[0].topic_type)}"
    count = f"{len(publishers)} publisher{'s' if len(publishers) > 1 else ''}"
    if all(not _compatible(each.qos_profile, subscription.qos_profile) for each in publishers):
        return f"its {count} are best effort: set node.image_reliability to best_effort"
    if rejected := sum(live.frames_rejected.values()):
        return f"{count}, and {rejected} images were rejected: see the log, or the camera has stopped"
    return f"{count}, no image comes: check that the camera runs, and {SENDER_PROFILE}"


def _unpublished(node: Node, topic: str, wanted: str) -> str:
    own = node.get_publisher_names_and_types_by_node(node.get_name(), node.get_namespace())
    images = {
        name: types[0]
        for name, types in node.get_topic_names_and_types()
        if types[0] in IMAGE_TYPES and name not in dict(own) and node.count_publishers(name)
    }
    twin = next((name for name in images if _raw(name) == _raw(topic)), None)
    if twin is not None:
        return f"nothing publishes it, but {twin} is there: {_remedy_of_type(images[twin])}"
    same = [name for name, kind in images.items() if kind == wanted][:3]
    there = f" (images are on {', '.join(same)})" if same else ""
    return f"nothing publishes it: check the topic's name{there}, ROS_DOMAIN_ID, and that the camera runs"


def _remedy_of_type(kind: str) -> str:
    if kind not in IMAGE_TYPES:
        return "choose an image topic"
    return f"set node.image_transport to {'raw' if kind == IMAGE_TYPES[0] else 'compressed'}"


def _raw(topic: str) -> str:
    return topic.removesuffix("/compressed")


def _type_name(message: type) -> str:
    return f"{message.__module__.partition('.')[0]}/msg/{message.__name__}"


def _compatible(offered: QoSProfile, requested: QoSProfile) -> bool:
    return (
        requested.reliability != ReliabilityPolicy.RELIABLE
        or offered.reliability != ReliabilityPolicy.BEST_EFFORT
    )
