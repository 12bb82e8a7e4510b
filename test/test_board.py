# SPDX-License-Identifier: Apache-2.0
"""Board sensors, the thermal throttling policy, and degradation beside a running camera."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_board import FakeBoard
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.board import BoardMonitor, BoardState, Clock, read_sysfs, thermal_summary
from lfm_perception.decisions import Decision
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.live import LiveCallbacks, LivePerception
from lfm_perception.planning.thermal import DegradationLevel, degraded, next_level
from lfm_perception.scene import Frame, Scene
from lfm_perception.settings import Settings, ThermalSettings

PATIENCE_S = 60.0


FILES = (
    "class/thermal/thermal_zone0/type",
    "class/thermal/thermal_zone0/temp",
    "class/thermal/cooling_device1/cur_state",
    "devices/system/cpu/cpufreq/policy0/scaling_cur_freq",
    "class/devfreq/17000000.gpu/max_freq",
    "class/hwmon/hwmon3/in1_label",
    "class/hwmon/hwmon3/curr1_input",
)
"""Sensor files of the board, one of each kind."""


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    return FakeBoard(tmp_path / "sys")


# --- sensors -----------------------------------------------------------------------------------------


def test_the_sensor_files_of_a_jetson_are_read(board: FakeBoard) -> None:
    state = read_sysfs(board.root)
    assert state.temperatures_c == {
        "cpu-thermal": 45.0, "gpu-thermal": 45.5, "tj-thermal": 46.0, "PMIC-Die": 100.0,
    }  # fmt: skip
    assert state.clocks == {"cpu0": Clock(1190.4e6, 1510.4e6), "gpu": Clock(306e6, 624.75e6)}
    assert state.power_w == pytest.approx({"VDD_IN": 4.968, "VDD_CPU_GPU_CV": 1.488, "VDD_SOC": 0.992})
    assert state.total_w == pytest.approx(4.968), "the rail that feeds the others, not their sum"
    assert state.throttled_by == (), "a running fan holds nothing back"
    assert state.source == str(board.root)
    board.throttle(True)
    assert read_sysfs(board.root).throttled_by == ("cpu-throttle-alert",)


def test_without_a_rail_for_the_whole_board_the_rails_are_added(board: FakeBoard) -> None:
    board.write("class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC")
    assert read_sysfs(board.root).total_w == pytest.approx(4.968 + 1.488 + 0.992)
    board.write("class/hwmon/hwmon4/name", "ina238")
    board.write("class/hwmon/hwmon4/power1_input", 2_500_000)
    assert read_sysfs(board.root).power_w["ina238"] == pytest.approx(2.5)


def test_a_machine_without_sensors_has_an_empty_state(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "not there"):
        state = read_sysfs(root)
        assert state == BoardState(source=str(root))
        assert state.hottest is None
        assert thermal_summary(state) == "no temperature is known"


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=12)))
def test_malformed_sensor_files_are_left_out(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        board = FakeBoard(Path(folder))
        for name, content in files.items():
            (board.root / name).write_bytes(content)
        assert "tj-thermal" in read_sysfs(board.root).temperatures_c


def test_sensors_that_are_pipes_or_devices_are_not_waited_for(tmp_path: Path) -> None:
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    os.mkfifo(zone / "temp")
    (zone / "type").symlink_to("/dev/zero")
    (tmp_path / "class/thermal/thermal_zone1").mkdir()
    (tmp_path / "class/thermal/thermal_zone1/temp").write_text("nan")
    assert read_sysfs(tmp_path).temperatures_c == {}


def test_sensors_that_are_off_do_not_count(board: FakeBoard) -> None:
    (board.root / "class/thermal/thermal_zone1/temp").unlink()
    board.write("class/thermal/thermal_zone2/temp", "no number")
    assert set(read_sysfs(board.root).temperatures_c) == {"cpu-thermal", "PMIC-Die"}


# --- policy ------------------------------------------------------------------------------------------

THERMAL = ThermalSettings()


@pytest.mark.parametrize(
    ("celsius", "level"),
    [
        *(
            (None, DegradationLevel.NONE),
            (20.0, DegradationLevel.NONE),
            (84.9, DegradationLevel.NONE),
            (85.0, DegradationLevel.REDUCED_TOKENS),
        ),
        *(
            (92.0, DegradationLevel.REDUCED_DUTY_CYCLE),
            (96.9, DegradationLevel.REDUCED_DUTY_CYCLE),
            (97.0, DegradationLevel.PAUSED),
            (150.0, DegradationLevel.PAUSED),
        ),
    ],
)
def test_the_level_rises_at_once(celsius: float | None, level: DegradationLevel) -> None:
    assert next_level(DegradationLevel.NONE, celsius, False, 0.0, THERMAL) is level


def test_the_level_falls_after_hysteresis_and_hold_time() -> None:
    assert next_level(DegradationLevel.PAUSED, 93.0, False, 60.0, THERMAL) is DegradationLevel.PAUSED, (
        "not yet 5 °C cooler"
    )
    assert next_level(DegradationLevel.PAUSED, 91.9, False, 9.9, THERMAL) is DegradationLevel.PAUSED, (
        "not yet held for 10 s"
    )
    assert (
        next_level(DegradationLevel.PAUSED, 91.9, False, 10.0, THERMAL) is DegradationLevel.REDUCED_DUTY_CYCLE
    )
    assert (
        next_level(DegradationLevel.PAUSED, 20.0, False, 60.0, THERMAL) is DegradationLevel.REDUCED_DUTY_CYCLE
    ), "one at a time"
    assert next_level(DegradationLevel.REDUCED_TOKENS, 79.9, False, 10.0, THERMAL) is DegradationLevel.NONE
    assert (
        next_level(DegradationLevel.PAUSED, None, False, 60.0, THERMAL) is DegradationLevel.REDUCED_DUTY_CYCLE
    ), "a sensor that fell silent"


def test_throttled_clocks_reduce_the_tokens() -> None:
    assert next_level(DegradationLevel.NONE, 60.0, True, 0.0, THERMAL) is DegradationLevel.REDUCED_TOKENS
    assert (
        next_level(DegradationLevel.REDUCED_TOKENS, 60.0, True, 60.0, THERMAL)
        is DegradationLevel.REDUCED_TOKENS
    )
    assert next_level(DegradationLevel.REDUCED_TOKENS, 60.0, False, 60.0, THERMAL) is DegradationLevel.NONE
    assert next_level(DegradationLevel.NONE, None, True, 0.0, THERMAL) is DegradationLevel.REDUCED_TOKENS


@given(
    st.sampled_from(DegradationLevel),
    st.floats(0.0, 150.0) | st.none(),
    st.booleans(),
    st.floats(0.0, 100.0),
    st.floats(0.0, THERMAL.hysteresis - 0.01),
)
def test_levels_do_not_oscillate(
    level: DegradationLevel, celsius: float | None, throttled: bool, held_s: float, cooler: float
) -> None:
    after = next_level(level, celsius, throttled, held_s, THERMAL)
    assert after >= level - 1
    if after < level:
        assert next_level(after, celsius, throttled, 0.0, THERMAL) is after
    if after > level:
        a_little_less = None if celsius is None else celsius - cooler
        assert next_level(after, a_little_less, throttled, 1e9, THERMAL) is after


def test_thresholds_must_rise() -> None:
    with pytest.raises(PerceptionError, match=r"reduce_tokens_at 95, .* must rise in this order"):
        Settings().with_values({"thermal.reduce_tokens_at": 95.0})


def test_each_level_reduces_the_load_and_gives_valid_settings() -> None:
    whole = Settings()
    levels = [degraded(whole, level) for level in DegradationLevel]
    assert levels[DegradationLevel.NONE] == whole
    assert [s.detect.max_tokens for s in levels] == [512, 256, 256, 256]
    assert [s.image.max_tokens for s in levels] == [256, 128, 128, 128]
    assert [s.inference.duty_cycle for s in levels] == [1.0, 1.0, 0.3, 0.3]
    small = whole.with_values(
        {
            "image.max_tokens": 40,
            "detect.max_tokens": 40,
            "caption.max_tokens": 8,
            "inference.duty_cycle": 0.1,
        }
    )
    least = degraded(small, DegradationLevel.PAUSED)
    assert (least.image.max_tokens, least.detect.max_tokens, least.caption.max_tokens) == (32, 32, 8)
    assert least.inference.duty_cycle == 0.1


# --- monitor, and degradation beside a camera --------------------------------------------------------


class Recorder(LiveCallbacks):
    """Records levels and scenes, and lets a test wait for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.levels: list[tuple[DegradationLevel, str]] = []
        self.scenes: list[Scene] = []

    def on_level(self, level: DegradationLevel, sentence: str) -> None:
        with self._changed:
            self.levels.append((level, sentence))
            self._changed.notify_all()

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        with self._changed:
            self.scenes.append(scene)
            self._changed.notify_all()

    def on_answer(self, decision: Decision) -> None:
        raise AssertionError("nothing was asked")

    def on_error(self, kind: str, message: str) -> None:
        raise AssertionError(message)

    def wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(until, PATIENCE_S)


def simulated(board: FakeBoard, **thermal: object) -> Settings:
    quick = {"sysfs": str(board.root), "period": 0.05, "min_hold": 0.0, **thermal}
    return Settings().with_values({f"thermal.{name}": value for name, value in quick.items()})


def test_the_monitor_follows_a_board_that_warms_and_cools(board: FakeBoard) -> None:
    recorder = Recorder()
    with closing(BoardMonitor(simulated(board).thermal, recorder.on_level)) as monitor:
        for celsius in (86.0, 93.0, 98.0):
            board.heat(celsius)
            recorder.wait(lambda: bool(recorder.levels) and f"at {celsius:.1f} °C" in recorder.levels[-1][1])  # noqa: B023
        board.heat(50.0)
        recorder.wait(lambda: len(recorder.levels) == 6)
        assert monitor.level is DegradationLevel.NONE
        assert monitor.state.hottest == ("cpu-thermal", 50.0), "the PMIC's 100 °C do not count"
    assert [level for level, _ in recorder.levels] == [
        *(
            DegradationLevel.REDUCED_TOKENS,
            DegradationLevel.REDUCED_DUTY_CYCLE,
            DegradationLevel.PAUSED,
            DegradationLevel.REDUCED_DUTY_CYCLE,
            DegradationLevel.REDUCED_TOKENS,
            DegradationLevel.NONE,
        )
    ]
    assert recorder.levels[0][1] == "fewer tokens: cpu-thermal is at 86.0 °C"
    assert recorder.levels[2][1] == "paused: cpu-thermal is at 98.0 °C"


def test_throttling_is_reported_and_thresholds_are_reconfigured_at_runtime(board: FakeBoard) -> None:
    recorder = Recorder()
    with closing(BoardMonitor(simulated(board).thermal, recorder.on_level)) as monitor:
        board.throttle(True)
        recorder.wait(lambda: len(recorder.levels) == 1)
        assert recorder.levels[0][1].endswith("clocks are held back by cpu-throttle-alert")
        monitor.reconfigure(
            simulated(board, reduce_tokens_at=20.0, reduce_duty_cycle_at=30.0, pause_at=40.0).thermal
        )
        recorder.wait(lambda: len(recorder.levels) == 2)
        assert recorder.levels[1][0] is DegradationLevel.PAUSED


def test_live_perception_reduces_tokens_pauses_and_resumes(vlm: LlamaVlm) -> None:
    frames = iter(World(seed=1, width=640, height=480))
    recorder = Recorder()
    settings = Settings().with_values({"caption.enabled": False})
    live = LivePerception[Frame](settings, vlm, lambda frame, width: frame, recorder)

    def infer() -> Scene:
        seen = len(recorder.scenes)
        frame = next(frames).frame
        live.submit(frame, frame.stamp_ns)
        recorder.wait(lambda: len(recorder.scenes) > seen)
        return recorder.scenes[-1]

    live.start()
    try:
        assert infer().usage.image_tokens == 234
        live.set_degradation(DegradationLevel.REDUCED_TOKENS)
        assert infer().usage.image_tokens <= 128
        live.set_degradation(DegradationLevel.PAUSED)
        frame = next(frames).frame
        assert live.submit(frame, frame.stamp_ns) is not None, "tracks are predicted while it is paused"
        statistics = live.statistics()
        assert (statistics.degradation_level, statistics.frames_skipped, statistics.frames_waiting) == (
            DegradationLevel.PAUSED,
            1,
            0,
        )
        live.reconfigure(settings.with_values({"detect.max_tokens": 400}))
        live.set_degradation(DegradationLevel.NONE)
        assert infer().usage.image_tokens == 234
    finally:
        live.stop()
