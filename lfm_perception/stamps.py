"""Stamps are capture times in integer nanoseconds, durations are seconds: the conversions between the two."""

from __future__ import annotations

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""


def to_seconds(nanoseconds: int) -> float:
    """Seconds in so many nanoseconds."""
    return nanoseconds / NANOSECONDS


def from_seconds(seconds: float) -> int:
    """Nanoseconds in so many seconds, rounded to the nearest."""
    return round(seconds * NANOSECONDS)
