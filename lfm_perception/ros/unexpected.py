# SPDX-License-Identifier: Apache-2.0
"""Unexpected exceptions of a node: none ends it, each is logged once with its traceback, all are counted."""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger

from lfm_perception.text import safe_text

P = ParamSpec("P")
R = TypeVar("R")

SHOWN_S = 60.0
"""Time for which diagnostics are an ERROR after an unexpected exception."""

MAX_LOGGED = 100
"""Number of different exceptions that are logged; the others are only counted."""


class UnexpectedErrors:
    """Records exceptions that are bugs. Thread-safe.

    `count` is their number, `last` the last one in a sentence.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger, self._lock = logger, threading.Lock()
        self._logged = set[tuple[str, str]]()
        self._last_s: float | None = None
        self.count, self.last = 0, ""

    @property
    def recent(self) -> bool:
        """Whether one happened within the last `SHOWN_S` seconds."""
        return self._last_s is not None and time.monotonic() - self._last_s < SHOWN_S

    def record(self, where: str, error: BaseException) -> None:
        """Count an exception, and log it if none of its type was raised at its line before."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else where
        with self._lock:
            self.count, self._last_s = self.count + 1, time.monotonic()
            self.last = safe_text(f"{where}: {type(error).__name__}: {error}", 200)
            key = type(error).__name__, place
            known = key in self._logged or len(self._logged) >= MAX_LOGGED
            self._logged.add(key)
        if not known:
            lines = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace").decode()
            self._logger.error(
                f"unexpected error in {self.last}; the node goes on, please report it\n{lines}"
            )

    def guarded(
        self, where: str, callback: Callable[P, R], otherwise: Callable[P, R] | None = None
    ) -> Callable[P, R]:
        """A callback that records every exception, and then returns what `otherwise` returns."""

        @functools.wraps(callback)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return callback(*args, **kwargs)
            except Exception as error:
                self.record(where, error)
                return otherwise(*args, **kwargs) if otherwise is not None else None  # type: ignore[return-value]

        return run
