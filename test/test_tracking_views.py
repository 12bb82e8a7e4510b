# SPDX-License-Identifier: Apache-2.0
"""The tracker where an inference sees a region of the frame: misses, unseen tracks, cut boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.geometry import WHOLE, Box
from lfm_perception.scene import Detection, Track, View
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import Tracker, open_tracker
from lfm_perception.tracking.track_state import MAX_UNSEEN_S

STEP_S = 0.25
COARSE = View(WHOLE, 320.0, 192.0, 14.0)
LEFT = View(Box(0.0, 0.0, 0.5, 0.5), 640.0, 384.0, 14.0)
RIGHT = View(Box(0.5, 0.5, 1.0, 1.0), 640.0, 384.0, 14.0)


def box(x1: float, y1: float, x2: float, y2: float) -> Detection:
    return Detection("box", Box(x1, y1, x2, y2), 0.9)


SMALL = box(0.2, 0.2, 0.23, 0.25)
"""9.6 picture pixels in the whole frame, 19 in a region."""

LARGE = box(0.3, 0.1, 0.4, 0.3)


def tracked(found: Detection, view: View = LEFT, until_s: float = 1.0) -> Tracker:
    """A tracker that has seen an object at every step until a stamp."""
    tracker = open_tracker(TrackerSettings())
    for step in range(round(until_s / STEP_S) + 1):
        tracker.update([found], step * STEP_S, view)
    return tracker


def ids(tracker: Tracker, stamp_s: float) -> list[int]:
    return [track.track_id for track in tracker.predict(stamp_s)]


@pytest.mark.parametrize(
    ("found", "view", "is_missed"),
    [
        (LARGE, LEFT, True),
        (LARGE, COARSE, True),
        (LARGE, RIGHT, False),  # outside
        (SMALL, LEFT, True),
        (SMALL, COARSE, False),  # too small there
        (box(0.45, 0.2, 0.55, 0.3), LEFT, False),  # half inside
        (box(0.42, 0.2, 0.51, 0.3), LEFT, True),  # 89% inside
    ],
)
def test_an_object_is_missed_only_where_it_could_be_seen(
    found: Detection, view: View, is_missed: bool
) -> None:
    tracker = tracked(found, View(WHOLE, 640.0, 384.0, 14.0))
    for step in range(5, 8):
        tracker.update([], step * STEP_S, view)
    assert ids(tracker, 7 * STEP_S) == ([] if is_missed else [1])


def test_an_unseen_track_is_held_by_time_and_keeps_its_identity() -> None:
    tracker = tracked(SMALL)
    step = 4
    while (step + 1) * STEP_S <= 1.0 + MAX_UNSEEN_S:
        step += 1
        tracker.update([], step * STEP_S, RIGHT)
    tracker.update([SMALL], step * STEP_S + 0.01, LEFT)
    assert ids(tracker, step * STEP_S + 0.01) == [1]


def test_an_unseen_track_is_published_until_it_may_be_far_away() -> None:
    tracker = tracked(SMALL)
    shown = []
    for step in range(5, 24):
        tracker.update([], step * STEP_S, RIGHT)
        shown.append(ids(tracker, step * STEP_S))
    assert (shown[:5], shown[-1]) == ([[1]] * 5, [])
    tracker.update([SMALL], 24 * STEP_S, LEFT)
    assert ids(tracker, 24 * STEP_S) == [1]


def test_an_unseen_track_ends_when_it_was_held_for_long() -> None:
    tracker = tracked(SMALL)
    for step in range(5, 8 + round(MAX_UNSEEN_S / STEP_S)):
        tracker.update([], step * STEP_S, RIGHT)
    for step in range(8 + round(MAX_UNSEEN_S / STEP_S), 10 + round(MAX_UNSEEN_S / STEP_S)):
        tracker.update([SMALL], step * STEP_S, LEFT)
    assert ids(tracker, step * STEP_S) == [2]


def test_a_tentative_track_waits_for_a_view_that_can_confirm_it() -> None:
    tracker = tracked(SMALL, until_s=0.0)
    tracker.update([], 0.25, COARSE)
    tracker.update([], 0.5, RIGHT)
    assert ids(tracker, 0.5) == []
    assert len(tracker.pending(0.5).tentative) == 1
    tracker.update([SMALL], 0.75, LEFT)
    assert ids(tracker, 0.75) == [1]
    assert len(tracker.pending(0.75).tentative) == 0


def test_a_box_that_a_region_cuts_off_starts_no_track_and_is_pending() -> None:
    tracker = tracked(box(0.4, 0.2, 0.5, 0.3))
    assert ids(tracker, 1.0) == []
    pending = tracker.pending(1.0)
    assert len(pending.tentative) == 0
    assert pending.fragments[-1].tolist() == [0.4, 0.2, 0.5, 0.3]
    tracker.update([], 1.25, View(Box(0.25, 0.0, 0.75, 0.5), 640.0, 384.0, 14.0))
    assert len(tracker.pending(1.25).fragments) == 0


def test_an_edge_of_the_frame_cuts_nothing_off() -> None:
    tracker = tracked(box(0.0, 0.2, 0.1, 0.3))
    assert ids(tracker, 1.0) == [1]
    assert len(tracker.pending(1.0).fragments) == 0


def test_a_cut_box_moves_its_track_and_keeps_its_size() -> None:
    tracker = open_tracker(TrackerSettings())

    def at(step: int) -> tuple[float, float]:
        left = 0.2 + 0.04 * step
        return left, left + 0.1

    for step in range(4):
        tracker.update([box(at(step)[0], 0.2, at(step)[1], 0.35)], step * STEP_S, LEFT)
    for step in range(5, 7):  # the right side is beyond the region's edge
        tracker.update([box(at(step)[0], 0.2, 0.5, 0.35)], step * STEP_S, LEFT)
    (track,) = tracker.predict(6 * STEP_S)
    assert track.time_since_update_s == 0.0
    assert track.box.xyxy == pytest.approx([at(6)[0], 0.2, at(6)[1], 0.35], abs=0.015)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 0.9), st.floats(0.0, 0.9), st.floats(0.001, 0.1), st.integers(0, 3), st.booleans()
        ),
        max_size=12,
    )
)
def test_any_views_leave_valid_tracks(steps: list[tuple[float, float, float, int, bool]]) -> None:
    views = (None, COARSE, LEFT, RIGHT)
    tracker = open_tracker(TrackerSettings())
    seen: set[int] = set()
    for index, (x, y, size, view, again) in enumerate(steps):
        found = [box(x, y, x + size, y + size)] + ([SMALL] if again else [])
        tracker.update(found, index * STEP_S, views[view])
        tracks: tuple[Track, ...] = tracker.predict(index * STEP_S)
        seen |= {track.track_id for track in tracks}
        pending = tracker.pending(index * STEP_S)
        for boxes in (pending.tentative, pending.fragments):
            assert np.isfinite(boxes).all()
    assert all(track_id > 0 for track_id in seen)
