# SPDX-License-Identifier: Apache-2.0
"""A server beside a camera."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from openai_server import (
    BUDGET_S,
    GOOD,
    PATIENCE_S,
    chosen,
    say,
    serving,
)

from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.decisions import Decision
from lfm_perception.demo.world import World
from lfm_perception.live import LiveCallbacks, LivePerception
from lfm_perception.scene import Frame, Scene


class Notes(LiveCallbacks):
    """A listener that lets a test wait."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self.scenes: list[Scene] = []
        self.problems: list[str] = []

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        with self._told:
            self.scenes.append(scene)
            self._told.notify_all()

    def on_answer(self, decision: Decision) -> None:
        raise AssertionError("nothing was asked")

    def on_error(self, kind: str, problem: str) -> None:
        with self._told:
            self.problems.append(problem)
            self._told.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self._told:
            assert self._told.wait_for(until, PATIENCE_S)


def test_beside_a_camera_failures_are_counted_and_looking_goes_on() -> None:
    world = World(seed=1, width=256, height=256)
    notes = Notes()
    with serving(say(500, b"out of memory")) as server:
        values = chosen(server.url, budget__latency=BUDGET_S, caption__enabled=False)
        with closing(OpenaiVlm(values)) as vlm:
            live = LivePerception[Frame](values, vlm, lambda frame, width: frame, notes)
            live.start()
            try:
                for index, problems in ((0, 1), (1, 2)):
                    frame = world.snapshot(index).frame
                    live.submit(frame, frame.stamp_ns)
                    notes.wait(lambda count=problems: len(notes.problems) >= count)  # type: ignore[misc]
                assert live.statistics().frames_failed == {"UnreachableError": 2}
                assert "out of memory" in live.statistics().last_error
                server.reply = GOOD
                frame = world.snapshot(2).frame
                live.submit(frame, frame.stamp_ns)
                notes.wait(lambda: bool(notes.scenes))
            finally:
                live.stop()
    assert notes.scenes[0].detections[0].label == "box"
