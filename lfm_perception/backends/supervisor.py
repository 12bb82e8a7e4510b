# SPDX-License-Identifier: Apache-2.0
"""Supervision of the model in a worker process: a crash or a hang of the engine costs one answer.

    describe() ──image────► shared memory ───► worker process: LlamaVlm
               ──request──► pipe
               ◄─response──
    thread `supervisor`: starts the worker, receives its heartbeat, kills it when it hangs, restarts it

llama.cpp and CUDA abort their process on some inputs, some drivers hang, and the kernel kills the largest
process when memory runs out. The worker is then restarted, at once after an answer, else with an increasing
back-off. The shared memory and the socket have no names, so that neither can be left behind; the worker ends
with this process, however that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np

from lfm_perception.backends import Notify
from lfm_perception.backends import worker_messages as messages
from lfm_perception.backends.worker_messages import HEARTBEAT_S, SharedFrame, SharedMemory
from lfm_perception.engine.probe import fatal_file
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame, check_image
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError, Health

STOPPED_TIMEOUT_S = 1.25
"""Longest silence of a worker that the kernel reports as stopped."""

HEARTBEAT_TIMEOUT_S = 10.0
"""Longest silence of any other worker: a busy machine may leave it no CPU time."""

LOAD_TIMEOUT_S = 60.0
"""Longest silence of a worker until the model is loaded: the disk may be slow."""

MIN_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
"""Delay before a restart when the last worker gave no answer; doubled each time. An answer resets it to 0."""

EXIT_TIMEOUT_S = 2.0
"""Longest wait for the exit code of a worker that has closed its pipe."""


class WorkerError(PerceptionError):
    """The worker process was lost with the request in flight, or is restarting."""


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
        self._memory = SharedMemory(os.memfd_create("frame"))
        self._changed = threading.Condition()
        self._one_request = threading.Lock()
        self._worker: _Worker | None = None
        self._closing = False
        self._health = Health(ready=False)
        self._number = self._cancels = 0
        self._response: messages.Response | None = None
        self._deadline_s: float | None = None
        self._shared: Frame | None = None
        self._was_ready = self._answered = False
        self._load_error = self._loss = ""
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._was_ready or self._load_error)
        if self._load_error:
            self.close()
            raise PerceptionError(self._load_error)

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`. Raises WorkerError when the worker is lost."""
        check_image(frame.image, "a frame")
        with self._one_request, self._changed:
            cancels = self._cancels
            worker = self._await_worker(cancels)
            shared = None if frame is self._shared else self._share(frame)
            self._number += 1
            self._response = None
            self._deadline_s = time.monotonic() + self._settings.engine.answer_timeout
            worker.send(messages.Request(self._number, shared, question, plan))
            try:
                self._changed.wait_for(
                    lambda: self._response or self._worker is not worker or self._cancels != cancels
                )
            finally:  # also after Ctrl-C
                self._deadline_s = None
            if self._response is None:
                self._shared = None
                if self._cancels != cancels:
                    raise CancelledError("the question was cancelled")
                raise WorkerError(self._loss)
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
                if self._closing:
                    break
                if not self._was_ready:  # the constructor raises it
                    self._load_error = loss
                    self._changed.notify_all()
                    break
                backoff_s = 0.0 if self._answered else min(max(2 * backoff_s, MIN_BACKOFF_S), MAX_BACKOFF_S)
                self._answered = False
                self._loss = f"{loss}; restarting {f'in {backoff_s:g} s' if backoff_s else 'now'}"
                self._health = Health(False, self._health.restarts + 1, self._loss)
                self._changed.notify_all()
            self._notify(self._loss)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, backoff_s)
        self._health = replace(self._health, ready=False, pid=None)

    def _run_worker(self) -> str:
        """Run one worker from start to end; returns the reason of its loss, or nothing after `close`."""
        try:
            worker = _Worker(self._memory.file)
        except OSError as error:
            return f"the worker process cannot be started: {error}"
        loss = self._receive(worker)
        worker.kill()
        return loss

    def _receive(self, worker: _Worker) -> str:
        """Receive a worker's messages until it is lost or `close`; returns the reason of the loss."""
        started_s = received_s = time.monotonic()
        timeout_s = LOAD_TIMEOUT_S
        worker.send(self._settings)
        while not self._closing:
            try:
                message = worker.pipe.recv() if worker.pipe.poll(HEARTBEAT_S) else None
            except (EOFError, OSError):
                return worker.exit_reason()
            now = time.monotonic()
            if message is not None:
                received_s = now
            elif now - received_s > (min(STOPPED_TIMEOUT_S, timeout_s) if worker.stopped() else timeout_s):
                return f"the worker process hangs: no heartbeat for {now - received_s:.1f} s"
            deadline_s = self._deadline_s
            if deadline_s is not None and now > deadline_s:
                limit = self._settings.engine.answer_timeout
                return f"the worker process hangs: no answer within engine.answer_timeout {limit:g} s"
            if isinstance(message, messages.Loading):
                worker.loading = Path(message.path)
            elif isinstance(message, messages.Loaded):
                worker.loading = None
                if message.error:
                    return message.error
                timeout_s = HEARTBEAT_TIMEOUT_S
                self._ready(worker, now - started_s)
            elif isinstance(message, messages.Response):
                with self._changed:
                    self._answered = True
                    if message.number == self._number:
                        self._response = message
                        self._changed.notify_all()
        return ""

    def _ready(self, worker: _Worker, took_s: float) -> None:
        with self._changed:
            self._shared, self._worker, self._was_ready = None, worker, True
            self._health = Health(True, self._health.restarts, "", worker.pid)
            self._changed.notify_all()
        if self._health.restarts:
            self._notify(f"the worker process is ready again after {took_s:.1f} s")


class _Worker:
    """One worker process."""

    def __init__(self, memory_file: int) -> None:
        self.loading: Path | None = None
        """The file that llama.cpp is reading."""
        self.pipe, worker_end = Pipe()
        self._sending = threading.Lock()
        with worker_end:
            files = worker_end.fileno(), memory_file
            module = f"{__package__}.worker"
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, files), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=files,
            )
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

    def exit_reason(self) -> str:
        """The reason why the worker closed its pipe, in a sentence."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT_S)
        code = self._process.returncode
        if code is None:
            return "the worker process closed its pipe"
        if code >= 0:
            return f"the worker process exited with code {code}"
        name = {number.value: number.name for number in signal.Signals}.get(-code, f"signal {-code}")
        if self.loading and name != "SIGKILL":
            return fatal_file(self.loading, name)
        hint = {
            "SIGKILL": " (out of memory, or killed by hand)",
            "SIGABRT": " (llama.cpp or CUDA aborted; its last output is above)",
            "SIGBUS": " (a model file was changed or cut short while in use)",
        }.get(name, "")
        return f"the worker process was killed by {name}{hint}"

    def kill(self) -> None:
        """Kill the process, which may hang and has nothing to save, and wait for its end."""
        self._process.kill()  # before the pipe closes: this ends a `send` that waits for room in the pipe
        self._process.wait()
        with self._sending:
            self.pipe.close()
