# SPDX-License-Identifier: Apache-2.0
"""Supervision of the model in a worker process: a crash or a hang of the engine costs one answer.

    describe() ──image────► shared memory ───► worker process: LlamaVlm
               ──request──► pipe
               ◄─response──
    thread `supervisor`: watchdog: receives the worker's heartbeat, kills it when it hangs, restarts it

llama.cpp and CUDA abort their process on some inputs, some drivers hang, and the kernel kills the largest
process when memory runs out. The worker is then restarted, at once after some answers, else with an
increasing back-off, and when it ends twice in the same way, the message names a remedy. The shared memory
and the socket have no names, so that neither can be left behind; the worker ends with this process, however
that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfm_perception import worker_process
from lfm_perception.backends import Notify
from lfm_perception.backends import worker_messages as messages
from lfm_perception.backends.worker_messages import HEARTBEAT_S, SharedFrame, SharedMemory
from lfm_perception.engine.crashes import IDLE, STARTING, Crash, Stage, explain
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame, check_image
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError, Health, OnText
from lfm_perception.worker_process import WorkerProcess

if TYPE_CHECKING:
    from lfm_perception.commands import Command

STOPPED_TIMEOUT_S = 1.25
"""Longest silence of a worker that the kernel reports as stopped."""

HEARTBEAT_TIMEOUT_S = 10.0
"""Longest silence of any other worker: a busy machine may leave it no CPU time."""

LOAD_TIMEOUT_S = 60.0
"""Longest silence of a worker until the model is loaded: the disk may be slow."""

MIN_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Delay before a restart when a worker gave no answer or ended as the one before it; doubled each time."""

HEALTHY_ANSWERS = 3
"""After this many answers a worker is restarted at once, however it ended."""

MAX_OUTPUT = 4096
"""Bytes of a worker's standard error that are kept, to explain its end."""

EXIT_TIMEOUT_S = 2.0
"""Longest wait for the exit code of a worker that has closed its pipe."""


class WorkerError(PerceptionError):
    """The worker process was lost with the request in flight, or is restarting.

    `crash` is how it ended, if it did.
    """

    def __init__(self, sentence: str, crash: Crash | None = None) -> None:
        super().__init__(sentence)
        self.crash = crash


class SupervisedVlm:
    """A `Vlm` in a worker process. Safe to use from several threads; questions are answered one by one.

    A question that comes during a restart waits for its end and then fails with a WorkerError, because its
    frame is outdated.

    Args:
        settings: Sent to each worker.
        notify: Receives one sentence for each loss and each recovery, on the supervisor's thread.

    Raises:
        PerceptionError: The model cannot be loaded.
    """

    def __init__(self, settings: Settings, notify: Notify = lambda sentence: None) -> None:
        self._settings, self._notify = settings, notify
        self._started = worker_process.take()
        """The process of the first worker, where it was started ahead."""
        self._memory = SharedMemory(self._started.memory_file if self._started else os.memfd_create("frame"))
        self._changed = threading.Condition()
        self._one_request = threading.Lock()
        self._worker: _Worker | None = None
        self._closing = False
        self._health = Health(ready=False)
        self._number = self._cancels = 0
        self._response: messages.Response | None = None
        self._text = ""
        """The text of the answer so far, if it is new."""
        self._deadline_s: float | None = None
        self._shared: Frame | None = None
        self._was_ready = False
        self._answers = 0
        self._loss: Crash | None = None
        """The end of the last worker."""
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._was_ready or self._loss)
        if self._loss and not self._was_ready:
            self.close()
            raise WorkerError(str(self._loss), self._loss)

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`. Raises WorkerError when the worker is lost."""
        return self.stream(frame, question, plan, None)

    def stream(self, frame: Frame, question: Question, plan: FramePlan, on_text: OnText | None) -> Answer:
        """See `StreamingVlm.stream`; the newest text comes on this thread. Raises WorkerError as above."""
        check_image(frame.image, "a frame")

        def request(number: int) -> messages.Request:
            shared = None if frame is self._shared else self._share(frame)
            return messages.Request(number, shared, question, plan, on_text is not None)

        return self._ask(request, on_text)

    def command(self, command: Command) -> Answer:
        """See `CommandVlm.command`. Raises WorkerError when the worker is lost."""
        return self._ask(lambda number: messages.CommandRequest(number, command))

    def _ask(
        self,
        request: Callable[[int], messages.Request | messages.CommandRequest],
        on_text: OnText | None = None,
    ) -> Answer:
        """Send the request that is made with its number, and wait for the answer."""
        with self._one_request, self._changed:
            cancels = self._cancels
            worker = self._await_worker(cancels)
            message = request(self._number + 1)
            self._number += 1
            self._response, self._text = None, ""
            self._deadline_s = time.monotonic() + self._settings.engine.answer_timeout
            worker.send(message)

            def ended() -> bool:
                return bool(self._response) or self._worker is not worker or self._cancels != cancels

            try:
                while self._changed.wait_for(lambda: self._text or ended()) and not ended():
                    text, self._text = self._text, ""
                    if on_text is not None:
                        on_text(text)
            finally:  # also after Ctrl-C
                self._deadline_s = None
            if self._response is None:
                self._shared = None
                if self._cancels != cancels:
                    raise CancelledError("the question was cancelled")
                raise WorkerError(self._health.problem, self._loss)
            result = self._response.result
        if isinstance(result, PerceptionError):
            raise result
        return result

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        with self._changed:  # held while a request is sent too, so that the worker gets both in this order
            self._cancels += 1
            if self._worker is not None and self._deadline_s is not None:
                self._worker.send(messages.Cancel())
            self._changed.notify_all()

    def close(self) -> None:
        """See `Vlm.close`."""
        with self._changed:
            self._closing = True
            self.cancel()
        self._thread.join()
        self._memory.close()

    def health(self) -> Health:
        """See `Vlm.health`."""
        return self._health

    def _await_worker(self, cancels: int) -> _Worker:
        worker = self._worker
        self._changed.wait_for(lambda: self._worker or self._closing or self._cancels != cancels)
        if self._closing:
            raise PerceptionError("the model has been closed: open it again before asking")
        if self._cancels != cancels:
            raise CancelledError("the question was cancelled")
        if worker is None:
            raise WorkerError("the worker process was restarting when this frame came")
        return worker

    def _share(self, frame: Frame) -> SharedFrame:
        """Copy a frame into shared memory."""
        shared = SharedFrame(frame.height, frame.width, frame.stamp_ns, frame.frame_id)
        try:
            self._memory.grow(shared.size)
        except OSError as error:
            raise PerceptionError(
                f"a frame of {shared.size:,} bytes does not fit into shared memory: {error.strerror}"
            ) from error
        np.copyto(self._memory.image(shared), frame.image)
        self._memory.give_back(shared)
        self._shared = frame
        return shared

    # --- on the supervisor's thread ------------------------------------------------------------------

    def _supervise(self) -> None:
        backoff_s = 0.0
        while not self._closing:
            loss = self._run_worker()
            with self._changed:
                self._worker = None
                if self._closing or loss is None:
                    break
                again = loss == self._loss and self._answers < HEALTHY_ANSWERS
                self._loss = loss
                if not self._was_ready:  # the constructor raises it
                    self._changed.notify_all()
                    break
                failing = again or not self._answers
                backoff_s = min(max(2 * backoff_s, MIN_BACKOFF_S), MAX_BACKOFF_S) if failing else 0.0
                self._answers = 0
                when = f"in {backoff_s:g} s" if backoff_s else "now"
                problem = f"{f'again {loss}' if again else loss.sentence}; restarting {when}"
                self._health = Health(False, self._health.restarts + 1, problem)
                self._changed.notify_all()
            self._notify(problem)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, backoff_s)
        self._health = replace(self._health, ready=False, pid=None)

    def _run_worker(self) -> Crash | None:
        """Run one worker from start to end; returns how it ended, or None after `close`."""
        started, self._started = self._started, None
        try:
            worker = _Worker(started or worker_process.start(self._memory.file))
        except OSError as error:
            return Crash(f"the worker process cannot be started: {error}", "free memory or processes")
        loss = self._receive(worker)
        worker.kill()
        return loss

    def _receive(self, worker: _Worker) -> Crash | None:
        """Receive a worker's messages until it is lost or `close`; returns how it was lost."""
        started_s = received_s = time.monotonic()
        timeout_s = LOAD_TIMEOUT_S
        worker.send(self._settings)
        while not self._closing:
            try:
                message = worker.receive(HEARTBEAT_S)
            except (EOFError, OSError):
                return worker.crash()
            now = time.monotonic()
            if message is not None:
                received_s = now
            elif now - received_s > (limit_s := STOPPED_TIMEOUT_S if worker.stopped() else timeout_s):
                return worker.hang(f"no heartbeat for {limit_s:g} s")
            deadline_s = self._deadline_s
            if deadline_s is not None and now > deadline_s:
                limit_s = self._settings.engine.answer_timeout
                return worker.hang(f"no answer within engine.answer_timeout {limit_s:g} s")
            if isinstance(message, Stage):
                worker.stage = message
            elif isinstance(message, messages.Loaded):
                worker.stage = IDLE
                if message.error:
                    return Crash(message.error, "")
                timeout_s = HEARTBEAT_TIMEOUT_S
                self._ready(worker, now - started_s)
            elif isinstance(message, messages.PartialText):
                with self._changed:
                    if message.number == self._number:
                        self._text = message.text
                        self._changed.notify_all()
            elif isinstance(message, messages.Response):
                worker.stage = IDLE
                with self._changed:
                    self._answers += 1
                    if message.number == self._number:
                        self._response = message
                        self._changed.notify_all()
        return None

    def _ready(self, worker: _Worker, took_s: float) -> None:
        with self._changed:
            self._shared, self._worker, self._was_ready = None, worker, True
            self._health = Health(True, self._health.restarts, "", worker.pid)
            self._changed.notify_all()
        if self._health.restarts:
            self._notify(f"the worker process is ready again after {took_s:.1f} s")


class _Worker:
    """One worker process."""

    def __init__(self, started: WorkerProcess) -> None:
        self.stage = STARTING
        self._output = b""
        self.pipe, self._process = started.pipe, started.process
        self._sending = threading.Lock()
        assert self._process.stderr
        self._errors = self._process.stderr
        os.set_blocking(self._errors.fileno(), False)
        self._readable: list[Connection | int] = [self.pipe, self._errors.fileno()]
        self.pid = self._process.pid

    def stopped(self) -> bool:
        """Whether the kernel has stopped the process (SIGSTOP, a debugger)."""
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/stat").read_text()
            return status.rpartition(")")[2].split()[0] in ("T", "t")
        return False

    def send(self, message: object) -> None:
        """Send a message; `SupervisedVlm._receive` notices when the worker is gone."""
        with self._sending, suppress(OSError):
            self.pipe.send(message)

    def receive(self, timeout_s: float) -> object:
        """The next message, None if there is none in time. Raises EOFError or OSError after the last."""
        if self._errors.fileno() in wait(self._readable, timeout_s) and not self._pass_on_errors():
            self._readable = [self.pipe]
        return self.pipe.recv() if self.pipe.poll() else None

    def _pass_on_errors(self) -> bool:
        """Print what the worker has written to its standard error, and keep the end of it; whether it has."""
        text = self._errors.read(MAX_OUTPUT) or b""
        self._output = (self._output + text)[-MAX_OUTPUT:]
        with suppress(OSError):  # this process has no standard error
            os.write(2, text)
        return bool(text)

    def crash(self) -> Crash:
        """Why the worker closed its pipe."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT_S)
        while self._pass_on_errors():
            pass
        code = self._process.returncode
        if code is None:
            return Crash("the worker process closed its pipe", "")
        if code >= 0:
            return Crash(f"the worker process exited with code {code} while {self.stage.name}", "")
        name = {number.value: number.name for number in signal.Signals}.get(-code, f"signal {-code}")
        return explain(name, self.stage, self._output.decode(errors="replace"))

    def hang(self, symptom: str) -> Crash:
        """The end of a worker that hangs, by its symptom."""
        remedy = "raise engine.answer_timeout on slow hardware, or try engine.n_gpu_layers 0"
        return Crash(f"the worker process hangs while {self.stage.name}: {symptom}", remedy)

    def kill(self) -> None:
        """Kill the process, which may hang and has nothing to save, and wait for its end."""
        self._process.kill()  # before the pipe closes: this ends a `send` that waits for room in the pipe
        self._process.wait()
        self._errors.close()
        with self._sending:
            self.pipe.close()
