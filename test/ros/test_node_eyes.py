# SPDX-License-Identifier: Apache-2.0
"""Eyes for agents over a running node, on real DDS."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from robot import Camera, Robot

from lfm_perception.errors import PerceptionError
from lfm_perception.memory import MemoryQuestion
from lfm_perception.ros import eyes as eyes_module
from lfm_perception.ros.eyes import node_eyes
from lfm_perception.settings import Settings
from lfm_perception.typed_questions import TypedQuestion


@contextmanager
def sending(running: Robot) -> Iterator[None]:
    """A camera that sends a frame five times a second."""
    ended, camera = threading.Event(), Camera()

    def send() -> None:
        while not ended.wait(0.2):
            running.send_frame(camera.next(skip=5))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_scene_has_its_age_and_an_old_one_is_not_told(
    running: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node_eyes(running.name) as eyes:
        with sending(running):
            eyes.look()
        end_s = time.monotonic() + 30.0
        while (seen := eyes.scene())["age_s"] < 0.3:  # until the last frame that was sent is inferred
            assert time.monotonic() < end_s, "the age of a scene does not grow"
            time.sleep(0.05)
        monkeypatch.setattr(eyes_module, "MAX_AGE_S", 0.2)
        with sending(running):
            assert eyes.scene()["stamp"] != seen["stamp"]
        monkeypatch.setattr(eyes_module, "SCENE_S", 0.2)
        time.sleep(2.0)  # the last frame that was sent is inferred
        for stale in (eyes.scene, eyes.caption):
            with pytest.raises(PerceptionError, match="published no scene within"):
                stale()


def test_an_agent_sees_what_the_node_sees(running: Robot) -> None:
    with sending(running), node_eyes(running.name) as eyes:
        scene = eyes.look()
        assert scene["frame_id"] == "front_optical"
        assert eyes.look()["stamp"] != scene["stamp"]
        assert "value" in eyes.ask(TypedQuestion("Is there a box?", "yes_no"))
        for boxes in (False, True):
            data = np.frombuffer(eyes.snapshot(boxes=boxes), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
            assert image is not None
            assert image.shape == (480, 640, 3)
        assert re.fullmatch(r"(\S+ ){3,}\(\d+\.\d s ago\)", eyes.caption())
        eyes.set_labels(["person"])
        assert running.get("detect.labels") == ["person"]
        with pytest.raises(PerceptionError, match="more than once"):
            eyes.set_labels(["box", "box"])
        eyes.set_labels(Settings().detect.labels)
        with pytest.raises(PerceptionError, match=r"by a node with memory\.enabled only"):
            eyes.remember(MemoryQuestion("box", "box"))
