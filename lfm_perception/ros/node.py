# SPDX-License-Identifier: Apache-2.0
"""The perception node: camera images in; detections, tracks, captions and scenes out.

    ros2 run lfm_perception perception_node --ros-args --params-file config/perception.yaml

A lifecycle node. Its parameters are the settings of `lfm_perception.settings` by their dotted names;
configure validates them and loads the model, activate subscribes, deactivate cancels the inference under way,
cleanup frees the model. A configured node owns a `Session`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from lfm_perception import worker_process
from lfm_perception.backends import model_name, open_vlm
from lfm_perception.errors import PerceptionError
from lfm_perception.live import LivePerception
from lfm_perception.ros import messages
from lfm_perception.ros.diagnostics import NodeState, diagnostic_array
from lfm_perception.ros.endpoints import Publishers
from lfm_perception.ros.names import warn_of_namesakes
from lfm_perception.ros.parameters import Parameters
from lfm_perception.ros.session import Session
from lfm_perception.ros.topics import PERCEPTION
from lfm_perception.ros.unexpected import UnexpectedErrors
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.text import sentence
from lfm_perception.vlm import Vlm

Response = TypeVar("Response", SetBool.Response, Trigger.Response)

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR

WARNING_PERIOD_S = 5.0
"""Minimum time between two log lines of one kind; diagnostics count every event."""

LOADING_PERIOD_S = 5.0
"""Time between log lines about a model that is still loading."""


class PerceptionNode(LifecycleNodeMixin, Node):
    """A `LifecycleNode` whose lifecycle services have a callback group of their own.

    Publishers, timers and services live as long as the node; the model and what runs beside it are the
    session's, from configure to cleanup. No callback ends the node: see `UnexpectedErrors`.
    """

    def __init__(self, name: str = "perception", **options: Any) -> None:
        self._parameter_lock = threading.RLock()
        self._settings: Settings | None = None
        """The settings in force: from the begin of configure, while the model loads, to cleanup."""
        Node.__init__(self, name, **options)
        self.unexpected = UnexpectedErrors(self.get_logger())
        # Reentrant: requests for the state are answered while a model is loading.
        self.transition_group = ReentrantCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self.transition_group)
        self._session: Session | None = None
        self._resources = ExitStack()
        self._problem = ""
        self._warned_s: dict[str, float] = {}
        self._declared = Parameters(self)
        guarded = self.unexpected.guarded
        self.add_on_set_parameters_callback(guarded("parameters", self._on_parameters, _refused))
        self._outputs = Publishers(self, PERCEPTION.publishers)
        timers = {"diagnostics": self._publish_diagnostics, "camera": self._watch_camera}
        # Steady clock: diagnostics are published also while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._periodic = {
            timer.parameter: self.create_timer(1.0, guarded(timer.name, timers[timer.name]), clock=steady)
            for timer in PERCEPTION.timers
        }
        self._set_periods(Settings())
        services = {
            "~/enable": self._on_enable,
            "~/reset": self._on_reset,
            "~/caption_now": self._on_caption_now,
        }
        for service in PERCEPTION.services:
            callback = guarded(service.name, services[service.name], _failed)
            self.create_service(service.service_class(), service.name, callback)

    # --- lifecycle -----------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Validate all parameters and load the model. A failure is logged and changes nothing."""
        try:
            self._configure()
        except PerceptionError as error:
            self._problem = f"cannot be configured: {error}"
        except Exception as error:
            self.unexpected.record("configure", error)
            self._problem = f"cannot be configured: {self.unexpected.last}"
        else:
            self._problem = ""
            return SUCCESS
        self.get_logger().error(sentence(self._problem))
        return FAILURE

    def _configure(self) -> None:
        with ExitStack() as acquired:
            with self._parameter_lock:
                settings = self._declared.settings()
                self._declared.store(settings)
                self._settings = settings
                self._set_periods(settings)
            acquired.callback(self._forget)
            vlm = acquired.enter_context(closing(self._load(settings)))
            with self._parameter_lock:  # a parameter may have been set while the model was loading
                self._session = Session(
                    self, self._settings, vlm, self._outputs, self._warn, self.unexpected, acquired
                )
            self._resources = acquired.pop_all()

    def _forget(self) -> None:
        with self._parameter_lock:
            self._session = self._settings = None

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start inference and subscribe."""

        def start() -> None:
            assert self._session is not None
            self._session.start()
            self.get_logger().info(f"subscribed to {self._session.topic}")
            warn_of_namesakes(self)

        return self._transition("activate", start)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and cancel the inference under way."""
        assert self._session is not None
        return self._transition("deactivate", self._session.stop)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        return self._transition("cleanup", self.release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free the model, from any state."""
        return self._transition("shutdown", self.release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything after an unexpected error, so that the node can be configured again."""
        self._transition("error processing", self.release)
        return SUCCESS

    def _transition(self, name: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        """Do what a transition does. After an unexpected exception, everything is released (`on_error`)."""

        def run() -> TransitionCallbackReturn:
            act()
            return SUCCESS

        return self.unexpected.guarded(name, run, lambda: ERROR)()

    def bring_up(self) -> None:
        """Configure and activate, if `node.autostart` is set.

        Done from inside: for some seconds after a crash, a client of the lifecycle services may still be
        connected to the crashed process.
        """
        if not self.get_parameter("node.autostart").value:
            worker_process.discard()
            name, problem = self.get_fully_qualified_name(), self._declared.problem()
            said = f"unconfigured: ros2 lifecycle set {name} configure and activate, or node.autostart"
            self.get_logger().info(sentence(f"unconfigured: {problem}") if problem else said)
        elif self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def release(self) -> None:
        """Close the session and free the model. May be called in any state."""
        resources, self._resources = self._resources, ExitStack()
        resources.close()

    def _load(self, settings: Settings) -> Vlm:
        """Load the model, logging progress every `LOADING_PERIOD_S`."""
        name = model_name(settings)
        began_s, loaded = time.monotonic(), threading.Event()

        def log_progress() -> None:
            self.get_logger().info(f"loading {name}")  # a tenth of a second, the first line of a process
            while not loaded.wait(LOADING_PERIOD_S):
                self.get_logger().info(f"still loading {name}: {time.monotonic() - began_s:.0f} s")

        logging = threading.Thread(target=log_progress, name="loading", daemon=True)
        logging.start()
        try:
            vlm = open_vlm(settings, lambda sentence: self._warn("model", sentence))
        finally:
            loaded.set()
            logging.join()
            worker_process.discard()
        self.get_logger().info(f"{name} is loaded after {time.monotonic() - began_s:.1f} s")
        return vlm

    def _warn(self, kind: str, message: str, period_s: float = WARNING_PERIOD_S) -> None:
        """Log a sentence, at most one of each `kind` per `period_s`. Thread-safe."""
        now = time.monotonic()
        if now - self._warned_s.get(kind, -period_s) >= period_s:
            self._warned_s[kind] = now
            self.get_logger().warning(sentence(message))

    # --- parameters ----------------------------------------------------------------------------------

    def set_parameters(self, parameter_list: Any) -> Any:
        """Set parameters one by one, and put them in force."""
        with self._parameter_lock:
            results = super().set_parameters(parameter_list)
            self._apply_parameters()
            return results

    def set_parameters_atomically(self, parameter_list: Any) -> Any:
        """Set parameters together, and put them in force."""
        with self._parameter_lock:
            result = super().set_parameters_atomically(parameter_list)
            self._apply_parameters()
            return result

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            self._declared.check(parameters, configured=self._settings is not None)
        except PerceptionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self) -> None:
        """Put the parameters, which are valid together, in force."""
        if self._settings is None:
            return
        settings = self._declared.settings()
        if settings != self._settings:
            self._settings = settings
            self._set_periods(settings)
            if self._session is not None:
                self._session.reconfigure(settings)

    def _set_periods(self, settings: Settings) -> None:
        for parameter, timer in self._periodic.items():
            period_ns = from_seconds(float(settings.values()[parameter]))  # type: ignore[arg-type]
            if timer.timer_period_ns != period_ns:
                timer.timer_period_ns = period_ns

    # --- timers and services -------------------------------------------------------------------------

    def _publish_diagnostics(self) -> None:
        session = self._session
        state = NodeState(
            configured=session is not None,
            configuring=self._settings is not None and session is None,
            problem=self._problem,
            unexpected=self.unexpected.count,
            last_unexpected=self.unexpected.last,
            is_unexpected_recent=self.unexpected.recent,
        )
        name = self.get_fully_qualified_name().lstrip("/")
        header = messages.header(self.get_clock().now().nanoseconds, "")
        parts = () if session is None else session.statuses()
        array = diagnostic_array(parts, state, name, "" if session is None else session.topic, header)
        self._outputs.publish("/diagnostics", lambda: array)

    def _watch_camera(self) -> None:
        if (session := self._session) is not None:
            session.watch_camera()

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


def _refused(parameters: Sequence[Parameter]) -> SetParametersResult:
    return SetParametersResult(successful=False, reason="an unexpected error, see the node's log")


def _failed(request: Any, response: Response) -> Response:
    response.success, response.message = False, "an unexpected error, see the node's log"
    return response
