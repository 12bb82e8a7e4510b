# SPDX-License-Identifier: Apache-2.0
"""The order of stamps: one rule for the node, replays and offline runs."""

from __future__ import annotations

import math

import pytest

from lfm_perception.stamps import MAX_GAP_S, StampFilter, from_seconds

START_S = 1_790_000_000.0


def verdicts(seconds: list[float], *, headers: bool = True, max_gap_s: float = MAX_GAP_S) -> list[str]:
    """The reason for each stamp; `reset` where the stamps start over."""
    stamps = StampFilter(headers=headers, max_gap_s=max_gap_s)
    found = []
    for each in seconds:
        rejection, restarted = stamps.check(from_seconds(each))
        found.append(rejection.reason if rejection else "reset" if restarted else "")
        assert rejection is None or len(rejection.message) < 200
    return found


@pytest.mark.parametrize("stamp", [0.0, -1.0, -1e-9, -(2.0**31)])
def test_a_stamp_of_zero_or_below_is_none(stamp: float) -> None:
    assert verdicts([START_S, stamp, START_S + 0.1]) == ["", "no stamp", ""]
    assert verdicts([stamp, START_S]) == ["no stamp", ""]


def test_stamps_that_are_counted_start_at_zero() -> None:
    assert verdicts([0.0, 0.1], headers=False) == ["", ""]
    assert verdicts([-0.1, 0.0], headers=False) == ["no stamp", ""]


def test_one_frame_out_of_order_is_rejected_alone() -> None:
    late = [START_S, START_S + 0.2, START_S + 0.1, START_S + 0.3, START_S + 0.3, START_S + 0.4]
    assert verdicts(late) == ["", "", "out of order", "", "repeated", ""]


def test_one_frame_of_another_time_is_rejected_alone() -> None:
    for offset, reason in ((-3600.0, "jumped back"), (3600.0, "jumped ahead")):
        stamps = [START_S, START_S + 0.1, START_S + offset, START_S + 0.2, START_S + offset, START_S + 0.3]
        assert verdicts(stamps) == ["", "", reason, "", reason, ""]


def test_several_frames_of_the_past_start_over() -> None:
    assert verdicts([5000.0, 5000.1, 10.0, 10.1, 10.2]) == ["", "", "jumped back", "reset", ""]


def test_a_recording_may_pause_and_may_be_a_time_lapse() -> None:
    assert verdicts([100.0, 100.1, 400.0, 400.1, 700.0]) == ["", "", "jumped ahead", "", ""]
    assert verdicts([1000.0 * n for n in range(1, 6)]) == ["", "jumped ahead", "", "", ""]


def test_with_a_clock_to_compare_with_no_gap_is_too_long() -> None:
    assert verdicts([100.0, 1e9], max_gap_s=math.inf) == ["", ""]
