# SPDX-License-Identifier: Apache-2.0
"""The node over its life and under losses, again and again; `benchmarks/node.py` goes on for longer."""

from __future__ import annotations

import os
import signal
import threading
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from lifecycle_msgs.msg import Transition
from robot import QUICK, RELIABLE, Camera, Robot, robot  # isort: split - chooses how messages travel
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from lfm_perception.ros import messages, processes
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import LifecycleClient

WARM_UP, CYCLES = 6, 6
"""Cycles until memory is measured, and from there on."""

LOSSES = (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL)


def children(pid: int) -> set[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for each in lists for child in each.read_text().split()}


def belongings(pid: int) -> tuple[int, int, set[int]]:
    """How many open files and threads a process has, and its children."""
    files, threads = (len(list(Path(f"/proc/{pid}/{each}").iterdir())) for each in ("fd", "task"))
    return files, threads, children(pid)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_cycles_from_unconfigured_to_active_and_back_leave_nothing_behind(tmp_path: Path) -> None:
    camera, answered = Camera(width=320, height=240), threading.Event()
    with (
        processes.NodeProcess(processes.PERCEPTION_MODULE, tmp_path / "log", QUICK) as process,
        spinning_node("user") as user,
    ):
        publisher = user.create_publisher(Image, "image_raw", RELIABLE)
        user.create_subscription(Detection2DArray, "detections", lambda _: answered.set(), RELIABLE)
        lifecycle = LifecycleClient(user, "/perception", [process])
        for cycle in range(WARM_UP + CYCLES):
            lifecycle.change_state(Transition.TRANSITION_CONFIGURE, "configured")
            lifecycle.change_state(Transition.TRANSITION_ACTIVATE, "activated")
            processes.wait_for(publisher.get_subscription_count, 60.0, "the node's subscription", [process])
            answered.clear()
            while not answered.wait(0.2):  # the first may come before both ends know each other
                frame = camera.next()
                publisher.publish(messages.image(frame.image, messages.header(frame.stamp_ns, "front")))
                process.check()
            lifecycle.change_state(Transition.TRANSITION_DEACTIVATE, "deactivated")
            lifecycle.change_state(Transition.TRANSITION_CLEANUP, "cleaned up")
            if cycle == WARM_UP - 1:
                before, resident = belongings(process.pid), resident_bytes(process.pid)
        files, threads, own = belongings(process.pid)
        assert (files, own) == (before[0], set())
        assert threads <= before[1]
        assert resident_bytes(process.pid) < 1.02 * resident


def test_tracks_go_on_while_the_model_is_lost_again_and_again() -> None:
    sent: list[int] = []
    over = threading.Event()
    before = children(os.getpid())

    def show(started: Robot) -> None:
        camera = Camera(width=320, height=240)
        while not over.wait(1 / 30):
            frame = camera.next()
            sent.append(frame.stamp_ns)
            started.send(messages.image(frame.image, messages.header(frame.stamp_ns, "front")))

    def stamps(topic: str) -> list[int]:
        return [messages.stamp_ns(message.header.stamp) for message in started.heard[topic]]

    with robot() as started:
        started.bring_up()
        thread = threading.Thread(target=show, args=(started,))
        thread.start()
        try:
            started.wait(lambda: started.heard["detections"], "an answer")
            workers = []
            for loss in LOSSES:
                (worker,) = children(os.getpid()) - before
                workers.append(worker)
                lost_ns = sent[-1]
                os.kill(worker, loss)
                started.wait(lambda w=worker: w not in children(os.getpid()), "the end of it")  # type: ignore[misc]
                started.wait(lambda at=lost_ns: stamps("detections")[-1] > at, "the recovery")  # type: ignore[misc]
                back_ns = stamps("detections")[-1]
                shown = [lost_ns < stamp_ns <= back_ns for stamp_ns in sent]
                tracked = [lost_ns < stamp_ns <= back_ns for stamp_ns in stamps("tracks")]
                assert sum(tracked) > 0.5 * sum(shown)
            started.wait(lambda: started.counted("model", "worker restarts") == len(LOSSES), "the count")
        finally:
            over.set()
            thread.join()
        for topic in ("detections", "tracks"):
            assert set(stamps(topic)) <= set(sent)
            assert all(earlier < later for earlier, later in pairwise(stamps(topic)))
    assert children(os.getpid()) == before
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
