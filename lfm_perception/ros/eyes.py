# SPDX-License-Identifier: Apache-2.0
"""Eyes for agents over a running node: its topics, and one parameter. Implements `agents.eyes.Eyes`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lfm_perception.errors import PerceptionError
from lfm_perception.files import parse_json
from lfm_perception.media import images
from lfm_perception.ros.ask import DISCOVERY_S, ask_node
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.processes import wait_for
from lfm_perception.ros.topics import CAMERA, NEWEST, RESULT, Qos
from lfm_perception.typed_questions import TypedQuestion

if TYPE_CHECKING:
    from lfm_perception.memory import MemoryQuestion

SCENE_S = 15.0
"""Timeout for a scene or an image of the node."""

MAX_AGE_S = 5.0
"""Maximum age of a scene that is told as the latest one; after that the next one is waited for."""


class NodeEyes:
    """Eyes over the node with this full name. Made by `node_eyes`."""

    def __init__(self, node: Node, name: str) -> None:
        self._node, self._name = node, name
        self._scene: dict[str, Any] = {}
        self._arrived_s = -math.inf
        self._lock, self._arrived = threading.Lock(), threading.Event()
        node.create_subscription(String, "scene", self._on_scene, RESULT.profile())

    def look(self) -> dict[str, Any]:
        """The next scene that the node infers."""
        self._arrived.clear()
        if not self._arrived.wait(SCENE_S):
            raise PerceptionError(
                f"{self._name} published no scene within {SCENE_S:.0f} s: is it active, does its camera run, "
                "and is ROS_DOMAIN_ID the same?"
            )
        return self._scene

    def scene(self) -> dict[str, Any]:
        """The latest scene, with the seconds since it arrived; the next one where that is too long ago.

        Its stamp tells no age: it is the camera's, or that of a recording.
        """
        if time.monotonic() - self._arrived_s > MAX_AGE_S:
            self.look()
        with self._lock:
            return {"age_s": round(time.monotonic() - self._arrived_s, 1), **self._scene}

    def caption(self) -> str:
        """The node's latest caption, with its age."""
        scene = self.scene()
        if not (caption := scene.get("global_caption")):
            raise PerceptionError(f"{self._name} has no caption yet: see caption.enabled, or ask a question")
        return f"{caption} ({scene['age_s'] + (scene.get('caption_age_s') or 0.0):.1f} s ago)"

    def ask(self, question: TypedQuestion) -> str:
        """See `Eyes.ask`."""
        return ask_node(self._name, question)

    def remember(self, question: MemoryQuestion) -> str:
        """See `Eyes.remember`."""
        return ask_node(self._name, question)

    def snapshot(self, *, boxes: bool) -> bytes:
        """The next image of the overlay, or of the camera."""
        topic, qos = ("debug_image", NEWEST) if boxes else ("image_raw", CAMERA)
        message = self._next(topic, qos)
        return images.encode(images.from_message(message, f"an image on {topic}"), ".jpg")

    def set_labels(self, labels: Sequence[str]) -> None:
        """See `Eyes.set_labels`."""
        service = f"{self._name}/set_parameters_atomically"
        client = self._node.create_client(SetParametersAtomically, service)
        try:
            if not client.wait_for_service(DISCOVERY_S):
                raise PerceptionError(f"{self._name} does not run: there is no service {service}")
            change = Parameter("detect.labels", Parameter.Type.STRING_ARRAY, list(labels)).to_parameter_msg()
            future = client.call_async(SetParametersAtomically.Request(parameters=[change]))
            result = wait_for(future.result, DISCOVERY_S, f"{service} to answer").result
        finally:
            self._node.destroy_client(client)
        if not result.successful:
            raise PerceptionError(result.reason)

    def _on_scene(self, message: String) -> None:
        try:
            scene = parse_json(message.data)
        except PerceptionError:
            return  # another node's
        if isinstance(scene, dict) and isinstance(scene.get("objects"), list):
            with self._lock:
                self._scene, self._arrived_s = scene, time.monotonic()
            self._arrived.set()

    def _next(self, topic: str, qos: Qos) -> Any:
        """The next image on a topic."""
        received: list[Any] = []
        keep: Callable[[Any], None] = received.append
        subscription = self._node.create_subscription(Image, topic, keep, qos.profile())
        try:
            wait_for(lambda: received, SCENE_S, f"an image on {subscription.topic_name}")
        finally:
            self._node.destroy_subscription(subscription)
        return received[0]


@contextmanager
def node_eyes(name: str) -> Iterator[NodeEyes]:
    """Eyes over the node with this full name, such as /perception."""
    with spinning_node("perception_eyes", namespace=name.rpartition("/")[0]) as node:
        yield NodeEyes(node, name)
