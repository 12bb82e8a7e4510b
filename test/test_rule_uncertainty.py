# SPDX-License-Identifier: Apache-2.0
"""What a tracker does not know for sure neither begins nor ends an event: speeds, distances, late answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rule_scenes import RATE_HZ, happened, rules, track

from lfm_perception.rules import parse_rules
from lfm_perception.scene import Track, Velocity

FAST = "  fast: {when: {speed: {above: 0.2}}}\n"
CLOSE = "  close: {when: {label: person, near: {label: forklift, within: 0.2}}}\n"


def moving(speeds: Sequence[float], std: float, missed: float = 0.0) -> list[list[Track]]:
    """A track that is detected in each frame, with these speeds."""
    return [[track(1, 0.5, vx=speed, velocity_std=Velocity(std, std), missed=missed)] for speed in speeds]


def at_distances(distances: Sequence[float], std: float) -> list[list[Track]]:
    return [[track(1, 0.3, std=std), track(2, 0.3 + each, label="forklift")] for each in distances]


@pytest.mark.parametrize("std", [0.0, 0.1])
def test_a_speed_within_its_uncertainty_does_not_flap(std: float) -> None:
    around = [0.18, 0.22] * 5
    found = happened(rules(FAST), moving([0.0, 0.0, *around, 0.3, *around, 0.1], std))
    certain = [("fast", "begin", 1.2, 1), ("fast", "end", 2.3, 1)]
    assert found == certain if std else len(found) > 15


@pytest.mark.parametrize("limits", ["{above: 0.02}", "{below: 0.1}", "{above: 0.02, below: 0.1}"])
def test_a_range_narrower_than_the_uncertainty_can_be_entered_and_left(limits: str) -> None:
    file = rules(f"  slow: {{when: {{speed: {limits}}}}}\n")
    inside = 0.04 if "above" in limits and "below" not in limits else 0.05 if "above" in limits else 0.0
    outside = 0.0 if "below" not in limits else 1.0
    found = happened(file, moving([outside, outside, inside, outside], std=0.04))
    assert [each[:3] for each in found] == [("slow", "begin", 0.2), ("slow", "end", 0.3)]


@pytest.mark.parametrize("std", [0.0, 0.04])
def test_a_distance_within_its_uncertainty_does_not_flap(std: float) -> None:
    around = [0.19, 0.21] * 5
    found = happened(rules(CLOSE), at_distances([0.4, *around, 0.1, *around, 0.3], std))
    certain = [("close", "begin", 1.1, 1), ("close", "end", 2.2, 1)]
    assert found == certain if std else len(found) > 15


def test_the_uncertainty_of_a_distance_is_that_of_both_boxes() -> None:
    frames = [[track(1, 0.3), track(2, 0.3 + each, label="forklift", std=0.04)] for each in (0.3, 0.19, 0.17)]
    assert happened(rules(CLOSE), frames) == [("close", "begin", 0.2, 1)]


def test_the_speed_of_a_new_track_is_known_with_the_next_detection() -> None:
    missed = [0.2, 0.3, 0.2, 0.3]
    frames = [moving([0.5], 0.1, missed=each)[0] for each in missed]
    assert happened(rules(FAST), frames) == [("fast", "begin", 0.2, 1)]
    assert happened(rules(FAST), frames[:2]) == []
    for slow in ("{speed: {below: 0.2}}", "{not: {speed: {above: 0.2}}}"):
        file, seen = (
            rules(f"  slow: {{when: {slow}}}\n"),
            [moving([0.0], 0.1, missed=each)[0] for each in missed],
        )
        assert happened(file, seen) == [("slow", "begin", 0.2, 1)], "unknown is neither slow nor fast"


def test_an_event_goes_on_while_the_speed_of_the_track_that_continues_it_is_unknown() -> None:
    before = moving([0.5] * 3, 0.1)
    found = [[each._replace(track_id=2, velocity=Velocity(0.0, 0.0))] for (each,) in before]
    late = [[each._replace(time_since_update_s=0.2 + i / RATE_HZ) for each in f] for i, f in enumerate(found)]
    file = rules("  fast: {when: {speed: {above: 0.2}}, end_after: 0.3}\n")
    assert happened(file, [*before, [], *late]) == [("fast", "begin", 0.1, 1)]
    ended = happened(file, [*before, [], *late, *found])
    assert ended == [("fast", "begin", 0.1, 1), ("fast", "end", 0.9, 2)]


def test_a_duration_counts_from_the_frame_of_the_answer_that_made_the_condition_true() -> None:
    file = rules("  fast: {when: {speed: {above: 0.2}}, for: 0.5}\n  in: {when: {inside: dock}, for: 0.5}\n")
    # an answer about the frame at 0.8 s arrives at 1 s
    missed = [0.2 + index / RATE_HZ if index < 10 else 0.2 + (index - 10) / RATE_HZ for index in range(20)]
    answered = [moving([0.4 if i >= 10 else 0.0], 0.01, missed=each)[0] for i, each in enumerate(missed)]
    assert happened(file, answered) == [("fast", "begin", 1.3, 1)]
    predicted = [[track(1, 0.6 if i >= 5 else 0.4, missed=each)] for i, each in enumerate(missed)]
    assert happened(file, predicted) == [("in", "begin", 1.0, 1)], "predicted, without an answer"


def both(one: str, other: str) -> str:
    """A file with two zones and a rule about objects that are in both."""
    return (
        f"zones:\n  one: {one}\n  other: {other}\n"
        "rules:\n  both: {when: {all: [{inside: one}, {inside: other}]}}\n"
    )


LEFT = "[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]"
NARROW = "[[0.5, 0], [0.6, 0], [0.6, 1], [0.5, 1]]"


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (LEFT, "[[0.5, 0], [1, 0], [1, 1], [0.5, 1]]", True),
        (LEFT, "[[0.4, 0], [1, 0], [1, 1], [0.4, 1]]", False),
        (LEFT, NARROW, False),
        (LEFT, "[[0.7, 0], [0.8, 0], [0.8, 1], [0.7, 1]]", True),
        (LEFT, "[[0.2, 0.4], [0.3, 0.4], [0.3, 0.6]]", False),
        ("[[0, 0], [0.9, 0], [0, 0.9]]", "[[1, 1], [1, 0.1], [0.1, 1]]", True),
        # the foot may be in the lower zone while the centre is in the upper one
        ("[[0, 0.6], [1, 0.6], [1, 1]]", "{points: [[0, 0.4], [1, 0], [1, 0.4]], anchor: centre}", False),
    ],
)
def test_zones_lie_apart_where_no_object_can_be_in_both(one: str, other: str, *, apart: bool) -> None:
    for text in (both(one, other), both(other, one)):
        assert bool(parse_rules(text).problems) == apart


def test_an_uncertain_object_may_be_in_two_zones_that_only_touch() -> None:
    walk = [[track(1, x, std=0.1)] for x in (0.3, 0.55, 0.9)]
    found = happened(parse_rules(both(LEFT, NARROW)), walk)
    assert [each[:2] for each in found] == [("both", "begin"), ("both", "end")]
