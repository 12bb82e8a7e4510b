"""A recorded bag through the perception node: images out with /clock, results into a new bag.

`play` is the player. With a pace, messages go out at their recorded distances and the model drops what it
cannot follow, as on a robot; images that fall due together, because this computer was busy, still go out one
by one. Without one, each image waits until the node has answered the one before, so
that the same bag gives the same detections and tracks, byte for byte, at temperature 0.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from lfm_perception.engine.cores import usable_cores
from lfm_perception.media.bags import BagMessage, header_stamp_ns, image_topic, open_bag, read_messages
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.media.sinks.json_files import SCENES, SUMMARY
from lfm_perception.media.staging import staged, writing
from lfm_perception.ros import transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import bring_up
from lfm_perception.ros.parameters import ros_parameters
from lfm_perception.ros.processes import PERCEPTION_MODULE, START_TIMEOUT_S, NodeProcess, wait_for
from lfm_perception.ros.recorder import Recorder
from lfm_perception.settings import Settings

OUTPUTS: Mapping[str, type] = {
    "detections": Detection2DArray,
    "tracks": Detection2DArray,
    "scene": String,
    "caption": String,
    "answer": String,
    "raw_answer": String,
    "/diagnostics": DiagnosticArray,
}
"""What the node says, recorded beside the bag that was played."""

PERCEPTION_NODE = "perception"
NODE_LOG = "node.log"

QUESTIONS = "input_query"
"""Questions that were recorded with the images are asked again."""

ANSWER_S = 30.0
"""Longest wait for the answer to one image; a damaged one has none."""

TRACKS_S = 0.1
"""Longest wait for the tracks at one image before the next goes out; a refused one has none."""

CLOCK_S = 0.02
"""Time between ticks of /clock where no message falls due."""

QUIET_S = 0.5
"""The node has said all it had to say when nothing came for so long..."""

NEVER_QUIET = ("/diagnostics",)
"""...but for these."""

GAP_NS = 500_000_000
"""After a longer gap the new time is given a head start: /clock and images race each other otherwise."""

GAP_HEAD_START_S = 0.2

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What is played, and how.

    `pace`: 1 as recorded, 2 twice as fast, 0 for as fast as the node answers each image. `loops`: how
    often. `frames`: end each loop after so many images; None: all.
    """

    bag: Path
    topic: str | None = None
    pace: float = 0.0
    loops: int = 1
    frames: int | None = None


@dataclass(slots=True)
class ReplayResult:
    """What came of it: images sent and answered, stamps without an answer, wall-clock seconds."""

    sent: int = 0
    answered: int = 0
    unanswered: list[int] = field(default_factory=list)
    wall_s: float = 0.0
    recorded: Mapping[str, int] = field(default_factory=dict)


def replay(
    plan: ReplayOptions,
    settings: Settings,
    out: Path,
    *,
    node: str | None = None,
    on_progress: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    """Play a bag through a perception node and leave the results in the folder `out`; returns the summary.

    The node is started with `settings`, or is the running one whose full name is `node` (with
    `use_sim_time`, and subscribed as its own parameters say). Raises PerceptionError when something cannot
    be read or written, or the node fails.
    """
    with open_bag(plan.bag) as reader:
        compressed = image_topic(reader, plan.bag, plan.topic).compressed
    scenes: list[str] = []

    def seen(name: str, raw: bytes) -> None:
        if name == "scene":
            scenes.append(deserialize_message(raw, String).data)

    transport.use_localhost()
    name = node or f"/{PERCEPTION_NODE}"
    with staged(out) as staging, ExitStack() as running:
        watch = []
        if node is None:
            parameters = {
                **ros_parameters(settings),
                "use_sim_time": True,
                # not as many as are free now: the last digits of what the model computes depend on it
                "engine.n_threads": settings.engine.n_threads or usable_cores(),
                "node.image_transport": "compressed" if compressed else "raw",
                "node.image_reliability": "reliable",
            }
            process = NodeProcess(PERCEPTION_MODULE, staging.path / NODE_LOG, parameters)
            watch.append(running.enter_context(process))
        player = running.enter_context(spinning_node("replay", namespace=name.rpartition("/")[0]))
        outcome = play(
            player,
            plan,
            staging.path / BAG,
            bring_up=lambda: bring_up(player, name, watch),
            on_progress=on_progress,
            seen=seen,
            watch=watch,
        )
        running.close()
        summary = {
            "bag": str(plan.bag),
            "pace": plan.pace,
            "loops": plan.loops,
            "images": outcome.sent,
            "answered": outcome.answered,
            "unanswered_stamps": outcome.unanswered,
            "wall_s": round(outcome.wall_s, 3),
            "recorded": outcome.recorded,
        }
        with writing(out):
            (staging.path / SCENES).write_text("".join(f"{scene}\n" for scene in scenes), encoding="utf-8")
            (staging.path / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
            staging.publish()
    return summary


def play(
    node: Node,
    plan: ReplayOptions,
    record_to: Path,
    *,
    bring_up: Callable[[], None],
    on_progress: Callable[[], bool] = lambda: True,
    seen: Callable[[str, bytes], None] = lambda name, raw: None,
    watch: Sequence[NodeProcess] = (),
) -> ReplayResult:
    """Play the bag from `node`, whose namespace is the perception node's, and record what that answers.

    `bring_up` is called once /clock runs and shall activate the perception node, which takes its time from
    /clock (`use_sim_time`). `on_progress` is called after each image; the play ends when it returns False.
    `seen` is shown every message recorded. Raises PerceptionError when the bag cannot be read or the
    results not be written, or a watched process ends.
    """
    player = _Player(node, plan, watch)
    with ExitStack() as open_things:
        reader = open_things.enter_context(open_bag(plan.bag))
        topic = image_topic(reader, plan.bag, plan.topic)
        player.choose(topic.compressed)

        def arrived(name: str, raw: bytes) -> None:
            player.note(name, raw)
            seen(name, raw)

        recorder = open_things.enter_context(
            Recorder(node, OUTPUTS, record_to, log_ns=lambda: player.now_ns, seen=arrived)
        )
        player.now_ns = reader.start_time
        with player.ticking():
            bring_up()
            player.wait_until_connected()
        started = time.monotonic()
        outcome = ReplayResult()
        for _ in range(plan.loops):
            messages = read_messages(reader, topic, also=(QUESTIONS,))
            if not player.play(messages, outcome, on_progress):
                break
        player.let_finish()
        outcome.wall_s = time.monotonic() - started
        outcome.answered = player.answered
        outcome.recorded = dict(recorder.counts)
    return outcome


class _Player:
    def __init__(self, node: Node, plan: ReplayOptions, watch: Sequence[NodeProcess]) -> None:
        self.now_ns = 0
        self._node, self._plan, self._watch = node, plan, watch
        self._clock = node.create_publisher(Clock, "/clock", RELIABLE)
        self._questions = node.create_publisher(String, QUESTIONS, RELIABLE)
        self._images: Any = None
        self._answers = threading.Condition()
        self._newest: dict[str, int] = {}
        self.answered = 0
        self._heard = 0
        self._sent_ns: int | None = None

    def choose(self, compressed: bool) -> None:
        kind, name = (CompressedImage, "image_raw/compressed") if compressed else (Image, "image_raw")
        self._images = self._node.create_publisher(kind, name, RELIABLE)

    def note(self, name: str, raw: bytes) -> None:
        """Called by the recorder, on the executor's thread."""
        self._heard += name not in NEVER_QUIET
        if name in ("detections", "tracks"):
            with self._answers:
                self._newest[name] = header_stamp_ns(raw)
                self.answered += name == "detections"
                self._answers.notify_all()

    def ticking(self) -> _Ticking:
        return _Ticking(self.tick)

    def tick(self) -> None:
        seconds, nanoseconds = divmod(self.now_ns, 10**9)
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = seconds, nanoseconds
        self._clock.publish(clock)

    def wait_until_connected(self) -> None:
        """Until whoever takes the images is there, and whoever gives answers."""

        def connected() -> bool:
            return self._images.get_subscription_count() > 0 and all(
                self._node.count_publishers(name) for name in ("detections", "tracks")
            )

        wait_for(connected, START_TIMEOUT_S, f"a node that takes {self._images.topic_name}", self._watch)

    def play(
        self, messages: Iterator[BagMessage], outcome: ReplayResult, on_progress: Callable[[], bool]
    ) -> bool:
        """One loop; False when `on_progress` ended it."""
        first: tuple[int, float] | None = None
        images = 0
        for message in messages:
            if first is None:
                first = message.logged_ns, time.monotonic()
            if self._plan.pace > 0.0:
                self._sleep_until(message.logged_ns, *first)
            self._show_time(message.logged_ns)
            if message.stamp_ns is None:
                self._questions.publish(message.raw)
                continue
            if self._plan.pace > 0.0 and self._sent_ns is not None:
                self._tracks_came(self._sent_ns)
            self._images.publish(message.raw)
            outcome.sent += 1
            images += 1
            self._sent_ns = message.stamp_ns
            if self._plan.pace == 0.0 and not self._answer_came(message.stamp_ns):
                outcome.unanswered.append(message.stamp_ns)
            for process in self._watch:
                process.check()
            if not on_progress():
                return False
            if images == self._plan.frames:
                break
        return True

    def let_finish(self) -> None:
        """Wait for the answer to the last image, and until nothing more is said."""
        with self.ticking():
            if self._plan.pace > 0.0 and self._sent_ns is not None:
                self._answer_came(self._sent_ns)
            heard = -1
            while heard != self._heard:
                heard = self._heard
                time.sleep(QUIET_S)

    def _show_time(self, logged_ns: int) -> None:
        gap = logged_ns - self.now_ns
        self.now_ns = logged_ns
        self.tick()
        if abs(gap) > GAP_NS:
            time.sleep(GAP_HEAD_START_S)

    def _sleep_until(self, logged_ns: int, first_ns: int, began_s: float) -> None:
        """Until it is time for the message, with /clock running meanwhile."""
        while True:
            passed_s = time.monotonic() - began_s
            left_s = (logged_ns - first_ns) / 1e9 / self._plan.pace - passed_s
            if left_s <= 0.0:
                return
            time.sleep(min(left_s, CLOCK_S))
            if left_s > CLOCK_S:
                self.now_ns = first_ns + round((time.monotonic() - began_s) * self._plan.pace * 1e9)
                self.tick()

    def _tracks_came(self, stamp_ns: int) -> None:
        """Wait until the node, which keeps one image only, has taken the one of this stamp."""
        with self._answers:
            self._answers.wait_for(lambda: self._newest.get("tracks") == stamp_ns, TRACKS_S)

    def _answer_came(self, stamp_ns: int) -> bool:
        """Wait until the node has answered the image of this stamp; False when it does not."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            with self._answers:
                if self._answers.wait_for(lambda: self._knows(stamp_ns), timeout=0.5):
                    return True
            for process in self._watch:
                process.check()
        return False

    def _knows(self, stamp_ns: int) -> bool:
        return self._newest.get("detections") == self._newest.get("tracks") == stamp_ns


class _Ticking:
    """Keeps /clock coming while something else is waited for."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(CLOCK_S):
            self._tick()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
