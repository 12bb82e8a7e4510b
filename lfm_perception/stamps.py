"""Stamps (capture times in integer nanoseconds), durations (in seconds), and the order of stamps."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""

STAMP_RESET_S = 0.5
"""Two consecutive frames older than the newest by more than this reset the tracker: a bag was restarted or a
clock was set back. A single such frame, or one that is older by less, is rejected."""


def to_seconds(nanoseconds: int) -> float:
    """Seconds in so many nanoseconds."""
    return nanoseconds / NANOSECONDS


def from_seconds(seconds: float | Fraction) -> int:
    """Nanoseconds in so many seconds, rounded to the nearest."""
    return round(seconds * NANOSECONDS)


def join_stamp(sec: int, nanosec: int) -> int:
    """The stamp of a builtin_interfaces/Time."""
    return sec * NANOSECONDS + nanosec


def split_stamp(stamp_ns: int) -> tuple[int, int]:
    """The `sec` and `nanosec` of a builtin_interfaces/Time."""
    return divmod(stamp_ns, NANOSECONDS)


class Rejection(NamedTuple):
    """Why a frame is rejected: a short reason to count by, and a sentence."""

    reason: str
    message: str


class StampFilter:
    """Accepts stamps in increasing order."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Accepts any stamp next."""
        self._newest_ns: int | None = None
        self._suspect_ns: int | None = None

    def check(self, stamp_ns: int) -> tuple[Rejection | None, bool]:
        """Why a stamp is rejected, None if it is accepted; and whether the stamps start over in the past."""
        newest_ns, suspect_ns = self._newest_ns, self._suspect_ns
        behind_s = 0.0 if newest_ns is None else to_seconds(newest_ns - stamp_ns)
        if stamp_ns == newest_ns:
            return Rejection("repeated", "a frame has the stamp of the one before it and is rejected"), False
        if 0.0 < behind_s <= STAMP_RESET_S:
            message = f"a frame is {behind_s:.3f} s older than the one before and is rejected"
            return Rejection("out of order", message), False
        if behind_s > STAMP_RESET_S and (suspect_ns is None or stamp_ns <= suspect_ns):
            self._suspect_ns = stamp_ns
            message = f"a frame is {behind_s:.3f} s older than the one before: rejected unless more follow"
            return Rejection("jumped back", message), False
        self._newest_ns, self._suspect_ns = stamp_ns, None
        return None, behind_s > STAMP_RESET_S
