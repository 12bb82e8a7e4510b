# SPDX-License-Identifier: Apache-2.0
"""A perception node in this process and its user, on real DDS: what the tests of the node share."""

from __future__ import annotations

import array
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import NDArray
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParametersAtomically
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from lfm_perception.demo.world import World
from lfm_perception.ros import messages, transport
from lfm_perception.ros.executor import CameraExecutor, spinning_node
from lfm_perception.ros.lifecycle import bring_up
from lfm_perception.ros.node import PerceptionNode
from lfm_perception.ros.topics import PERCEPTION
from lfm_perception.scene import Frame

T = TypeVar("T")

# images through shared memory
transport.use_shared_memory()

PATIENCE_S = 60.0
QUICK: Mapping[str, object] = {
    "sampling.temperature": 0.0,
    "image.max_tokens": 64,
    "tracker.min_hits": 1,
    "node.image_reliability": "reliable",
    "node.diagnostics_period": 0.2,
}
"""Parameters for quick answers and for images of which none is lost."""

IN_THREAD: Mapping[str, object] = {"engine.isolation": "thread"}
"""Spares the start of a worker process where a test is about anything else."""

TOPICS = PERCEPTION.recorded()
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


class Robot:
    """A perception node under test and a user beside it who sends images and listens to everything.

    `heard` are the messages by topic. The node is configured and activated by `bring_up`, or step by step
    with `change`.
    """

    def __init__(self, node: PerceptionNode, user: Node) -> None:
        self.node, self.user = node, user
        self.heard: defaultdict[str, list[Any]] = defaultdict(list)
        self._changed = threading.Condition()
        self._clients: dict[str, Any] = {}
        for topic in TOPICS:
            self.listen(topic.name, topic.message_class())
        self._raw = user.create_publisher(Image, "image_raw", RELIABLE)
        self._compressed = user.create_publisher(CompressedImage, "image_raw/compressed", RELIABLE)
        self._questions = user.create_publisher(String, "input_query", RELIABLE)

    @property
    def name(self) -> str:
        return str(self.node.get_fully_qualified_name())

    def listen(self, topic: str, kind: type) -> None:
        self.user.create_subscription(kind, topic, lambda message: self._hear(topic, message), RELIABLE)

    def _hear(self, topic: str, message: Any) -> None:
        with self._changed:
            self.heard[topic].append(message)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], T], what: str = "it") -> T:
        """What the condition returns once that is true; asked again whenever something is heard."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while not (value := condition()):
                assert time.monotonic() < deadline, f"waited in vain for {what}"
                self._changed.wait(0.05)
        return value

    # --- lifecycle, parameters, services

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, f"{self.name}/change_state", request).success)

    def state(self) -> str:
        answer = self.call(GetState, f"{self.name}/get_state", GetState.Request())
        return str(answer.current_state.label)

    def bring_up(self) -> Robot:
        bring_up(self.user, self.name)
        return self

    def call(self, kind: Any, service: str, request: Any) -> Any:
        return self.wait(self.ask(kind, service, request).result, service)

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        """The future of a service's answer; its `result` is None until then."""
        client = self._clients.get(service)
        if client is None:  # a new one is not known at once to who answers
            client = self._clients[service] = self.user.create_client(kind, service)
        assert client.wait_for_service(PATIENCE_S)
        return client.call_async(request)

    def set(self, **values: object) -> Any:
        """Set parameters together, named with two underscores for the dot."""
        parameters = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg()
            for name, value in values.items()
        ]
        request = SetParametersAtomically.Request(parameters=parameters)
        return self.call(SetParametersAtomically, f"{self.name}/set_parameters_atomically", request).result

    def get(self, name: str) -> Any:
        request = GetParameters.Request(names=[name])
        answer = self.call(GetParameters, f"{self.name}/get_parameters", request)
        return rclpy.parameter.parameter_value_to_python(answer.values[0])

    def described(self, names: list[str]) -> Any:
        request = DescribeParameters.Request(names=names)
        return self.call(DescribeParameters, f"{self.name}/describe_parameters", request).descriptors

    # --- camera and questions

    def connected(self, *, compressed: bool = False) -> None:
        publisher = self._compressed if compressed else self._raw
        self.wait(lambda: publisher.get_subscription_count() > 0, "the node's subscription")

    def send(self, message: Image | CompressedImage) -> None:
        compressed = isinstance(message, CompressedImage)
        self.connected(compressed=compressed)
        (self._compressed if compressed else self._raw).publish(message)

    def send_frame(self, frame: Frame) -> None:
        self.send(messages.image(frame.image, messages.header(frame.stamp_ns, frame.frame_id)))

    def show(self, frame: Frame) -> Detection2DArray:
        """Send a frame and wait for its detections and its scene."""
        self.send_frame(frame)
        return self.seen(frame.stamp_ns)

    def seen(self, stamp_ns: int) -> Detection2DArray:
        """The detections at a stamp, once they and the scene are there."""
        self.wait(lambda: self.scene(stamp_ns), f"the scene at {stamp_ns}")
        return self.wait(lambda: self.newest("detections", stamp_ns), f"the detections at {stamp_ns}")

    def newest(self, topic: str, stamp_ns: int) -> Any:
        for message in reversed(self.heard[topic]):
            if messages.stamp_ns(message.header.stamp) == stamp_ns:
                return message
        return None

    def scene(self, stamp_ns: int) -> Any:
        for message in reversed(self.heard["scene"]):
            scene = json.loads(message.data)
            if scene["stamp"]["sec"] * 10**9 + scene["stamp"]["nanosec"] == stamp_ns:
                return scene
        return None

    def question(self, words: str) -> None:
        self.wait(lambda: self._questions.get_subscription_count() > 0, "the subscription of questions")
        self._questions.publish(String(data=words))

    def diagnosis(self, part: str) -> Any:
        """The newest status of a part: `camera`, `model` or `platform`."""
        for message in reversed(self.heard["/diagnostics"]):
            for status in message.status:
                if status.name == f"{self.name[1:]}: {part}":
                    return status
        return None

    def counted(self, part: str, key: str) -> int:
        """A whole number in the newest status of a part; 0 when it is not there or words are."""
        status = self.diagnosis(part)
        values = {value.key: value.value for value in status.values} if status else {}
        text = values.get(key, "")
        return int(text) if text.isdigit() else 0


_numbers = count(1)


@contextmanager
def robot(parameters: Mapping[str, object] | None = None) -> Iterator[Robot]:
    """A node, unconfigured, with these parameters over `QUICK`, and its user, in a namespace of their own."""
    namespace = f"/robot{next(_numbers)}"
    overrides = [Parameter(name, value=value) for name, value in {**QUICK, **(parameters or {})}.items()]
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = PerceptionNode(context=context, namespace=namespace, parameter_overrides=overrides)
    executor = CameraExecutor(node.transition_group, node.unexpected.record, context=context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        with spinning_node("user", namespace=namespace) as user:
            yield Robot(node, user)
    finally:
        node.release()
        executor.shutdown()
        thread.join()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class Camera:
    """A camera in the demo world, whose stamps go on from those of the camera before."""

    _begun_ns = time.time_ns() - 3600 * 10**9

    def __init__(self, seed: int = 3, width: int = 640, height: int = 480) -> None:
        self._world = World(seed, width, height)
        self._index = 0
        Camera._begun_ns += 60 * 10**9
        self._epoch_ns = Camera._begun_ns

    def next(self, skip: int = 0) -> Frame:
        self._index += skip
        image = self._world.snapshot(self._index).frame.image
        stamp_ns = self._epoch_ns + round(self._index * 1e9 / 30)
        self._index += 1
        return Frame(image, stamp_ns, "front_optical")


def image_message(
    data: NDArray[np.generic], encoding: str, frame: Frame, width: int, height: int, step: int
) -> Image:
    return Image(
        header=messages.header(frame.stamp_ns, frame.frame_id),
        width=width,
        height=height,
        encoding=encoding,
        step=step,
        data=array.array("B", data.tobytes()),
    )


def labels(detections: Detection2DArray) -> list[str]:
    return [found.results[0].hypothesis.class_id for found in detections.detections]


def track_ids(robot: Robot, frame: Frame) -> list[int]:
    return [each["track_id"] for each in robot.scene(frame.stamp_ns)["objects"]]
