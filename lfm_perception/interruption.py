# SPDX-License-Identifier: Apache-2.0
"""Signals that end a program: while it still imports its modules, for up to a second, and while it runs."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

IMPATIENCE_S = 1.0
"""Time after a signal to end from which another one ends the process: some senders send two."""


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


class EndRequest:
    """Waits for one of these signals, or for `put`. For the main thread, once for a process.

    The system writes a signal to a pipe. A signal that comes just before `Event.wait` would not end that, and
    `Event.set` in a handler can wait for the `Event.wait` that it interrupts. A further signal that comes
    long after the first one ends the process.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._first_s: float | None = None
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing)
        for number in numbers:
            signal.signal(number, self._on_signal)

    @property
    def is_there(self) -> bool:
        """Whether the program is to end. It stays true."""
        return bool(select.select([self._reading], (), (), 0.0)[0])

    def put(self) -> None:
        """Ask for the end, from any thread."""
        os.write(self._writing, b"\0")

    def wait(self) -> None:
        """Wait until the program is to end."""
        select.select([self._reading], (), ())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        self._first_s = self._first_s or now_s
        if now_s - self._first_s > IMPATIENCE_S:
            os._exit(1)
