# SPDX-License-Identifier: Apache-2.0
"""CPU cores for inference: physical cores that this process may use and other processes leave free."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CoreMonitor:
    """Measures the CPU load of other processes from its creation on.

    Threads that share a core with another program make all threads wait at every graph operation, which
    costs more than the core contributes, so cores that other processes keep busy do not count as free.
    """

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = time.process_time()

    def free_cores(self) -> int:
        """Free cores on average since the creation, at least 1."""
        elapsed_s = time.monotonic() - self._since_s
        others_s = (_busy_s() - self._busy_s) - (time.process_time() - self._own_s)
        taken = round(others_s / elapsed_s) if elapsed_s > 0.0 else 0
        return max(1, usable_cores() - max(0, taken))


def usable_cores() -> int:
    """Physical cores in the affinity mask of this process, within the CPU quota of its container."""
    cores = len({_siblings(thread) for thread in os.sched_getaffinity(0)})
    return max(1, min(cores, _cpu_quota(cores)))


def _siblings(thread: int) -> str:
    """The hardware threads that share a core with this one."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(thread)


def _cpu_quota(cores: int) -> int:
    """CPU quota of the control group in whole cores; `cores` without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def _busy_s() -> float:
    """CPU seconds of all processes since boot, without those of niced ones, which yield."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, _nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return (user + system + irq + softirq) / _TICKS_PER_S
