# SPDX-License-Identifier: Apache-2.0
"""The node with recorded answers and with thermal throttling: cost and diagnostics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import test_replay
from diagnostic_msgs.msg import DiagnosticStatus
from fake_board import FakeBoard
from robot import QUICK, Camera, Robot, robot  # isort: split - chooses how messages travel
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import Image

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.backends.recorded import recording
from lfm_perception.media.sources import open_source
from lfm_perception.perception import Perception
from lfm_perception.ros import messages, processes
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import bring_up
from lfm_perception.ros.replay import ReplayOptions, replay
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

CPU_S = 2.0
MEMORY_MB = 300.0


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    camera = Camera()
    return [camera.next(), camera.next(3)]


@pytest.fixture(scope="module")
def answers(vlm: LlamaVlm, frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model says about the first frame."""
    path = tmp_path_factory.mktemp("recorded") / "answers.jsonl"
    settings = Settings().with_values(QUICK)
    with recording(path, vlm, {}) as writer:
        Perception(settings, writer, open_tracker(settings.tracker)).infer(frames[0])
    return path


@pytest.fixture(scope="module")
def replaying(answers: Path) -> Iterator[Robot]:
    with robot({"engine.backend": "recorded", "recorded.path": str(answers)}) as started:
        yield started.bring_up()


def image(frame: Frame) -> Image:
    return messages.image(frame.image, messages.header(frame.stamp_ns, frame.frame_id))


def test_a_recorded_frame_is_answered_and_any_other_is_counted_as_failed(
    replaying: Robot, frames: list[Frame]
) -> None:
    known, unknown = frames
    assert len(replaying.show(known).detections) > 0
    assert replaying.scene(known.stamp_ns)["global_caption"]
    replaying.send(image(unknown))
    key = "frames failed: NotRecordedError"
    replaying.wait(lambda: replaying.counted("model", key) == 1, "the count of frames not recorded")
    status = replaying.diagnosis("model")
    assert status.level == DiagnosticStatus.WARN
    assert "is not in" in status.message
    assert "answers.jsonl" in status.message


@pytest.mark.usefixtures("untraced")
def test_with_recorded_answers_the_node_uses_little_cpu_and_memory(answers: Path, tmp_path: Path) -> None:
    """Judged by its time on the processor, which other work on the machine does not lengthen."""
    parameters = {"engine.backend": "recorded", "recorded.path": str(answers)}
    with processes.NodeProcess(processes.PERCEPTION_MODULE, tmp_path / "node.log", parameters) as process:
        with spinning_node("user") as user:
            bring_up(user, "/perception", [process])
        used = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{process.pid}/status").read_text()
    ticks = int(used[11]) + int(used[12])
    assert ticks / os.sysconf("SC_CLK_TCK") < CPU_S
    (resident,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(resident) / 1000 < MEMORY_MB


def test_a_bag_played_with_recorded_answers_gives_the_same_messages(vlm: LlamaVlm, tmp_path: Path) -> None:
    bag = test_replay.recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=True)
    settings = test_replay.SETTINGS.with_values({"caption.period": 0.0})
    answers = tmp_path / "answers.jsonl"
    with recording(answers, vlm, {}) as writer, open_source(str(bag)) as source:
        looking = Perception(settings, writer, open_tracker(settings.tracker))
        for frame in source.frames:
            looking.infer(frame)
    runs = {
        "model": settings,
        "recorded": settings.with_values({"engine.backend": "recorded", "recorded.path": str(answers)}),
    }
    for name, chosen in runs.items():
        replay(ReplayOptions(bag), chosen, tmp_path / name)

    for topic in ("/detections", "/tracks", "/caption", "/model_output"):
        said = [test_replay.messages(tmp_path / name / "perception_bag", topic) for name in runs]
        assert len(said[0]) == 6
        assert said[0] == said[1]


def test_diagnostics_report_each_degradation_level_and_the_recovery(
    answers: Path, frames: list[Frame], tmp_path: Path
) -> None:
    board = FakeBoard(tmp_path / "sys")
    values = {"thermal.sysfs": str(board.root), "thermal.period": 0.05, "thermal.min_hold": 0.0}
    with robot({"engine.backend": "recorded", "recorded.path": str(answers), **values}) as hot:
        hot.bring_up()

        def told(words: str, level: bytes) -> dict[str, str]:
            status = hot.wait(
                lambda: (s := hot.diagnosis("platform")) and s.message.startswith(words) and s, words
            )
            assert status.level == level
            return {value.key: value.value for value in status.values}

        calm = told("tj-thermal is at 46.0 °C", DiagnosticStatus.OK)
        assert calm["power (W)"] == "4.97"
        assert calm["gpu clock (MHz)"] == "306 of 625"
        assert calm["degradation level"] == "full rate"
        board.heat(88.0)
        assert (
            told("fewer tokens: cpu-thermal", DiagnosticStatus.WARN)["cpu-thermal temperature (°C)"] == "88.0"
        )
        board.heat(99.0)
        told("paused: cpu-thermal is at 99.0 °C", DiagnosticStatus.ERROR)
        hot.send(image(frames[0]))
        hot.wait(lambda: hot.counted("camera", "frames skipped") == 1, "the frame that is not looked at")
        assert hot.diagnosis("model").message == "paused: the board is too hot"
        board.heat(50.0)
        told("cpu-thermal is at 50.0 °C", DiagnosticStatus.OK)
