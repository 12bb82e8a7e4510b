# SPDX-License-Identifier: Apache-2.0
"""The rule engine under storms, clocks that jump and tracks that come and go."""

from __future__ import annotations

import random

import pytest
from rule_scenes import events, happened, rules, track

from lfm_perception.rules import RuleEngine
from lfm_perception.rules import engine as rule_engine
from lfm_perception.rules.engine import MAX_STEP_S
from lfm_perception.scene import Track
from lfm_perception.stamps import from_seconds


def test_a_cool_down_suppresses_further_events_of_a_rule_and_counts_them() -> None:
    file = rules("  in: {when: {inside: dock}, cooldown: 1}\n  person: {when: {label: person}}\n")
    engine = RuleEngine(file)
    found = events(engine, 1.0, [track(i, 0.6) for i in range(1, 6)])
    assert [event.tracks[0].track_id for event in found if event.rule == "in"] == [1]
    assert sum(event.rule == "person" for event in found) == 5
    assert engine.suppressed == 4
    ended = events(engine, 2.0, [])
    assert sum(event.rule == "in" for event in ended) == 1, "an end without a begin"
    (event, *_) = events(engine, 2.1, [track(9, 0.6)])
    assert (event.rule, event.suppressed) == ("in", 4)


def test_a_storm_is_bounded_and_every_begin_has_its_end() -> None:
    engine = RuleEngine(rules("  any: {when: {score: {above: 0.1}}}\n"), max_rate=10.0)
    rng = random.Random(1)
    begun, ended = set[str](), set[str]()
    for index in range(90):
        new = [track(number, 0.6, label=str(number)) for number in rng.choices(range(10_000), k=20)]
        for event in events(engine, 1 + index / 30, new):
            assert event.tracks
            (begun if event.state == "begin" else ended).add(event.event_id)
    assert 10 <= len(begun) <= 10.0 * 3 + 10
    assert engine.suppressed > 1500
    ended |= {event.event_id for event in engine.end_all()}
    assert begun == ended
    assert not engine.active_events


def test_tracks_that_come_and_go_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_engine, "MAX_COLUMNS", 100)
    engine = RuleEngine(rules("  any: {when: {label: person, disappears: 60}}\n"))
    for index in range(300):
        events(engine, 1 + index / 1000, [track(index + 1, 0.6)])
    assert len(engine._ids) <= 101
    events(engine, 200.0, [])
    for second in range(201, 260):
        events(engine, second, [])
    events(engine, 300.0, [track(1, 0.6)])
    assert engine._ids == [1]


@pytest.mark.parametrize("ahead_s", [3600.0, 1e9])
def test_a_clock_that_jumps_ahead_fulfils_no_duration(ahead_s: float) -> None:
    engine = RuleEngine(rules("  long: {when: {label: person}, for: 10}\n"))
    there = [track(1, 0.6)]
    assert not events(engine, 1.0, there)
    assert not events(engine, 1.0 + ahead_s, there)
    assert engine.clock_jumps == 1
    assert not events(engine, 1.0 + ahead_s + 10.0 - MAX_STEP_S - 0.1, there)
    assert events(engine, 1.0 + ahead_s + 10.0 - MAX_STEP_S, there)


def test_a_clock_that_is_set_back_ends_the_events_and_begins_anew() -> None:
    engine = RuleEngine(rules("  there: {when: {label: person}}\n"))
    (begun,) = events(engine, 100.0, [track(1, 0.6)])
    assert not events(engine, 99.9, [track(1, 0.6)]), "a frame out of order"
    assert not events(engine, 100.0, []), "a repeated frame"
    ended, anew = events(engine, 50.0, [track(1, 0.6)])
    assert (ended.event_id, ended.state, ended.stamp_ns) == (begun.event_id, "end", begun.stamp_ns)
    assert (anew.state, anew.stamp_ns) == ("begin", from_seconds(50.0))
    assert engine.clock_jumps == 1


def test_a_rule_does_not_change_what_the_others_say() -> None:
    """Each rule of many gives the events that it gives alone."""
    conditions = [
        "{label: person, inside: dock}", "{inside: [dock, pit]}", "{crosses: door}", "{disappears: 0.2}",
        "{count: {label: box}, more_than: 1}", "{near: {label: box, within: 0.3}}", "{speed: {above: 0.1}}",
        "{all: [{label: box}, {not: {inside: pit}}]}", "{any: [{label: box}, {outside: dock}]}",
    ]  # fmt: skip
    names = [f"  rule{index}: {{when: {each}}}\n" for index, each in enumerate(conditions)]
    rng = random.Random(2)
    frames = [_crowd(rng) for _ in range(60)]
    together = happened(rules("".join(names)), frames)
    assert len(together) > 100
    for index, name in enumerate(names):
        assert [each for each in together if each[0] == f"rule{index}"] == happened(rules(name), frames)


def _crowd(rng: random.Random) -> list[Track]:
    """Up to 6 of 8 objects anywhere: two in the first frame need not be there in the next."""
    chosen = rng.sample(range(1, 9), rng.randint(0, 6))
    return [
        track(
            each, rng.random(), rng.uniform(0.3, 1.0), rng.choice(("person", "box")), vx=rng.uniform(0, 0.2)
        )
        for each in chosen
    ]
