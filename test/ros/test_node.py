# SPDX-License-Identifier: Apache-2.0
"""What the perception node publishes: a real node, a real model in its worker, real DDS."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import cv2
import jsonschema
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from robot import Camera, Robot, image_message, labels  # isort: split - chooses how messages travel
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import ImageMarker, MarkerArray

from lfm_perception.ros import messages
from lfm_perception.scene_json import SCHEMA


def test_detections_keep_the_header_of_the_image_they_were_made_from(running: Robot) -> None:
    frame = Camera().next()
    detections = running.show(frame)
    assert messages.stamp_ns(detections.header.stamp) == frame.stamp_ns
    assert detections.header.frame_id == frame.frame_id
    assert detections.detections
    for found in detections.detections:
        assert found.header == detections.header
        assert 0.0 < found.results[0].hypothesis.score <= 1.0
        assert 0.0 < found.bbox.size_x <= frame.width
        assert 0.0 < found.bbox.size_y <= frame.height


def test_tracks_are_predicted_to_the_newest_frame(running: Robot) -> None:
    camera = Camera()
    running.show(camera.next())
    seen = running.show(camera.next(skip=5))
    later = camera.next(skip=5)
    running.show(later)
    tracks = running.wait(lambda: running.newest("tracks", later.stamp_ns))
    assert tracks.header.frame_id == later.frame_id
    assert len(tracks.detections) >= len(seen.detections)
    assert len({track.id for track in tracks.detections}) == len(tracks.detections)


def test_the_scene_follows_its_schema(running: Robot) -> None:
    camera = Camera()
    for _ in range(2):
        frame = camera.next()
        running.show(frame)
    scene = running.scene(frame.stamp_ns)
    jsonschema.validate(scene, json.loads(SCHEMA.read_text()))
    assert scene["objects"]
    assert scene["frame_id"] == frame.frame_id


def test_the_topic_model_output_is_the_models_own_text(running: Robot) -> None:
    before = len(running.heard["model_output"])
    detections = running.show(Camera().next())
    text = running.wait(lambda: running.heard["model_output"][before:])[0].data
    assert [found["label"] for found in json.loads(text)] == labels(detections)


def test_the_last_caption_is_there_for_who_comes_late(running: Robot) -> None:
    assert running.call(Trigger, "perception/caption_now", Trigger.Request()).success
    running.show(Camera().next())
    running.wait(lambda: running.heard["caption"])
    assert running.heard["caption"][-1].data.endswith(".")


def test_a_question_is_answered(running: Robot) -> None:
    before = len(running.heard["answer"])
    running.question("What do you see?")
    time.sleep(0.2)
    running.show(Camera().next())
    assert running.wait(lambda: running.heard["answer"][before:])[0].data


def test_overlay_and_markers_are_made_for_who_watches(running: Robot) -> None:
    camera = Camera()
    running.show(camera.next())
    kinds: tuple[tuple[str, type], ...] = (
        ("debug_image", Image), ("markers", MarkerArray), ("image_markers", ImageMarker),
    )  # fmt: skip
    for topic, kind in kinds:
        running.listen(topic, kind)
    stamps = set()
    while not all(running.heard[topic] for topic, _ in kinds):  # until the node has found its listener
        frame = camera.next()
        stamps.add(frame.stamp_ns)
        running.show(frame)
    picture = running.heard["debug_image"][-1]
    assert picture.encoding == "rgb8"
    assert messages.stamp_ns(picture.header.stamp) in stamps
    assert (picture.width, picture.height) == (frame.width, frame.height)


def test_every_frame_comes_out_in_order_and_once(running: Robot) -> None:
    camera, sent = Camera(), []
    begun = {topic: len(running.heard[topic]) for topic in ("detections", "tracks")}
    for _ in range(45):
        frame = camera.next()
        sent.append(frame.stamp_ns)
        running.send_frame(frame)
        # a camera topic is best effort and keeps one image: the next one may replace one not taken yet
        running.wait(lambda: running.newest("tracks", sent[-1]), "the tracks")
    running.seen(sent[-1])
    stamps = {
        topic: [messages.stamp_ns(message.header.stamp) for message in running.heard[topic][start:]]
        for topic, start in begun.items()
    }
    assert stamps["tracks"] == sent
    assert set(stamps["detections"]) <= set(sent)
    assert all(earlier < later for earlier, later in pairwise(stamps["detections"]))


def encodings(rgb: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """The picture in the encodings of cameras, each with its bytes per row."""
    height, width, _ = rgb.shape
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    y, u, v = i420[:height], *(part.reshape(-1) for part in np.split(i420[height:].reshape(-1), 2))
    nv12 = np.concatenate((y, np.stack((u, v), -1).reshape(height // 2, width)))
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
    chroma = np.where(np.arange(width) % 2 == 0, yuv[..., 1], yuv[..., 2])
    yuyv, uyvy = np.stack((yuv[..., 0], chroma), -1), np.stack((chroma, yuv[..., 0]), -1)
    bayer = rgb[..., 1].copy()
    bayer[0::2, 0::2], bayer[1::2, 1::2] = rgb[0::2, 0::2, 0], rgb[1::2, 1::2, 2]
    alpha = np.full((height, width, 1), 255, np.uint8)
    return {
        "rgb8": (rgb, 3 * width),
        "bgr8": (rgb[..., ::-1], 3 * width),
        "rgba8": (np.concatenate((rgb, alpha), -1), 4 * width),
        "bgra8": (np.concatenate((rgb[..., ::-1], alpha), -1), 4 * width),
        "yuv422_yuy2": (yuyv, 2 * width),
        "yuv422": (uyvy, 2 * width),
        "nv12": (nv12, width),
        "bayer_rggb8": (bayer, width),
    }


def test_every_encoding_shows_the_same_scene(running: Robot) -> None:
    camera = Camera()
    picture = camera.next()
    expected = labels(running.show(picture))
    assert expected
    for encoding, (data, step) in encodings(picture.image).items():
        stamp = camera.next()
        message = image_message(np.ascontiguousarray(data), encoding, stamp, 640, 480, step)
        running.send(message)
        found = labels(running.seen(stamp.stamp_ns))
        if encoding in ("rgb8", "bgr8", "rgba8", "bgra8"):
            assert found == expected, encoding
        else:  # they lose colour
            assert len(set(found) & set(expected)) >= 0.6 * len(set(expected)), (encoding, found, expected)


def test_a_gray_camera_is_taken_too(running: Robot) -> None:
    frame = Camera().next()
    gray = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
    running.send(image_message(gray, "mono8", frame, 640, 480, 640))
    assert running.seen(frame.stamp_ns) is not None


def test_compressed_images_keep_their_header_too(compressed: Robot) -> None:
    frame = Camera().next()
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    header = messages.header(frame.stamp_ns, frame.frame_id)
    compressed.send(CompressedImage(header=header, format="jpeg", data=jpeg.tobytes()))
    detections = compressed.seen(frame.stamp_ns)
    assert detections.header == header
    assert detections.detections


def test_a_budget_of_time_that_cannot_be_kept_is_told(running: Robot) -> None:
    camera = Camera()
    before = running.counted("model", "answers over latency budget")
    try:
        assert running.set(budget__latency=0.001).successful
        frame = camera.next()
        running.show(frame)
        assert running.scene(frame.stamp_ns)["over_latency_budget"]
        running.wait(
            lambda: running.counted("model", "answers over latency budget") == before + 1, "the count"
        )
        status = running.diagnosis("model")
        assert (status.level, "budget.latency" in status.message) == (DiagnosticStatus.WARN, True)
    finally:
        assert running.set(budget__latency=0.0).successful
    running.show(camera.next())
    running.wait(lambda: running.diagnosis("model").level == DiagnosticStatus.OK, "the level to return to OK")
