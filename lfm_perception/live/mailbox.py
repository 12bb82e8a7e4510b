"""Latest-frame queues between threads: one place, the newest item wins, and the producer never blocks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from lfm_perception.errors import PerceptionError

T = TypeVar("T")


class FrameMailbox(Generic[T]):
    """A latest-frame queue of length one: a new frame replaces the one that waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: T | None = None
        self._open = True
        self.dropped = 0
        """Frames that a newer one replaced."""

    def put(self, frame: T) -> None:
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def take(self) -> T | None:
        """Blocks until there is a frame and returns it; returns None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or not self._open)
            frame, self._frame = self._frame, None
            return frame if self._open else None

    def clear(self) -> None:
        """Discards the frame that waits."""
        with self._changed:
            self._frame = None

    def open(self) -> None:
        with self._changed:
            self._frame, self._open = None, True

    def close(self) -> None:
        """Discards the frame that waits, and releases every thread that is blocked in `take`."""
        with self._changed:
            self._frame, self._open = None, False
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Number of frames that wait: 0 or 1."""
        return int(self._frame is not None)


class LatestWorker(Generic[T]):
    """A thread that processes the newest submitted item and skips those that a newer one replaced.

    Args:
        name: of the thread.
        work: processes one item. A PerceptionError it raises is ignored: the item is no valid image, which
            is reported where the frame is inferred.
        on_error: receives every other exception; the thread goes on.
    """

    def __init__(self, name: str, work: Callable[[T], None], on_error: Callable[[Exception], None]) -> None:
        self._work, self._on_error = work, on_error
        self._mailbox = FrameMailbox[tuple[int, T]]()
        self._progress = threading.Condition()
        self._submitted = 0
        self._completed: float = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Queues an item; takes microseconds."""
        with self._progress:
            self._submitted += 1
            self._mailbox.put((self._submitted, item))

    def wait_idle(self) -> None:
        """Blocks until every item submitted before this call was processed or replaced."""
        with self._progress:
            newest = self._submitted
            self._progress.wait_for(lambda: self._completed >= newest)

    def close(self) -> None:
        """Discards the item that waits and joins the thread."""
        self._mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (entry := self._mailbox.take()) is not None:
                number, item = entry
                try:
                    self._work(item)
                except PerceptionError:
                    pass
                except Exception as error:  # a bug must not end the thread
                    self._on_error(error)
                self._complete(number)
        finally:  # however the thread ends, `wait_idle` returns
            self._complete(math.inf)

    def _complete(self, number: float) -> None:
        with self._progress:
            self._completed = number
            self._progress.notify_all()
