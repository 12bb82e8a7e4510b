# SPDX-License-Identifier: Apache-2.0
"""Processes that end with their parent, even if it is killed (the parent-death signal of Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

PARENT_VARIABLE = "LFM_PERCEPTION_PARENT"
"""Environment variable with the process id of a parent that takes the started process with it."""

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, number: signal.Signals) -> bool:
    """Have this process receive the signal when `parent`, its parent process, ends.

    Returns:
        False when the parent has ended already.
    """
    with suppress(AttributeError):  # a C library without prctl
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    return os.getppid() == parent


def end_with_starter() -> None:
    """End with the parent that `PARENT_VARIABLE` names, as by Ctrl-C; without the variable, do nothing."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdecimal() and not end_with_parent(int(parent), signal.SIGINT):
        raise SystemExit("the process that started this one has ended")
