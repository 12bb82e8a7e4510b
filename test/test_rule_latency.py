# SPDX-License-Identifier: Apache-2.0
"""Durations count from the frame that an answer is about, however late it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from opinions import scene_of
from rule_scenes import RATE_HZ, events, happened, rules, track

from lfm_perception.rules import RuleEngine
from lfm_perception.scene import AlertStatus, AttributeValue, Frame, Scene, Track, Velocity
from lfm_perception.stamps import from_seconds

LATENCY_S = 0.2


def answered(*places: float) -> list[list[Track]]:
    """Frames of a track at these places, one answer each second, which arrives `LATENCY_S` late."""
    missed_s = [(index - LATENCY_S * RATE_HZ) % RATE_HZ / RATE_HZ + LATENCY_S for index in range(len(places))]
    return [[track(1, x, missed=missed)] for x, missed in zip(places, missed_s, strict=True)]


def begun(text: str, frames: Iterable[tuple[Sequence[Track], Scene | None]]) -> list[tuple[str, float]]:
    """Rule and second of each event that begins at `RATE_HZ`."""
    engine = RuleEngine(rules(text))
    return [
        (event.rule, index / RATE_HZ)
        for index, (tracks, scene) in enumerate(frames)
        for event in events(engine, 1.0 + index / RATE_HZ, tracks, scene=scene)
        if event.begins
    ]


def empty_scene() -> Scene:
    return scene_of(Frame(np.zeros((48, 64, 3), np.uint8), 1))


def told(second: float, *, active: bool = True) -> Scene:
    """A scene with the alert `spill`, of the frame at this second."""
    probabilities = {"yes": 0.9, "no": 0.1}
    status = AlertStatus("spill", probabilities, 0.9, active, from_seconds(1.0 + second))
    return replace(empty_scene(), alerts=(status,))


def told_of(second: float, value: str = "no") -> Scene:
    """A scene with the attribute `helmet` of track 1, of the frame at this second."""
    known = AttributeValue(value, 0.9, from_seconds(1.0 + second))
    return replace(empty_scene(), attributes={1: {"helmet": known}})


def test_a_count_holds_from_the_frame_of_the_answer_that_changed_it() -> None:
    text = "  many: {when: {count: {inside: dock}, more_than: 0}, for: 0.5}\n"
    frames = answered(*[0.4] * 12, *[0.6] * 18)
    assert happened(rules(text), frames) == [("many", "begin", 1.5, 1)], "seen at 1.0, told at 1.2"
    moves = answered(*[0.4] * 15, *[0.6] * 15)
    assert happened(rules(text), moves) == [("many", "begin", 2.0, 1)], "predicted, without an answer"


@pytest.mark.parametrize("condition", ["{alert: spill}", "{all: [{label: person}, {alert: spill}]}"])
def test_an_alert_holds_from_the_frame_that_its_answer_is_about(condition: str) -> None:
    text = f"  wet: {{when: {condition}, for: 0.5}}\n"
    there = track(1, 0.7)
    late = [((there._replace(time_since_update_s=1.0 + i / RATE_HZ),), told(0.3) if i >= 6 else None)
            for i in range(20)]  # fmt: skip
    assert begun(text, late) == [("wet", 0.8)]


def test_an_attribute_holds_from_the_frame_that_its_answer_is_about() -> None:
    missed = [track(1, 0.7, missed=0.1 + index / RATE_HZ) for index in range(20)]
    seen = [((each,), told_of(0.2 if index >= 6 else 0.1, "no" if index >= 6 else "yes"))
            for index, each in enumerate(missed)]  # fmt: skip
    text = "  bare: {when: {attributes: {helmet: no}}, for: 0.5}\n"
    assert begun(text, seen) == [("bare", 0.7)]


def test_what_was_told_before_the_rules_were_read_holds_from_their_first_frame() -> None:
    there = (track(1, 0.7),)
    scene = replace(told(-10.0), attributes=told_of(-10.0).attributes)
    text = "  {name}: {{when: {condition}, for: 0.5}}\n"
    file = text.format(name="wet", condition="{alert: spill}")
    file += text.format(name="bare", condition="{attributes: {helmet: no}}")
    assert begun(file, [(there, scene)] * 20) == [("wet", 0.5), ("bare", 0.5)]


def test_what_appears_by_an_answer_counts_from_its_frame() -> None:
    text = "  comes: {when: {inside: dock, appears: 0.5}}\n"
    aged = [[each._replace(age_s=5.0)] for (each,) in answered(*[0.4] * 12, *[0.6] * 18)]
    assert happened(rules(text), aged) == [("comes", "moment", 1.5, 1)]


def test_a_track_from_before_a_silence_of_the_camera_fulfils_no_duration() -> None:
    engine = RuleEngine(rules("  in: {when: {inside: dock}, for: 10}\n"))
    assert not events(engine, 1.0, ())
    found = track(1, 0.7, vx=0.0, missed=59.5, velocity_std=Velocity(0.1, 0.1))
    assert not events(engine, 61.0, [found])
    later = [found._replace(time_since_update_s=59.5 + second) for second in (4.0, 5.1)]
    assert not events(engine, 65.0, [later[0]])
    assert events(engine, 66.1, [later[1]])
