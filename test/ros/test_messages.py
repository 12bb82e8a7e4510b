# SPDX-License-Identifier: Apache-2.0
"""ROS messages to values and back."""

from __future__ import annotations

import array
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray
from visualization_msgs.msg import Marker

from lfm_perception import scene
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.ros import messages
from lfm_perception.scene import MAX_SIDE, Detection, Track, Usage, Velocity

STAMP_NS = 1_700_000_000_123_456_789
HEADER = messages.header(STAMP_NS, "front")
TRACK = Track(
    7, "box", Box(0.25, 0.5, 0.5, 1.0), 0.75, Velocity(0.1, -0.2), 2.0, 0.1, velocity_std=Velocity(0.01, 0.02)
)
SCENE = scene.Scene(
    stamp_ns=STAMP_NS,
    frame_id="front",
    width=640,
    height=480,
    detections=(Detection("traffic cone", Box(0.0, 0.1, 0.2, 0.3), 0.5),),
    tracks=(TRACK,),
    caption=None,
    truncated=False,
    rejects={},
    usage=Usage(),
)


def picture(width: int = 64, height: int = 48) -> scene.Image:
    """Colours that change slowly, so that formats with less colour than light keep them."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((80 + x, 60 + 2 * y, 200 - x), -1).astype(np.uint8)


def message(data: np.ndarray, encoding: str, width: int, height: int, step: int) -> Image:
    return Image(
        header=HEADER,
        width=width,
        height=height,
        encoding=encoding,
        step=step,
        data=array.array("B", data.tobytes()),
    )


def encoded(encoding: str) -> Image:
    """The picture in an encoding, as a camera driver sends it."""
    rgb = picture()
    height, width, _ = rgb.shape
    formats: dict[str, Callable[[], np.ndarray]] = {
        "rgb8": lambda: rgb,
        "bgr8": lambda: rgb[..., ::-1],
        "rgba8": lambda: np.dstack((rgb, np.full(rgb.shape[:2], 9, np.uint8))),
        "bgra8": lambda: np.dstack((rgb[..., ::-1], np.full(rgb.shape[:2], 9, np.uint8))),
        "mono8": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        "mono16": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257,
        "yuv422": lambda: packed(rgb)[..., [1, 0, 3, 2]],
        "yuv422_yuy2": lambda: packed(rgb),
        "nv12": lambda: semi_planar(rgb),
        "bayer_rggb8": lambda: bayer(rgb),
    }
    pixels = np.ascontiguousarray(formats[encoding]())
    return message(pixels, encoding, width, height, pixels.nbytes // pixels.shape[0])


def packed(rgb: scene.Image) -> np.ndarray:
    """YUY2, to which OpenCV 4.6 cannot convert: Y, U, Y, V of two pixels; shape (height, width / 2, 4)."""
    height, width, _ = rgb.shape
    planes = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    colour = planes[height:].reshape(2, height // 2, width // 2).repeat(2, axis=1)
    return np.stack((planes[:height, ::2], colour[0], planes[:height, 1::2], colour[1]), axis=-1)


def semi_planar(rgb: scene.Image) -> np.ndarray:
    planar = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    height, width, _ = rgb.shape
    blue, red = planar[height:].reshape(2, -1)
    return np.vstack((planar[:height], np.stack((blue, red), -1).reshape(height // 2, width)))


def bayer(rgb: scene.Image) -> np.ndarray:
    mosaic = rgb[..., 1].copy()
    mosaic[0::2, 0::2] = rgb[0::2, 0::2, 0]
    mosaic[1::2, 1::2] = rgb[1::2, 1::2, 2]
    return mosaic


def received(
    message: Image | CompressedImage, topic: str = "image_raw", width: int | None = None
) -> scene.Frame:
    """The frame of a message that came serialized."""
    compressed = isinstance(message, CompressedImage)
    return messages.frame(serialize_message(message), topic, compressed=compressed, width=width)


@pytest.mark.parametrize(
    "encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "yuv422", "yuv422_yuy2", "nv12", "bayer_rggb8"]
)
def test_every_encoding_shows_the_same_colours(encoding: str) -> None:
    frame = received(encoded(encoding))
    assert frame.image.shape == (48, 64, 3)
    inner = np.s_[2:-2, 2:-2]  # a mosaic has no neighbours at the border
    assert np.abs(frame.image[inner].astype(int) - picture()[inner]).mean() < 4.0
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "front")


@pytest.mark.parametrize("encoding", ["mono8", "mono16"])
def test_grey_becomes_rgb(encoding: str) -> None:
    image = received(encoded(encoding)).image
    assert np.ptp(image, axis=-1).max() == 0
    assert np.abs(image[..., 0].astype(int) - cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)).max() <= 1


def test_rows_may_end_in_spare_bytes() -> None:
    rgb = picture()
    padded = np.zeros((48, 64 * 3 + 20), np.uint8)
    padded[:, : 64 * 3] = rgb.reshape(48, -1)
    frame = received(message(padded, "rgb8", 64, 48, padded.shape[1]))
    assert (frame.image == rgb).all()


def test_a_compressed_image_is_decoded() -> None:
    _, jpeg = cv2.imencode(".jpg", picture()[..., ::-1])
    sent = CompressedImage(header=HEADER, format="jpeg", data=array.array("B", jpeg.tobytes()))
    assert np.abs(received(sent).image.astype(int) - picture()).mean() < 4.0


@pytest.mark.parametrize("encoding", ["rgb8", "bgra8", "mono8", "yuv422", "nv12", "mono16"])
def test_a_small_frame_is_the_frame_made_small(encoding: str) -> None:
    sent = encoded(encoding)
    small = cv2.resize(received(sent, width=16).image, (16, 12), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(received(sent).image, (16, 12), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(("width", "came"), [(8, 8), (16, 16), (17, 32), (40, 64), (100, 64)])
def test_a_small_frame_of_a_jpeg_is_never_narrower_than_asked(width: int, came: int) -> None:
    _, jpeg = cv2.imencode(".jpg", picture()[..., ::-1])
    sent = CompressedImage(header=HEADER, format="jpeg", data=array.array("B", jpeg.tobytes()))
    small = received(sent, width=width).image
    assert small.shape == (came * 3 // 4, came, 3)
    whole = cv2.resize(received(sent).image, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - whole).mean() < 2.0


@pytest.mark.parametrize("compressed", [False, True])
def test_a_message_that_is_cut_off_anywhere_is_one_sentence(compressed: bool) -> None:
    _, png = cv2.imencode(".png", picture()[..., ::-1])
    sent = CompressedImage(header=HEADER, format="png", data=array.array("B", png.tobytes()))
    raw = serialize_message(sent if compressed else encoded("rgb8"))
    for length in (*range(80), len(raw) // 2):
        with pytest.raises(PerceptionError, match="an image on image_raw"):
            messages.frame(raw[:length], "image_raw", compressed=compressed)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (message(picture(), "rgb8", 0, 0, 0), "0 x 0"),
        (message(picture(), "rgb8", MAX_SIDE + 1, 20, 60), f"{MAX_SIDE + 1} x 20"),
        (message(picture(), "rgb8", 64, 200, 192), "64 x 200"),
        (message(picture(), "rgb8", 64, 48, 12), "in rows of 12"),
        (message(picture(), "rgb8", 64, 48, 0), "in rows of 0"),
        (message(picture(), "hologram", 64, 48, 192), "'hologram'"),
        (message(picture(), "", 64, 48, 192), "''"),
        (
            CompressedImage(header=HEADER, format="jpeg", data=array.array("B", b"no jpeg")),
            "cannot be decoded",
        ),
        (CompressedImage(header=HEADER, format="jpeg"), "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_one_sentence_with_its_topic(broken: Image, said: str) -> None:
    with pytest.raises(PerceptionError, match="an image on camera/image") as error:
        received(broken, "camera/image")
    assert said in str(error.value)


def test_a_picture_goes_out_as_it_is() -> None:
    sent = deserialize_message(serialize_message(messages.image(picture(), HEADER)), Image)
    assert (received(sent).image == picture()).all()
    assert (sent.header, sent.encoding, sent.step) == (HEADER, "rgb8", 192)


@pytest.mark.parametrize("nanoseconds", [0, 1, 999_999_999, STAMP_NS, 2**31 * 10**9 - 1])
def test_stamps_keep_every_nanosecond(nanoseconds: int) -> None:
    assert messages.stamp_ns(messages.time(nanoseconds)) == nanoseconds


def test_detections_are_in_pixels_under_the_frames_header() -> None:
    sent = deserialize_message(serialize_message(messages.detections(SCENE)), Detection2DArray)
    assert sent.header == HEADER
    (found,) = sent.detections
    assert (found.bbox.center.position.x, found.bbox.center.position.y) == pytest.approx((64.0, 96.0))
    assert (found.bbox.size_x, found.bbox.size_y) == pytest.approx((128.0, 96.0))
    (result,) = found.results
    assert (result.hypothesis.class_id, result.hypothesis.score, found.id) == ("traffic cone", 0.5, "")


def test_tracks_carry_their_id() -> None:
    (found,) = messages.tracks([TRACK], HEADER, 640, 480).detections
    assert (found.id, found.results[0].hypothesis.class_id) == ("7", "box")
    assert (found.bbox.center.position.x, found.bbox.size_y) == (240.0, 240.0)


def test_markers_replace_those_of_before_and_lie_before_the_camera() -> None:
    shown = messages.markers([TRACK, TRACK._replace(track_id=8)], HEADER, 0.75).markers
    assert [marker.action for marker in shown] == [Marker.DELETEALL, *[Marker.ADD] * 8]
    assert len({(marker.ns, marker.id) for marker in shown[1:]}) == 8
    outline, name, arrow, spread = shown[1:5]
    assert {point.z for point in outline.points} == {1.0}
    assert (outline.points[0].x, outline.points[0].y) == (-0.25, 0.0)
    assert "box 7" in name.text
    assert arrow.points[1].x - arrow.points[0].x == pytest.approx(0.1)
    assert spread.pose.position == arrow.points[1]
    assert (spread.scale.x, spread.scale.y) == pytest.approx((0.02, 0.03))


def test_outlines_have_a_colour_for_each_line() -> None:
    lines = messages.image_markers([TRACK], HEADER, 640, 480)
    assert len(lines.points) == 2 * len(lines.outline_colors) == 8
    assert (lines.points[0].x, lines.points[0].y) == (160.0, 240.0)


def test_vision_msgs_is_the_one_everyone_has() -> None:
    """The hash covers all fields of all types inside; this is the one of ros-perception/vision_msgs 4.1."""
    described = Path(sys.prefix, "share/vision_msgs/msg/Detection2DArray.json")
    if not described.exists():
        pytest.skip("vision_msgs comes from the ROS installation")
    hashes = {
        entry["type_name"]: entry["hash_string"] for entry in json.loads(described.read_text())["type_hashes"]
    }
    assert hashes["vision_msgs/msg/Detection2DArray"] == (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    )
