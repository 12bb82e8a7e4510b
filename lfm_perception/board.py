# SPDX-License-Identifier: Apache-2.0
"""Temperatures, clocks, power and throttling of the board, and a monitor that derives the degradation level.

Everything is read from the kernel's sysfs; where jetson-stats is installed and its service runs, it provides
temperatures, power and the GPU's clock. Sensors that a board does not have, or that cannot be read, are left
out: nothing here fails.

    thermal_zone*/{type,temp}                          temperatures, thousandths of a degree Celsius
    cooling_device*/{type,cur_state}                   above 0: clocks are throttled; fans do not count
    cpufreq/policy*/{scaling_cur,cpuinfo_max}_freq     CPU clocks, kHz
    devfreq/*{gpu,ga10b,gv11b,...}/{cur,max}_freq      GPU clock, Hz
    hwmon*/{in*_label,in*_input,curr*_input,power*}    power rails (INA3221 and similar), mV, mA, uW
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lfm_perception.files import read_bytes
from lfm_perception.planning.thermal import DegradationLevel, next_level
from lfm_perception.settings import ThermalSettings
from lfm_perception.text import safe_line

SYSFS = Path("/sys")

MIN_CELSIUS, MAX_CELSIUS = -60.0, 200.0
"""A sensor outside of this range is switched off or broken."""

INPUT_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails that supply the whole board; on a board without one, all rails are added up."""

MAX_SENSOR_BYTES = 1 << 16
"""Maximum size of a sensor's file; those of sysfs have 4096 bytes."""

_FAN = re.compile("fan|pwm", re.IGNORECASE)
_GPU = re.compile(r"gpu|g[abv]\d+b|gp10b|gm20b", re.IGNORECASE)
_RAIL_LABEL = re.compile(r"in(\d+)_label")


@dataclass(frozen=True, slots=True)
class Clock:
    """Current and maximum frequency of a processor, in Hz."""

    current_hz: float
    max_hz: float


@dataclass(frozen=True, slots=True)
class BoardState:
    """Sensor readings at one moment.

    `temperatures_c` by sensor, `clocks` by processor, `power_w` by rail, and `total_w` of the whole board,
    None if unknown. `throttled_by`: the cooling devices that throttle clocks now.
    """

    temperatures_c: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    throttled_by: tuple[str, ...] = ()
    clocks: Mapping[str, Clock] = field(default_factory=lambda: MappingProxyType({}))
    power_w: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    total_w: float | None = None
    source: str = "nothing"

    @property
    def hottest(self) -> tuple[str, float] | None:
        """Name and temperature of the hottest sensor."""
        return max(self.temperatures_c.items(), key=lambda item: item[1], default=None)


def thermal_summary(state: BoardState) -> str:
    """The hottest sensor, and the cooling devices that throttle clocks, as text."""
    hottest = state.hottest
    text = f"{hottest[0]} is at {hottest[1]:.1f} °C" if hottest else "no temperature is known"
    if state.throttled_by:
        text += f", clocks are held back by {', '.join(state.throttled_by)}"
    return text


class BoardMonitor:
    """Reads the board every `thermal.period` seconds on its own thread and derives the degradation level.

    `on_level(level, message)` is called on that thread when the level changes. `state` and `level` are the
    latest.
    """

    def __init__(self, settings: ThermalSettings, on_level: Callable[[DegradationLevel, str], None]) -> None:
        self._settings, self._on_level = settings, on_level
        self._closing = threading.Event()
        self.state = BoardState()
        self.level = DegradationLevel.NONE
        self._level_since_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def reconfigure(self, settings: ThermalSettings) -> None:
        """Applies other settings from the next reading on."""
        self._settings = settings

    def close(self) -> None:
        """Stops and joins the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        with closing(_JetsonStats()) as jetson:
            while True:
                settings = self._settings
                state = read_sysfs(Path(settings.sysfs))
                if Path(settings.sysfs) == SYSFS:  # another folder is a simulated board
                    state = jetson.merge(state)
                self.state = _plausible(state, settings.ignored_sensors)
                self._update_level(settings)
                if self._closing.wait(settings.period):
                    return

    def _update_level(self, settings: ThermalSettings) -> None:
        state, now_s = self.state, time.monotonic()
        hottest_c = state.hottest[1] if state.hottest else None
        held_s = now_s - self._level_since_s
        level = next_level(self.level, hottest_c, bool(state.throttled_by), held_s, settings)
        if level != self.level:
            self.level, self._level_since_s = level, now_s
            self._on_level(level, f"{level.description}: {thermal_summary(state)}")


def _plausible(state: BoardState, ignored: tuple[str, ...]) -> BoardState:
    temperatures = {
        name: celsius
        for name, celsius in state.temperatures_c.items()
        if MIN_CELSIUS < celsius < MAX_CELSIUS and name not in ignored
    }
    return replace(state, temperatures_c=temperatures)


# --- jetson-stats ------------------------------------------------------------------------------------


class _JetsonStats:
    """Client of jetson-stats, where it is installed and its service runs; closed at its first failure."""

    def __init__(self) -> None:
        self._client: Any = None
        with suppress(Exception):  # optional: no failure of it may stop the monitor
            from jtop import jtop

            client = jtop()
            client.start()
            self._client = client

    def merge(self, state: BoardState) -> BoardState:
        """The state with the readings of jetson-stats in place of those from sysfs."""
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
    """Readings of jetson-stats 4 and newer: `temperature` (degrees Celsius), `power` (mW), `gpu` (kHz)."""
    clocks = {
        name: Clock(1e3 * entry["freq"]["cur"], 1e3 * entry["freq"]["max"]) for name, entry in gpu.items()
    }
    kept = {name: clock for name, clock in state.clocks.items() if not _GPU.search(name) or not clocks}
    return replace(
        state,
        temperatures_c={
            name: float(sensor["temp"]) for name, sensor in temperature.items() if sensor.get("online", True)
        },
        power_w={name: float(rail["power"]) / 1e3 for name, rail in power["rail"].items()},
        total_w=float(power["tot"]["power"]) / 1e3,
        clocks={**kept, **clocks},
        source="jetson-stats",
    )


# --- sysfs -------------------------------------------------------------------------------------------


def read_sysfs(root: Path = SYSFS) -> BoardState:
    """The sensor readings from sysfs mounted at `root`; takes a few milliseconds."""
    rails = dict(_rails(root))
    input_w = [rails[name] for name in INPUT_RAILS if name in rails]
    return BoardState(
        temperatures_c=dict(_temperatures(root)),
        throttled_by=tuple(_throttles(root)),
        clocks=dict(_clocks(root)),
        power_w=rails,
        total_w=input_w[0] if input_w else sum(rails.values()) if rails else None,
        source=str(root),
    )


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
        current, highest = _number(policy / "scaling_cur_freq"), _number(policy / "cpuinfo_max_freq")
        if current is not None and highest is not None:
            yield f"cpu{policy.name.removeprefix('policy')}", Clock(current * 1e3, highest * 1e3)
    for device in _entries(root / "class/devfreq"):
        current, highest = _number(device / "cur_freq"), _number(device / "max_freq")
        if _GPU.search(device.name) and current is not None and highest is not None:
            yield "gpu", Clock(current, highest)


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    for device in _numbered(root / "class/hwmon", "hwmon"):
        for label in _entries(device):
            if (match := _RAIL_LABEL.fullmatch(label.name)) is None:
                continue
            name, number = _text(label), match[1]
            volts, amperes = _number(device / f"in{number}_input"), _number(device / f"curr{number}_input")
            # "sum of shunt voltages" has no current
            if name and volts is not None and amperes is not None:
                yield name, volts * amperes / 1e6
        if (watts := _number(device / "power1_input")) is not None:
            yield _text(device / "name") or device.name, watts / 1e6


def _numbered(folder: Path, name: str) -> list[Path]:
    """The entries called `name` and a number, in the order of the numbers."""
    found = [entry for entry in _entries(folder) if re.fullmatch(rf"{name}\d+", entry.name)]
    return sorted(found, key=lambda entry: int(entry.name.removeprefix(name)))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return safe_line(read_bytes(path, MAX_SENSOR_BYTES).decode().strip())
    except (OSError, ValueError):  # reading a sensor that is switched off is an error
        return ""


def _number(path: Path) -> float | None:
    try:
        number = float(_text(path))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
