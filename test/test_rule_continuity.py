# SPDX-License-Identifier: Apache-2.0
"""Events of objects whose track is lost and begins anew, and of tracks that are shown late."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rule_scenes import RATE_HZ, happened, rules, track

from lfm_perception.rules import RuleEngine
from lfm_perception.scene import Track
from lfm_perception.stamps import from_seconds

WATCH = """
  inside: {when: {inside: dock}, end_after: 2}
  comes: {when: {label: person, appears: 0.5}}
  goes: {when: {label: person, disappears: 1.5}}
"""


def interrupted(
    first: Sequence[Track], gap_s: float, then: Sequence[Track], seconds: float = 3.0
) -> Sequence[Sequence[Track]]:
    count = round(seconds * RATE_HZ)
    return [[*first]] * count + [[]] * round(gap_s * RATE_HZ) + [[*then]] * count


def names(found: list[tuple[str, str, float, int]]) -> list[tuple[str, str]]:
    return [each[:2] for each in found]


BEGUN = [("inside", "begin"), ("comes", "moment")]


def test_a_track_that_begins_where_another_was_lost_continues_its_events() -> None:
    frames = interrupted([track(1, 0.7)], 0.6, [track(2, 0.75)])
    assert names(happened(rules(WATCH), frames)) == BEGUN
    engine = RuleEngine(rules(WATCH))
    for index, tracks in enumerate(frames):
        engine.update(from_seconds(1 + index / RATE_HZ), tracks)
    (active,) = engine.active_events
    assert active.event_id.endswith("-1")
    assert [each.track_id for each in active.tracks] == [2]
    (ended,) = engine.end_all()
    assert (ended.event_id, ended.state) == (active.event_id, "end")


def test_another_label_another_place_and_a_later_time_are_another_object() -> None:
    gone = [*BEGUN, ("goes", "moment"), ("inside", "end")]
    box = interrupted([track(1, 0.7)], 0.6, [track(2, 0.7, label="box")])
    assert sorted(names(happened(rules(WATCH), box))) == sorted([*gone, ("inside", "begin")])
    far = interrupted([track(1, 0.7)], 0.6, [track(2, 0.9)])
    assert sorted(names(happened(rules(WATCH), far))) == sorted([*gone, *BEGUN])
    late = interrupted([track(1, 0.7)], 1.3, [track(2, 0.7)])
    assert sorted(names(happened(rules(WATCH), late))) == sorted([*gone, *BEGUN])


def test_the_time_until_a_new_track_counts_to_its_first_detection() -> None:
    shown_late = interrupted([track(1, 0.7)], 1.3, [track(2, 0.7, age=0.4)])
    assert names(happened(rules(WATCH), shown_late)) == BEGUN


def test_of_two_lost_tracks_each_is_continued_once_by_the_nearest() -> None:
    first = [track(1, 0.7), track(2, 0.78)]
    frames = interrupted(first, 0.5, [track(3, 0.77), track(4, 0.71)])
    assert names(happened(rules(WATCH), frames)).count(("comes", "moment")) == 2
    engine = RuleEngine(rules(WATCH))
    for index, tracks in enumerate(frames):
        engine.update(from_seconds(1 + index / RATE_HZ), tracks)
    continued = {event.event_id[-2:]: event.tracks[0].track_id for event in engine.active_events}
    assert continued == {"-1": 4, "-2": 3}
    joined = interrupted(first, 0.5, [track(3, 0.74)])
    assert names(happened(rules(WATCH), joined)).count(("goes", "moment")) == 1


def test_what_is_lost_is_continued_across_a_line() -> None:
    frames = interrupted([track(1, 0.47)], 0.4, [track(2, 0.53)])
    found = happened(rules("  over: {when: {crosses: {line: door, to: right}}}\n"), frames)
    assert names(found) == [("over", "moment")]


def test_a_new_track_appears_by_its_first_detection_and_an_old_one_by_its_properties() -> None:
    frames: list[Sequence[Track]] = [[track(1, 0.7, age=0.4 + index / RATE_HZ)] for index in range(10)]
    assert happened(rules(WATCH), frames)[1] == ("comes", "moment", 0.1, 1)
    enters = rules("  in: {when: {inside: dock, appears: 0.5}}\n")
    moved: list[Sequence[Track]] = [
        [track(1, 0.2 if index < 10 else 0.7, age=index / RATE_HZ)] for index in range(20)
    ]
    assert happened(enters, moved) == [("in", "moment", 1.5, 1)]


def test_an_object_is_gone_since_its_last_detection_and_not_since_its_track_is_hidden() -> None:
    coasting: list[Sequence[Track]] = [[track(1, 0.7, missed=index / RATE_HZ)] for index in range(8)]
    frames = [[track(1, 0.7)], *coasting, *[[]] * 20]
    goes = [each for each in happened(rules(WATCH), frames) if each[0] == "goes"]
    assert goes == [("goes", "moment", 1.6, 1)]
    returns = [*frames[:9], *[[]] * 5, *[[track(2, 0.7)]] * 10]
    assert ("comes", "moment", 1.9, 2) in happened(rules(WATCH), returns), "1.3 s without a detection"


def test_an_object_that_starts_to_run_is_continued_by_the_track_that_its_speed_leads_back_to_it() -> None:
    stood: list[Sequence[Track]] = [[track(1, 0.55, missed=index / RATE_HZ)] for index in range(4)]

    def runs(vx: float) -> list[Sequence[Track]]:
        return [[track(2, 0.8 + 0.03 * index, age=0.1 * index + 0.2, vx=vx)] for index in range(20)]

    start: list[Sequence[Track]] = [[track(1, 0.55)]] * 10
    continued = happened(rules(WATCH), [*start, *stood, *runs(0.5)])
    assert names(continued) == BEGUN
    another = happened(rules(WATCH), [*start, *stood, *runs(-0.1)])
    assert sorted(names(another)) == sorted([*BEGUN, *BEGUN, ("goes", "moment"), ("inside", "end")])


@pytest.mark.parametrize(
    ("before", "after", "continues"),
    [
        (0.2, -0.2, False),  # one walks out of a door, another one in
        (-0.1, 0.3, False),
        (0.2, 0.15, True),
        (0.2, 0.0, True),  # one stops
        (0.0, -0.2, True),  # one starts
        (0.05, -0.05, True),  # one sways
    ],
)
def test_a_track_is_not_continued_by_one_that_moves_the_opposite_way(
    before: float, after: float, continues: bool
) -> None:
    frames = interrupted(
        [track(1, 0.7, vx=before)], 0.3, [track(2, 0.7 + 0.3 * (before + after) / 2, vx=after)]
    )
    expected = [] if continues else [*BEGUN, ("goes", "moment"), ("inside", "end")]
    assert sorted(names(happened(rules(WATCH), frames))) == sorted([*BEGUN, *expected])


def test_a_label_that_is_corrected_at_once_counts_from_the_first_detection() -> None:
    def labelled(change_s: float) -> list[Sequence[Track]]:
        ages = [round(0.2 + index / RATE_HZ, 3) for index in range(20)]
        return [[track(1, 0.7, label="box" if age < change_s else "person", age=age)] for age in ages]

    comes = rules("  comes: {when: {label: person, appears: 0.5}}\n")
    assert happened(comes, labelled(0.4)) == [("comes", "moment", 0.3, 1)]
    assert happened(comes, labelled(1.2)) == [("comes", "moment", 1.5, 1)], "another object, or a new state"
