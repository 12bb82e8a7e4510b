# SPDX-License-Identifier: Apache-2.0
"""Drift in the node: in its diagnostics, on real DDS with the demo model; and baselines of a running node."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from mqtt_broker import wait
from opinions import scene_of
from robot import Robot

from lfm_perception.demo.world import World
from lfm_perception.drift import Baseline, BaselineRecorder, Samples
from lfm_perception.errors import PerceptionError
from lfm_perception.ros.drift import DriftWatch
from lfm_perception.ros.drift_samples import node_samples
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds, to_seconds

LEVELS = {DiagnosticStatus.OK: "OK", DiagnosticStatus.WARN: "WARN"}

STEP_S = 2.5
"""Time between two frames by their stamps, of which a window of 10 s has four."""


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortcut: windows of hundred samples would take a minute; among four, chance alone gives 0.1."""
    monkeypatch.setattr("lfm_perception.drift.monitor.MIN_SAMPLES", 4)
    monkeypatch.setattr("lfm_perception.drift.monitor.STABLE_PSI", 0.2)


@pytest.fixture
def unwatched(running: Robot) -> Iterator[Robot]:
    yield running
    assert running.set(drift__baseline="").successful


def frames(begin_s: float, count: int, light: float = 1.0) -> Iterator[Frame]:
    for index in range(count):
        frame = World(seed=5, width=256, height=192).snapshot(index % 4).frame
        stamp_ns = from_seconds(begin_s + index * STEP_S)
        yield replace(frame, image=np.asarray(frame.image * light, np.uint8), stamp_ns=stamp_ns)


def message(running: Robot) -> str:
    status = running.diagnosis("drift")
    return "" if status is None else f"{LEVELS[status.level]}: {status.message}"


def said(running: Robot, reason: str) -> bool:
    return message(running).startswith("WARN: drift.baseline: ") and reason in message(running)


def record(running: Robot, begin_s: float, count: int) -> list[tuple[float, Samples]]:
    """What `drift baseline node` records while the node infers these frames."""
    found: list[tuple[float, Samples]] = []
    ready, ended = threading.Event(), threading.Event()

    def listen() -> None:
        with node_samples(running.name, None, 60.0) as (labels, samples):
            assert labels == running.node._session.settings.detect.labels  # type: ignore[union-attr]
            ready.set()
            for each in samples:
                found.append(each)
                if len(found) == count:
                    break
        ended.set()

    thread = threading.Thread(target=listen)
    thread.start()
    assert ready.wait(30.0)
    running.wait(lambda: running._raw.get_subscription_count() == 2, "the recorder's subscription")
    running.wait(lambda: running.node.count_subscribers("scene") == 2, "the recorder's subscription")
    for frame in frames(begin_s, count):
        running.show(frame)
    assert ended.wait(30.0)
    thread.join()
    return found


def test_a_node_warns_of_what_has_drifted_from_a_baseline_of_its_own_until_it_is_back(
    unwatched: Robot, tmp_path: Path
) -> None:
    running = unwatched
    running.connected()
    recorder = BaselineRecorder()
    recorded = record(running, 1000.0, 13)
    for stamp_s, samples in recorded:
        recorder.add(stamp_s, samples)
    names = {name for _, samples in recorded for name in samples}  # images are best effort: one may be lost
    assert {"brightness", "sharpness", "detections"} <= names
    file = tmp_path / "baseline.json"
    recorder.baseline(running.get("detect.labels"), "the node").write(file)
    assert running.diagnosis("drift") is None
    assert running.set(drift__baseline=str(file), drift__window=10.0).successful
    running.wait(lambda: message(running).startswith("OK: "), "the status")

    for frame in frames(1040.0, 13, light=0.3):
        running.show(frame)
    running.wait(lambda: message(running).startswith("WARN: "), "the warning")
    assert "brightness (PSI" in message(running)
    assert "or record a new baseline" in message(running)
    for frame in frames(1080.0, 13):
        running.show(frame)
    running.wait(lambda: "brightness" not in message(running), "the end of the warning")
    assert running.set(drift__baseline="").successful
    running.heard["/diagnostics"].clear()
    running.wait(lambda: running.diagnosis("model"))
    assert running.diagnosis("drift") is None


def test_a_baseline_that_cannot_be_used_is_said_and_perception_goes_on(
    unwatched: Robot, tmp_path: Path
) -> None:
    running = unwatched
    file = tmp_path / "baseline.json"
    file.write_text('{"kind": "bench"}')
    for number, (path, reason) in enumerate(((file, "not a drift baseline"), (tmp_path, "is a directory"))):
        assert running.set(drift__baseline=str(path)).successful
        running.wait(partial(said, running, reason), reason)
        for frame in frames(2000.0 + number, 1):
            running.show(frame)


def test_a_watch_is_there_before_its_baseline_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found, warnings, unexpected = threading.Event(), list[str](), list[Exception]()

    def read(path: Path) -> Baseline:
        assert found.wait(30.0)
        raise PerceptionError(f"{path} is damaged")

    monkeypatch.setattr("lfm_perception.ros.drift.read_baseline", read)
    settings = Settings().with_values({"drift.baseline": "day.json"})
    watch = DriftWatch(settings, lambda kind, said, period_s: warnings.append(said), unexpected.append)
    assert watch.status().message == "waiting for a whole window of samples"
    found.set()
    wait(lambda: warnings, "the warning")
    assert watch.status().message == warnings[0] == "drift.baseline: day.json is damaged"
    assert unexpected == []


def test_an_unexpected_exception_of_drift_is_recorded_and_costs_no_frame(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    recorded, warnings = list[Exception](), list[str]()
    recorder = BaselineRecorder()
    for frame in frames(1000.0, 13):
        recorder.add(to_seconds(frame.stamp_ns), {"brightness": [0.5]})
    file = tmp_path / "day.json"
    settings = Settings().with_values({"drift.baseline": str(file), "drift.window": 10.0})
    recorder.baseline(settings.detect.labels, "a test").write(file)
    watch = DriftWatch(settings, lambda kind, said, period_s: warnings.append(said), recorded.append)
    wait(lambda: watch._monitor or warnings, "the baseline")
    assert warnings == []
    monkeypatch.setattr("lfm_perception.drift.Meter.measure", fail)
    watch.add(scene_of(frame), frame)
    assert [type(error) for error in recorded] == [ZeroDivisionError]

    monkeypatch.setattr("lfm_perception.ros.drift.read_baseline", fail)
    watch = DriftWatch(settings, lambda kind, said, period_s: warnings.append(said), recorded.append)
    wait(lambda: warnings, "the warning")
    reason = "it cannot be read: ZeroDivisionError('a bug')"
    assert watch.status().message == warnings[0] == f"drift.baseline: {reason}"
    assert len(recorded) == 2
