# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception forward` as a process between DDS and a broker that others wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from command import Command
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from mqtt_broker import Broker, Service, free_port, wait
from rclpy.node import Node
from std_msgs.msg import String

from lfm_perception.mqtt.payloads import SCHEMA
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.topics import RESULT, RULES
from lfm_perception.rules.events import Event, event_text, event_to_json
from lfm_perception.scene import Scene, Usage
from lfm_perception.scene_json import scene_to_json

LATER = 4
"""Summaries that come within 1 s: by then the events, which come at once, are there too."""


RUN = """
from lfm_perception.cli import main
from lfm_perception.ros import forward
forward.STALE_S = 1.0
main()
"""
"""The command, to which diagnostics are old after a second."""


class Perception:
    """What a perception node publishes, without one; and what `forward` says of itself."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._events = node.create_publisher(String, "events", RULES.publishers[0].qos.profile())
        self._scenes = node.create_publisher(String, "scene", RESULT.profile())
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", RESULT.profile())
        self.statuses: dict[str, DiagnosticStatus] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._keep, RESULT.profile())

    def _keep(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name: status for status in message.status})

    def connected(self) -> None:
        for publisher in (self._events, self._scenes, self._diagnostics):
            wait(publisher.get_subscription_count, "forward")

    def event(self, number: int) -> dict[str, Any]:
        record = event_to_json(Event(f"in-{number}", "in", "begin", number, number), "camera")
        self._events.publish(String(data=event_text(record)))
        return record

    def say(self, text: str) -> None:
        self._events.publish(String(data=text))

    def scene(self) -> None:
        found = Scene(1, "camera", 64, 48, (), (), None, False, {}, Usage())
        self._scenes.publish(String(data=json.dumps(scene_to_json(found))))

    def health(self, level: bytes, message: str) -> None:
        status = DiagnosticStatus(name="robot9/perception: camera", level=level, message=message)
        self._diagnostics.publish(DiagnosticArray(status=[status]))

    def forward(self) -> tuple[bytes, str]:
        """Level and message of the status of `forward`."""
        status = self.statuses.get("robot9/perception_forward: mqtt")
        return (b"?", "") if status is None else (status.level, status.message)

    def waiting(self) -> int:
        """The number of messages in the queue of `forward`."""
        values = {each.key: each.value for each in self.statuses["robot9/perception_forward: mqtt"].values}
        return int(values["messages waiting"])


@pytest.fixture(scope="module")
def perception() -> Iterator[Perception]:
    with spinning_node("test_forward", namespace="/robot9") as node:
        yield Perception(node)


@contextmanager
def forward(port: int, queue: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", RUN, "forward"]
    address = (f"mqtt://127.0.0.1:{port}", "--topic", "robots/9", "--queue", str(queue))
    run = subprocess.Popen([*command, *address, "--node", "/robot9/perception", *words])
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def test_events_and_summaries_arrive_and_an_interruption_costs_none(
    perception: Perception, tmp_path: Path
) -> None:
    queue, mortal = tmp_path / "queue.db", Broker()
    words = ("--summary-period", "0.25")
    try:
        with closing(Service(mortal.port)) as service, forward(mortal.port, queue, *words) as run:
            perception.connected()
            sent = [perception.event(number) for number in range(20)]
            assert service.wait("robots/9/events", 20) == sent
            assert service.wait("robots/9/status", 1) == [{"online": True}]

            def summaries() -> list[Any]:
                perception.scene()
                perception.health(DiagnosticStatus.WARN, "8 Hz on image_raw")
                found = service.of("robots/9/summary")
                return [each for each in found if each["scenes"] and each["health"] == "warn"]

            wait(summaries, "a summary")
            summary = summaries()[0]
            jsonschema.validate(summary, json.loads(SCHEMA.read_text()))
            assert summary["node"] == "/robot9/perception"
            problem = {"part": "camera", "level": "warn", "message": "8 Hz on image_raw"}
            assert problem in summary["problems"]
            wait(lambda: service.of("robots/9/summary")[-1]["health"] == "stale", "old diagnostics")
            perception.say("{}")
            wait(lambda: "not an event" in perception.forward()[1], "the rejection")
            wait(lambda: perception.forward()[0] == DiagnosticStatus.OK, "the end of the rejection")

            mortal.kill()
            wait(lambda: "does the broker run?" in perception.forward()[1], "the warning")
            assert perception.forward()[0] == DiagnosticStatus.WARN
            before = perception.waiting()
            for number in range(20, 40):
                perception.event(number)
            wait(lambda: perception.waiting() >= before + 20 + LATER, "the events in the queue")
            os.kill(run.pid, signal.SIGKILL)
        mortal.start()
        with closing(Service(mortal.port)) as service, forward(mortal.port, queue) as run:
            ids = {f"in-{number}" for number in range(20, 40)}
            wait(lambda: ids <= {e["event_id"] for e in service.of("robots/9/events")}, "the rest")
            run.send_signal(signal.SIGINT)
            assert run.wait(20.0) == 0
            wait(lambda: service.of("robots/9/status")[-1:] == [{"online": False}], "the farewell")
    finally:
        mortal.kill()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--node", "perception"), "--node is a full name such as /cam1/perception"),
        (("--topic", "a/#"), "--topic is text such as robots/r1 without # and +"),
        (("--topic", "a\nb"), "--topic is text such as robots/r1 without # and +"),
        (("--topic", "a\udcff"), "--topic is text such as robots/r1 without # and +"),
        (("--password-variable", "NOT_SET", "--username", "r"), "which is not set"),
        (("--queue", "/dev/null"), "it is no file but a folder, device"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_sent(
    command: Command, words: tuple[str, ...], sentence: str
) -> None:
    refused = command("forward", f"mqtt://127.0.0.1:{free_port()}", *words)
    assert refused.code == 1
    assert sentence in refused.err
