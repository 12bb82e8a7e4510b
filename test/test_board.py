"""Heat: what the board says, what is done against it, and that it is taken back."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fake_board import FakeBoard
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.backends.llama import LlamaVlm
from lfm_perception.board import BoardMonitor, BoardState, Clock, read_sysfs, thermal_summary
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.live import LivePerception
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
"""Files of the board, one of each kind."""


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    return FakeBoard(tmp_path / "sys")


# --- what the board says -----------------------------------------------------------------------------


def test_a_jetsons_files_are_read(board: FakeBoard) -> None:
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


def test_a_machine_without_sensors_says_nothing_and_fails_nowhere(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "not there"):
        state = read_sysfs(root)
        assert state == BoardState(source=str(root))
        assert state.hottest is None
        assert thermal_summary(state) == "no temperature is known"


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=12)))
def test_whatever_the_files_say_reading_goes_on(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        board = FakeBoard(Path(folder))
        for name, content in files.items():
            (board.root / name).write_bytes(content)
        assert "tj-thermal" in read_sysfs(board.root).temperatures_c


def test_sensors_that_are_off_do_not_count(board: FakeBoard) -> None:
    (board.root / "class/thermal/thermal_zone1/temp").unlink()
    board.write("class/thermal/thermal_zone2/temp", "no number")
    assert set(read_sysfs(board.root).temperatures_c) == {"cpu-thermal", "PMIC-Die"}


# --- what is done against it -------------------------------------------------------------------------

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
def test_heat_asks_for_a_step_at_once(celsius: float | None, level: DegradationLevel) -> None:
    assert next_level(DegradationLevel.NONE, celsius, False, 0.0, THERMAL) is level


def test_a_step_is_taken_back_when_it_is_cool_enough_and_was_held() -> None:
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


def test_a_board_that_holds_back_its_clocks_gets_less_to_do() -> None:
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
def test_steps_do_not_go_back_and_forth(
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


def test_each_step_leaves_less_and_never_contradicts() -> None:
    whole = Settings()
    steps = [degraded(whole, level) for level in DegradationLevel]
    assert steps[DegradationLevel.NONE] == whole
    assert [s.detect.max_tokens for s in steps] == [512, 256, 256, 256]
    assert [s.image.max_tokens for s in steps] == [256, 128, 128, 128]
    assert [s.inference.duty_cycle for s in steps] == [1.0, 1.0, 0.3, 0.3]
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


# --- the watch, and looking beside a camera ----------------------------------------------------------


class Notes:
    """What was told, for a test to wait for."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self.steps: list[tuple[DegradationLevel, str]] = []
        self.scenes: list[Scene] = []

    def on_level(self, level: DegradationLevel, sentence: str) -> None:
        with self._told:
            self.steps.append((level, sentence))
            self._told.notify_all()

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        with self._told:
            self.scenes.append(scene)
            self._told.notify_all()

    def on_answer(self, question: str, text: str, stamp_ns: int) -> None:
        raise AssertionError("nothing was asked")

    def on_error(self, kind: str, problem: str) -> None:
        raise AssertionError(problem)

    def wait(self, until: Callable[[], bool]) -> None:
        with self._told:
            assert self._told.wait_for(until, PATIENCE_S)


def rehearsal(board: FakeBoard, **thermal: object) -> Settings:
    quick = {"sysfs": str(board.root), "period": 0.05, "min_hold": 0.0, **thermal}
    return Settings().with_values({f"thermal.{name}": value for name, value in quick.items()})


def test_a_board_that_warms_and_cools_is_followed_step_by_step(board: FakeBoard) -> None:
    notes = Notes()
    with closing(BoardMonitor(rehearsal(board).thermal, notes.on_level)) as watch:
        for celsius in (86.0, 93.0, 98.0):
            board.heat(celsius)
            notes.wait(lambda: bool(notes.steps) and f"at {celsius:.1f} °C" in notes.steps[-1][1])  # noqa: B023
        board.heat(50.0)
        notes.wait(lambda: len(notes.steps) == 6)
        assert watch.level is DegradationLevel.NONE
        assert watch.state.hottest == ("cpu-thermal", 50.0), "the PMIC's 100 °C do not count"
    assert [level for level, _ in notes.steps] == [
        *(
            DegradationLevel.REDUCED_TOKENS,
            DegradationLevel.REDUCED_DUTY_CYCLE,
            DegradationLevel.PAUSED,
            DegradationLevel.REDUCED_DUTY_CYCLE,
            DegradationLevel.REDUCED_TOKENS,
            DegradationLevel.NONE,
        )
    ]
    assert notes.steps[0][1] == "fewer tokens: cpu-thermal is at 86.0 °C"
    assert notes.steps[2][1] == "paused: cpu-thermal is at 98.0 °C"


def test_throttling_is_told_and_thresholds_change_while_it_watches(board: FakeBoard) -> None:
    notes = Notes()
    with closing(BoardMonitor(rehearsal(board).thermal, notes.on_level)) as watch:
        board.throttle(True)
        notes.wait(lambda: len(notes.steps) == 1)
        assert notes.steps[0][1].endswith("clocks are held back by cpu-throttle-alert")
        watch.reconfigure(
            rehearsal(board, reduce_tokens_at=20.0, reduce_duty_cycle_at=30.0, pause_at=40.0).thermal
        )
        notes.wait(lambda: len(notes.steps) == 2)
        assert notes.steps[1][0] is DegradationLevel.PAUSED


def test_looking_takes_fewer_tokens_then_pauses_then_goes_on(vlm: LlamaVlm) -> None:
    film = iter(World(seed=1, width=640, height=480))
    notes = Notes()
    settings = Settings().with_values({"caption.enabled": False})
    live = LivePerception[Frame](settings, vlm, lambda frame, width: frame, notes)

    def look() -> Scene:
        seen = len(notes.scenes)
        frame = next(film).frame
        live.submit(frame, frame.stamp_ns)
        notes.wait(lambda: len(notes.scenes) > seen)
        return notes.scenes[-1]

    live.start()
    try:
        assert look().usage.image_tokens == 234
        live.set_degradation(DegradationLevel.REDUCED_TOKENS)
        assert look().usage.image_tokens <= 128
        live.set_degradation(DegradationLevel.PAUSED)
        frame = next(film).frame
        assert live.submit(frame, frame.stamp_ns) is not None, "tracks are told while it is paused"
        statistics = live.statistics()
        assert (statistics.degradation_level, statistics.frames_skipped, statistics.frames_waiting) == (
            DegradationLevel.PAUSED,
            1,
            0,
        )
        live.reconfigure(settings.with_values({"detect.max_tokens": 400}))
        live.set_degradation(DegradationLevel.NONE)
        assert look().usage.image_tokens == 234
    finally:
        live.stop()
