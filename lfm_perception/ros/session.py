# SPDX-License-Identifier: Apache-2.0
"""What a configured node has: the model, the perception thread and the topics, from configure to cleanup.

Callbacks only translate and hand on. Camera images stay serialized here, and only their header is read:
pixels are decoded on the threads of `live`, and on `overlay` while it has subscribers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_msgs.msg import Header, String

from lfm_perception import cdr
from lfm_perception.backends import demo_model_warning, model_name
from lfm_perception.board import BoardMonitor
from lfm_perception.decisions import Decision, decision_text
from lfm_perception.demo import FRAME_ID as DEMO_FRAME_ID
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.live import LivePerception
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.ros import messages
from lfm_perception.ros.camera_watch import MAX_LOST_SHARE, loss, silence, silence_hint, stamp_problem
from lfm_perception.ros.diagnostics import NodeStatus, PartStatus, part_statuses
from lfm_perception.ros.endpoints import Publishers, subscribe
from lfm_perception.ros.optional_parts import depth_input, drift_watch, opinion_outputs
from lfm_perception.ros.overlay import OverlayInput, OverlayThread
from lfm_perception.ros.question_outputs import QuestionOutputs
from lfm_perception.ros.topics import perception_subscriptions
from lfm_perception.ros.unexpected import UnexpectedErrors
from lfm_perception.scene import NO_DRAWING, Frame, Scene, Shape, Track
from lfm_perception.scene_json import scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.stamps import STAMP_RESET_S, to_seconds
from lfm_perception.text import sentence
from lfm_perception.vlm import CommandVlm, OnText, Vlm

if TYPE_CHECKING:
    from lfm_perception.ros.commands import CommandInput
    from lfm_perception.ros.memory import NodeMemory, UnopenedMemory
    from lfm_perception.ros.rules import RuleOutputs

CAMERA_WARNING_PERIOD_S = 30.0
"""Minimum time between two log lines about a camera that is silent or loses images."""

NOT_ANSWERED = "not answered"
"""Beginning of a message on `answer` that says why a question is not answered."""

MAX_QUERY_LENGTH = 20_000
"""Maximum length of a message on `input_query`, characters: a question in JSON with 100 long options."""


def not_answered(question: str) -> str:
    """The beginning of a message on `answer` that says why a question is not answered."""
    return f"{NOT_ANSWERED} {shown(question)}: " if question else f"{NOT_ANSWERED}: "


class Session:
    """Subscribes between `start` and `stop`. Implements `live.LiveCallbacks`.

    Args:
        vlm: the inference backend, closed by the caller.
        outputs: the node's publishers.
        warn: called as `warn(kind, sentence)` for everything that goes wrong; no input ends the session.
        unexpected: records what only a bug can cause.
        resources: closed by the caller to release everything.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        vlm: Vlm,
        outputs: Publishers,
        warn: Callable[..., None],
        unexpected: UnexpectedErrors,
        resources: ExitStack,
    ) -> None:
        self._node, self._settings, self._vlm, self._outputs = node, settings, vlm, outputs
        self._warn, self._unexpected = warn, unexpected
        self._compressed = settings.node.image_transport == "compressed"
        self._topic = node.resolve_topic_name("image_raw/compressed" if self._compressed else "image_raw")
        self._model = model_name(settings)
        self._demo_warning = demo_model_warning(settings)
        self._bit_depth = BitDepth(settings.image.bit_depth)
        self._size = (0, 0)
        self._track_count = 0
        self._image_age_s = 0.0
        self._silent = self._captioned = False
        self._camera_hint = ""
        self._last_status: NodeStatus | None = None
        self._subscriptions: list[Subscription] = []
        # A callback group refers to all entities it ever had: this one ends with the session.
        self._group = MutuallyExclusiveCallbackGroup()
        self._live = LivePerception(settings, vlm, self._decode, self)
        self._overlay = OverlayThread(
            self._model,
            self._decode,
            lambda image: self._outputs.publish("debug_image", lambda: image),
            lambda error: unexpected.record("overlay", error),
            strip=settings.node.overlay_strip,
        )
        resources.callback(self._overlay.close)
        self._board = BoardMonitor(settings.thermal, unexpected.guarded("board", self._on_level))
        resources.callback(self._board.close)
        self._depth = depth_input(node, lambda: self._settings, warn, unexpected)
        # ROS time jumps back when a bag starts over or a simulation is reset.
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-STAMP_RESET_S))
        reset = unexpected.guarded("clock jump", lambda _: self._on_clock_jump())
        resources.callback(node.get_clock().create_jump_callback(threshold, post_callback=reset).unregister)
        self._question_outputs = QuestionOutputs(node, settings.questions.alerts)
        resources.callback(self._question_outputs.close)
        self._commands = self._open_commands(resources) if settings.commands.allowed else None
        self._unopened_memory: UnopenedMemory | None = None
        self._memory = self._open_memory(resources) if settings.memory.enabled else None
        self._rules: RuleOutputs | None = None
        self._open_or_close_rules(settings)
        resources.callback(lambda: self._open_or_close_rules(Settings()))
        if self._rules is not None:
            self._rules.wait_read()
        self._drift = drift_watch(None, settings, warn, unexpected)
        self._opinions = opinion_outputs(None, node, settings, self._live, warn, unexpected)
        resources.callback(
            lambda: opinion_outputs(self._opinions, node, Settings(), self._live, warn, unexpected)
        )
        resources.callback(self._clear_outputs)
        resources.callback(self.stop)

    def _open_commands(self, resources: ExitStack) -> CommandInput:
        from lfm_perception.ros.commands import CommandInput  # costs nothing without commands

        assert isinstance(self._vlm, CommandVlm), "the settings refuse other backends"
        commands = CommandInput(self._node, lambda: self._settings, self._vlm, self._live, self._unexpected)
        resources.callback(commands.close)
        return commands

    def _open_memory(self, resources: ExitStack) -> NodeMemory | None:
        from lfm_perception.ros.memory import NodeMemory, UnopenedMemory  # costs nothing without memory

        on_error = partial(self._unexpected.record, "memory")
        try:
            memory = NodeMemory(self._settings.memory, self._warn, on_error)
        except PerceptionError as error:
            self._warn("memory", f"nothing is kept in memory: {error}")
            self._unopened_memory = UnopenedMemory(str(error))
            return None
        resources.callback(memory.close)
        return memory

    def _open_or_close_rules(self, settings: Settings) -> None:
        """Have rules while `rules.file` names a file."""
        if settings.rules.file and self._rules is None:
            from lfm_perception.ros.rules import RuleOutputs  # costs nothing without rules

            on_error = partial(self._unexpected.record, "rules")
            on_event = self._memory.on_event if self._memory is not None else None
            self._rules = RuleOutputs(
                self._node, settings, self._decode, self._live.offer, self._live.ask_adviser, self._warn,
                on_error, on_event,
            )  # fmt: skip
        elif settings.rules.file and self._rules is not None:
            self._rules.reconfigure(settings)
        elif self._rules is not None:
            rules, self._rules = self._rules, None
            rules.close()

    def _on_clock_jump(self) -> None:
        self._live.reset()
        if self._depth is not None:
            self._depth.reset()

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
        self._question_outputs.reconfigure(settings.questions.alerts)
        self._open_or_close_rules(settings)
        self._drift = drift_watch(self._drift, settings, self._warn, self._unexpected)
        self._opinions = opinion_outputs(
            self._opinions, self._node, settings, self._live, self._warn, self._unexpected
        )
        self._settings = settings

    def start(self) -> None:
        """Start inference and subscribe."""
        self._silent, self._camera_hint = False, ""
        self._live.start()
        callbacks = {
            "image_raw": self._on_image,
            "image_raw/compressed": self._on_image,
            "input_query": self._on_query,
        }
        node = self._settings.node
        for topic in perception_subscriptions(node.image_transport, node.image_reliability):
            callback = self._unexpected.guarded(topic.name, callbacks[topic.name])
            self._subscriptions.append(subscribe(self._node, topic, callback, self._group))
        if self._commands is not None:
            self._commands.start(self._group)
        if self._depth is not None:
            self._depth.start(self._group)

    def stop(self) -> None:
        """Unsubscribe, cancel the inference under way and delete the markers. Tracks and caption are kept."""
        if self._commands is not None:
            self._commands.stop()
        if self._depth is not None:
            self._depth.stop()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)
        self._live.stop()
        if self._rules is not None:
            self._rules.end_all()
        self._delete_markers()

    def _clear_outputs(self) -> None:
        """Leave nothing behind for late subscribers."""
        if self._captioned:
            self._captioned = False
            self._outputs.publish("caption", String)
        self._delete_markers()

    def _delete_markers(self) -> None:
        header = messages.header(self._node.get_clock().now().nanoseconds, "")
        self._outputs.publish("markers", lambda: messages.markers((), header, 1.0))
        self._outputs.publish("image_markers", lambda: messages.no_image_markers(header))

    # --- subscriptions -------------------------------------------------------------------------------

    def _on_image(self, raw: bytes) -> None:
        """Publish the tracks predicted to the stamp of a frame, and queue the frame for inference."""
        if not self._subscriptions:
            return  # the callback was scheduled before the session was stopped
        try:
            image = cdr.image_header(raw, self.topic, compressed=self._compressed)
        except PerceptionError as error:
            self._live.reject("unreadable", str(error))
            return
        now_ns = self._node.get_clock().now().nanoseconds
        if problem := stamp_problem(image.stamp_ns, now_ns, self._settings.node.future_tolerance):
            self._live.reject(*problem)
            return
        tracks = self._live.submit(raw, image.stamp_ns)
        if tracks is None:
            return
        if (depth := self._depth) is not None:
            tracks = depth.on_frame(tracks, image.stamp_ns, image.frame_id)
        self._image_age_s = to_seconds(now_ns - image.stamp_ns) if now_ns else 0.0
        if image.width and image.height:
            self._size = image.width, image.height
        drawing = NO_DRAWING
        if (rules := self._rules) is not None:
            rules.submit(image.stamp_ns, image.frame_id, tracks, self._size, self._live.scene, raw)
            drawing = rules.drawing
        self._publish_tracks(tracks, messages.header(image.stamp_ns, image.frame_id), drawing.shapes)
        if self._outputs.wanted("debug_image"):
            self._overlay.submit(OverlayInput(raw, tracks, self._live.scene, self._live.latency_s, drawing))

    def _publish_tracks(self, tracks: Sequence[Track], header: Header, shapes: Sequence[Shape]) -> None:
        width, height = self._size
        self._track_count = len(tracks)
        publish = self._outputs.publish
        publish("tracks", lambda: messages.tracks(tracks, header, width, height))
        publish("markers", lambda: messages.markers(tracks, header, height / max(width, 1), shapes))
        publish("image_markers", lambda: messages.image_markers(tracks, header, width, height, shapes))

    def _decode(self, raw: bytes, width: int | None) -> Frame:
        """Decode a serialized image, reduced to about `width` pixels if given. Raises PerceptionError."""
        return messages.frame(
            raw, self.topic, compressed=self._compressed, width=width, depth=self._bit_depth
        )

    def _on_query(self, raw: bytes) -> None:
        try:
            question = cdr.string(raw, "input_query", MAX_QUERY_LENGTH)
        except PerceptionError as error:
            self._live.refuse("", str(error))
            return
        if self._memory is None or not self._memory.ask(question, self._publish_answer, self.on_refusal):
            self._live.ask(question)

    def watch_camera(self) -> None:
        """Warn of a camera that is silent or loses images, and delete the markers of a silent one."""
        if not (subscriptions := self._subscriptions):  # another thread may stop the session meanwhile
            return
        live = self._live.statistics()
        silent = live.time_since_frame_s > self._settings.node.camera_timeout
        self._camera_hint = silence_hint(self._node, self._topic, subscriptions[0], live) if silent else ""
        if silent:
            if not self._silent:
                self._delete_markers()
            self._warn("silence", silence(self._topic, live, self._camera_hint), CAMERA_WARNING_PERIOD_S)
        elif self._silent:
            self._node.get_logger().info(f"images arrive on {self._topic}")
        elif live.lost_share > MAX_LOST_SHARE:
            self._warn("loss", loss(self._topic, live), CAMERA_WARNING_PERIOD_S)
        self._silent = silent

    # --- results, on the threads of `live` and the board monitor -------------------------------------

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        """Publish the result of an inference."""
        self._size = frame.width, frame.height
        if (depth := self._depth) is not None:
            scene = depth.on_scene(scene)
        if self._demo_warning and frame.frame_id != DEMO_FRAME_ID:
            self._warn("demo model", f"{self.topic}: {self._demo_warning}", math.inf)
        publish = self._outputs.publish
        publish("detections", lambda: messages.detections(scene))
        publish("scene", lambda: String(data=json.dumps(scene_to_json(scene), ensure_ascii=False)))
        publish("model_output", lambda: String(data=scene.text))
        if self._memory is not None:
            self._memory.on_scene(scene, frame)
        self._question_outputs.publish(scene)
        if scene.caption_usage is not None:
            self._captioned = True
            publish("caption", lambda: String(data=scene.caption or ""))
        if (drift := self._drift) is not None:
            drift.add(scene, frame)

    def on_answer(self, decision: Decision) -> None:
        """Publish the answer to a question."""
        self._publish_answer(decision_text(decision))

    def on_partial_answer(self) -> OnText | None:
        """Publishes the text of an answer so far, if somebody listens when it begins."""
        return self._publish_partial_answer if self._outputs.wanted("answer_partial") else None

    def _publish_answer(self, text: str) -> None:
        self._publish_partial_answer(text)
        self._outputs.publish("answer", lambda: String(data=text))

    def _publish_partial_answer(self, text: str) -> None:
        self._outputs.publish("answer_partial", lambda: String(data=text))

    def on_refusal(self, question: str, reason: str) -> None:
        """Answer a question with the reason why it is not answered."""
        text = sentence(f"{not_answered(question)}{reason}")
        self._publish_answer(text)
        self._warn("question", f"input_query: {text}")

    def on_reset(self) -> None:
        """Remove what is still shown of the tracks and the caption."""
        self._clear_outputs()

    def on_error(self, kind: str, problem: str) -> None:
        """Log a failed frame."""
        self._warn(kind, f"{self.topic}: {problem}")

    def on_unexpected(self, where: str, error: Exception) -> None:
        """Log and count a bug."""
        self._unexpected.record(where, error)

    def _on_level(self, level: DegradationLevel, sentence: str) -> None:
        """Apply the degradation level that the board's temperature asks for."""
        self._live.set_degradation(level)
        self._warn(level.name, sentence)

    def statuses(self) -> Sequence[PartStatus]:
        """The diagnostics of camera, model and platform."""
        status = NodeStatus(
            active=bool(self._subscriptions),
            topic=self.topic,
            model=self._model,
            tracks=self._track_count,
            image_age_s=self._image_age_s,
            camera_hint=self._camera_hint,
            live=self._live.statistics(),
            health=self._vlm.health(),
            board=self._board.state,
        )
        before, self._last_status = self._last_status, status
        parts = part_statuses(status, before, self._settings.node)
        memory = self._memory or self._unopened_memory
        extras = (self._depth, self._rules, self._drift, memory, self._opinions)
        return [*parts, *(extra.status() for extra in extras if extra is not None)]
