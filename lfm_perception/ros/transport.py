"""How Fast DDS carries images between processes of one computer: through shared memory large enough for them.

Its defaults lose most images of a megabyte and more. Its other remedy, FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA,
carries them over TCP, whose many small steps lose two images of three when the cores are busy.
"""

from __future__ import annotations

import os
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")

_CHOSEN_BY = (
    *("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"),
    "RMW_FASTRTPS_USE_QOS_FROM_XML",
)
"""Whoever sets one of these has chosen already."""


def environment() -> dict[str, str]:
    """The variables that choose it for a process; none where the user has chosen."""
    if any(name in os.environ for name in _CHOSEN_BY):
        return {}
    older = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")  # Fast DDS 2
    return {f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE": str(PROFILE)}


def use() -> None:
    """Choose it for this process and its children. Call before rclpy is initialized."""
    os.environ.update(environment())
