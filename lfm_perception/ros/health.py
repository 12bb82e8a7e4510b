"""Whether a perception node is well, for whoever watches over it, docker for example.

    python -m lfm_perception.ros.health [/cam1/perception]

exits 0 when the node's diagnostics come and none is an error; otherwise 1, with the reason.
"""

from __future__ import annotations

import sys
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from lfm_perception.ros import transport
from lfm_perception.ros.executor import spinning_node

PATIENCE_S = 10.0
"""How long the first diagnostics are waited for; a longer node.diagnostics_period needs more."""


def problems(name: str, patience_s: float = PATIENCE_S) -> list[str]:
    """What is wrong with the node of this full name; nothing: it is well."""
    name = name.lstrip("/")
    transport.use_shared_memory()
    heard: list[DiagnosticStatus] = []
    came = threading.Event()

    def arrived(diagnostics: DiagnosticArray) -> None:
        heard.extend(status for status in diagnostics.status if status.name.startswith(f"{name}: "))
        if heard:
            came.set()

    with spinning_node("perception_health") as listener:
        listener.create_subscription(DiagnosticArray, "/diagnostics", arrived, 10)
        came.wait(patience_s)
    if not heard:
        return [f"no diagnostics of {name} came within {patience_s:.0f} s"]
    return [f"{each.name}: {each.message}" for each in heard if each.level >= DiagnosticStatus.ERROR]


if __name__ == "__main__":
    found = problems(sys.argv[1] if len(sys.argv) > 1 else "/perception")
    sys.exit("\n".join(found) or 0)
