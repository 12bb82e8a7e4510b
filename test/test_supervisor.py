# SPDX-License-Identifier: Apache-2.0
"""The supervised worker process: same answers as the model in this process, and recovery from losses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shutil import copy

import numpy as np
import pytest

from lfm_perception.backends import open_vlm
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.backends.supervisor import HEARTBEAT_TIMEOUT_S, SupervisedVlm, WorkerError
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.questions import BBOX, CAPTION, FramePlan, ask, detect
from lfm_perception.scene import Answer, Frame, Usage
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError

SETTINGS = Settings().with_values({"sampling.temperature": 0.0, "engine.n_threads": 1})
FIND = detect(BBOX, LABELS)
SMALL = FramePlan(plan_image(640, 480, ImageLimits(32, 64)), 200)
LONG = FramePlan(plan_image(2560, 1024, ImageLimits(32, 256, 10)), 200)
"""2 x 5 tiles and a thumbnail: seconds of work."""

PATIENCE_S = 20.0


def demo_frame(index: int, width: int = 640, height: int = 480) -> Frame:
    return World(3, width, height).snapshot(index).frame


def noise() -> Frame:
    return Frame(np.random.default_rng(0).integers(0, 256, (1024, 2560, 3), dtype=np.uint8), 0)


def said(answer: Answer) -> Answer:
    """An answer without the time and the steps it took, which depend on what was learnt to guess."""
    usage = Usage(
        image_tokens=answer.usage.image_tokens,
        text_tokens=answer.usage.text_tokens,
        answer_tokens=answer.usage.answer_tokens,
    )
    return replace(answer, usage=usage)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process is there and not merely its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def in_flight(vlm: SupervisedVlm) -> Iterator[Future[Answer]]:
    """A question that takes seconds, being answered."""
    frame = noise()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(vlm.describe, frame, FIND, LONG)
        time.sleep(0.2)
        assert not future.done()
        yield future


@contextmanager
def opened(settings: Settings = SETTINGS, notify: Callable[[str], None] = print) -> Iterator[SupervisedVlm]:
    vlm = SupervisedVlm(settings, notify)
    try:
        yield vlm
    finally:
        vlm.close()


@pytest.fixture(scope="module")
def here() -> Iterator[LlamaVlm]:
    """The same model in this process."""
    with LlamaVlm(SETTINGS) as vlm:
        yield vlm


@pytest.fixture(scope="module")
def there() -> Iterator[SupervisedVlm]:
    """One worker for all tests that leave it able to answer."""
    with opened() as vlm:
        yield vlm


# --- answers ------------------------------------------------------------------------------------------


def test_a_model_runs_in_a_worker_process_unless_a_thread_is_chosen(there: SupervisedVlm) -> None:
    assert there.health().ready
    assert there.health().pid not in (None, os.getpid())
    in_thread = open_vlm(SETTINGS.with_values({"engine.isolation": "thread"}))
    assert in_thread.health().pid is None
    in_thread.close()


def test_answers_equal_those_of_the_model_in_this_process(here: LlamaVlm, there: SupervisedVlm) -> None:
    closed = detect(BBOX, ("person", "cone"), closed=True)
    for index, question in ((0, FIND), (9, ask(CAPTION)), (9, FIND), (20, closed)):
        frame = demo_frame(index)
        answer = there.describe(frame, question, SMALL)
        assert answer.text
        assert said(answer) == said(here.describe(frame, question, SMALL))


def test_frames_may_change_their_size_at_any_time(here: LlamaVlm, there: SupervisedVlm) -> None:
    for width, height in ((160, 120), (1920, 1080), (33, 700), (2560, 1440)):
        frame = demo_frame(0, width, height)
        plan = FramePlan(plan_image(width, height, ImageLimits(32, 64)), 60)
        assert said(there.describe(frame, FIND, plan)) == said(here.describe(frame, FIND, plan))


def test_an_image_that_is_not_contiguous_is_copied_right(here: LlamaVlm, there: SupervisedVlm) -> None:
    mirrored = replace(demo_frame(0), image=demo_frame(0).image[:, ::-1])
    assert said(there.describe(mirrored, FIND, SMALL)) == said(here.describe(mirrored, FIND, SMALL))


def test_a_second_question_about_a_frame_encodes_nothing_again(there: SupervisedVlm) -> None:
    frame = demo_frame(5)
    first = there.describe(frame, FIND, SMALL)
    second = there.describe(frame, ask(CAPTION), SMALL)
    assert second.usage.encode_s < first.usage.encode_s / 10
    assert there.describe(demo_frame(5), FIND, SMALL).usage.encode_s > first.usage.encode_s / 10


def test_refusals_equal_those_of_the_model_in_this_process(here: LlamaVlm, there: SupervisedVlm) -> None:
    for tokens in (0, 9000):
        plan = FramePlan(SMALL.image, tokens)
        with pytest.raises(PerceptionError) as expected:
            here.describe(demo_frame(0), FIND, plan)
        with pytest.raises(PerceptionError) as got:
            there.describe(demo_frame(0), FIND, plan)
        assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("shape", [(256, 256), (256, 256, 4), (0, 256, 3)], ids=str)
def test_an_image_that_is_not_rgb_is_refused(there: SupervisedVlm, shape: tuple[int, ...]) -> None:
    with pytest.raises(PerceptionError, match="must be a uint8 RGB image"):
        there.describe(Frame(np.zeros(shape, np.uint8), 0), FIND, SMALL)


def test_questions_of_several_threads_are_answered_one_by_one(here: LlamaVlm, there: SupervisedVlm) -> None:
    frames = [demo_frame(index) for index in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda frame: there.describe(frame, FIND, SMALL), frames))
    assert list(map(said, together)) == [said(here.describe(frame, FIND, SMALL)) for frame in frames]


def test_a_question_can_be_cancelled_from_another_thread(there: SupervisedVlm) -> None:
    before = there.describe(demo_frame(0), FIND, SMALL)
    with in_flight(there) as question:
        cancelled = time.monotonic()
        there.cancel()
        with pytest.raises(CancelledError, match="the question was cancelled"):
            question.result()
        assert time.monotonic() - cancelled < 0.5
    there.cancel()  # nothing is asked
    assert said(there.describe(demo_frame(0), FIND, SMALL)) == said(before)


def test_cancelling_affects_no_later_question() -> None:
    """At any moment: a question is answered or cancelled, and none is forgotten."""
    frames = [demo_frame(index) for index in range(3)]
    over = threading.Event()
    outcomes: list[str] = []

    def asking(frame: Frame) -> None:
        while not over.is_set():
            outcome = "cancelled"
            with suppress(CancelledError):
                vlm.describe(frame, FIND, SMALL)
                outcome = "answered"
            outcomes.append(outcome)

    with opened(SETTINGS.with_values({"engine.answer_timeout": 10.0})) as vlm:
        with ThreadPoolExecutor(3) as threads:
            askers = [threads.submit(asking, frame) for frame in frames]
            for pause_ms in np.random.default_rng(0).uniform(0.0, 30.0, 60):
                time.sleep(pause_ms / 1000)
                vlm.cancel()
            over.set()
        for asker in askers:
            asker.result()
        assert set(outcomes) == {"answered", "cancelled"}
        assert vlm.health().restarts == 0


# --- losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGKILL, r"killed by SIGKILL while .+ \(out of memory, or killed by hand\); restarting now"),
        (signal.SIGABRT, r"killed by SIGABRT while .+ \(llama\.cpp or CUDA aborted: .*\); restarting now"),
        (signal.SIGRTMIN, r"was killed by SIGRTMIN while .+; restarting now"),
        (signal.SIGSTOP, r"hangs while .+: no heartbeat for 1\.25 s; restarting now"),
    ],
    ids=["killed", "aborted", "of an unusual signal", "stopped"],
)
def test_a_lost_process_costs_one_answer(there: SupervisedVlm, number: signal.Signals, sentence: str) -> None:
    before, lost = there.describe(demo_frame(0), FIND, SMALL), there.health()
    assert lost.pid
    with in_flight(there) as question:
        os.kill(lost.pid, number)
        with pytest.raises(WorkerError, match=sentence) as raised:
            question.result(HEARTBEAT_TIMEOUT_S + 5.0)
    assert not runs(lost.pid)
    wait_for(lambda: there.health().ready, "the recovery")
    assert there.health().restarts == lost.restarts + 1
    assert there.health().pid != lost.pid
    assert str(raised.value)
    assert said(there.describe(demo_frame(0), FIND, SMALL)) == said(before)


def test_health_states_the_loss_and_loss_and_recovery_are_notified() -> None:
    told: list[tuple[str, str]] = []
    with opened(notify=lambda sentence: told.append((sentence, vlm.health().problem))) as vlm:
        pid = vlm.health().pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(told) == 2, "two sentences")
        (loss, problem), (back, nothing) = told
        assert loss == problem
        assert "was killed by SIGKILL" in loss
        assert back.startswith("the worker process is ready again after")
        assert nothing == ""


def test_a_question_during_a_restart_fails_when_the_worker_is_ready(there: SupervisedVlm) -> None:
    there.describe(demo_frame(0), FIND, SMALL)
    pid = there.health().pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not there.health().ready, "the loss")
    with pytest.raises(WorkerError, match="was restarting when this frame came"):
        there.describe(demo_frame(0), FIND, SMALL)
    assert there.describe(demo_frame(0), FIND, SMALL).text


def test_an_answer_that_takes_too_long_ends_the_process() -> None:
    with opened(SETTINGS.with_values({"engine.answer_timeout": 1.0})) as vlm:
        began = time.monotonic()
        with pytest.raises(WorkerError, match=r"no answer within engine\.answer_timeout 1 s"):
            vlm.describe(noise(), FIND, LONG)
        assert 1.0 < time.monotonic() - began < 3.0
        wait_for(lambda: vlm.health().ready, "the recovery")


def test_restarts_without_an_answer_back_off(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    model, mmproj = (Path(copy(file, tmp_path)) for file in demo_model)
    told: list[str] = []
    files = {"model.path": str(model), "mmproj.path": str(mmproj)}
    with opened(SETTINGS.with_values(files), told.append) as vlm:
        vlm.describe(demo_frame(0), FIND, SMALL)
        pid = vlm.health().pid
        assert pid
        model.rename(tmp_path / "moved")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(told) == 3, "three losses")
        assert told[0].endswith("restarting now")
        assert told[1].endswith("restarting in 0.5 s")
        assert told[2].endswith("restarting in 1 s")
        assert all(str(model) in sentence for sentence in told[1:])
        assert vlm.health().restarts == 3
        assert vlm.health().problem == told[2]
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(vlm.describe, demo_frame(0), FIND, SMALL)
            time.sleep(0.1)
            vlm.cancel()
            with pytest.raises(CancelledError):
                waiting.result()
        (tmp_path / "moved").rename(model)
        wait_for(lambda: vlm.health().ready, "the recovery")
        assert vlm.describe(demo_frame(0), FIND, SMALL).text


# --- beginning and end --------------------------------------------------------------------------------


def test_a_model_that_cannot_be_loaded_is_one_error(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    model, mmproj = map(str, demo_model)
    before = belongings()
    for files in (
        {"model.path": str(tmp_path / "nowhere.gguf"), "mmproj.path": mmproj},
        {"model.path": mmproj, "mmproj.path": model},
        {"model.path": model, "mmproj.path": mmproj, "model.sha256": "0" * 64},
    ):
        settings = SETTINGS.with_values(files)
        with pytest.raises(PerceptionError) as expected:
            LlamaVlm(settings)
        with pytest.raises(PerceptionError) as got:
            SupervisedVlm(settings)
        assert str(got.value) == str(expected.value)
    assert belongings() == before


OTHERS = ("fastdds", "sem.fastdds", "lttng")
"""What ROS nodes beside this test name their shared memory."""


def belongings() -> tuple[int, set[str], set[str], set[str]]:
    """What this process holds: how many open files, which children, threads and shared memory."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    children = {
        pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()
    }
    threads = {thread.name for thread in threading.enumerate()}
    memory = {file.name for file in Path("/dev/shm").iterdir() if not file.name.startswith(OTHERS)}
    return files, children, threads, memory


def test_closing_leaves_nothing_behind(there: SupervisedVlm) -> None:
    there.describe(demo_frame(0), FIND, SMALL)
    before = belongings()
    with opened() as vlm:
        vlm.describe(demo_frame(0), FIND, SMALL)
        os.kill(vlm.health().pid or 0, signal.SIGKILL)
        wait_for(lambda: vlm.health().restarts and vlm.health().ready, "the recovery")
        vlm.describe(demo_frame(0), FIND, SMALL)
        assert belongings() != before
        vlm.close()
        assert belongings() == before
        vlm.close()
        assert vlm.health().pid is None
        with pytest.raises(PerceptionError, match="has been closed"):
            vlm.describe(demo_frame(0), FIND, SMALL)


def test_closing_ends_the_request_in_flight() -> None:
    with opened() as vlm, in_flight(vlm) as question:
        began = time.monotonic()
        vlm.close()
        with pytest.raises(CancelledError):
            question.result()
        assert time.monotonic() - began < 1.0


def test_closing_ends_a_process_that_hangs() -> None:
    with opened() as vlm:
        pid = vlm.health().pid
        assert pid
        os.kill(pid, signal.SIGSTOP)
        vlm.close()
        assert not runs(pid)


def test_closing_does_not_wait_for_a_restart() -> None:
    with opened() as vlm:
        vlm.describe(demo_frame(0), FIND, SMALL)
        os.kill(vlm.health().pid or 0, signal.SIGKILL)
        wait_for(lambda: not vlm.health().ready, "the loss")
        began = time.monotonic()
        vlm.close()
        assert time.monotonic() - began < 1.0


PARENT = """
import time
from lfm_perception.settings import Settings
from lfm_perception.backends.supervisor import SupervisedVlm
print(SupervisedVlm(Settings()).health().pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["working", "stopped"])
def test_the_worker_ends_with_the_process_that_started_it(stopped: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert runs(pid)
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
    wait_for(lambda: not runs(pid), "the end of the worker")
