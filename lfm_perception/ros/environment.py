# SPDX-License-Identifier: Apache-2.0
"""Environment variables with which ROS cannot start: what is wrong, as a sentence. Imports without ROS."""

from __future__ import annotations

import ctypes
import os
import re

from lfm_perception.errors import shown

MAX_DOMAIN = 232
"""Largest ROS_DOMAIN_ID: the ports of a larger one do not exist, and Fast DDS ends the process."""


def environment_problem(error: str = "") -> str | None:
    """Why ROS cannot start in this environment, with the way out; None if the environment is not the reason.

    Args:
        error: what rclpy said; empty: it has not been started yet.
    """
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not 0 <= _number(domain) <= MAX_DOMAIN:
        return f"ROS_DOMAIN_ID is {shown(domain)}: set it to a whole number from 0 to {MAX_DOMAIN}"
    if found := re.search(r"Failed to create log directory '(.*?)': (\d+)", error, re.DOTALL):
        return _log_problem(found[1], os.strerror(int(found[2])))
    if found := re.search(r"Failed opening file (.*?) for writing: ([^,]*)", error, re.DOTALL):
        return _log_problem(os.path.dirname(found[1]), found[2])  # noqa: PTH120 - raises nothing
    if found := re.search(r"Unable to resolve peer (.*)", error):
        peers = os.environ.get("ROS_STATIC_PEERS", "")
        return (
            f"ROS_STATIC_PEERS is {shown(peers)}, and {shown(found[1])} is no host: "
            "give names or addresses of hosts, separated by semicolons"
        )
    if error and os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        return (
            "ROS cannot start with ROS_SECURITY_ENABLE=true: check ROS_SECURITY_KEYSTORE, "
            "ROS_SECURITY_STRATEGY and the enclave, or unset it"
        )
    return None


def _number(text: str) -> int:
    """The number that rcl reads in a text, also in ` 5`, `0x10` and `5abc`; -1 where it finds none.

    One with a minus is huge, as in C: Fast DDS has no ports for it, or those of another domain.
    """
    strtoul, rest = ctypes.CDLL(None).strtoul, ctypes.c_char_p()
    strtoul.restype = ctypes.c_ulong
    encoded = os.fsencode(text)  # `rest` points into it
    number: int = strtoul(encoded, ctypes.byref(rest), 0)
    return number if number or not rest.value else -1


def _log_problem(folder: str, reason: str) -> str:
    return f"ROS cannot write its logs to {folder} ({reason.lower()}): set ROS_LOG_DIR to another folder"
