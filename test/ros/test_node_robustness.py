# SPDX-License-Identifier: Apache-2.0
"""Bugs and races: no callback ends the node, and the parameters shown are those in force."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot import IN_THREAD, Camera, Robot, robot
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from lfm_perception import backends
from lfm_perception.live import LiveStatistics
from lfm_perception.ros import diagnostics, messages
from lfm_perception.ros import node as node_module
from lfm_perception.ros.parameters import plain
from lfm_perception.settings import parameter_specs

CHANGES = st.dictionaries(
    st.sampled_from(
        [
            *("detect.labels", "detect.min_score", "detect.closed", "image.min_tokens", "image.max_tokens"),
            *("caption.prompt", "caption.enabled", "tracker.per_label", "budget.tokens", "engine.n_ctx"),
            *("thermal.pause_at", "node.diagnostics_period", "camera.nothing"),
        ]
    ),
    st.one_of(
        st.booleans(),
        st.integers(-1, 5000),
        st.floats(-1.0, 200.0),
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from([["person"], ["a\nb"], [""], ["box", "box"], ["<|im_end|>"], ["box: min_hits=3"]]),
    ),
    min_size=1,
    max_size=3,
)


def shown(started: Robot) -> dict[str, object]:
    values = {name: plain(started.node.get_parameter(name).value) for name in parameter_specs()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@pytest.mark.parametrize("state", ["inactive", "active"])
def test_the_parameters_shown_are_those_in_force(state: str) -> None:
    with robot(IN_THREAD) as started:
        assert started.change(Transition.TRANSITION_CONFIGURE)
        if state == "active":
            assert started.change(Transition.TRANSITION_ACTIVATE)
        session = started.node._session
        assert session is not None

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(CHANGES, st.booleans())
        def check(changes: dict[str, object], atomically: bool) -> None:
            before = shown(started)
            parameters = [Parameter(name, value=value) for name, value in changes.items()]
            if atomically:
                try:
                    result = started.node.set_parameters_atomically(parameters)
                    refused = not result.successful
                except Exception:  # rclpy, for a parameter that is not declared
                    refused = True
                if refused:
                    assert shown(started) == before
            else:
                for parameter in parameters:
                    if parameter.name in parameter_specs():
                        started.node.set_parameters([parameter])
            assert shown(started) == session.settings.values()
            assert session.live._settings == session.settings

        check()
        assert started.state() == state
        assert started.node.unexpected.count == 0


def test_a_parameter_set_while_the_model_loads_is_in_force() -> None:
    with robot() as started:
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        future = started.ask(ChangeState, f"{started.name}/change_state", request)
        started.wait(lambda: started.state() == "configuring", "configuring")
        assert started.set(detect__min_score=0.9, detect__max_tokens=64).successful
        refused = started.set(engine__n_ctx=2048)
        assert not refused.successful
        assert not future.done()
        assert started.wait(future.result).success
        session = started.node._session
        assert session is not None
        assert (session.settings.detect.min_score, session.settings.detect.max_tokens) == (0.9, 64)
        assert session.settings.values() == shown(started)


def test_a_value_of_a_file_in_another_type_is_shown_as_it_is_in_force() -> None:
    off = {"tracker.camera_motion_compensation": False}  # YAML reads a bare `off` so
    with robot({**off, **IN_THREAD}) as started:
        assert started.change(Transition.TRANSITION_CONFIGURE)
        assert started.get("tracker.camera_motion_compensation") == "off"


def test_configure_reports_a_bug_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    closed: list[object] = []
    real = backends.open_vlm

    def open_vlm(*args: object) -> object:
        vlm = real(*args)  # type: ignore[arg-type]
        close = vlm.close

        def counted() -> None:
            closed.append(vlm)
            close()

        monkeypatch.setattr(vlm, "close", counted)
        return vlm

    def fail(*args: object) -> None:  # a fault injected: a bug in the session
        raise RuntimeError("a bug")

    with robot() as started:
        with monkeypatch.context() as patched:
            patched.setattr(node_module, "open_vlm", open_vlm)
            patched.setattr(node_module, "Session", fail)
            assert not started.change(Transition.TRANSITION_CONFIGURE)
        said = capfd.readouterr().err
        assert "cannot be configured: configure: RuntimeError: a bug" in said
        assert "Traceback" in said
        assert len(closed) == 1, "the loaded model is closed"
        started.wait(
            lambda: (status := started.diagnosis("node")) and status.level == DiagnosticStatus.ERROR, "ERROR"
        )
        assert started.state() == "unconfigured"
        assert started.change(Transition.TRANSITION_CONFIGURE)


def test_a_bug_in_a_callback_is_logged_once_counted_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:  # a fault injected
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    with robot(IN_THREAD) as started:
        started.bring_up()
        camera = Camera()
        started.show(camera.next())
        with monkeypatch.context() as patched:
            patched.setattr(messages, "tracks", fail)  # in the subscription
            patched.setattr(type(started.node._session), "statuses", fail)  # in a timer
            patched.setattr(type(started.node._session.live), "reset", fail)  # type: ignore[union-attr]
            for _ in range(3):
                started.send_frame(camera.next())
            assert not started.call(Trigger, "perception/reset", Trigger.Request()).success
            started.wait(lambda: started.node.unexpected.count >= 5, "the count")
        assert capfd.readouterr().err.count("Traceback") <= 3
        assert started.show(camera.next()).detections
        started.wait(lambda: started.diagnosis("node").level == DiagnosticStatus.ERROR, "the ERROR")
        assert started.counted("node", "unexpected errors") >= 5


def test_the_camera_may_be_watched_while_the_node_deactivates(monkeypatch: pytest.MonkeyPatch) -> None:
    with robot(IN_THREAD) as started:
        session = started.bring_up().node._session
        assert session is not None
        real, silent = session.live.statistics, replace(session.live.statistics(), time_since_frame_s=9.0)

        def deactivated() -> LiveStatistics:  # widens the window of the race
            if threading.current_thread() is not threading.main_thread():
                return real()
            assert started.change(Transition.TRANSITION_DEACTIVATE)
            return silent

        monkeypatch.setattr(session.live, "statistics", deactivated)
        session.watch_camera()
        monkeypatch.undo()
        assert started.state() == "inactive"


def test_cleanup_does_not_disturb_the_diagnostics(monkeypatch: pytest.MonkeyPatch) -> None:
    real = diagnostics.diagnostic_array

    def slow(*args: object) -> object:  # widens the window of the race
        time.sleep(0.03)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(f"{node_module.__name__}.diagnostic_array", slow)
    with robot({"node.diagnostics_period": 0.1, **IN_THREAD}) as started:
        for index in range(6):
            assert started.change(Transition.TRANSITION_CONFIGURE)
            time.sleep(0.1 + 0.013 * index)
            assert started.change(Transition.TRANSITION_CLEANUP)
        assert started.node.unexpected.count == 0
        count = len(started.heard["/diagnostics"])
        started.wait(lambda: len(started.heard["/diagnostics"]) > count, "diagnostics after cleanup")


def test_markers_and_caption_end_with_what_they_show() -> None:
    with robot({"caption.period": 0.0, **IN_THREAD}) as started:
        started.bring_up()
        started.listen("markers", MarkerArray)
        camera = Camera()
        while not started.heard["markers"]:
            started.show(camera.next())
        shown_markers = started.heard["markers"][-1].markers
        assert all(each.lifetime.sec > 0 for each in shown_markers[1:])

        def is_empty(message: MarkerArray) -> bool:
            return [each.action for each in message.markers] == [Marker.DELETEALL]

        started.wait(lambda: is_empty(started.heard["markers"][-1]), "the deletion on silence")
        started.show(camera.next())
        started.wait(lambda: not is_empty(started.heard["markers"][-1]), "markers")
        assert started.change(Transition.TRANSITION_DEACTIVATE)
        started.wait(lambda: is_empty(started.heard["markers"][-1]), "the deletion on deactivate")
        started.wait(lambda: started.heard["caption"], "a caption")
        assert started.change(Transition.TRANSITION_CLEANUP)
        late: queue.Queue[String] = queue.Queue()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        started.user.create_subscription(String, "caption", late.put, latched)
        assert late.get(timeout=10.0).data == ""


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {},
            "no image comes: check that the camera runs, and give the camera's process the Fast DDS profile",
        ),
        ({"node.image_transport": "compressed"}, "the camera's process the Fast DDS profile"),
    ],
)
def test_a_silent_camera_is_told_on_the_console_with_what_to_check(
    parameters: dict[str, object], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with robot({**parameters, **IN_THREAD}) as started:
        started.bring_up()
        started.wait(
            lambda: (status := started.diagnosis("camera")) and said in status.message, "the diagnosis"
        )
        assert said in capfd.readouterr().err


def test_images_with_old_stamps_are_processed_with_a_warning(running: Robot) -> None:
    camera = Camera()

    def warned() -> bool:
        running.show(camera.next())  # stamped an hour ago
        status = running.diagnosis("camera")
        return status is not None and "old on arrival" in status.message

    running.wait(warned, "the warning")
    assert running.diagnosis("camera").level == DiagnosticStatus.WARN
