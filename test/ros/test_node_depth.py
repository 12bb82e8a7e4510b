# SPDX-License-Identifier: Apache-2.0
"""Depth images beside the camera's give tracks distances, on real DDS with the demo model."""

from __future__ import annotations

import array
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from robot import IN_THREAD, RELIABLE, Camera, Robot, image_message, robot
from sensor_msgs.msg import Image
from std_msgs.msg import String
from test_topics import documented, subscribed

from lfm_perception.scene import Frame

RULES = "rules: {close: {when: {distance: {below: 2}}, end_after: 100}}"
WALL = np.full((120, 160), 1500, np.uint16)


class DepthCamera:
    """Publishes depth images for the node of a robot."""

    def __init__(self, beside: Robot) -> None:
        self._robot, self._sent = beside, 0
        self._publisher = beside.user.create_publisher(Image, "input_depth", RELIABLE)
        beside.wait(lambda: self._publisher.get_subscription_count() > 0, "the subscription of depth")

    def send(self, message: Image) -> None:
        """Send an image and wait until the node has received it."""
        before = self._robot.counted("depth", "depth images received")
        self._publisher.publish(message)
        self._robot.wait(
            lambda: self._robot.counted("depth", "depth images received") > before, "the depth image"
        )


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """A node with depth and a rule about it."""
    rules = tmp_path_factory.mktemp("depth") / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    with robot({"node.depth": True, "rules.file": str(rules), **IN_THREAD}) as started:
        started.listen("events", String)
        yield started.bring_up()


@pytest.fixture(scope="module")
def camera(seeing: Robot) -> DepthCamera:
    return DepthCamera(seeing)


def depth_of(frame: Frame, pixels: NDArray[Any] = WALL, encoding: str = "16UC1", **lies: int) -> Image:
    """A depth image with the header of a camera frame; `lies` are fields that contradict the pixels."""
    size = {"width": pixels.shape[1], "height": len(pixels), "step": pixels.strides[0], **lies}
    return image_message(pixels, encoding, frame, **size)


def metres(running: Robot, frame: Frame) -> set[float | None]:
    """The distances of the objects in the scene of a frame, of which there must be some."""
    running.show(frame)
    objects = running.scene(frame.stamp_ns)["objects"]
    assert objects
    return {each.get("distance_m") for each in objects}


def rejected(running: Robot, reason: str) -> int:
    return running.counted("depth", f"depth images rejected: {reason}")


def test_tracks_and_rules_have_the_distance_of_the_depth_image(seeing: Robot, camera: DepthCamera) -> None:
    colour = Camera()
    first, second = colour.next(), colour.next(3)
    camera.send(depth_of(replace(first, stamp_ns=first.stamp_ns - 90_000_000)))
    assert metres(seeing, first) == {1.5}
    camera.send(depth_of(second, np.full((48, 64), 1.25, np.float32), "32FC1"))
    assert metres(seeing, second) == {1.25}
    (event, *_) = seeing.wait(lambda: seeing.heard["events"], "the event of the rule")
    told = json.loads(event.data)
    assert (told["rule"], told["state"], told["values"]) == ("close", "begin", {"distance_m": 1.25})
    seeing.wait(lambda: seeing.diagnosis("depth").level == DiagnosticStatus.OK, "depth without a problem")


def test_a_frame_without_a_depth_image_in_time_has_no_distance(seeing: Robot, camera: DepthCamera) -> None:
    colour = Camera()
    first, late = colour.next(), colour.next(30)
    camera.send(depth_of(first))
    before = seeing.counted("depth", "frames without a depth image")
    assert metres(seeing, late) == {None}
    seeing.wait(lambda: seeing.counted("depth", "frames without a depth image") == before + 1, "the count")
    said = [
        status.message
        for array in seeing.heard["/diagnostics"]
        for status in array.status
        if status.name.endswith(": depth") and status.level == DiagnosticStatus.WARN
    ]
    assert any("differ by more than node.depth_tolerance (0.1 s)" in each for each in said)
    assert seeing.set(node__depth_tolerance=2.0).successful
    try:
        assert metres(seeing, colour.next(3)) == {1.5}
    finally:
        assert seeing.set(node__depth_tolerance=0.1).successful


def test_bad_depth_images_are_counted_and_change_nothing(seeing: Robot, camera: DepthCamera) -> None:
    colour = Camera()
    frames = [colour.next(3) for _ in range(2)]
    cut_off = depth_of(frames[0])
    cut_off.data = array.array("B", cut_off.data[:1000])
    bad = [
        *(depth_of(frames[0], np.zeros((8, 8, 3), np.uint8), "rgb8"), cut_off, depth_of(frames[0], step=1)),
        *(depth_of(frames[0], width=2**32 - 1), depth_of(frames[0], height=2**31)),
        depth_of(frames[0], np.zeros((0, 8), np.uint16)),
    ]
    before = rejected(seeing, "unreadable")
    for message in bad:
        camera.send(message)
    seeing.wait(lambda: rejected(seeing, "unreadable") == before + len(bad), "the images that are unreadable")
    camera.send(depth_of(replace(frames[0], stamp_ns=0)))
    seeing.wait(lambda: rejected(seeing, "no stamp") == 1, "the image without a stamp")
    camera.send(depth_of(replace(frames[0], stamp_ns=frames[0].stamp_ns + 10**15)))
    seeing.wait(lambda: rejected(seeing, "from the future") == 1, "the image from the future")
    assert metres(seeing, frames[0]) == {None}
    camera.send(depth_of(replace(frames[1], frame_id="front_depth_optical")))
    assert metres(seeing, frames[1]) == {None}
    seeing.wait(lambda: rejected(seeing, "not aligned") > 0, "the image that is not aligned")
    last = colour.next(3)
    camera.send(depth_of(last))
    assert metres(seeing, last) == {1.5}
    assert seeing.counted("node", "unexpected errors") == 0


def test_the_page_of_topics_names_the_subscription(seeing: Robot) -> None:
    assert {row for row in subscribed(seeing) if row[0] == "input_depth"} == documented("Depth", 3)


def test_without_depth_nothing_of_it_is_imported(imported_by_default: list[str]) -> None:
    found = [each for each in imported_by_default if each.startswith("lfm_perception") and "depth" in each]
    assert found == ["lfm_perception.media.bit_depth"]
