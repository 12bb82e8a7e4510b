"""What a configured node has: the model, what is known, and the topics. Made by configure, ended by cleanup.

A callback only translates and hands on. What arrives at camera rate stays serialized, of which only the
head is read. Pixels are touched on other threads: those of `live`, and `overlay` while somebody watches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from vision_msgs.msg import Detection2DArray
from visualization_msgs.msg import ImageMarker, MarkerArray

from lfm_perception.backends import model_name
from lfm_perception.board import BoardMonitor
from lfm_perception.errors import PerceptionError
from lfm_perception.live import STAMP_RESET_S, LatestWorker, LivePerception
from lfm_perception.media.overlay import Overlay, View
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.questions import Prompt
from lfm_perception.ros import messages
from lfm_perception.ros.diagnostics import Snapshot, report
from lfm_perception.scene import Frame, Scene, Track
from lfm_perception.scene_json import scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

RESULTS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
KEPT = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
"""Who subscribes later gets the last message at once."""


class Session:
    """Subscribes between `start` and `stop`; `close` leaves nothing behind. A `live.LiveCallbacks`.

    `vlm` is closed with the session. `complain(kind, sentence)` hears of everything that goes wrong; nothing
    that comes over a topic ends the session.
    """

    def __init__(
        self, node: Node, settings: Settings, vlm: Vlm, complain: Callable[[str, str], None]
    ) -> None:
        self._node, self._settings, self._vlm, self._complain = node, settings, vlm, complain
        compressed = settings.node.image_transport == "compressed"
        self._image_type = CompressedImage if compressed else Image
        self._topic = node.resolve_topic_name("image_raw/compressed" if compressed else "image_raw")
        self._model = model_name(settings)
        self._live = LivePerception(settings, vlm, self._decode, self)
        self._board = BoardMonitor(settings.thermal, self._on_level)
        self._size = (0, 0)
        self._tracks_shown = 0
        self._before: Snapshot | None = None
        self._inputs: list[Subscription] = []
        # A group remembers all that ever was in it: this one goes with the session.
        self._group = MutuallyExclusiveCallbackGroup()
        self._detections = self._publisher(Detection2DArray, "detections", RESULTS)
        self._tracks = self._publisher(Detection2DArray, "tracks", RESULTS)
        self._scenes = self._publisher(String, "scene", RESULTS)
        self._raw_answers = self._publisher(String, "raw_answer", RESULTS)
        self._captions = self._publisher(String, "caption", KEPT)
        self._answers = self._publisher(String, "answer", RESULTS)
        self._markers = self._publisher(MarkerArray, "markers", LATEST)
        self._image_markers = self._publisher(ImageMarker, "image_markers", LATEST)
        self._pictures = self._publisher(Image, "dbg_image", LATEST)
        self._diagnostics = self._publisher(DiagnosticArray, "/diagnostics", RESULTS)
        painter = _Painter(self._model, self._decode)
        self._overlay = LatestWorker[_Drawing](
            "overlay",
            lambda drawing: self._pictures.publish(painter.paint(drawing)),
            lambda error: complain("overlay", f"overlay: a frame failed unexpectedly: {error!r}"),
        )
        # Not the node's clock: diagnostics come also while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(
            settings.node.diagnostics_period, self._diagnose, callback_group=self._group, clock=steady
        )
        # The clock was set back: a bag that starts over, a simulation that was reset.
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-STAMP_RESET_S))
        self._jumps = node.get_clock().create_jump_callback(
            threshold, post_callback=lambda _: self._live.reset()
        )

    @property
    def topic(self) -> str:
        """Where the images come from, in full."""
        return self._topic

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def live(self) -> LivePerception[bytes]:
        return self._live

    def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings; those marked fixed must be the same."""
        self._live.reconfigure(settings)
        self._board.reconfigure(settings.thermal)
        if settings.node.diagnostics_period != self._settings.node.diagnostics_period:
            self._timer.timer_period_ns = round(settings.node.diagnostics_period * 1e9)
        self._settings = settings

    def start(self) -> None:
        """Begin to look."""
        self._live.start()
        reliability = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}
        quality = QoSProfile(depth=1, reliability=reliability[self._settings.node.image_reliability])
        camera = self._node.create_subscription(
            self._image_type,
            self._topic,
            self._on_image,
            quality,
            callback_group=self._group,
            raw=True,
        )
        questions = self._node.create_subscription(
            String, "input_query", self._on_question, RESULTS, callback_group=self._group
        )
        self._inputs = [camera, questions]

    def stop(self) -> None:
        """Stop looking, and drop what is being looked at. What is known stays."""
        inputs, self._inputs = self._inputs, []
        for subscription in inputs:
            self._node.destroy_subscription(subscription)
        self._live.stop()

    def close(self) -> None:
        """Stop, free the model, and leave the graph."""
        self.stop()
        self._vlm.close()
        self._overlay.close()
        self._board.close()
        self._jumps.unregister()
        self._node.destroy_timer(self._timer)
        for publisher in (
            *(self._detections, self._tracks, self._scenes, self._raw_answers, self._captions),
            *(self._answers, self._markers, self._image_markers, self._pictures, self._diagnostics),
        ):
            self._node.destroy_publisher(publisher)

    def _publisher(self, kind: type, topic: str, quality: QoSProfile) -> Publisher[Any]:
        return self._node.create_publisher(kind, topic, quality, callback_group=self._group)

    # --- in ------------------------------------------------------------------------------------------

    def _on_image(self, raw: bytes) -> None:
        """Publish where things are at the stamp of a frame, and hand the frame on."""
        if not self._inputs:
            return  # one that was under way when the session was stopped
        try:
            head = messages.image_head(raw, self._topic, compressed=self._image_type is CompressedImage)
        except PerceptionError as error:
            self._live.reject("unreadable", str(error))
            return
        if problem := self._clock_problem(head.stamp_ns):
            self._live.reject(*problem)
            return
        known = self._live.submit(raw, head.stamp_ns)
        if known is None:
            return
        if head.width and head.height:
            self._size = head.width, head.height
        self._publish_tracks(known, messages.header(head.stamp_ns, head.frame_id))
        if self._pictures.get_subscription_count():
            self._overlay.submit(_Drawing(raw, known, self._live.scene, self._live.latency_s))

    def _clock_problem(self, stamp_ns: int) -> tuple[str, str] | None:
        """Why a stamp cannot be right, in a word and in a sentence."""
        if stamp_ns <= 0:
            return (
                "no stamp",
                "a frame is stamped 0 and is refused: the camera's driver must stamp its images",
            )
        now_ns = self._node.get_clock().now().nanoseconds
        ahead_s, most_s = (stamp_ns - now_ns) / 1e9, self._settings.node.future_tolerance
        if now_ns and ahead_s > most_s:  # simulated time is 0 until it comes
            return "from the future", (
                f"a frame is stamped {ahead_s:.3f} s in the future, over node.future_tolerance {most_s:g}, "
                "and is refused: compare the clocks of camera and node"
            )
        return None

    def _publish_tracks(self, known: Sequence[Track], header: Header) -> None:
        width, height = self._size
        self._tracks_shown = len(known)
        self._tracks.publish(messages.tracks(known, header, width, height))
        if self._markers.get_subscription_count():
            self._markers.publish(messages.markers(known, header, height / max(width, 1)))
        if self._image_markers.get_subscription_count():
            self._image_markers.publish(messages.outlines(known, header, width, height))

    def _decode(self, raw: bytes, width: int | None) -> Frame:
        """The frame in a serialized image, small where a `width` is given.

        Raises PerceptionError for what is no image.
        """
        compressed = self._image_type is CompressedImage
        return messages.frame(raw, self._topic, compressed=compressed, width=width)

    def _on_question(self, message: String) -> None:
        try:
            if not message.data.strip():
                raise PerceptionError("an empty question is not asked")
            Prompt(message.data)  # refuses special tokens
        except PerceptionError as error:
            self._complain("question", f"input_query: {error}")
        else:
            self._live.ask(message.data)

    # --- out -----------------------------------------------------------------------------------------

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        """Publish what the model saw."""
        self._size = frame.width, frame.height
        self._detections.publish(messages.detections(scene))
        self._scenes.publish(String(data=json.dumps(scene_to_json(scene), ensure_ascii=False)))
        self._raw_answers.publish(String(data=scene.text))
        if scene.caption_usage is not None:
            self._captions.publish(String(data=scene.caption or ""))

    def on_answer(self, question: str, text: str, stamp_ns: int) -> None:
        """Publish the answer to a question."""
        self._answers.publish(String(data=text))

    def on_error(self, kind: str, problem: str) -> None:
        """Pass on what went wrong with a frame or a question."""
        self._complain(kind, f"{self._topic}: {problem}")

    def _on_level(self, level: DegradationLevel, sentence: str) -> None:
        """Do less, or more again, because of the board's heat."""
        self._live.set_degradation(level)
        self._complain(level.name, sentence)

    def _diagnose(self) -> None:
        now = Snapshot(
            active=bool(self._inputs),
            topic=self._topic,
            model=self._model,
            tracks=self._tracks_shown,
            live=self._live.statistics(),
            health=self._vlm.health(),
            board=self._board.state,
        )
        name = self._node.get_fully_qualified_name().lstrip("/")
        header = messages.header(self._node.get_clock().now().nanoseconds, "")
        self._diagnostics.publish(report(now, self._before, self._settings.node, name, header))
        self._before = now


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A serialized image, the tracks at its stamp, the latest scene, and how long that took."""

    raw: bytes
    tracks: Sequence[Track]
    scene: Scene | None
    look_s: float


class _Painter:
    """Draws what is known over a picture."""

    def __init__(self, badge: str, decode: Callable[[bytes, None], Frame]) -> None:
        self._badge, self._decode = badge, decode
        self._overlay: Overlay | None = None
        self._size = (0, 0)
        self._began_ns: int | None = None

    def paint(self, drawing: _Drawing) -> Image:
        frame = self._decode(drawing.raw, None)
        if self._overlay is None or self._size != (frame.width, frame.height):
            self._overlay = Overlay(frame.width, frame.height, self._badge)
            self._size = frame.width, frame.height
        self._began_ns = self._began_ns or frame.stamp_ns
        seconds = (frame.stamp_ns - self._began_ns) / 1e9
        picture = self._overlay.draw(View(frame, seconds, drawing.tracks, drawing.scene, drawing.look_s))
        return messages.image(picture, messages.header(frame.stamp_ns, frame.frame_id))
