# SPDX-License-Identifier: Apache-2.0
"""Plays a recorded bag through the perception node and records the node's outputs in a new bag.

With a pace, messages are published at their recorded intervals together with /clock, and the node drops
frames as on a robot. With pace 0, each image waits until the node has published detections and tracks for
the previous one: the same bag then gives the same messages, byte for byte, at temperature 0.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from lfm_perception.cdr import header_stamp_ns
from lfm_perception.engine.cores import usable_cores
from lfm_perception.media.bags import BagMessage, image_topic, open_bag, read_messages
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.media.sinks.json_files import SCENES, SUMMARY
from lfm_perception.media.staging import staged, write_json, writing
from lfm_perception.ros import messages, transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import bring_up
from lfm_perception.ros.parameters import ros_parameters
from lfm_perception.ros.processes import PERCEPTION_MODULE, START_TIMEOUT_S, NodeProcess, wait_for
from lfm_perception.ros.recorder import Recorder
from lfm_perception.ros.topics import OPINIONS, PERCEPTION, RULES, Topic
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds, to_seconds

PERCEPTION_NODE = "/perception"
NODE_LOG = "node.log"
QUERY_TOPIC = "input_query"

INFERENCE_TIMEOUT_S = 30.0
"""Timeout for the outcome of one image: its detections, or the node's count of the reason against it."""

DIAGNOSTICS_PERIOD_S = 0.1
"""Period of the node's diagnostics, which report the images that get no inference."""

RESULT_TIMEOUT_S = 5.0
"""Timeout for the detections of an image whose inference the node has counted already."""

OUTCOMES = ("frames dropped", "frames skipped", "frames rejected", "frames failed")
"""Counters in the diagnostics of images without an inference; a reason may follow after a colon."""

TRACKS_TIMEOUT_S = 0.1
"""Timeout for the tracks of one image before the next is published; a rejected image has none."""

CLOCK_PERIOD_S = 0.02
"""Period of /clock while no message is due."""

IDLE_S = 0.5
"""The node has finished when it publishes nothing but diagnostics for this time."""

GAP_S, GAP_DELAY_S = 0.5, 0.2
"""A recorded gap over the first value delays the next message by the second: /clock must arrive before it."""

RELIABLE = QoSProfile(depth=10)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """The bag to play, and how.

    `topic` selects the image topic. `pace` 1 is the recorded speed, 2 twice that, 0 waits for the inference
    of each image. `frames` is the maximum number of images per loop.
    """

    bag: Path
    topic: str | None = None
    pace: float = 0.0
    loops: int = 1
    frames: int | None = None


def replay(
    options: ReplayOptions,
    settings: Settings,
    out: Path,
    *,
    node: str | None = None,
    on_progress: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Play a bag through a perception node and write the results to the folder `out`.

    Args:
        settings: of the node that is started.
        node: the full name of a running node to play to instead; it needs `use_sim_time`.
        on_progress: called after each image; the replay ends when it returns False.

    Returns:
        The summary, which is also written.

    Raises:
        PerceptionError: the bag cannot be read, the results cannot be written, or the node failed.
    """
    transport.use_localhost()
    scenes: list[str] = []
    with open_bag(options.bag) as reader, staged(out) as staging, ExitStack() as running:
        topic = image_topic(reader, options.bag, options.topic)
        processes = []
        if node is None:
            parameters = _node_parameters(settings, topic.compressed)
            process = NodeProcess(PERCEPTION_MODULE, staging.path / NODE_LOG, parameters)
            processes.append(running.enter_context(process))
        name = node or PERCEPTION_NODE
        own_node = running.enter_context(spinning_node("replay", namespace=name.rpartition("/")[0]))
        player = _Player(own_node, name.strip("/"), options, topic.compressed, processes)

        def on_message(topic: str, raw: bytes) -> None:
            player.on_message(topic, raw)
            if topic == "scene":
                scenes.append(deserialize_message(raw, String).data)

        recorder = running.enter_context(
            Recorder(
                own_node,
                _recorded(settings),
                staging.path / BAG,
                log_ns=lambda: player.now_ns,
                on_message=on_message,
            )
        )
        player.now_ns = reader.start_time
        with player.ticking():
            bring_up(own_node, name, processes)
            player.wait_until_connected()
        started = time.monotonic()
        for _ in range(options.loops):
            if not player.play(read_messages(reader, topic, also=(QUERY_TOPIC,)), on_progress):
                break
        player.wait_until_idle()
        wall_s = time.monotonic() - started
        running.close()
        summary = {
            "bag": str(options.bag),
            "pace": options.pace,
            "loops": options.loops,
            "images": player.sent,
            "answered": player.answered,
            "unanswered_stamps": player.unanswered,
            "unanswered_reasons": dict(player.reasons),
            "wall_s": round(wall_s, 3),
            "recorded": dict(recorder.counts),
        }
        with writing(out):
            (staging.path / SCENES).write_text(
                "".join(f"{scene}\n" for scene in scenes), encoding="utf-8", errors="backslashreplace"
            )
            write_json(staging.path / SUMMARY, summary)
            staging.publish()
    return summary


def _node_parameters(settings: Settings, compressed: bool) -> dict[str, object]:
    return {
        **ros_parameters(settings),
        "use_sim_time": True,
        # Not the number of idle cores: the last digits of the model's results depend on the thread count.
        "engine.n_threads": settings.engine.n_threads or usable_cores(),
        "node.image_transport": "compressed" if compressed else "raw",
        "node.image_reliability": "reliable",
        "node.diagnostics_period": DIAGNOSTICS_PERIOD_S,
    }


def _recorded(settings: Settings) -> list[Topic]:
    """The topics that the recording of a node with these settings holds."""
    rules = RULES.publishers if settings.rules.file else ()
    opinions = OPINIONS.publishers if settings.second_opinion.allowed else ()
    return [*PERCEPTION.recorded(), *rules, *opinions]


class _Player:
    """Publishes a bag's messages and /clock, and tracks what the perception node answers.

    `now_ns` is the time of /clock; `sent` and `answered` count images, `unanswered` lists stamps, and
    `reasons` counts the images without an inference by the node's reason.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        options: ReplayOptions,
        compressed: bool,
        processes: Sequence[NodeProcess],
    ) -> None:
        self.now_ns = self.sent = self.answered = 0
        self.unanswered: list[int] = []
        self.reasons: Counter[str] = Counter()
        self._counts: Counter[str] | None = None
        self._first_counts: Counter[str] = Counter()
        self._node, self._options, self._processes = node, options, processes
        self._name = name
        self._clock = node.create_publisher(Clock, "/clock", RELIABLE)
        self._queries = node.create_publisher(String, QUERY_TOPIC, RELIABLE)
        kind, name = (CompressedImage, "image_raw/compressed") if compressed else (Image, "image_raw")
        self._images: Any = node.create_publisher(kind, name, RELIABLE)
        self._changed = threading.Condition()
        self._newest_ns: dict[str, int] = {}
        self._received = 0
        self._sent_ns: int | None = None

    def on_message(self, topic: str, raw: bytes) -> None:
        """Called with each recorded message, on the executor's thread."""
        self._received += topic != "/diagnostics"
        with self._changed:
            if topic in ("detections", "tracks"):
                self._newest_ns[topic] = header_stamp_ns(raw)
                self.answered += topic == "detections"
            elif topic == "/diagnostics":
                self._count(deserialize_message(raw, DiagnosticArray))
            self._changed.notify_all()

    def _count(self, diagnostics: DiagnosticArray) -> None:
        """Take over the node's counters of frames, as differences to those before the first image."""
        values = {
            value.key: int(value.value)
            for status in diagnostics.status
            if status.name.partition(": ")[0].strip("/") == self._name
            for value in status.values
            if value.key.startswith("frames ") and value.value.isdecimal()
        }
        if "frames received" not in values:
            return
        if self.sent == 0:
            self._first_counts = Counter(values)
        counts = Counter(values)
        counts.subtract(self._first_counts)
        self._counts = counts
        self.reasons = Counter(
            {
                key.removeprefix("frames "): count
                for key, count in counts.items()
                if count > 0 and key.partition(": ")[0] in OUTCOMES and not _has_reasons(key, counts)
            }
        )

    def _is_settled(self) -> bool:
        """Whether the node has counted the outcome of every image that was published."""
        if self._counts is None:
            return False
        outcomes = sum(self._counts[name] for name in (*OUTCOMES, "frames inferred"))
        return self._counts["frames received"] >= self.sent and outcomes >= self.sent

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Publish /clock from a thread of its own within this block."""
        done = threading.Event()

        def run() -> None:
            while not done.wait(CLOCK_PERIOD_S):
                self._tick()

        thread = threading.Thread(target=run, name="clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _tick(self) -> None:
        self._clock.publish(Clock(clock=messages.time(self.now_ns)))

    def wait_until_connected(self) -> None:
        """Wait for the node's image subscription, and for its publishers."""

        def connected() -> bool:
            return self._images.get_subscription_count() > 0 and all(
                self._node.count_publishers(name) for name in ("detections", "tracks")
            )

        what = f"a node that subscribes to {self._images.topic_name}"
        wait_for(connected, START_TIMEOUT_S, what, self._processes)

    def play(self, recorded: Iterable[BagMessage], on_progress: Callable[[], bool]) -> bool:
        """Play one loop; False when `on_progress` ended it."""
        pace = self._options.pace
        first: tuple[int, float] | None = None
        images = 0
        for message in recorded:
            if first is None:
                first = message.logged_ns, time.monotonic()
            if pace > 0.0:
                self._sleep_until(message.logged_ns, *first)
            self._set_time(message.logged_ns)
            if message.stamp_ns is None:
                self._queries.publish(message.raw)
                continue
            if pace > 0.0 and self._sent_ns is not None:
                self._wait_for_tracks(self._sent_ns)
            self._images.publish(message.raw)
            self.sent += 1
            images += 1
            self._sent_ns = message.stamp_ns
            if pace == 0.0 and not self._wait_for_inference(message.stamp_ns):
                self.unanswered.append(message.stamp_ns)
            for process in self._processes:
                process.check()
            if not on_progress():
                return False
            if images == self._options.frames:
                break
        return True

    def wait_until_idle(self) -> None:
        """Wait for the inference of the last image, and until the node publishes no more results."""
        with self.ticking():
            if self._options.pace > 0.0 and self._sent_ns is not None:
                self._wait_for_inference(self._sent_ns)
            received = -1
            while received != self._received:
                received = self._received
                time.sleep(IDLE_S)

    def _set_time(self, logged_ns: int) -> None:
        gap_s = to_seconds(logged_ns - self.now_ns)
        self.now_ns = logged_ns
        self._tick()
        if abs(gap_s) > GAP_S:
            time.sleep(GAP_DELAY_S)

    def _sleep_until(self, logged_ns: int, first_ns: int, began_s: float) -> None:
        """Sleep until the message is due, publishing /clock."""
        pace = self._options.pace
        while True:
            left_s = to_seconds(logged_ns - first_ns) / pace - (time.monotonic() - began_s)
            if left_s <= 0.0:
                return
            time.sleep(min(left_s, CLOCK_PERIOD_S))
            if left_s > CLOCK_PERIOD_S:
                self.now_ns = first_ns + from_seconds((time.monotonic() - began_s) * pace)
                self._tick()

    def _wait_for_tracks(self, stamp_ns: int) -> None:
        """Wait until the node, whose queue holds one image, has received the one of this stamp."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest_ns.get("tracks") == stamp_ns, TRACKS_TIMEOUT_S)

    def _wait_for_inference(self, stamp_ns: int) -> bool:
        """Wait for the outcome of the image of this stamp; False when it gets no detections."""

        def inferred() -> bool:
            return self._newest_ns.get("detections") == self._newest_ns.get("tracks") == stamp_ns

        deadline = time.monotonic() + INFERENCE_TIMEOUT_S
        while time.monotonic() < deadline:
            with self._changed:
                self._changed.wait_for(lambda: inferred() or self._is_settled(), timeout=0.5)
                if not inferred() and self._is_settled():
                    on_its_way = self._counts is not None and self._counts["frames inferred"] > self.answered
                    return self._changed.wait_for(inferred, timeout=RESULT_TIMEOUT_S if on_its_way else 0.0)
                if inferred():
                    return True
            for process in self._processes:
                process.check()
        return False


def _has_reasons(key: str, counts: Counter[str]) -> bool:
    """Whether a counter is the sum of others, which name the reasons."""
    return any(other.startswith(f"{key}: ") for other in counts)
