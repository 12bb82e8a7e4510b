# SPDX-License-Identifier: Apache-2.0
"""Rules about the distance from the camera, which is not always known."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Command
from rule_scenes import events, happened, rules, track

from lfm_perception.rules import Known, RuleEngine, parse_rules
from lfm_perception.settings import Settings

BELOW = "{label: person, distance: {below: 2}}"


def true_of(when: str, *metres: float | None) -> bool:
    """Whether a condition is true of the last of these persons, or of the scene with all of them."""
    tracks = [track(number, number / 10, distance=each) for number, each in enumerate(metres, start=1)]
    (found,) = [happened(rules(f"  it: {{when: {when}}}\n"), [tracks])]
    return any(number in (0, len(metres)) for *_, number in found) if "count" not in when else bool(found)


def test_a_distance_is_in_a_range_with_hysteresis() -> None:
    file = rules("  close: {when: {distance: {below: 2, hysteresis: 0.2}}}\n")
    frames = [[track(1, 0.5, distance=metres)] for metres in (2.1, 1.9, 2.1, 2.3, 2.1)]
    assert happened(file, frames) == [("close", "begin", 0.1, 1), ("close", "end", 0.3, 1)]
    assert true_of("{distance: {above: 2, below: 3}}", 2.5)
    assert not true_of("{distance: {above: 2, below: 3}}", 1.5)


def test_pixels_as_units_do_not_change_metres() -> None:
    file = parse_rules("units: pixels\nimage: [640, 480]\nrules:\n  it: {when: {distance: {below: 2}}}\n")
    assert not file.problems
    assert happened(file, [[track(1, 0.5, distance=1.9)]])
    assert not happened(file, [[track(1, 0.5, distance=2.1)]])


@pytest.mark.parametrize(
    ("when", "near", "far"),
    [
        (BELOW, True, False),
        (f"{{not: {BELOW}}}", False, True),
        (f"{{not: {{not: {BELOW}}}}}", True, False),
        (f"{{all: [{{label: person}}, {BELOW}]}}", True, False),
        (f"{{all: [{{label: person}}, {{not: {BELOW}}}]}}", False, True),
        (f"{{not: {{all: [{{label: person}}, {BELOW}]}}}}", False, True),
        (f"{{not: {{any: [{{label: box}}, {{not: {BELOW}}}]}}}}", True, False),
        (f"{{count: {BELOW}, more_than: 0}}", True, False),
        (f"{{count: {BELOW}, fewer_than: 1}}", False, True),
        (f"{{not: {{count: {BELOW}, more_than: 0}}}}", False, True),
        (f"{{not: {{count: {BELOW}, fewer_than: 1}}}}", True, False),
        (f"{{count: {BELOW}, exactly: 1}}", True, False),
        (f"{{count: {BELOW}, exactly: 0}}", False, True),
        (f"{{not: {{count: {BELOW}, exactly: 1}}}}", False, True),
        (f"{{count: {BELOW}, more_than: 0, fewer_than: 9}}", True, False),
    ],
)
def test_what_is_not_known_makes_no_rule_true(when: str, near: bool, far: bool) -> None:
    assert (true_of(when, 1.0), true_of(when, 3.0), true_of(when, None)) == (near, far, False)


def test_what_is_known_decides_where_it_can() -> None:
    assert true_of(f"{{any: [{{label: person}}, {BELOW}]}}", None)
    assert true_of("{not: {label: box, distance: {below: 2}}}", None)
    assert true_of(f"{{count: {BELOW}, more_than: 0}}", 1.0, None)
    assert not true_of(f"{{count: {BELOW}, fewer_than: 2}}", 1.0, None)
    assert true_of(f"{{count: {BELOW}, fewer_than: 3}}", 1.0, None)
    assert not true_of(f"{{count: {BELOW}, exactly: 1}}", 1.0, None)
    assert true_of(f"{{count: {BELOW}, exactly: 1}}", 1.0, 3.0)
    assert not true_of(f"{{not: {{count: {BELOW}, exactly: 1}}}}", None)
    assert true_of(f"{{not: {{count: {BELOW}, exactly: 1}}}}", 1.0, 1.0, None)
    assert true_of(f"{{count: {BELOW}, more_than: 0, fewer_than: 3}}", 1.0, None)
    assert not true_of(f"{{count: {BELOW}, more_than: 0, fewer_than: 2}}", 1.0, None)


def test_a_near_object_may_have_a_distance_too() -> None:
    near = "{near: {label: person, distance: {below: 2}, within: 0.5}}"
    assert true_of(near, 1.0, None)
    assert not true_of(near, None, None)
    assert not true_of(f"{{not: {near}}}", None, None)
    assert true_of(f"{{not: {near}}}", 3.0, None)


def test_an_event_tells_the_distance_where_it_is_known() -> None:
    file = rules("  it: {when: {any: [{label: person}, {distance: {below: 2}}]}}\n")
    for metres, values in ((1.5, {"distance_m": 1.5}), (None, {})):
        (event,) = events(RuleEngine(file), 1.0, [track(1, 0.5, distance=metres)])
        assert event.values == values


def test_a_rule_with_a_distance_is_refused_where_no_depth_is_measured(
    tmp_path: Path, command: Command
) -> None:
    text = f"rules:\n  close: {{when: {BELOW}}}\n  other: {{when: {{label: person}}}}\n"
    without, settings = parse_rules(text, Known.of(Settings())), Settings.from_dict({"node.depth": True})
    assert [rule.name for rule in without.rules] == ["other"]
    assert "known only to a node with depth images: set node.depth" in str(without.problems[0])
    assert (without.problems[0].line, without.problems[0].column) == (2, 33)
    assert not parse_rules(text, Known.of(settings)).problems
    path = tmp_path / "rules.yaml"
    path.write_text(f"{text}  asked: {{when: {{alert: spill}}}}\n", encoding="utf-8")
    assert command("rules", "check", path).code == 0
    assert command("rules", "check", path, "--labels", "person").code == 0, "of settings nothing is known"
    (tmp_path / "settings.yaml").write_text("detect: {labels: [person]}", encoding="utf-8")
    refused = command("rules", "check", path, "--settings", tmp_path / "settings.yaml")
    assert "set node.depth" in refused.out
    assert "there is no standing question 'spill'" in refused.out
