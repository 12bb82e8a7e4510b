# SPDX-License-Identifier: Apache-2.0
"""Bad input and trouble: none of it ends the node or costs what is known."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from robot import IN_THREAD, RELIABLE, Camera, Robot, image_message, robot, track_ids  # isort: split - chooses how messages travel
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from lfm_perception.ros import messages
from lfm_perception.scene import Frame

SECOND_NS = 10**9


def test_bad_images_are_counted_and_the_next_good_one_is_seen(running: Robot) -> None:
    camera = Camera()
    running.show(camera.next())
    good = np.zeros((48, 64, 3), np.uint8)
    bad = {
        "an encoding nobody knows": (good, "jpeg2000", 64, 48, 192),
        "cut off": (good[:10], "rgb8", 64, 48, 192),
        "no pixels": (good, "rgb8", 0, 0, 0),
        "20,000 pixels wide": (good, "rgb8", 20_000, 48, 60_000),
        "rows shorter than the picture is wide": (good, "rgb8", 64, 48, 100),
    }
    failed = running.counted("model", "frames failed")
    for number, (data, encoding, width, height, step) in enumerate(bad.values()):
        running.send(image_message(data, encoding, camera.next(), width, height, step))
        running.wait(lambda n=number: running.counted("model", "frames failed") == failed + n + 1)  # type: ignore[misc]
    assert running.diagnosis("model").level == DiagnosticStatus.WARN
    assert running.show(camera.next()).detections
    running.wait(lambda: running.diagnosis("model").level == DiagnosticStatus.OK, "the level to return to OK")


def test_a_corrupt_jpeg_is_counted_and_the_next_good_one_is_seen(compressed: Robot) -> None:
    camera = Camera()
    frame = camera.next()
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    for data in (jpeg.tobytes()[:500], b"", b"not a picture"):
        header = messages.header(camera.next().stamp_ns, "front")
        compressed.send(CompressedImage(header=header, format="jpeg", data=data))
        time.sleep(0.1)
    frame = camera.next()
    header = messages.header(frame.stamp_ns, "front")
    compressed.send(CompressedImage(header=header, format="jpeg", data=jpeg.tobytes()))
    assert compressed.seen(frame.stamp_ns).detections
    compressed.wait(lambda: compressed.counted("model", "frames failed: PerceptionError") > 0)


def test_wrong_stamps_are_refused_by_reason_and_the_tracks_stay(running: Robot) -> None:
    camera = Camera()
    first = camera.next()
    running.show(first)
    known = track_ids(running, first)
    assert known
    image = camera.next().image
    now_ns = time.time_ns()
    wrong = {
        "no stamp": 0,
        "from the future": now_ns + 3600 * SECOND_NS,
        "out of order": first.stamp_ns - SECOND_NS // 10,
        "repeated": first.stamp_ns,
        "jumped back": first.stamp_ns - 1000 * SECOND_NS,
    }
    for reason, stamp_ns in wrong.items():
        before = running.counted("camera", f"frames rejected: {reason}")
        running.send(messages.image(image, messages.header(stamp_ns, "front")))
        running.wait(
            lambda reason=reason, before=before: (  # type: ignore[misc]
                running.counted("camera", f"frames rejected: {reason}") > before
            ),
            reason,
        )
        assert running.newest("detections", stamp_ns) is None or stamp_ns == first.stamp_ns
    after = camera.next()
    running.show(after)
    assert set(known) & set(track_ids(running, after))


def test_a_dead_camera_is_an_error_within_two_seconds_and_never_repeated() -> None:
    with robot() as started:
        started.bring_up()
        started.show(Camera().next())
        died = time.monotonic()
        published = len(started.heard["tracks"])
        status = started.wait(
            lambda: (
                (status := started.diagnosis("camera")) and status.level == DiagnosticStatus.ERROR and status
            ),
            "the alarm",
        )
        assert time.monotonic() - died < 2.0
        assert f"no usable image on {started.user.resolve_topic_name('image_raw')}" in status.message
        assert len(started.heard["tracks"]) == published
        told = len(started.heard["/diagnostics"])
        started.show(Camera().next())
        started.wait(
            lambda: any(
                message.status[0].level != DiagnosticStatus.ERROR
                for message in started.heard["/diagnostics"][told:]
            ),
            "the all-clear",
        )


def test_a_clock_that_is_set_back_is_a_new_beginning() -> None:
    with robot({"use_sim_time": True, "node.depth": True, **IN_THREAD}) as started:
        depth = started.user.create_publisher(Image, "input_depth", RELIABLE)
        clock = started.user.create_publisher(Clock, "/clock", RELIABLE)
        started.wait(lambda: clock.get_subscription_count() > 0)
        started.bring_up()
        camera = Camera()
        images = [camera.next().image for _ in range(3)]

        def at(seconds: int, image: np.ndarray) -> list[int]:
            clock.publish(Clock(clock=Time(sec=seconds)))
            started.wait(lambda: started.node.get_clock().now().nanoseconds == seconds * SECOND_NS)
            frame, before = Frame(image, seconds * SECOND_NS, "front"), depth_images()
            depth.publish(image_message(np.full((48, 64), seconds, np.uint16), "16UC1", frame, 64, 48, 128))
            started.wait(lambda: depth_images() > before, "the depth image")
            started.show(frame)
            assert started.scene(frame.stamp_ns)["objects"][0]["distance_m"] == seconds / 1000
            return track_ids(started, frame)

        def depth_images() -> int:
            return started.counted("depth", "depth images received")

        first, second = at(100, images[0]), at(101, images[1])
        assert set(first) & set(second)
        again = at(50, images[2])
        assert again
        assert not set(second) & set(again)
        assert started.wait(lambda: started.counted("camera", "tracker resets")) == 1


def test_the_worker_is_lost_and_the_node_goes_on(running: Robot) -> None:
    camera = Camera()
    first = camera.next()
    running.show(first)
    worker = running.wait(lambda: running.counted("model", "worker PID"))
    os.kill(worker, signal.SIGKILL)
    running.wait(lambda: running.diagnosis("model").level == DiagnosticStatus.ERROR or int(
        running.counted("model", "worker restarts") or 0) > 0, "the loss in the diagnostics")  # fmt: skip
    during = camera.next()
    running.send(messages.image(during.image, messages.header(during.stamp_ns, "front")))
    assert running.wait(lambda: running.newest("tracks", during.stamp_ns)).detections
    running.wait(lambda: running.diagnosis("model").level != DiagnosticStatus.ERROR, "the recovery")
    after = camera.next()
    running.show(after)
    assert set(track_ids(running, first)) & set(track_ids(running, after))
    assert running.counted("model", "worker PID") != worker


def test_the_demo_model_warns_once_of_images_from_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    with robot(IN_THREAD) as started:
        started.bring_up()
        camera = Camera()
        started.show(replace(camera.next(), frame_id="demo_camera"))
        assert "this is the demo model" not in capfd.readouterr().err
        for _ in range(3):
            started.show(camera.next())
        assert capfd.readouterr().err.count("this is the demo model, which knows only the demo world") == 1
