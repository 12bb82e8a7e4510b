# SPDX-License-Identifier: Apache-2.0
"""Stamps (capture times in integer nanoseconds), durations (in seconds), and the order of stamps."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""

STAMP_RESET_S = 0.5
"""Two consecutive frames older than the newest by more than this reset the tracker: a bag was restarted or a
clock was set back. A single such frame, or one that is older by less, is rejected."""

MAX_GAP_S = 60.0
"""Seconds between two frames of a recording from which on a single frame is taken for an outlier."""

GAP_FACTOR = 10.0
"""A recording with a longer gap may have gaps of this many times its length: it has pauses."""


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


def unstamped(stamp_ns: int) -> Rejection | None:
    """Why the stamp of a message's header is none, or None if it is one."""
    if stamp_ns > 0:
        return None
    if stamp_ns == 0:
        message = "a frame is stamped 0 and is rejected: the camera's driver must stamp its images"
    else:
        seconds = to_seconds(stamp_ns)
        message = (
            f"a frame is stamped {seconds:.3f} s, before 1970, and is rejected: check the camera's clock"
        )
    return Rejection("no stamp", message)


class StampFilter:
    """Accepts stamps in increasing order: the one rule of the node, of replays and of offline runs.

    Args:
        headers: the stamps are those of message headers, where 0 means that there is none.
        max_gap_s: a single frame that is ahead by more is rejected. Unlimited where a clock is at hand to
            compare stamps with, as in the node.
    """

    def __init__(self, *, headers: bool = False, max_gap_s: float = math.inf) -> None:
        self._headers = headers
        self._max_gap_s = max_gap_s
        self.reset()

    def reset(self) -> None:
        """Accepts any stamp next."""
        self._newest_ns: int | None = None
        self._suspect_ns: int | None = None

    def check(self, stamp_ns: int) -> tuple[Rejection | None, bool]:
        """Why a stamp is rejected, None if it is accepted; and whether the stamps start over in the past."""
        newest_ns, suspect_ns = self._newest_ns, self._suspect_ns
        if (self._headers or stamp_ns < 0) and (rejection := unstamped(stamp_ns)):
            return rejection, False
        ahead_s = 0.0 if newest_ns is None else to_seconds(stamp_ns - newest_ns)
        if stamp_ns == newest_ns:
            return Rejection("repeated", "a frame has the stamp of the one before it and is rejected"), False
        if -STAMP_RESET_S <= ahead_s < 0.0:
            message = f"a frame is {-ahead_s:.3f} s older than the one before and is rejected"
            return Rejection("out of order", message), False
        if ahead_s < -STAMP_RESET_S and (suspect_ns is None or stamp_ns <= suspect_ns):
            self._suspect_ns = stamp_ns
            message = f"a frame is {-ahead_s:.3f} s older than the one before: rejected unless more follow"
            return Rejection("jumped back", message), False
        if ahead_s > self._max_gap_s:
            if suspect_ns is None or newest_ns is None or not newest_ns < suspect_ns < stamp_ns:
                self._suspect_ns = stamp_ns
                message = f"a frame is {ahead_s:.3f} s newer than the one before: rejected unless more follow"
                return Rejection("jumped ahead", message), False
            self._max_gap_s = GAP_FACTOR * ahead_s
        self._newest_ns, self._suspect_ns = stamp_ns, None
        return None, ahead_s < -STAMP_RESET_S
