# SPDX-License-Identifier: Apache-2.0
"""DDS transport of images between processes of one computer: shared memory that is large enough for them.

Fast DDS's defaults lose most images above a megabyte. Its own remedy, FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA,
uses TCP, which loses two images of three when the cores are busy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfm_perception.ros import shared_memory

PROFILE = Path(__file__).with_name("fastdds.xml")
"""For processes that send images."""

RECEIVER_PROFILE = Path(__file__).with_name("fastdds_receiver.xml")
"""For processes that receive images and send none: a segment of half a megabyte."""

UDP_PROFILE = Path(__file__).with_name("fastdds_udp.xml")
"""For processes without images: no shared memory."""

UDP_LOCALHOST_PROFILE = Path(__file__).with_name("fastdds_udp_localhost.xml")
"""`UDP_PROFILE` with discovery limited to this computer."""

_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"

_USER_CHOICES = (
    *("FASTDDS_BUILTIN_TRANSPORTS", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"),
    "RMW_FASTRTPS_USE_QOS_FROM_XML",
)
"""Environment variables by which a user has chosen a transport; the choice is kept."""


def environment(profile: Path = PROFILE) -> dict[str, str]:
    """The environment variables that select a profile; none if the user has chosen a transport."""
    ours = (PROFILE, RECEIVER_PROFILE, UDP_PROFILE, UDP_LOCALHOST_PROFILE)  # inherited from a parent
    if any(Path(os.environ.get(name, PROFILE)) not in ours for name in _USER_CHOICES):
        return {}
    return variable(profile)


def variable(profile: Path = PROFILE) -> dict[str, str]:
    """The environment variable that selects a profile, which a sender of images needs too."""
    older = os.environ.get("ROS_DISTRO") in ("humble", "jazzy")  # Fast DDS 2
    return {f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE": str(profile)}


def use_shared_memory(profile: Path = PROFILE) -> str | None:
    """Select a profile for this process and its children. Call before rclpy is initialized.

    For a process that sends images, left-overs of processes that died are removed from shared memory first.

    Returns:
        Why images will not travel through shared memory, in a sentence; None if they will.
    """
    chosen = environment(profile)
    os.environ.update(chosen)
    if not chosen or profile != PROFILE:
        return None
    shared_memory.clean()
    return shared_memory.room_problem()


@contextmanager
def without_shared_memory() -> Iterator[None]:
    """Give the nodes that the block creates no shared memory. Enter before rclpy is initialized.

    With ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, rmw_fastrtps adds a segment of its own to every profile.
    So a profile limits the discovery instead; the variable is restored for the children of this process.
    """
    localhost = os.environ.get(_RANGE) == "LOCALHOST"
    chosen = environment(UDP_LOCALHOST_PROFILE if localhost else UDP_PROFILE)
    os.environ.update(chosen)
    if chosen and localhost:
        os.environ[_RANGE] = "SYSTEM_DEFAULT"
    try:
        yield
    finally:
        if localhost:
            os.environ[_RANGE] = "LOCALHOST"


def use_localhost() -> str | None:
    """`use_shared_memory`, with discovery limited to this computer. Call before rclpy is initialized."""
    if "ROS_LOCALHOST_ONLY" not in os.environ:  # Humble's variable, deprecated later
        newer = os.environ.get("ROS_DISTRO") != "humble"
        name, value = (_RANGE, "LOCALHOST") if newer else ("ROS_LOCALHOST_ONLY", "1")
        os.environ.setdefault(name, value)
    return use_shared_memory()
