# SPDX-License-Identifier: Apache-2.0
"""Health check of a perception node, for docker or another supervisor.

    python -m lfm_perception.ros.health [/cam1/perception]

exits 0 if the node publishes diagnostics and none is an error; otherwise 1, with the reason.
"""

from __future__ import annotations

import sys
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from lfm_perception.ros import transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.text import sentence

TIMEOUT_S = 10.0
"""Timeout for the first diagnostics; a longer node.diagnostics_period needs more."""


def problems(name: str, timeout_s: float = TIMEOUT_S) -> list[str]:
    """The errors of the node with this full name; empty for a healthy node."""
    name = name.lstrip("/")
    statuses: list[DiagnosticStatus] = []
    received = threading.Event()

    def on_diagnostics(diagnostics: DiagnosticArray) -> None:
        statuses.extend(status for status in diagnostics.status if status.name.startswith(f"{name}: "))
        if statuses:
            received.set()

    with transport.without_shared_memory(), spinning_node("perception_health") as listener:
        listener.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        received.wait(timeout_s)
    if not statuses:
        return [f"no diagnostics of {name} came within {timeout_s:.0f} s"]
    errors = [each for each in statuses if each.level >= DiagnosticStatus.ERROR]
    return [sentence(f"{each.name}: {each.message}") for each in errors]  # anyone may publish them


if __name__ == "__main__":
    found = problems(sys.argv[1] if len(sys.argv) > 1 else "/perception")
    sys.exit("\n".join(found) or 0)
