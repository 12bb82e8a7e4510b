"""The perception node: a camera in; detections, tracks, captions and scenes out.

    ros2 run lfm_perception perception_node --ros-args --params-file config/perception.yaml

A lifecycle node. Its parameters are the settings of `lfm_perception.settings` by their dotted names;
configure checks them and loads the model, activate subscribes, deactivate drops what is under way, cleanup
frees the model. What a configured node has is a `Session`.
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
from lfm_perception.settings import Settings
from lfm_perception.tracking import association
from lfm_perception.vlm import Vlm

Response = TypeVar("Response", SetBool.Response, Trigger.Response)

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

REPEAT_S = 5.0
"""A complaint of one kind is logged once in so many seconds; diagnostics count all."""

M_ARENA_MAX, ARENAS = -8, 2
"""glibc would keep up to eight areas of memory a core for the threads that come and go with every session,
and the holes that these leave add up."""

PATIENCE_S = 5.0
"""Time between words on a model that is still being loaded."""


class PerceptionNode(LifecycleNodeMixin, Node):
    """See the module. A `LifecycleNode`, but for the group of its services."""

    def __init__(self, name: str = "perception", **options: Any) -> None:
        Node.__init__(self, name, **options)
        # Reentrant: whoever asks for the state while a model is being loaded gets an answer.
        self.transitions = ReentrantCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self.transitions)
        self._session: Session | None = None
        self._complained: dict[str, float] = {}
        self._declared = Parameters(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/caption_now", self._on_caption_now)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check all parameters and load the model. A failure is logged and changes nothing."""
        try:
            settings = self._declared.settings()
            self._session = Session(self, settings, self._load(settings), self._complain)
        except PerceptionError as error:
            self.get_logger().error(f"cannot be configured: {error}")
            return FAILURE
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to look."""
        assert self._session is not None
        self._session.start()
        self.get_logger().info(f"looking at {self._session.topic}")
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop looking, and drop what is being looked at."""
        assert self._session is not None
        self._session.stop()
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self.release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop looking and free the model, whatever the state was."""
        self.release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Something unexpected failed: leave nothing behind, and be ready to be configured again."""
        self.release()
        return SUCCESS

    def bring_up(self) -> None:
        """Configure and activate, if `node.autostart` says so.

        Who does that from outside may still talk to the process before, for some seconds after it crashed.
        """
        if self.get_parameter("node.autostart").value and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def release(self) -> None:
        """Free everything that configure made. May be called in any state."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _load(self, settings: Settings) -> Vlm:
        """Load the model, with a word now and then when that takes long."""
        name = model_name(settings)
        self.get_logger().info(f"loading {name}")
        began_s, loaded = time.monotonic(), threading.Event()

        def say_so() -> None:
            while not loaded.wait(PATIENCE_S):
                self.get_logger().info(f"still loading {name}: {time.monotonic() - began_s:.0f} s")

        threading.Thread(target=say_so, name="patience", daemon=True).start()
        try:
            vlm = open_vlm(settings, lambda sentence: self._complain("model", sentence))
        finally:
            loaded.set()
        self.get_logger().info(f"{name} is loaded after {time.monotonic() - began_s:.1f} s")
        return vlm

    def _complain(self, kind: str, sentence: str) -> None:
        """Log a sentence, unless one of its kind was logged just now. From any thread."""
        now = time.monotonic()
        if now - self._complained.get(kind, -REPEAT_S) >= REPEAT_S:
            self._complained[kind] = now
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
        words = "looking" if request.data else "not looking: tracks fade, questions wait"
        return self._done(response, lambda live: live.enable(request.data), words)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._done(response, lambda live: live.reset(), "tracks and caption are forgotten")

    def _on_caption_now(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        words = "the next frame is described, on the topic caption"
        return self._done(response, lambda live: live.request_caption(), words)

    def _done(self, response: Response, act: Callable[[LivePerception[bytes]], None], words: str) -> Response:
        session = self._session
        if session is None:
            response.success, response.message = False, "the node is not configured"
        else:
            act(session.live)
            response.success, response.message = True, words
        return response


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until Ctrl-C, SIGTERM or the end of the context."""
    transport.use_shared_memory()
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    cv2.setNumThreads(1)  # the cores belong to the model
    threading.Thread(target=association.prepare, name="prepare", daemon=True).start()
    rclpy.init(args=None if arguments is None else list(arguments))
    node = PerceptionNode()
    executor = CameraExecutor(node.transitions)
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
