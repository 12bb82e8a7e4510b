# SPDX-License-Identifier: Apache-2.0
"""The samples of drift of a running node, measured from outside on its topics."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from lfm_perception.drift import Meter, Samples
from lfm_perception.errors import PerceptionError
from lfm_perception.files import parse_json
from lfm_perception.media import images
from lfm_perception.ros.ask import DISCOVERY_S
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.processes import wait_for
from lfm_perception.ros.topics import CAMERA, RESULT
from lfm_perception.scene import Frame, Scene
from lfm_perception.scene_json import scene_from_json
from lfm_perception.stamps import join_stamp, to_seconds

SILENCE_S = 30.0
"""Longest wait for the next scene."""

MAX_IMAGES = 90
"""Camera images that are kept until the scene with their stamp comes: 3 s at 30 Hz."""


@contextmanager
def node_samples(
    name: str, topic: str | None, seconds: float
) -> Iterator[tuple[tuple[str, ...], Iterator[tuple[float, Samples]]]]:
    """The labels of a running node, and its samples for some time, each with its stamp in seconds.

    Args:
        name: full name of the node, such as /perception.
        topic: its camera's topic where that is remapped.

    Raises:
        PerceptionError: the node does not run, or publishes no scene for `SILENCE_S`.
    """
    received: queue.SimpleQueue[tuple[Scene, Frame | None]] = queue.SimpleQueue()
    camera: dict[int, Image | CompressedImage] = {}

    def keep(message: Image | CompressedImage) -> None:
        camera[join_stamp(message.header.stamp.sec, message.header.stamp.nanosec)] = message
        if len(camera) > MAX_IMAGES:
            del camera[next(iter(camera))]

    def on_scene(message: String) -> None:
        try:
            scene = scene_from_json(parse_json(message.data))
            image = camera.pop(scene.stamp_ns, None)
            pixels = None if image is None else images.from_message(image, "an image of the camera")
        except PerceptionError:
            return  # another node's, or damaged
        received.put((scene, None if pixels is None else Frame(pixels, scene.stamp_ns)))

    with spinning_node("perception_drift", namespace=name.rpartition("/")[0]) as node:
        labels, transport = _parameters(node, name)
        compressed = transport == "compressed"
        topic = topic or ("image_raw/compressed" if compressed else "image_raw")
        node.create_subscription(CompressedImage if compressed else Image, topic, keep, CAMERA.profile())
        node.create_subscription(String, "scene", on_scene, RESULT.profile())
        yield labels, _samples(name, partial(received.get, True), seconds)


def _samples(
    name: str, receive: Callable[[float], tuple[Scene, Frame | None]], seconds: float
) -> Iterator[tuple[float, Samples]]:
    meter, end_s = Meter(), time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0.0:
        try:
            scene, frame = receive(min(SILENCE_S, left_s))
        except queue.Empty:
            if left_s < SILENCE_S:
                return
            raise PerceptionError(
                f"{name} published no scene within {SILENCE_S:.0f} s: is it active, does its camera run, "
                "and is ROS_DOMAIN_ID the same?"
            ) from None
        yield to_seconds(scene.stamp_ns), meter.measure(scene, frame)


def _parameters(node: Node, name: str) -> tuple[tuple[str, ...], str]:
    """`detect.labels` and `node.image_transport` of a running node."""
    service = f"{name}/get_parameters"
    client = node.create_client(GetParameters, service)
    try:
        if not client.wait_for_service(DISCOVERY_S):
            raise PerceptionError(f"{name} does not run: there is no service {service}")
        future = client.call_async(GetParameters.Request(names=["detect.labels", "node.image_transport"]))
        values = wait_for(future.result, DISCOVERY_S, f"{service} to answer").values
    finally:
        node.destroy_client(client)
    if len(values) != 2:
        raise PerceptionError(f"{name} is no perception node: it has no parameter detect.labels")
    return tuple(values[0].string_array_value), values[1].string_value
