"""What the board says of itself: temperatures, clocks, power, whether it holds itself back; a watch on it.

Everything comes from the kernel's files under /sys; where jetson-stats is installed and its service runs,
temperatures, power and the GPU's clock come from there. What a board does not have is left out, and what
cannot be read is not there: nothing here fails.

    thermal_zone*/{type,temp}                          temperatures, thousandths of a degree
    cooling_device*/{type,cur_state}                   above 0: clocks are held back; fans do not count
    cpufreq/policy*/{scaling_cur,cpuinfo_max}_freq     clocks of the CPU, kHz
    devfreq/*{gpu,ga10b,gv11b,...}/{cur,max}_freq      clock of the GPU, Hz
    hwmon*/{in*_label,in*_input,curr*_input,power*}    rails of the INA3221 and its like: mV, mA, uW
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lfm_perception.planning.thermal import DegradationLevel, next_level
from lfm_perception.settings import ThermalSettings

SYSFS = Path("/sys")

COLDEST_C, HOTTEST_C = -60.0, 200.0
"""A sensor that says less or more is switched off or broken."""

WHOLE_BOARD = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails that feed all others; without one, the rails are added up."""

_FAN = re.compile("fan|pwm", re.IGNORECASE)
_GPU = re.compile(r"gpu|g[abv]\d+b|gp10b|gm20b", re.IGNORECASE)
_SUPPLY_RAIL = re.compile(r"in(\d+)_label")


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock now and at its fastest, in Hz."""

    current_hz: float
    max_hz: float


@dataclass(frozen=True, slots=True)
class BoardState:
    """A board at one moment.

    `temperatures_c` by sensor; `clocks` by processor; `power_w` by rail, and `total_w` of the whole board,
    None where it cannot be known. `throttled_by`: what holds back the clocks now. `source`: who told.
    """

    temperatures_c: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    throttled_by: tuple[str, ...] = ()
    clocks: Mapping[str, Clock] = field(default_factory=lambda: MappingProxyType({}))
    power_w: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    total_w: float | None = None
    source: str = "nothing"

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The sensor with the highest temperature, and that."""
        return max(self.temperatures_c.items(), key=lambda item: item[1], default=None)


def read_sysfs(root: Path = SYSFS) -> BoardState:
    """The board as the kernel's files under `root` have it. Takes a few milliseconds."""
    rails = dict(_rails(root))
    return BoardState(
        temperatures_c=dict(_temperatures(root)),
        throttled_by=tuple(_throttles(root)),
        clocks=dict(_clocks(root)),
        power_w=rails,
        total_w=_total(rails),
        source=str(root),
    )


class BoardMonitor:
    """Looks at the board now and then, on a thread of its own, and says what level its heat asks for.

    `on_level(level, sentence)` is called at every change of the level, on that thread. `state` and `level`
    are the latest.
    """

    def __init__(self, settings: ThermalSettings, on_level: Callable[[DegradationLevel, str], None]) -> None:
        self._settings, self._on_level = settings, on_level
        self._closing = threading.Event()
        self.state = BoardState()
        self.level = DegradationLevel.NONE
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def reconfigure(self, settings: ThermalSettings) -> None:
        """Go on with other settings."""
        self._settings = settings

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        jetson = _JetsonStats()
        since_s = time.monotonic()
        try:
            while True:
                settings = self._settings
                state = read_sysfs(Path(settings.sysfs))
                if Path(settings.sysfs) == SYSFS:  # another folder is a rehearsal
                    state = jetson.improved(state)
                self.state = state = _believed(state, settings.ignored_sensors)
                hottest = state.hottest
                now_s = time.monotonic()
                level = next_level(
                    self.level,
                    hottest[1] if hottest else None,
                    bool(state.throttled_by),
                    now_s - since_s,
                    settings,
                )
                if level != self.level:
                    self.level, since_s = level, now_s
                    self._on_level(level, f"{level.description}: {thermal_summary(state)}")
                if self._closing.wait(settings.period):
                    return
        finally:
            jetson.close()


def thermal_summary(state: BoardState) -> str:
    """How warm a board is, and what holds it back, in words."""
    hottest = state.hottest
    words = f"{hottest[0]} is at {hottest[1]:.1f} °C" if hottest else "no temperature is known"
    if state.throttled_by:
        words += f", clocks are held back by {', '.join(state.throttled_by)}"
    return words


def _believed(state: BoardState, ignored: tuple[str, ...]) -> BoardState:
    temperatures = {
        name: celsius
        for name, celsius in state.temperatures_c.items()
        if COLDEST_C < celsius < HOTTEST_C and name not in ignored
    }
    return replace(state, temperatures_c=temperatures)


class _JetsonStats:
    """jetson-stats, where it is installed and its service answers; the first failure is the last attempt."""

    def __init__(self) -> None:
        self._client: Any = None
        # whatever it raises: it is a convenience and must not cost the watch
        with suppress(Exception):
            from jtop import jtop

            client = jtop()
            client.start()
            self._client = client

    def improved(self, state: BoardState) -> BoardState:
        """The state with what jetson-stats knows better."""
        if self._client is None:
            return state
        try:
            return _from_jetson_stats(state, self._client.temperature, self._client.power, self._client.gpu)
        except Exception:
            self.close()
            return state

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()


def _from_jetson_stats(
    state: BoardState, temperature: Mapping[str, Any], power: Mapping[str, Any], gpu: Mapping[str, Any]
) -> BoardState:
    """What jetson-stats 4 and newer call `temperature`, `power` (mW) and `gpu` (kHz)."""
    temperatures = {
        name: float(sensor["temp"]) for name, sensor in temperature.items() if sensor.get("online", True)
    }
    rails = {name: float(rail["power"]) / 1e3 for name, rail in power["rail"].items()}
    clocks = {
        name: Clock(1e3 * entry["freq"]["cur"], 1e3 * entry["freq"]["max"]) for name, entry in gpu.items()
    }
    kept = {name: clock for name, clock in state.clocks.items() if not _GPU.search(name) or not clocks}
    return replace(
        state,
        temperatures_c=temperatures,
        power_w=rails,
        total_w=float(power["tot"]["power"]) / 1e3,
        clocks={**kept, **clocks},
        source="jetson-stats",
    )


# --- the kernel's files ------------------------------------------------------------------------------


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    for zone in _numbered(root / "class/thermal", "thermal_zone"):
        value = _number(zone / "temp")
        if value is not None:
            yield _text(zone / "type") or zone.name, value / 1e3


def _throttles(root: Path) -> Iterator[str]:
    for device in _numbered(root / "class/thermal", "cooling_device"):
        name = _text(device / "type") or device.name
        if not _FAN.search(name) and (_number(device / "cur_state") or 0.0) > 0.0:
            yield name


def _clocks(root: Path) -> Iterator[tuple[str, Clock]]:
    for policy in _numbered(root / "devices/system/cpu/cpufreq", "policy"):
        now, most = _number(policy / "scaling_cur_freq"), _number(policy / "cpuinfo_max_freq")
        if now is not None and most is not None:
            yield f"cpu{policy.name.removeprefix('policy')}", Clock(now * 1e3, most * 1e3)
    for device in _entries(root / "class/devfreq"):
        now, most = _number(device / "cur_freq"), _number(device / "max_freq")
        if _GPU.search(device.name) and now is not None and most is not None:
            yield "gpu", Clock(now, most)


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    for device in _numbered(root / "class/hwmon", "hwmon"):
        for entry in _entries(device):
            if (found := _SUPPLY_RAIL.fullmatch(entry.name)) is None:
                continue
            number, name = found[1], _text(entry)
            volts, amperes = _number(device / f"in{number}_input"), _number(device / f"curr{number}_input")
            # "sum of shunt voltages" has no current
            if name and volts is not None and amperes is not None:
                yield name, volts * amperes / 1e6
        if (watts := _number(device / "power1_input")) is not None:
            yield _text(device / "name") or device.name, watts / 1e6


def _total(rails: Mapping[str, float]) -> float | None:
    whole = [rails[name] for name in WHOLE_BOARD if name in rails]
    return whole[0] if whole else sum(rails.values()) if rails else None


def _numbered(folder: Path, name: str) -> list[Path]:
    """The entries called `name` and a number, in the order of that."""
    found = [entry for entry in _entries(folder) if re.fullmatch(rf"{name}\d+", entry.name)]
    return sorted(found, key=lambda entry: int(entry.name.removeprefix(name)))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # a sensor that is switched off answers with an error
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
