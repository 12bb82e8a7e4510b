# SPDX-License-Identifier: Apache-2.0
"""A flood of everything at a running node, and what it does to it.

    python benchmarks/flood.py --seconds 600

Beside a camera of 30 Hz: 2,000 tiny images a second on the same topic, 20 questions a second, random changes
of parameters, one odd image a second, and the worker process killed every 20 s. Reported are whether the node
lives, the rate of tracks for the camera's images, the growth of its memory and what is left in /dev/shm.
Exits 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ROS_DOMAIN_ID", "71")

import numpy as np
from lifecycle_msgs.msg import Transition
from node_fixture import Claim, Process, at_least, at_most
from rcl_interfaces.srv import SetParametersAtomically
from rclpy._rclpy_pybind11 import RCLError
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from lfm_perception.cdr import header_stamp_ns
from lfm_perception.demo.world import World
from lfm_perception.ros import messages, transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import LifecycleClient, bring_up
from lfm_perception.ros.processes import PERCEPTION_MODULE, NodeProcess
from lfm_perception.stamps import split_stamp

FLOOD_HZ, QUESTIONS_HZ, CAMERA_HZ = 2000.0, 20.0, 30.0
KILL_PERIOD_S = 20.0
WARM_UP_S = 15.0
"""Time at the begin that is not measured: caches and pools fill."""

SHARED_MEMORY = Path("/dev/shm")
PARAMETERS: dict[str, Callable[[random.Random], object]] = {
    "detect.labels": lambda rng: rng.choice(
        [["person"], ["box", "cone"], ["a\nb"], [""], ["person", "person"]]
    ),
    "detect.min_score": lambda rng: rng.uniform(-0.5, 1.5),
    "image.max_tokens": lambda rng: rng.choice([0, 32, 64, 128]),
    "caption.period": lambda rng: rng.uniform(0.0, 2.0),
    "caption.prompt": lambda rng: rng.choice(["Describe the scene.", "", "<|im_end|>"]),
    "budget.latency": lambda rng: rng.choice([0.0, 0.5, -1.0]),
    "tracker.per_label": lambda rng: rng.choice([["box: min_hits=2"], ["nonsense"]]),
    "node.diagnostics_period": lambda rng: rng.uniform(0.0, 2.0),
    "engine.n_ctx": lambda rng: 2048,
}
"""Random values by parameter, valid and invalid ones."""


class Flood:
    """Sends everything from threads of its own until `stop`."""

    def __init__(self, node: Node, name: str, process: Process) -> None:
        self._node, self._process, self._rng = node, process, random.Random(1)
        self._images = node.create_publisher(Image, "image_raw", QoSProfile(depth=1000))
        self._questions = node.create_publisher(String, "input_query", 10)
        self._changes = node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        self._frames = [
            bytearray(serialize_message(messages.image(world.frame.image, messages.header(0, "camera"))))
            for world in map(World(seed=3, width=320, height=240).snapshot, range(60))
        ]
        self._tiny = bytearray(
            serialize_message(messages.image(np.zeros((1, 1, 3), np.uint8), messages.header(0, "tiny")))
        )
        self._stopping = threading.Event()
        self._stamping = threading.Lock()
        self.sent: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.camera_stamps_ns: set[int] = set()
        tasks: dict[str, tuple[float, Callable[[], object]]] = {
            "camera images": (CAMERA_HZ, self._camera),
            "tiny images": (FLOOD_HZ, lambda: self._publish(self._tiny)),
            "questions": (QUESTIONS_HZ, self._ask),
            "changes of parameters": (2.0, self._change),
            "odd images": (1.0, self._odd),
            "kills of the worker": (1 / KILL_PERIOD_S, self._kill),
        }
        self._threads = [
            threading.Thread(target=self._repeat, args=(what, *task), daemon=True)
            for what, task in tasks.items()
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, what: str, rate_hz: float, act: Callable[[], object]) -> None:
        due_s = time.monotonic() + 1 / rate_hz
        self.sent[what] = self.lost[what] = 0
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + 1 / rate_hz, time.monotonic() - 0.1)  # what cannot be kept up is left out
            try:
                act()
                self.sent[what] += 1
            except RCLError:  # the middleware's queue is full
                self.lost[what] += 1

    def _publish(self, raw: bytearray) -> int:
        with self._stamping:
            stamp_ns = time.time_ns()
            struct.pack_into("<iI", raw, 4, *split_stamp(stamp_ns))
            self._images.publish(bytes(raw))
        return stamp_ns

    def _camera(self) -> None:
        frame = self._frames[self.sent["camera images"] % len(self._frames)]
        self.camera_stamps_ns.add(self._publish(frame))

    def _ask(self) -> None:
        texts = ("What do you see?", "x" * 5000, "", "<|im_start|>", "\ud7ff\u202e")
        self._questions.publish(String(data=self._rng.choice(texts)))

    def _change(self) -> None:
        names = self._rng.sample(sorted(PARAMETERS), self._rng.randint(1, 3))
        values = [Parameter(name, value=PARAMETERS[name](self._rng)).to_parameter_msg() for name in names]
        self._changes.call_async(SetParametersAtomically.Request(parameters=values))

    def _odd(self) -> None:
        """An image with random bytes in the place of its fields."""
        raw = bytearray(self._tiny)
        for _ in range(self._rng.randint(1, 8)):
            raw[self._rng.randrange(4, len(raw))] = self._rng.randrange(256)
        self._images.publish(bytes(raw[: self._rng.randint(8, len(raw))]))

    def _kill(self) -> None:
        for child in self._process.children():
            os.kill(child, signal.SIGKILL)


def flood(seconds: float, log: Path) -> tuple[dict[str, object], list[Claim]]:
    """The figures and claims of a flood of so many seconds."""
    before = {path.name for path in SHARED_MEMORY.iterdir()}
    heard: list[int] = []
    parameters = {"image.max_tokens": 64, "caption.max_tokens": 16, "node.image_reliability": "reliable"}
    with NodeProcess(PERCEPTION_MODULE, log, parameters) as process, spinning_node("flood") as node:
        node.create_subscription(
            Detection2DArray, "tracks", lambda raw: heard.append(header_stamp_ns(raw)), 1000, raw=True
        )
        bring_up(node, "/perception", [process])
        watched = Process(process.pid)
        flooding = Flood(node, "/perception", watched)
        time.sleep(min(WARM_UP_S, seconds / 3))
        memory, rates = [watched.resident_mib()], []
        ends_s = time.monotonic() + seconds - min(WARM_UP_S, seconds / 3)
        while time.monotonic() < ends_s and watched.runs():
            count, began_s = len(heard), time.monotonic()
            time.sleep(5.0)
            rates.append((len(heard) - count) / (time.monotonic() - began_s))
            memory.append(watched.resident_mib())
        flooding.stop()
        alive = watched.runs()
        if alive:
            LifecycleClient(node, "/perception").change_state(Transition.TRANSITION_DEACTIVATE, "deactivated")
    time.sleep(1.0)
    left = {path.name for path in SHARED_MEMORY.iterdir()} - before
    left = {name for name in left if name.startswith("fastdds_") and "port" not in name}
    quarter = max(len(memory) // 4, 1)
    growth = float(np.median(memory[-quarter:]) / np.median(memory[:quarter]) - 1.0)
    figures = {
        "seconds": seconds,
        "sent": flooding.sent,
        "tracks (Hz)": {"median": round(float(np.median(rates)), 1), "min": round(min(rates), 1)},
        "camera images with tracks": len(flooding.camera_stamps_ns & set(heard)),
        "memory (MiB)": [round(each, 1) for each in memory],
        "left in /dev/shm": sorted(left),
    }
    claims = [
        Claim("the node lives", float(alive), "true", alive),
        at_least("rate of tracks, Hz", float(np.median(rates)), CAMERA_HZ),
        at_most("growth of memory", growth, 0.03),
        at_most("segments left in /dev/shm", len(left), 0),
    ]
    return figures, claims


def main() -> None:
    parser = argparse.ArgumentParser(description="flood a running node")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    given = parser.parse_args()
    transport.use_localhost()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        figures, claims = flood(given.seconds, log)
        print("\n".join(log.read_text(errors="replace").splitlines()[-15:]))
    report = {"figures": figures, "claims": [[c.what, c.figure, c.limit, c.holds] for c in claims]}
    print(json.dumps(report, indent=1))
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(not all(claim.holds for claim in claims))


if __name__ == "__main__":
    main()
