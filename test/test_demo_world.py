# SPDX-License-Identifier: Apache-2.0
"""The demo world: the same seed gives the same sequence, and its ground truth is exact."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lfm_perception.demo.bodies import EASY, HARD, LABELS, SEQUENCE, Difficulty
from lfm_perception.demo.world import VISIBLE_FRACTION, TrueObject, World, crop, describe, still
from lfm_perception.evaluation.demo import caption_is_true
from lfm_perception.geometry import Box
from lfm_perception.scene import Velocity


def test_a_sequence_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    first, again, other = (World(seed).snapshot(40) for seed in (3, 3, 4))
    assert np.array_equal(first.frame.image, again.frame.image)
    assert first.objects == again.objects
    assert not np.array_equal(first.frame.image, other.frame.image)


def test_frames_carry_stamps_at_the_frame_rate() -> None:
    world = World(0, fps=30.0)
    assert [world.snapshot(i).frame.stamp_ns for i in (0, 1, 30)] == [0, 33333333, 1_000_000_000]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (256, 256), (1280, 720), (320, 608), (1920, 1080)])
def test_every_size_renders(width: int, height: int) -> None:
    frame = World(1, width, height).snapshot(10).frame
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8


@pytest.mark.parametrize("difficulty", [EASY, HARD, SEQUENCE])
def test_boxes_enclose_exactly_the_visible_pixels(difficulty: Difficulty) -> None:
    rng = random.Random(5)
    for _ in range(20):
        snapshot = still(rng, 256, 192, difficulty)
        for thing in snapshot.objects:
            rows, columns = np.nonzero(snapshot.instances == thing.object_id + 1)
            edges = (columns.min() / 256, rows.min() / 192, (columns.max() + 1) / 256, (rows.max() + 1) / 192)
            assert (thing.box.x1, thing.box.y1, thing.box.x2, thing.box.y2) == pytest.approx(edges, abs=1e-9)
            assert thing.visible >= VISIBLE_FRACTION


def test_hidden_objects_are_not_in_the_truth() -> None:
    rng = random.Random(6)
    snapshots = [still(rng, 256, 256, SEQUENCE) for _ in range(60)]
    for snapshot in snapshots:
        listed = {thing.object_id + 1 for thing in snapshot.objects}
        assert set(np.unique(snapshot.instances)) <= listed | {0}


def test_stills_keep_to_their_number_of_objects() -> None:
    rng = random.Random(7)
    counts = [len(still(rng, 256, 256, EASY).objects) for _ in range(150)]
    assert min(counts) == 0
    assert max(counts) == EASY.max_objects


def test_velocity_is_that_of_the_box_between_frames() -> None:
    """Seen whole, an object's centre moves by its velocity; limbs that swing allow two pixels."""
    world = World(2, width=1280, height=960)
    checked = 0
    for index in range(0, 300, 10):
        before, after = world.snapshot(index), world.snapshot(index + 6)
        later = {thing.object_id: thing for thing in after.objects}
        for thing in before.objects:
            other = later.get(thing.object_id)
            whole = all(t.visible == 1.0 and t.box.x1 > 0.01 and t.box.x2 < 0.99 for t in (thing, other) if t)
            if other is None or not whole or thing.label == "person":
                continue
            moved = (other.box.x1 + other.box.x2 - thing.box.x1 - thing.box.x2) / 2
            expected = (thing.velocity.x + other.velocity.x) / 2 * 0.2
            assert moved == pytest.approx(expected, abs=2 / 1280)
            checked += 1
    assert checked > 30


def test_objects_come_from_left_to_right_and_the_caption_names_them() -> None:
    rng = random.Random(8)
    for _ in range(40):
        snapshot = still(rng, 256, 256, HARD)
        edges = [thing.box.x1 for thing in snapshot.objects]
        assert edges == sorted(edges)
        assert snapshot.caption == describe([thing.label for thing in snapshot.objects])
        assert caption_is_true(snapshot.caption, snapshot.objects)


def _thing(label: str, x1: float) -> TrueObject:
    return TrueObject(0, label, Box(x1, 0.1, x1 + 0.1, 0.3), Velocity(0.0, 0.0), 1.0)


def test_a_caption_with_a_wrong_name_order_or_number_is_not_true() -> None:
    truth = (_thing("person", 0.1), _thing("box", 0.5), _thing("cone", 0.505))
    assert caption_is_true(describe(["person", "box", "cone"]), truth)
    assert caption_is_true(describe(["person", "cone", "box"]), truth), (
        "nearly the same left edge: either order"
    )
    assert not caption_is_true(describe(["box", "person", "cone"]), truth)
    assert not caption_is_true(describe(["person", "box"]), truth)
    assert not caption_is_true(describe(["person", "box", "box"]), truth)
    assert not caption_is_true(describe(["person", "box", "cone"]) + " And a dog.", truth)
    assert not caption_is_true(describe([]), truth)
    assert caption_is_true(describe([]), ())


def test_all_labels_appear() -> None:
    rng = random.Random(9)
    seen = {thing.label for _ in range(60) for thing in still(rng, 256, 256).objects}
    assert seen == set(LABELS)


def test_the_truth_of_a_crop_is_that_of_its_pixels() -> None:
    rng = random.Random(10)
    cut = 0
    for _ in range(30):
        whole = still(rng, 320, 256, HARD)
        region = Box(0.25, 0.25, 0.75, 0.75)
        part = crop(whole, region, 160, 128)
        assert np.array_equal(part.frame.image, whole.frame.image[64:192, 80:240])
        before = {thing.object_id: thing for thing in whole.objects}
        pixels = np.bincount(whole.instances.ravel(), minlength=256)
        for thing in part.objects:
            rows, columns = np.nonzero(part.instances == thing.object_id + 1)
            sides = [columns.min() / 160, rows.min() / 128, (columns.max() + 1) / 160, (rows.max() + 1) / 128]
            assert thing.box.xyxy.tolist() == pytest.approx(sides)
            share = len(rows) / pixels[thing.object_id + 1]
            assert thing.visible == pytest.approx(before[thing.object_id].visible * share)
            assert thing.visible >= VISIBLE_FRACTION
            cut += share < 1.0
        shown = {thing.object_id + 1 for thing in part.objects}
        assert set(np.unique(part.instances).tolist()) == shown | {0}
        assert part.caption == describe([thing.label for thing in part.objects])
    assert cut > 10


def test_a_crop_of_another_size_has_the_same_boxes() -> None:
    whole = still(random.Random(11), 320, 256, HARD)
    region = Box(0.0, 0.2, 0.6, 0.8)
    small, large = crop(whole, region, 96, 64), crop(whole, region, 384, 320)
    assert small.objects == large.objects
    assert small.frame.image.shape == (64, 96, 3)
    assert small.instances.shape == (64, 96)


def _hue(image: NDArray[np.uint8]) -> float:
    """The hue of most of the coloured pixels, 0 to 1."""
    hsv = cv2.cvtColor(image.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[0]
    return float(np.bincount(hsv[hsv[:, 1] > 130, 0], minlength=1).argmax()) / 180


def test_forklifts_have_the_colour_of_their_name() -> None:
    rng = random.Random(12)
    hues = {"yellow": 0.135, "red": 0.0, "orange": 0.05, "blue": 0.6, "green": 0.35}
    seen = set()
    for _ in range(40):
        snapshot = still(rng, 256, 256, EASY, ["forklift"])
        for thing in snapshot.objects:
            hue = _hue(snapshot.frame.image[snapshot.instances == thing.object_id + 1])
            away = abs(hue - hues[thing.colour])
            assert min(away, 1.0 - away) < 0.035
            seen.add(thing.colour)
    assert seen == set(hues)


def test_a_helmet_covers_the_head_of_a_person_who_is_said_to_wear_one() -> None:
    """Helmets are of strong colours, skin is not."""
    rng = random.Random(13)
    saturation: dict[bool | None, list[float]] = {True: [], False: [], None: []}
    for _ in range(60):
        snapshot = still(rng, 384, 384, EASY, ["person"])
        for thing in snapshot.objects:
            x1, y1, x2, y2 = (thing.box.xyxy * 384).astype(int).tolist()
            if y2 - y1 > 120:
                middle = slice((3 * x1 + x2) // 4, (x1 + 3 * x2) // 4)
                top = snapshot.frame.image[y1 + 2 : y1 + (y2 - y1) // 14, middle]
                hsv = cv2.cvtColor(np.ascontiguousarray(top), cv2.COLOR_RGB2HSV)
                saturation[thing.helmet].append(float(hsv[..., 1].mean()))
    assert len(saturation[True]) > 10
    assert len(saturation[False]) > 10
    assert np.quantile(saturation[True], 0.1) > np.quantile(saturation[False], 0.9)
