"""The perception node: camera images in; detections, tracks, captions and scenes out.

    ros2 run lfm_perception perception_node --ros-args --params-file config/perception.yaml

A lifecycle node. Its parameters are the settings of `lfm_perception.settings` by their dotted names;
configure validates them and loads the model, activate subscribes, deactivate cancels the inference under way,
cleanup frees the model. A configured node owns a `Session`.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import cv2
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from lfm_perception.backends import model_name, open_vlm
from lfm_perception.errors import PerceptionError
from lfm_perception.live import LivePerception
from lfm_perception.ros import transport
from lfm_perception.ros.executor import CameraExecutor
from lfm_perception.ros.parameters import Parameters
from lfm_perception.ros.session import Session
from lfm_perception.ros.topics import PERCEPTION
from lfm_perception.settings import Settings
from lfm_perception.tracking import association
from lfm_perception.vlm import Vlm

Response = TypeVar("Response", SetBool.Response, Trigger.Response)

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

WARNING_PERIOD_S = 5.0
"""Minimum time between two log lines of one kind; diagnostics count every event."""

M_ARENA_MAX, ARENAS = -8, 2
"""Option of glibc's mallopt and its value. By default glibc keeps up to eight arenas per core for the threads
that come and go with every session, and their fragmentation adds up to a growing RSS."""

LOADING_PERIOD_S = 5.0
"""Time between log lines about a model that is still loading."""


class PerceptionNode(LifecycleNodeMixin, Node):
    """A `LifecycleNode` whose lifecycle services have a callback group of their own."""

    def __init__(self, name: str = "perception", **options: Any) -> None:
        Node.__init__(self, name, **options)
        # Reentrant: requests for the state are answered while a model is loading.
        self.transition_group = ReentrantCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self.transition_group)
        self._session: Session | None = None
        self._warned_s: dict[str, float] = {}
        self._declared = Parameters(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        callbacks = {
            "~/enable": self._on_enable,
            "~/reset": self._on_reset,
            "~/caption_now": self._on_caption_now,
        }
        for service in PERCEPTION.services:
            self.create_service(service.service_class(), service.name, callbacks[service.name])

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Validate all parameters and load the model. A failure is logged and changes nothing."""
        try:
            settings = self._declared.settings()
            self._session = Session(self, settings, self._load(settings), self._warn)
        except PerceptionError as error:
            self.get_logger().error(f"cannot be configured: {error}")
            return FAILURE
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start inference and subscribe."""
        assert self._session is not None
        self._session.start()
        self.get_logger().info(f"subscribed to {self._session.topic}")
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and cancel the inference under way."""
        assert self._session is not None
        self._session.stop()
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self.release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free the model, from any state."""
        self.release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after an unexpected error, so that the node can be configured again."""
        self.release()
        return SUCCESS

    def bring_up(self) -> None:
        """Configure and activate, if `node.autostart` is set.

        Done from inside: for some seconds after a crash, a client of the lifecycle services may still be
        connected to the crashed process.
        """
        if self.get_parameter("node.autostart").value and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def release(self) -> None:
        """Close the session. May be called in any state."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _load(self, settings: Settings) -> Vlm:
        """Load the model, logging progress every `LOADING_PERIOD_S`."""
        name = model_name(settings)
        self.get_logger().info(f"loading {name}")
        began_s, loaded = time.monotonic(), threading.Event()

        def log_progress() -> None:
            while not loaded.wait(LOADING_PERIOD_S):
                self.get_logger().info(f"still loading {name}: {time.monotonic() - began_s:.0f} s")

        threading.Thread(target=log_progress, name="loading", daemon=True).start()
        try:
            vlm = open_vlm(settings, lambda sentence: self._warn("model", sentence))
        finally:
            loaded.set()
        self.get_logger().info(f"{name} is loaded after {time.monotonic() - began_s:.1f} s")
        return vlm

    def _warn(self, kind: str, sentence: str) -> None:
        """Log a sentence, at most one of each `kind` per `WARNING_PERIOD_S`. Thread-safe."""
        now = time.monotonic()
        if now - self._warned_s.get(kind, -WARNING_PERIOD_S) >= WARNING_PERIOD_S:
            self._warned_s[kind] = now
            self.get_logger().warning(sentence)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        session = self._session
        try:
            settings = self._declared.changed(session.settings if session else None, parameters)
            if session is not None and settings is not None:
                session.reconfigure(settings)
        except PerceptionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        text = "inference is on" if request.data else "inference is off: tracks expire, questions are queued"
        return self._respond(response, lambda live: live.enable(request.data), text)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._respond(response, lambda live: live.reset(), "tracks and caption are removed")

    def _on_caption_now(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        text = "the next inferred frame is captioned, on the topic caption"
        return self._respond(response, lambda live: live.request_caption(), text)

    def _respond(
        self, response: Response, act: Callable[[LivePerception[bytes]], None], text: str
    ) -> Response:
        session = self._session
        if session is None:
            response.success, response.message = False, "the node is not configured"
        else:
            act(session.live)
            response.success, response.message = True, text
        return response


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGINT, SIGTERM or the shutdown of the context."""
    transport.use_shared_memory()
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    cv2.setNumThreads(1)  # the cores belong to the model
    threading.Thread(target=association.prepare, name="prepare", daemon=True).start()
    rclpy.init(args=None if arguments is None else list(arguments))
    node = PerceptionNode()
    executor = CameraExecutor(node.transition_group)
    executor.add_node(node)
    threading.Thread(target=node.bring_up, name="transition", daemon=True).start()
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.release()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
