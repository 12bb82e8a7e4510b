"""DDS transport of images between processes of one computer: shared memory that is large enough for them.

Fast DDS's defaults lose most images above a megabyte. Its own remedy, FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA,
uses TCP, which loses two images of three when the cores are busy.
"""

from __future__ import annotations

import os
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds.xml")

_USER_CHOICES = (
    *("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"),
    "RMW_FASTRTPS_USE_QOS_FROM_XML",
)
"""Environment variables by which a user has chosen a transport; the choice is kept."""


def environment() -> dict[str, str]:
    """The environment variables that select shared memory; none if the user has chosen a transport."""
    if any(name in os.environ for name in _USER_CHOICES):
        return {}
    older = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")  # Fast DDS 2
    return {f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE": str(PROFILE)}


def use_shared_memory() -> None:
    """Select shared memory for this process and its children. Call before rclpy is initialized."""
    os.environ.update(environment())


def use_localhost() -> None:
    """Select shared memory, and limit discovery to this computer, for this process and its children.

    Call before rclpy is initialized.
    """
    use_shared_memory()
    if "ROS_LOCALHOST_ONLY" not in os.environ:  # Humble's variable, deprecated later
        newer = os.environ.get("ROS_DISTRO") != "humble"
        name, value = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST") if newer else ("ROS_LOCALHOST_ONLY", "1")
        os.environ.setdefault(name, value)
