# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while a program still imports its modules, for up to a second: an end without a traceback."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def quiet_interruption() -> Iterator[None]:
    """Have SIGINT end this process at once, with code 130, until the block ends or handles it in another way.

    Where SIGINT is ignored, as in what a shell runs in the background, it stays so. For the main thread.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _end:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
