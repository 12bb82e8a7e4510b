# SPDX-License-Identifier: Apache-2.0
"""A node beside the perception node, which puts its events and summaries into an outbox."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import String

from lfm_perception.errors import PerceptionError
from lfm_perception.files import parse_json
from lfm_perception.mqtt.outbox import Outbox
from lfm_perception.mqtt.payloads import LEVELS, Activity, event_payload
from lfm_perception.mqtt.sender import Sender
from lfm_perception.ros import messages
from lfm_perception.ros.diagnostics import OK, WARN, PartStatus, diagnostic_status
from lfm_perception.ros.endpoints import Publishers
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.topics import FORWARD
from lfm_perception.scene_json import scene_from_json

STATUS_PERIOD_S = 1.0
"""Period of the forwarder's status on /diagnostics."""

STALE_S = 5.0
"""Age from which on the diagnostics of the node no longer count."""


class Forwarder:
    """Listens to a perception node. Its callbacks run one after the other, on the thread that spins.

    Args:
        name: full name of the perception node.
        topic: the beginning of the topics of the broker, such as `robots/r1`.
        period_s: time between two summaries; 0: none.
    """

    def __init__(
        self, node: Node, name: str, outbox: Outbox, sender: Sender, topic: str, period_s: float
    ) -> None:
        self._node, self._name, self._outbox, self._sender, self._topic = node, name, outbox, sender, topic
        self._activity = Activity(name)
        self._rejected = self._rejected_before = self._dropped_before = 0
        self._last_problem = ""
        self._heard_s = -STALE_S
        self._outputs = Publishers(node, FORWARD.publishers)
        callbacks = {"events": self._on_event, "scene": self._on_scene, "/diagnostics": self._on_diagnostics}
        for each in FORWARD.subscriptions:
            if not period_s and each.name != "events":
                continue
            node.create_subscription(
                each.message_class(), each.name, callbacks[each.name], each.qos.profile()
            )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(STATUS_PERIOD_S, self._publish_status, clock=steady)
        if period_s:
            node.create_timer(period_s, self._summarize, clock=steady)

    def _on_event(self, message: String) -> None:
        try:
            payload = event_payload(message.data)
        except PerceptionError as error:
            self._rejected += 1
            self._last_problem = f"a message on events is rejected: {error}"
            return
        self._activity.add_event(payload)
        self._outbox.add(f"{self._topic}/events", payload)

    def _on_scene(self, message: String) -> None:
        try:
            self._activity.add_scene(scene_from_json(parse_json(message.data)))
        except PerceptionError as error:
            self._rejected += 1
            self._last_problem = f"a message on scene is rejected: {error}"

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f"{self._name.lstrip('/')}: "
        parts = {
            status.name.removeprefix(prefix): (min(status.level[0], len(LEVELS) - 1), status.message)
            for status in message.status
            if status.name.startswith(prefix)
        }
        if parts:
            self._heard_s = time.monotonic()
            self._activity.set_health(parts)

    def _summarize(self) -> None:
        if time.monotonic() - self._heard_s > STALE_S:
            self._activity.set_health({})
        outbox = self._outbox
        queue = {"waiting": outbox.waiting, "dropped": outbox.dropped, "rejected": self._rejected}
        outbox.add(f"{self._topic}/summary", self._activity.summary(time.time_ns(), queue))

    def _publish_status(self) -> None:
        now = self._node.get_clock().now().nanoseconds
        # under its own name: a perception node that is gone must not seem to be there
        name = self._node.get_fully_qualified_name().lstrip("/")
        status = diagnostic_status(self.status(), name, self._topic)
        array = DiagnosticArray(header=messages.header(now, ""), status=[status])
        self._outputs.publish("/diagnostics", lambda: array)

    def status(self) -> PartStatus:
        """Its part of the diagnostics."""
        sender, outbox = self._sender.status, self._outbox
        problem = outbox.problem or sender.problem
        dropped = outbox.dropped - self._dropped_before
        if not problem and dropped:
            problem = f"the queue is full: {dropped} of the oldest messages were dropped"
        if not problem and self._rejected > self._rejected_before:
            problem = self._last_problem
        self._dropped_before, self._rejected_before = outbox.dropped, self._rejected
        values = {
            "messages sent": sender.sent,
            "messages waiting": outbox.waiting,
            "messages dropped": outbox.dropped,
            "messages rejected": self._rejected,
            "connections": sender.connections,
        }
        return PartStatus("mqtt", WARN if problem else OK, problem or f"{sender.sent} messages sent", values)


@contextmanager
def forwarding(name: str, outbox: Outbox, sender: Sender, topic: str, period_s: float) -> Iterator[Forwarder]:
    """Forward events and summaries of the perception node with this full name until the block ends."""
    with spinning_node("perception_forward", namespace=name.rpartition("/")[0]) as node:
        yield Forwarder(node, name, outbox, sender, topic, period_s)
