# SPDX-License-Identifier: Apache-2.0
"""The end of the demo camera."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from lfm_perception.errors import PerceptionError
from lfm_perception.ros.processes import DEMO_CAMERA_MODULE, NodeProcess, wait_for

BUSY = {"rate": 240.0, "width": 1280, "height": 960}
"""Frames that take longer than their period, so that a signal comes while one is rendered."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_camera_after_the_frame_that_it_renders(
    number: signal.Signals, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with NodeProcess(DEMO_CAMERA_MODULE, log, BUSY) as process:
        wait_for(lambda: "publishing demo world" in log.read_text(), 60.0, "the camera", [process])
        os.kill(process.pid, number)
        with pytest.raises(PerceptionError, match="ended with code 0"):
            wait_for(lambda: False, 60.0, "its end", [process])
    assert "Traceback" not in log.read_text()
