"""What a configured node has: the model, the perception thread and the topics, from configure to cleanup.

Callbacks only translate and hand on. Camera images stay serialized here, and only their header is read:
pixels are decoded on the threads of `live`, and on `overlay` while it has subscribers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_msgs.msg import Header, String

from lfm_perception.backends import model_name
from lfm_perception.board import BoardMonitor
from lfm_perception.cdr import image_header
from lfm_perception.errors import PerceptionError
from lfm_perception.live import LivePerception
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.questions import Prompt
from lfm_perception.ros import messages
from lfm_perception.ros.diagnostics import NodeStatus, diagnostic_array
from lfm_perception.ros.endpoints import Publishers, subscribe
from lfm_perception.ros.overlay import OverlayInput, OverlayThread
from lfm_perception.ros.topics import PERCEPTION, perception_subscriptions
from lfm_perception.scene import Frame, Scene, Track
from lfm_perception.scene_json import scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.stamps import STAMP_RESET_S, from_seconds, to_seconds
from lfm_perception.vlm import Vlm


class Session:
    """Subscribes between `start` and `stop`; `close` releases everything. Implements `live.LiveCallbacks`.

    Args:
        vlm: the inference backend, closed with the session.
        warn: called as `warn(kind, sentence)` for everything that goes wrong; no input ends the session.
    """

    def __init__(self, node: Node, settings: Settings, vlm: Vlm, warn: Callable[[str, str], None]) -> None:
        self._node, self._settings, self._vlm, self._warn = node, settings, vlm, warn
        self._compressed = settings.node.image_transport == "compressed"
        self._topic = node.resolve_topic_name("image_raw/compressed" if self._compressed else "image_raw")
        self._model = model_name(settings)
        self._depth = BitDepth(settings.image.depth_bits)
        self._size = (0, 0)
        self._track_count = 0
        self._last_status: NodeStatus | None = None
        self._subscriptions: list[Subscription] = []
        # A callback group refers to all entities it ever had: this one ends with the session.
        self._group = MutuallyExclusiveCallbackGroup()
        with ExitStack() as resources:
            resources.callback(vlm.close)
            self._publishers = Publishers(node, PERCEPTION.publishers, self._group)
            resources.callback(self._publishers.close)
            self._live = LivePerception(settings, vlm, self._decode, self)
            self._overlay = OverlayThread(
                self._model,
                self._decode,
                lambda image: self._publishers.publish("dbg_image", lambda: image),
                lambda error: warn("overlay", f"overlay: a frame failed unexpectedly: {error!r}"),
            )
            resources.callback(self._overlay.close)
            self._board = BoardMonitor(settings.thermal, self._on_level)
            resources.callback(self._board.close)
            self._create_timers(resources)
            self._resources = resources.pop_all()

    def _create_timers(self, resources: ExitStack) -> None:
        callbacks = {"diagnostics": self._publish_diagnostics}
        # Steady clock: diagnostics are published also while simulated time stands still.
        clocks = {"steady": Clock(clock_type=ClockType.STEADY_TIME), "ros": self._node.get_clock()}
        self._timers = {
            timer.parameter: self._node.create_timer(
                _period_s(self._settings, timer.parameter),
                callbacks[timer.name],
                callback_group=self._group,
                clock=clocks[timer.clock],
            )
            for timer in PERCEPTION.timers
        }
        for timer in self._timers.values():
            resources.callback(self._node.destroy_timer, timer)
        # ROS time jumps back when a bag starts over or a simulation is reset.
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-STAMP_RESET_S))
        jumps = clocks["ros"].create_jump_callback(threshold, post_callback=lambda _: self._live.reset())
        resources.callback(jumps.unregister)

    @property
    def topic(self) -> str:
        """The resolved name of the camera topic."""
        return self._topic

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def live(self) -> LivePerception[bytes]:
        return self._live

    def reconfigure(self, settings: Settings) -> None:
        """Apply other settings; those that are fixed while configured must be unchanged."""
        self._live.reconfigure(settings)
        self._board.reconfigure(settings.thermal)
        for parameter, timer in self._timers.items():
            period_s = _period_s(settings, parameter)
            if period_s != _period_s(self._settings, parameter):
                timer.timer_period_ns = from_seconds(period_s)
        self._settings = settings

    def start(self) -> None:
        """Start inference and subscribe."""
        self._live.start()
        callbacks = {
            "image_raw": self._on_image,
            "image_raw/compressed": self._on_image,
            "input_query": self._on_query,
        }
        node = self._settings.node
        self._subscriptions = [
            subscribe(self._node, topic, callbacks[topic.name], self._group)
            for topic in perception_subscriptions(node.image_transport, node.image_reliability)
        ]

    def stop(self) -> None:
        """Unsubscribe, and cancel the inference under way. Tracks and caption are kept."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)
        self._live.stop()

    def close(self) -> None:
        """Stop, free the model, and remove publishers and timers."""
        self.stop()
        self._resources.close()

    # --- subscriptions -------------------------------------------------------------------------------

    def _on_image(self, raw: bytes) -> None:
        """Publish the tracks predicted to the stamp of a frame, and queue the frame for inference."""
        if not self._subscriptions:
            return  # the callback was scheduled before the session was stopped
        try:
            image = image_header(raw, self.topic, compressed=self._compressed)
        except PerceptionError as error:
            self._live.reject("unreadable", str(error))
            return
        if problem := self._stamp_problem(image.stamp_ns):
            self._live.reject(*problem)
            return
        tracks = self._live.submit(raw, image.stamp_ns)
        if tracks is None:
            return
        if image.width and image.height:
            self._size = image.width, image.height
        self._publish_tracks(tracks, messages.header(image.stamp_ns, image.frame_id))
        if self._publishers.wanted("dbg_image"):
            self._overlay.submit(OverlayInput(raw, tracks, self._live.scene, self._live.latency_s))

    def _stamp_problem(self, stamp_ns: int) -> tuple[str, str] | None:
        """The reason for which a stamp is rejected, in short and as a sentence; None for a valid stamp."""
        if stamp_ns <= 0:
            return (
                "no stamp",
                "a frame is stamped 0 and is rejected: the camera's driver must stamp its images",
            )
        now_ns = self._node.get_clock().now().nanoseconds
        ahead_s, tolerance_s = to_seconds(stamp_ns - now_ns), self._settings.node.future_tolerance
        if now_ns and ahead_s > tolerance_s:  # simulated time is 0 before the first /clock message
            return "from the future", (
                f"a frame is stamped {ahead_s:.3f} s in the future, over node.future_tolerance "
                f"{tolerance_s:g}, and is rejected: compare the clocks of camera and node"
            )
        return None

    def _publish_tracks(self, tracks: Sequence[Track], header: Header) -> None:
        width, height = self._size
        self._track_count = len(tracks)
        publish = self._publishers.publish
        publish("tracks", lambda: messages.tracks(tracks, header, width, height))
        publish("markers", lambda: messages.markers(tracks, header, height / max(width, 1)))
        publish("image_markers", lambda: messages.image_markers(tracks, header, width, height))

    def _decode(self, raw: bytes, width: int | None) -> Frame:
        """Decode a serialized image, reduced to about `width` pixels if given. Raises PerceptionError."""
        return messages.frame(raw, self.topic, compressed=self._compressed, width=width, depth=self._depth)

    def _on_query(self, message: String) -> None:
        try:
            if not message.data.strip():
                raise PerceptionError("an empty question is not asked")
            Prompt(message.data)  # rejects special tokens
        except PerceptionError as error:
            self._warn("question", f"input_query: {error}")
        else:
            self._live.ask(message.data)

    # --- results, on the threads of `live` and the board monitor -------------------------------------

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        """Publish the result of an inference."""
        self._size = frame.width, frame.height
        publish = self._publishers.publish
        publish("detections", lambda: messages.detections(scene))
        publish("scene", lambda: String(data=json.dumps(scene_to_json(scene), ensure_ascii=False)))
        publish("raw_answer", lambda: String(data=scene.text))
        if scene.caption_usage is not None:
            publish("caption", lambda: String(data=scene.caption or ""))

    def on_answer(self, question: str, text: str, stamp_ns: int) -> None:
        """Publish the answer to a question."""
        self._publishers.publish("answer", lambda: String(data=text))

    def on_error(self, kind: str, problem: str) -> None:
        """Log a failed frame or question."""
        self._warn(kind, f"{self.topic}: {problem}")

    def _on_level(self, level: DegradationLevel, sentence: str) -> None:
        """Apply the degradation level that the board's temperature asks for."""
        self._live.set_degradation(level)
        self._warn(level.name, sentence)

    def _publish_diagnostics(self) -> None:
        status = NodeStatus(
            active=bool(self._subscriptions),
            topic=self.topic,
            model=self._model,
            tracks=self._track_count,
            live=self._live.statistics(),
            health=self._vlm.health(),
            board=self._board.state,
        )
        name = self._node.get_fully_qualified_name().lstrip("/")
        header = messages.header(self._node.get_clock().now().nanoseconds, "")
        before, self._last_status = self._last_status, status
        array = diagnostic_array(status, before, self._settings.node, name, header)
        self._publishers.publish("/diagnostics", lambda: array)


def _period_s(settings: Settings, parameter: str) -> float:
    period_s = settings.values()[parameter]
    assert isinstance(period_s, float)
    return period_s
