# SPDX-License-Identifier: Apache-2.0
"""Publishers and subscriptions of a node, made from its table in `topics`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription

from lfm_perception.ros.topics import Topic


class Publishers:
    """The publishers of `topics`, addressed by topic name, from construction to `close`."""

    def __init__(self, node: Node, topics: Sequence[Topic], group: CallbackGroup | None = None) -> None:
        self._node = node
        self._on_demand = {topic.name for topic in topics if topic.on_demand}
        self._publishers: dict[str, Publisher[Any]] = {
            topic.name: node.create_publisher(
                topic.message_class(), topic.name, topic.qos.profile(), callback_group=group
            )
            for topic in topics
        }

    def wanted(self, topic: str) -> bool:
        """Whether a message on the topic is worth making: not on demand, or subscribed to."""
        return topic not in self._on_demand or self._publishers[topic].get_subscription_count() > 0

    def publish(self, topic: str, make: Callable[[], Any]) -> None:
        """Publish the message that `make` returns, if it is wanted."""
        if self.wanted(topic):
            self._publishers[topic].publish(make())

    def close(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)


def subscribe(
    node: Node, topic: Topic, callback: Callable[[Any], None], group: CallbackGroup | None = None
) -> Subscription[Any]:
    """Subscribe to a topic with its own quality of service."""
    return node.create_subscription(
        topic.message_class(),
        topic.name,
        callback,
        topic.qos.profile(),
        callback_group=group,
        raw=topic.serialized,
    )
