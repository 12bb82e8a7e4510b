# SPDX-License-Identifier: Apache-2.0
"""Distances from depth images: what the pixels mean, what a box is away, and which image a frame takes."""

from __future__ import annotations

import json
import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from opinions import scene_of

from lfm_perception import cdr
from lfm_perception.depth import KEEP_S, MAX_IMAGES, DepthImage, DepthImages, distances, with_distances
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box, stack
from lfm_perception.media import depth_images
from lfm_perception.scene import ZERO_VELOCITY, Frame, Track
from lfm_perception.scene_json import SCHEMA, scene_from_json, scene_to_json
from lfm_perception.stamps import from_seconds

Pixels = NDArray[Any]


def message(pixels: Pixels, encoding: str = "16UC1", *, pad: int = 0, **other: Any) -> Any:
    """An Image with these pixels, whose rows end in `pad` spare bytes; `other` fields lie."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, pad)), constant_values=255)
    fields = {
        "width": pixels.shape[1],
        "height": len(pixels),
        "encoding": encoding,
        "is_bigendian": int(pixels.dtype.byteorder == ">"),
        "step": data.shape[1],
        "data": memoryview(data.tobytes()),
    }
    return SimpleNamespace(**{**fields, **other})


def measured(millimetres: Pixels, *box: float) -> float:
    """The distance of what a box shows, metres."""
    return float(distances(millimetres.astype(np.uint16), stack([Box(*box)]))[0])


def wall(width: int = 64, height: int = 48, millimetres: int = 5000) -> Pixels:
    return np.full((height, width), millimetres, np.uint16)


# --- pixels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("pad", [0, 3])
def test_both_encodings_are_read_in_their_byte_order_and_step(order: str, pad: int) -> None:
    expected = np.arange(12).reshape(3, 4) * 1000 + 7
    millimetres = expected.astype(f"{order}u2")
    metres = (expected / 1000).astype(f"{order}f4")
    for sent in (message(millimetres, pad=pad), message(millimetres, "mono16", pad=pad),
                 message(metres, "32FC1", pad=pad)):  # fmt: skip
        np.testing.assert_array_equal(depth_images.from_message(sent, "it"), expected)


def test_what_is_no_distance_is_unknown() -> None:
    millimetres = np.array([[0, 1, 64_999, 65_000, 65_535]], np.uint16)  # 65.535 m: saturated
    assert depth_images.from_message(message(millimetres), "it").tolist() == [[0, 1, 64_999, 0, 0]]
    metres = np.array([[np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-9, 65.0, 3e38, 1.5]], np.float32)
    found = depth_images.from_message(message(metres, "32FC1"), "it")
    assert found.tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 1500]]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720), (321, 3), (3, 2000)])
def test_a_large_image_is_kept_in_every_kth_pixel(width: int, height: int) -> None:
    pixels = (np.arange(width * height).reshape(height, width) % 65_000).astype(np.uint16)
    found = depth_images.from_message(message(pixels), "it")
    every = -(-max(width, height) // depth_images.LONGEST_SIDE)
    np.testing.assert_array_equal(found, pixels[::every, ::every])
    assert max(found.shape) <= depth_images.LONGEST_SIDE


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (message(wall(), "rgb8"), "encoding 'rgb8'.*: publish 16UC1 in millimetres or 32FC1 in metres"),
        (message(wall(), ""), "publish 16UC1"),
        (message(wall(), step=127), "a row has 128 bytes"),
        (message(wall(), step=0), "a row has 128 bytes"),
        (message(wall(), step=2**32 - 1), "it has .* bytes"),
        (message(wall(), height=49), "it has 6272 bytes"),
        (message(wall(), "32FC1"), "a row has 256 bytes"),
        (message(wall(), width=2**32 - 1), "cannot be an image of 4294967295 x 48 pixels"),
        (message(wall(), width=0), "cannot be an image of 0 x 48 pixels"),
        (message(wall(), width=65_000, height=65_000), "over the limit of 64,000,000"),
    ],
)
def test_an_image_that_contradicts_itself_is_one_sentence(sent: Any, reason: str) -> None:
    with pytest.raises(PerceptionError, match=reason) as raised:
        depth_images.from_message(sent, "an image on /depth")
    assert len(str(raised.value)) < 300


def test_damaged_messages_are_refused_or_read_and_nothing_else() -> None:
    """Bytes of a serialized image, changed and cut off anywhere."""
    values = (5, 7, 7, b"camera", 12, 8, 6, b"16UC1", 0, 16, 192)
    fields = b"\0\1\0\0" + struct.pack("<iII7sxIII6sBxII", *values)
    random, outcomes = np.random.default_rng(0), Counter[str]()
    for _ in range(1000):
        raw = np.frombuffer(fields + bytes(192), np.uint8).copy()
        places = random.integers(0, random.choice((len(fields), len(raw))), random.integers(1, 4))
        raw[places] = random.choice((0, 1, 127, 128, 255), len(places))
        data = raw[: random.choice([len(raw), int(random.integers(0, len(raw)))])].tobytes()
        try:
            header = cdr.image_header(data, "/depth", compressed=False)
            found = depth_images.from_message(cdr.image_fields(data, header, "/depth"), "an image")
        except PerceptionError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            assert max(found.shape) <= depth_images.LONGEST_SIDE
    assert min(outcomes["refused"], outcomes["read"]) > 100


# --- boxes ----------------------------------------------------------------------------------------------


def test_an_object_is_as_far_as_the_middle_of_its_box_and_not_as_what_is_behind_it() -> None:
    pixels = wall()
    pixels[12:36, 16:48] = 2000
    assert measured(pixels, 0.25, 0.25, 0.75, 0.75) == 2.0
    assert measured(pixels, 0.0, 0.0, 0.3, 0.3) == 5.0
    pixels[12:36:2] = 5000  # gaps: half of the object is seen through
    assert measured(pixels, 0.25, 0.25, 0.75, 0.75) == 2.0


def test_single_near_values_are_noise() -> None:
    pixels = wall()
    pixels[::5, ::5] = 300
    assert measured(pixels, 0.1, 0.1, 0.9, 0.9) == 5.0


def test_unknown_pixels_do_not_count_and_of_too_few_known_ones_nothing_is_known() -> None:
    pixels = wall(millimetres=0)
    assert measured(pixels, 0.0, 0.0, 1.0, 1.0) == 0.0
    pixels[:, ::3] = 3000
    assert measured(pixels, 0.0, 0.0, 1.0, 1.0) == 3.0
    pixels[:] = 0
    pixels[::4, ::4] = 3000
    assert measured(pixels, 0.0, 0.0, 1.0, 1.0) == 0.0


@pytest.mark.parametrize(("width", "height"), [(64, 48), (640, 480), (7, 5), (1, 1)])
def test_boxes_of_any_size_at_any_edge_are_inside_of_an_image_of_any_resolution(
    width: int, height: int
) -> None:
    boxes = [(0, 0, 0, 0), (1, 1, 1, 1), (0.5, 0.5, 0.5001, 0.5001), (0, 0, 1, 1), (0.999, 0, 1, 1)]
    pixels = wall(width, height, 65_535)
    for box in boxes:
        assert measured(pixels, *box) == 65.535


def test_the_same_place_is_measured_at_another_resolution() -> None:
    box = (0.6, 0.3, 0.7, 0.9)
    for scale in (1, 3, 10):
        pixels = wall(64 * scale, 48 * scale)
        pixels[:, 35 * scale : 48 * scale] = 1234
        assert measured(pixels, *box) == 1.234


def test_of_no_boxes_there_are_no_distances() -> None:
    assert distances(wall().astype(np.uint16), stack([])).shape == (0,)


# --- images of frames -----------------------------------------------------------------------------------


def depth_image(seconds: float) -> DepthImage:
    return DepthImage(wall(1, 1).astype(np.uint16), from_seconds(seconds), "camera")


def nearest(images: DepthImages, seconds: float, tolerance_s: float = 0.1) -> float | None:
    found = images.nearest(from_seconds(seconds), tolerance_s)
    return None if found is None else found.stamp_ns / 1e9


def test_a_frame_takes_the_image_of_the_nearest_stamp_within_the_tolerance() -> None:
    images = DepthImages()
    assert nearest(images, 1.0) is None
    for index in range(10):
        images.add(depth_image(1.0 + index / 10))
    assert nearest(images, 1.52) == 1.5
    assert nearest(images, 1.98) == 1.9
    assert nearest(images, 2.01) is None
    assert nearest(images, 2.01, 0.2) == 1.9
    assert nearest(images, 1.0, 0.0) == 1.0
    assert nearest(images, 1.01, 0.0) is None


def test_images_of_a_few_seconds_are_kept_and_a_bounded_number_of_them() -> None:
    images = DepthImages()
    for index in range(200):
        images.add(depth_image(10 + index / 30))
    end_s = 10 + 199 / 30
    kept = [index for index in range(200) if nearest(images, 10 + index / 30, 0.001)]
    assert kept == [*range(200 - len(kept), 200)]
    assert end_s - (10 + kept[0] / 30) == pytest.approx(KEEP_S, abs=0.04)
    for index in range(200):
        images.add(depth_image(end_s + index / 1000))
        assert nearest(images, end_s + index / 1000, 0.0001)
    assert not nearest(images, end_s + (199 - MAX_IMAGES) / 1000, 0.0001)


def test_a_clock_that_is_set_back_leaves_no_image_of_the_future() -> None:
    images = DepthImages()
    for seconds in (100.0, 100.1, 100.2, 50.0, 50.1):
        images.add(depth_image(seconds))
    assert nearest(images, 100.1) is None
    assert (nearest(images, 50.0), nearest(images, 50.11)) == (50.0, 50.1)


# --- tracks ---------------------------------------------------------------------------------------------


def test_a_track_carries_its_distance_into_the_scene_and_back() -> None:
    pixels = wall(millimetres=0)
    pixels[:, :32] = 2345
    left, right = Box(0.1, 0.1, 0.4, 0.9), Box(0.6, 0.1, 0.9, 0.9)
    tracks = [Track(number, "box", box, 0.9, ZERO_VELOCITY, 1.0, 0.0) for number, box in
              enumerate((left, right), start=1)]  # fmt: skip
    found = with_distances(tracks, pixels.astype(np.uint16))
    assert [track.distance for track in found] == [2.345, None]
    assert [track._replace(distance=None) for track in found] == tracks
    record = scene_to_json(scene_of(Frame(np.zeros((48, 64, 3), np.uint8), 1), *found))
    jsonschema.validate(record, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert [each.get("distance_m") for each in record["objects"]] == [2.345, None]
    assert [track.distance for track in scene_from_json(record).tracks] == [2.345, None]
