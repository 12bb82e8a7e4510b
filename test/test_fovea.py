# SPDX-License-Identifier: Apache-2.0
"""Foveated inference: which region comes next, and boxes from region to frame and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import WHOLE, Box
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.planning.fovea import (
    CUT_OBJECTS,
    NEW_OBJECTS,
    SMALL_OBJECTS,
    UNSEEN,
    WHOLE_FRAME,
    Choice,
    Fovea,
)
from lfm_perception.planning.regions import crop, from_region, to_region
from lfm_perception.scene import Answer, CoordinateStd, Detection, Frame, Track, Velocity
from lfm_perception.settings import FoveaSettings, Settings
from lfm_perception.tracking import Pending

HD = 1280, 720
NOTHING = Pending(np.empty((0, 4)), np.empty((0, 4)))
PICTURE = plan_image(*HD, ImageLimits(max_tokens=60))


def fovea(mode: str = "on", **values: float) -> Fovea:
    return Fovea(FoveaSettings(mode=mode, **values))  # type: ignore[arg-type]


def track(x: float, y: float, size: float = 0.02, seen_s_ago: float = 0.2, track_id: int = 1) -> Track:
    box = Box(max(x - size / 2, 0.0), max(y - size / 2, 0.0), min(x + size / 2, 1.0), min(y + size / 2, 1.0))
    return Track(track_id, "box", box, 0.9, Velocity(0.0, 0.0), 5.0, seen_s_ago)


def choices(
    chooser: Fovea, count: int, tracks: tuple[Track, ...] = (), pending: Pending = NOTHING
) -> list[Choice]:
    """The choices of inferences in a row, every 0.24 s."""
    made = []
    for index in range(count):
        choice = chooser.choose(HD, PICTURE, tracks, pending, 0.24 * index)
        assert choice is not None
        chooser.record(choice, PICTURE, 0.24 * index)
        made.append(choice)
    return made


# --- the choice -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_every_nth_inference_sees_the_whole_frame(every: int) -> None:
    made = choices(fovea(whole_every=every), 11)
    assert [choice.region is None for choice in made] == [index % every == 0 for index in range(11)]
    assert all((choice.reason == WHOLE_FRAME) == (choice.region is None) for choice in made)


def test_a_track_too_small_for_the_whole_frame_is_shown_in_a_region() -> None:
    _, choice = choices(fovea(), 2, (track(0.8, 0.3),))
    assert choice.reason == SMALL_OBJECTS
    assert choice.region is not None
    assert choice.region.x1 < 0.79 < 0.81 < choice.region.x2
    assert choice.region.y1 < 0.29 < 0.31 < choice.region.y2


def test_small_tracks_far_apart_are_shown_in_turn() -> None:
    tracks = track(0.1, 0.1), track(0.9, 0.9, track_id=2)
    regions = [choice.region for choice in choices(fovea(whole_every=3), 6, tracks) if choice.region]
    assert [region.x2 < 0.9 for region in regions] in ([True, False] * 2, [False, True] * 2)


def test_an_empty_frame_is_shown_region_by_region() -> None:
    regions = [choice for choice in choices(fovea(), 12) if choice.region]
    assert {choice.reason for choice in regions} == {UNSEEN}
    covered = np.zeros((8, 8), bool)
    for choice in regions:
        assert choice.region is not None
        x1, y1, x2, y2 = (choice.region.xyxy * 8).round().astype(int).tolist()
        covered[y1:y2, x1:x2] = True
    assert covered.all()


@pytest.mark.parametrize(
    ("pending", "reason"),
    [
        (Pending(np.array([[0.7, 0.7, 0.72, 0.73]]), np.empty((0, 4))), NEW_OBJECTS),
        (Pending(np.empty((0, 4)), np.array([[0.7, 0.7, 0.72, 0.73]])), CUT_OBJECTS),
    ],
)
def test_what_is_pending_is_shown_once_the_frame_is_known(pending: Pending, reason: str) -> None:
    chooser = fovea(whole_every=100)
    choices(chooser, 30)
    choice = chooser.choose(HD, PICTURE, (), pending, 0.24 * 30)
    assert choice is not None
    assert choice.reason == reason
    assert choice.region is not None
    assert choice.region.x1 < 0.7 < 0.73 < choice.region.x2


boxes = st.builds(
    lambda x, y, w, h: Box(x * (1 - w), y * (1 - h), x * (1 - w) + w, y * (1 - h) + h),
    *(st.floats(0.0, 1.0),) * 2,
    *(st.floats(0.001, 1.0),) * 2,
)


@given(
    st.lists(boxes, max_size=8),
    st.lists(boxes, max_size=4),
    st.lists(boxes, max_size=4),
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.floats(0.25, 0.9),
    st.integers(1, 5),
    st.sampled_from(["on", "auto"]),
)
def test_a_region_is_whole_pixels_of_the_frame_and_of_the_size(
    found: list[Box],
    tentative: list[Box],
    cut: list[Box],
    width: int,
    height: int,
    region_size: float,
    every: int,
    mode: str,
) -> None:
    chooser = Fovea(FoveaSettings(mode=mode, region_size=region_size, whole_every=every))
    tracks = [Track(1, "box", box, 0.9, Velocity(0.1, -0.1), 1.0, 0.5) for box in found]
    pending = Pending(*(np.array([b.xyxy for b in some]).reshape(-1, 4) for some in (tentative, cut)))
    picture = ImagePlan(256, 128)
    for index in range(4):
        choice = chooser.choose((width, height), picture, tracks, pending, index / 4)
        if choice is None:
            continue
        view = chooser.record(choice, picture, index / 4)
        sides = view.region.in_pixels(width, height)
        assert np.abs(sides - sides.round()).max() < 1e-6
        if choice.region is not None:
            wide, tall = sides[2:] - sides[:2]
            assert (round(wide), round(tall)) == (round(region_size * width), round(region_size * height))
            assert view.width * view.region.width == pytest.approx(picture.width)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mode"),
    [((256, 256), "on"), ((120, 120), "on"), ((640, 480), "auto"), ((8000, 100), "on"), (HD, "auto")],
)
def test_frames_that_a_region_would_not_show_better_are_seen_whole(size: tuple[int, int], mode: str) -> None:
    picture = plan_image(*size, ImageLimits(max_tokens=256))
    chooser = fovea(mode)
    assert [chooser.choose(size, picture, (), NOTHING, index / 4) for index in range(3)] == [None] * 3


def test_auto_infers_regions_where_the_budget_is_small_for_the_frame() -> None:
    chooser = fovea("auto")
    choice = chooser.choose(HD, plan_image(*HD, ImageLimits(max_tokens=120)), (), NOTHING, 0.0)
    assert choice == Choice(None)


def test_another_resolution_begins_with_the_whole_frame() -> None:
    chooser = fovea()
    choices(chooser, 2)
    changed = chooser.choose((1920, 1080), PICTURE, (), NOTHING, 1.0)
    assert changed == Choice(None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fovea.whole_every", 0),
        ("fovea.region_size", 0.1),
        ("fovea.region_size", 1.0),
        ("fovea.mode", "always"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_sentence(name: str, value: object) -> None:
    with pytest.raises(PerceptionError, match=name) as refused:
        Settings().with_values({name: value})
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_recorded_answers_about_whole_frames_are_not_taken_for_those_of_regions() -> None:
    with pytest.raises(PerceptionError, match=r"fovea\.mode is on and engine\.backend is recorded"):
        Settings().with_values({"engine.backend": "recorded", "recorded.path": "a", "fovea.mode": "on"})


def test_a_budget_below_the_smallest_picture_is_refused() -> None:
    with pytest.raises(PerceptionError, match=r"budget\.tokens 40 is too small"):
        Settings().with_values({"fovea.mode": "on", "budget.tokens": 40})


# --- regions and boxes ------------------------------------------------------------------------------------

REGION = Box(0.25, 0.5, 0.75, 1.0)


def test_a_crop_is_the_region_and_keeps_the_header() -> None:
    image = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    seen = crop(Frame(image, 7, "camera", "a.png"), REGION)
    assert np.array_equal(seen.image, image[2:4, 2:6])
    assert (seen.stamp_ns, seen.frame_id, seen.file) == (7, "camera", "a.png")


def test_boxes_and_deviations_of_a_region_are_mapped_into_the_frame() -> None:
    std = CoordinateStd(0.02, 0.04, 0.06, 0.08)
    answer = Answer(
        "[]", (Detection("box", Box(0.0, 0.5, 0.5, 1.0), 0.9, std), Detection("cone", WHOLE, 0.5))
    )
    first, second = from_region(answer, REGION).detections
    assert first.box == Box(0.25, 0.75, 0.5, 1.0)
    assert first.std == CoordinateStd(0.01, 0.02, 0.03, 0.04)
    assert (second.box, second.std) == (REGION, None)


@given(boxes, st.integers(0, 8), st.integers(0, 8))
def test_a_draft_mapped_into_a_region_comes_back_as_the_part_inside(box: Box, column: int, row: int) -> None:
    region = Box(column / 16, row / 16, column / 16 + 0.5, row / 16 + 0.5)
    for label, part in to_region((("box", box),), region):
        (back,) = from_region(Answer("", (Detection(label, part, 1.0),)), region).detections
        expected = box.xyxy.clip([region.x1, region.y1] * 2, [region.x2, region.y2] * 2)
        assert back.box.xyxy == pytest.approx(expected, abs=1e-9)


def test_objects_outside_of_a_region_are_not_drafted() -> None:
    draft = ("box", Box(0.0, 0.0, 0.2, 0.2)), ("cone", Box(0.3, 0.6, 0.4, 0.7))
    assert [label for label, _ in to_region(draft, REGION)] == ["cone"]
