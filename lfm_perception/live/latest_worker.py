# SPDX-License-Identifier: Apache-2.0
"""A thread with a latest-frame queue of length one: the newest item wins, and the producer never blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from lfm_perception.errors import PerceptionError

T = TypeVar("T")


class LatestWorker(Generic[T]):
    """A thread that processes the newest submitted item; a newer item replaces one that waits.

    Args:
        name: of the thread.
        work: processes one item. A PerceptionError it raises is ignored: the item is no valid image, which
            is reported where the frame is inferred.
        on_error: receives every other exception; the thread goes on.
    """

    def __init__(self, name: str, work: Callable[[T], None], on_error: Callable[[Exception], None]) -> None:
        self._work, self._on_error = work, on_error
        self._changed = threading.Condition()
        self._item: T | None = None
        self._submitted = self._completed = 0
        self._busy, self._running = False, True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of items that wait: 0 or 1."""
        return int(self._item is not None)

    @property
    def _idle(self) -> bool:
        return not self._running or (self._item is None and not self._busy)

    def submit(self, item: T) -> bool:
        """Queues an item, in microseconds. Returns whether it replaced one that waited."""
        with self._changed:
            replaced = self._item is not None
            self._item = item
            self._submitted += 1
            self._changed.notify_all()
        return replaced

    def wait_idle(self) -> None:
        """Blocks until every item submitted before this call was processed, replaced or discarded."""
        with self._changed:
            newest = self._submitted
            self._changed.wait_for(lambda: self._completed >= newest or self._idle)

    def clear(self) -> None:
        """Discards the item that waits."""
        with self._changed:
            self._item = None
            self._changed.notify_all()

    def close(self, interrupt: Callable[[], None] = lambda: None) -> None:
        """Discards the item that waits and joins the thread; `interrupt` is repeated until `work` returns."""
        with self._changed:
            self._item, self._running = None, False
            self._changed.notify_all()
        while self._thread.is_alive():
            interrupt()
            self._thread.join(0.1)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._item is not None or not self._running)
                    item, self._item, number = self._item, None, self._submitted
                    self._busy = item is not None
                if item is None:
                    return
                self._try(item)
                with self._changed:
                    self._completed, self._busy = number, False
                    self._changed.notify_all()
        finally:  # however the thread ends, `wait_idle` returns
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _try(self, item: T) -> None:
        try:
            self._work(item)
        except PerceptionError:
            pass
        except Exception as error:  # a bug must not end the thread
            self._on_error(error)
