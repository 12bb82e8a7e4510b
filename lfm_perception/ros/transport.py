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


def use_shared_memory() -> None:
    """Choose it for this process and its children. Call before rclpy is initialized."""
    os.environ.update(environment())


def use_localhost() -> None:
    """Make this process and its children carry images well, and talk to nobody on other computers.

    Call before rclpy is initialized.
    """
    use_shared_memory()
    if "ROS_LOCALHOST_ONLY" not in os.environ:  # Humble's name for it, which would be warned of later
        newer = os.environ.get("ROS_DISTRO") != "humble"
        name, value = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST") if newer else ("ROS_LOCALHOST_ONLY", "1")
        os.environ.setdefault(name, value)
