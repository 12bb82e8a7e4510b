# SPDX-License-Identifier: Apache-2.0
"""A thread that works on the newest item alone."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from lfm_perception.live import LatestWorker

PATIENCE_S = 60.0


def unexpected(given: object) -> None:
    raise AssertionError(given)


def test_the_newest_frame_wins() -> None:
    processed, started, blocked = list[str](), threading.Event(), threading.Event()

    def work(name: str) -> None:
        processed.append(name)
        started.set()
        assert blocked.wait(PATIENCE_S)

    with closing(LatestWorker[str]("test", work, unexpected)) as worker:
        worker.submit("in progress")
        assert started.wait(PATIENCE_S)
        replaced = []
        for name in ("first", "second", "third"):
            replaced.append(worker.submit(name))
            assert worker.waiting == 1
        blocked.set()
        worker.wait_idle()
        assert (processed, worker.waiting) == (["in progress", "third"], 0)
    assert replaced == [False, True, True]


def test_a_worker_that_waits_for_an_item_can_be_closed() -> None:
    worker = LatestWorker[str]("test of closing", unexpected, unexpected)
    worker.close()
    assert "test of closing" not in [thread.name for thread in threading.enumerate()]
    worker.submit("too late")
    worker.wait_idle()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_wait_idle_returns_after_the_worker_has_ended() -> None:
    def fail(error: Exception) -> None:
        raise error  # the report itself fails, as after the end of a ROS context

    worker = LatestWorker[int]("test", lambda item: item // 0, fail)  # type: ignore[arg-type]
    for item in range(2):
        worker.submit(item)
        worker.wait_idle()
    worker.close()
