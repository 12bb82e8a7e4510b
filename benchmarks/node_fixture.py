# SPDX-License-Identifier: Apache-2.0
"""Shared by the parts of benchmarks/node.py: claims, the node as a process, a camera, a listener, /proc."""

from __future__ import annotations

import multiprocessing
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from lfm_perception.cdr import header_stamp_ns
from lfm_perception.demo.world import World
from lfm_perception.ros import messages
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.parameters import ros_parameters
from lfm_perception.ros.processes import PERCEPTION_MODULE, NodeProcess
from lfm_perception.settings import Settings
from lfm_perception.stamps import split_stamp

WIDTH, HEIGHT, RATE = 1280, 720, 30.0
SEQUENCE_FRAMES = 60
RELIABLE = QoSProfile(depth=200)


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure with its limit, and whether it is within."""

    what: str
    figure: float
    limit: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Section:
    """The inputs, figures and claims of one part of the benchmark."""

    inputs: Mapping[str, object]
    figures: Mapping[str, object]
    claims: Sequence[Claim]


def at_most(what: str, figure: float, limit: float) -> Claim:
    return Claim(what, round(figure, 3), f"<= {limit:g}", figure <= limit)


def at_least(what: str, figure: float, limit: float) -> Claim:
    return Claim(what, round(figure, 3), f">= {limit:g}", figure >= limit)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, (50, 95)).tolist()
    return {"p50": round(p50, 3), "p95": round(p95, 3), "max": round(max(values), 3)}


# --- processes ----------------------------------------------------------------------------------------


class Process:
    """Resources of a process, from /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._folder = Path("/proc", str(pid))

    def cpu_s(self) -> float:
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        pages = int((self._folder / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def files(self) -> int:
        return len(list((self._folder / "fd").iterdir()))

    def threads(self) -> int:
        return len(list((self._folder / "task").iterdir()))

    def children(self) -> list[int]:
        lists = (self._folder / "task").glob("*/children")
        return [int(pid) for each in lists for pid in each.read_text().split()]

    def shared_memory(self) -> set[str]:
        """The files under /dev/shm that the process has mapped."""
        lines = (self._folder / "maps").read_text().splitlines()
        return {line.split()[-1] for line in lines if "/dev/shm/" in line and "(deleted)" not in line}

    def runs(self) -> bool:
        try:
            return self._stat()[0] != "Z"
        except OSError:
            return False

    def _stat(self) -> list[str]:
        return (self._folder / "stat").read_text().rpartition(")")[2].split()


# --- the camera ---------------------------------------------------------------------------------------


class Camera:
    """A process that publishes pre-rendered frames of the demo world, as a camera driver would."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT, rate: float = RATE) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_camera, args=(theirs, width, height, rate), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()
        assert self._process.pid
        self.process = Process(self._process.pid)

    def stop(self) -> list[int]:
        """The stamps of all frames that were sent, ns."""
        self._pipe.send("stop")
        stamps: list[int] = self._pipe.recv()
        self._process.join()
        return stamps


def _camera(pipe: Connection, width: int, height: int, rate: float) -> None:
    world = World(seed=3, width=width, height=height)
    frames = []
    for index in range(SEQUENCE_FRAMES):
        rgb = world.snapshot(index).frame.image
        message = messages.image(rgb[..., ::-1], messages.header(0, "camera"))
        message.encoding = "bgr8"
        frames.append(bytearray(serialize_message(message)))
    frames += frames[-2:0:-1]  # forth and back, so that nothing jumps
    stamps = []
    with spinning_node("camera") as node:
        publisher = node.create_publisher(Image, "image_raw", qos_profile_sensor_data)
        pipe.send("ready")
        due_s = time.monotonic()
        while not pipe.poll():
            raw = frames[len(stamps) % len(frames)]
            due_s += 1 / rate
            time.sleep(max(0.0, due_s - time.monotonic()))
            stamps.append(time.time_ns())
            struct.pack_into("<iI", raw, 4, *split_stamp(stamps[-1]))
            publisher.publish(bytes(raw))
    pipe.send(stamps)


# --- the listener -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message: the stamp of its header and its time of arrival, ns of the wall clock."""

    stamp_ns: int
    arrived_ns: int


class Listener:
    """The messages of the node, with the times of their arrival."""

    def __init__(self, node: Node) -> None:
        self.detections: list[Arrival] = []
        self.tracks: list[Arrival] = []
        self.diagnostics: list[dict[str, str]] = []
        for topic, heard in (("detections", self.detections), ("tracks", self.tracks)):
            node.create_subscription(
                Detection2DArray, topic, lambda raw, heard=heard: _note(heard, raw), RELIABLE, raw=True
            )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, RELIABLE)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values = {value.key: value.value for status in message.status for value in status.values}
        self.diagnostics.append(values)

    def next_answer(self, after_ns: int) -> Arrival | None:
        """The first detections of a frame captured after `after_ns`."""
        return next((heard for heard in self.detections[-20:] if heard.stamp_ns > after_ns), None)


def _note(heard: list[Arrival], raw: bytes) -> None:
    heard.append(Arrival(header_stamp_ns(raw), time.time_ns()))


@contextmanager
def running(settings: Settings) -> Iterator[tuple[NodeProcess, Node]]:
    """An unconfigured perception node, and a node of this process."""
    with (
        tempfile.TemporaryDirectory() as folder,
        NodeProcess(PERCEPTION_MODULE, Path(folder, "log"), ros_parameters(settings)) as process,
        spinning_node("benchmark") as node,
    ):
        yield process, node
