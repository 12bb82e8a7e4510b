# SPDX-License-Identifier: Apache-2.0
"""A board whose sensors are files that a test writes: a stand-in for heat, which no test can provoke."""

from __future__ import annotations

from pathlib import Path


class FakeBoard:
    """The files of a Jetson Orin's sensors in a folder of their own, as JetPack 6 lays them out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for number, zone in enumerate(("cpu-thermal", "gpu-thermal", "tj-thermal")):
            self.write(f"class/thermal/thermal_zone{number}/type", zone)
            self.write(f"class/thermal/thermal_zone{number}/temp", 45000 + 500 * number)
        self.write("class/thermal/thermal_zone10/type", "PMIC-Die")
        self.write("class/thermal/thermal_zone10/temp", 100000)
        for number, cooler in enumerate(("pwm-fan", "cpu-throttle-alert", "gpu-throttle-alert")):
            self.write(f"class/thermal/cooling_device{number}/type", cooler)
            self.write(f"class/thermal/cooling_device{number}/cur_state", 2 if cooler == "pwm-fan" else 0)
        self.write("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", 1190400)
        self.write("devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq", 1510400)
        self.write("class/devfreq/17000000.gpu/cur_freq", 306000000)
        self.write("class/devfreq/17000000.gpu/max_freq", 624750000)
        rails = (("VDD_IN", 4968, 1000), ("VDD_CPU_GPU_CV", 4960, 300), ("VDD_SOC", 4960, 200))
        for number, (rail, millivolts, milliamperes) in enumerate(rails, start=1):
            self.write(f"class/hwmon/hwmon3/in{number}_label", rail)
            self.write(f"class/hwmon/hwmon3/in{number}_input", millivolts)
            self.write(f"class/hwmon/hwmon3/curr{number}_input", milliamperes)
        self.write("class/hwmon/hwmon3/in7_label", "sum of shunt voltages")
        self.write("class/hwmon/hwmon3/in7_input", 0)

    def write(self, path: str, value: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n", encoding="utf-8")

    def heat(self, celsius: float) -> None:
        self.write("class/thermal/thermal_zone0/temp", round(celsius * 1000))

    def throttle(self, on: bool) -> None:
        self.write("class/thermal/cooling_device1/cur_state", int(on))
