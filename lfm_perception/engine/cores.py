"""How many threads to compute with: the physical cores that this process may use and others leave free."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CoreWatch:
    """Watches the processor from its creation on.

    Threads that compete for a core wait for each other at every step of the network, which costs far
    more than the core is worth, so cores that other processes keep busy do not count.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = time.process_time()

    def free(self) -> int:
        """Free cores on average since the creation, at least 1."""
        elapsed = time.monotonic() - self._since
        others_s = (_busy_s() - self._busy_s) - (time.process_time() - self._own_s)
        taken = round(others_s / elapsed) if elapsed > 0.0 else 0
        return max(1, usable_cores() - max(0, taken))


def usable_cores() -> int:
    """Physical cores that this process may run on, within the limit of its container."""
    threads = os.sched_getaffinity(0)
    cores = len({_siblings(thread) for thread in threads})
    return max(1, min(cores, _quota(cores)))


def _siblings(thread: int) -> str:
    """The hardware threads that share a core with this one."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(thread)


def _quota(cores: int) -> int:
    """How many of the cores the control group grants."""
    try:
        granted, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if granted == "max" else math.ceil(int(granted) / int(period))
    except (OSError, ValueError):
        return cores


def _busy_s() -> float:
    """Processor seconds of all processes since the start of the machine; those of niced ones give way."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, _nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return (user + system + irq + softirq) / _TICKS_PER_S
