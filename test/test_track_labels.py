# SPDX-License-Identifier: Apache-2.0
"""Labels of tracks: votes, and settings of their own."""

from __future__ import annotations

import pytest
from tracks import STEP_S, following, seen

from lfm_perception.errors import PerceptionError
from lfm_perception.settings import Settings, TrackerSettings
from lfm_perception.tracking import Tracker


def test_a_label_that_flips_once_is_outvoted() -> None:
    tracker = following()
    for i, label in enumerate(["box", "box", "crate", "box"]):
        tracker.update([seen(0.5, label=label)], i * STEP_S)
        assert {track.label for track in tracker.predict(i * STEP_S)} <= {"box"}
    assert [track.track_id for track in tracker.predict(0.6)] == [1]


def test_a_name_that_stays_is_taken_over() -> None:
    tracker = following()
    for i, label in enumerate(["box", "crate", "crate", "crate"]):
        tracker.update([seen(0.5, label=label)], i * STEP_S)
    assert [(track.track_id, track.label) for track in tracker.predict(0.6)] == [(1, "crate")]


def test_labels_decide_between_objects_in_one_place() -> None:
    tracker = following()
    person, pallet = seen(0.5, size=0.2, label="person"), seen(0.53, size=0.2, label="pallet")
    tracker.update([person, pallet], 0.0)
    before = dict(_names(tracker, 0.0, hits=1))
    tracker.update([pallet, person], 0.2)
    assert dict(_names(tracker, 0.2, hits=1)) == before
    assert sorted(before.values()) == ["pallet", "person"]


def _names(tracker: Tracker, stamp_s: float, hits: int) -> list[tuple[int, str]]:
    tracker.reconfigure(TrackerSettings(min_hits=hits))
    return [(track.track_id, track.label) for track in tracker.predict(stamp_s)]


def test_a_label_can_have_settings_of_its_own() -> None:
    tracker = following(per_label=("forklift: min_hits=3, max_age=0.1",))
    both = [seen(0.2, label="person"), seen(0.8, label="forklift")]
    for i in range(2):
        tracker.update(both, i * STEP_S)
    assert [track.label for track in tracker.predict(STEP_S)] == ["person"]
    tracker.update(both, 2 * STEP_S)
    assert {track.label for track in tracker.predict(2 * STEP_S)} == {"person", "forklift"}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("forklift", "takes `label: name=value"),
        ("forklift: min_hits", "takes `label: name=value"),
        (": min_hits=2", "takes `label: name=value"),
        ("forklift: min_hit=2", "did you mean 'min_hits'"),
        ("forklift: min_hits=0", "tracker.min_hits must be a whole number from 1 to 100"),
        ("forklift: min_hits=[", "is no value for min_hits"),
    ],
)
def test_what_a_label_cannot_have_is_said_at_once(entry: str, said: str) -> None:
    with pytest.raises(PerceptionError) as error:
        Settings().with_values({"tracker.per_label": [entry]})
    assert said in str(error.value)
