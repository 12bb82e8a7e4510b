"""The model in a process of its own, watched, so that whatever happens to it there costs one answer.

    describe() ──picture──► shared memory ───► worker process: LlamaVlm
               ──question─► socket pair
               ◄──answer──
    thread `model watch`: starts the worker, hears its heartbeat, ends it when it hangs, starts it again

llama.cpp and CUDA end their process on some inputs and some drivers hang; the kernel kills the largest
process when memory runs out. The worker is then started again, at once the first time and after growing
pauses when that does not help. The shared memory has no name and the socket no address, so neither can be
left behind, and the worker ends with this process, however that ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError, Health, Vlm

HEARTBEAT_S = 0.25
"""Time between two signs of life of the worker."""

STOPPED_S = 1.25
"""A worker that is stopped and was silent for so long hangs..."""

SILENCE_S = 10.0
"""...one that was silent for so long hangs in any case; before, others may have left it no processor..."""

START_S = 60.0
"""...but until it has loaded the model it may be silent for so long: the disk may be slow."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between restarts that were of no use: doubled each time. An answer makes the next restart immediate."""

NICENESS = 1
"""The model gives way on the processor: what is published at camera rate does not wait for it. A little only:
with 10 it took eleven times as long beside busy programs (`benchmarks/contention.py`)."""

END_S = 2.0
"""Time between the end of a worker's pipe and the end of the worker, for its exit code."""

_KILL_WITH_PARENT = 1
"""prctl's PR_SET_PDEATHSIG."""


class WorkerError(PerceptionError):
    """The worker process was lost with the question, or is still being started again."""


@dataclass(frozen=True, slots=True)
class _Picture:
    """A frame in shared memory."""

    height: int
    width: int
    stamp_ns: int
    frame_id: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.height * self.width * 3


@dataclass(frozen=True, slots=True)
class _Ask:
    """A question about a picture; None: about the one before."""

    number: int
    picture: _Picture | None
    question: Question
    plan: FramePlan


@dataclass(frozen=True, slots=True)
class _Cancel:
    """Take back every question so far."""


@dataclass(frozen=True, slots=True)
class _Alive:
    """A sign of life."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The model is loaded; `error` says why not."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class _Answered:
    """What came of a question."""

    number: int
    result: Answer | PerceptionError


class WorkerVlm:
    """A `Vlm` in a process of its own. Safe to use from several threads; questions are answered one by one.

    `tell` hears of every loss and every recovery, one sentence each, on the watching thread. A question that
    comes while the worker is being started again waits for it and is then given up with a WorkerError,
    because its frame has grown old meanwhile.

    Raises PerceptionError when the model cannot be loaded.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None] = lambda sentence: None) -> None:
        self._settings, self._tell = settings, tell
        self._memory = _SharedMemory(os.memfd_create("frame"))
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._worker: _Worker | None = None
        self._closing = False
        self._failure = ""
        self._health = Health(ready=False)
        self._loss = ""
        self._number = self._cancels = 0
        self._answer: _Answered | None = None
        self._due_s: float | None = None
        self._seen: Frame | None = None
        self._was_ready = self._useful = False
        self._watch = threading.Thread(target=self._run, name="model watch", daemon=True)
        self._watch.start()
        with self._changed:
            self._changed.wait_for(lambda: self._was_ready or self._failure)
        if self._failure:
            self.close()
            raise PerceptionError(self._failure)

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`. Raises WorkerError when the worker is lost."""
        image = frame.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise PerceptionError(
                f"a frame must be a uint8 RGB image, got {image.dtype} of shape {image.shape}"
            )
        with self._asking, self._changed:
            cancels = self._cancels
            worker = self._await_worker(cancels)
            picture = None if frame is self._seen else self._show(frame)
            self._number += 1
            self._answer, self._due_s = None, time.monotonic() + self._settings.engine.answer_timeout
            worker.send(_Ask(self._number, picture, question, plan))
            try:
                self._changed.wait_for(
                    lambda: self._answer or self._worker is not worker or self._cancels != cancels
                )
            finally:  # also when Ctrl-C came
                self._due_s = None
            if self._answer is None:
                self._seen = None
                if self._cancels != cancels:
                    raise CancelledError("the question was cancelled")
                raise WorkerError(self._loss)
            result = self._answer.result
        if isinstance(result, PerceptionError):
            raise result
        return result

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        with (
            self._changed
        ):  # which also sends what is asked: the worker hears both in the order they were meant
            self._cancels += 1
            if self._worker is not None and self._due_s is not None:
                self._worker.send(_Cancel())
            self._changed.notify_all()

    def close(self) -> None:
        """See `Vlm.close`."""
        with self._changed:
            self._closing = True
            self.cancel()
        self._watch.join()
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
            raise WorkerError("the model's process was being started again when this frame came")
        return worker

    def _show(self, frame: Frame) -> _Picture:
        """Put a frame where the worker sees it."""
        picture = _Picture(frame.height, frame.width, frame.stamp_ns, frame.frame_id)
        try:
            self._memory.grow(picture.size)
        except OSError as error:
            raise PerceptionError(
                f"a frame of {picture.size:,} bytes cannot be shared with the model: {error.strerror}"
            ) from error
        np.copyto(self._memory.image(picture), frame.image)
        self._seen = frame
        return picture

    # --- the thread that watches ---------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = 0.0
        while not self._closing:
            lost = self._live()
            with self._changed:
                self._worker = None
                if self._closing:
                    break
                if not self._was_ready:  # the constructor gives up
                    self._failure = lost
                    self._changed.notify_all()
                    break
                pause_s = 0.0 if self._useful else min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                self._useful = False
                again = f"it is started again in {pause_s:g} s" if pause_s else "it is started again"
                self._loss = f"{lost}; {again}"
                self._health = Health(False, self._health.restarts + 1, self._loss)
                self._changed.notify_all()
            self._tell(self._loss)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause_s)
        self._health = replace(self._health, ready=False, pid=None)

    def _live(self) -> str:
        """One worker from its start to its end; says how it was lost, unless this is closed."""
        try:
            worker = _Worker(self._memory.file)
        except OSError as error:
            return f"the model's process cannot be started: {error}"
        lost = self._hear(worker)
        worker.end()
        return lost

    def _hear(self, worker: _Worker) -> str:
        """Hear a worker until it is lost or this is closed; says how it was lost."""
        started_s = heard_s = time.monotonic()
        patience_s = START_S
        worker.send(self._settings)
        while not self._closing:
            try:
                message = worker.pipe.recv() if worker.pipe.poll(HEARTBEAT_S) else None
            except (EOFError, OSError):
                return worker.how_it_ended()
            now = time.monotonic()
            if message is not None:
                heard_s = now
            elif now - heard_s > (min(STOPPED_S, patience_s) if worker.stopped() else patience_s):
                return f"the model's process hangs: no sign of life for {now - heard_s:.1f} s"
            due_s = self._due_s
            if due_s is not None and now > due_s:
                limit = self._settings.engine.answer_timeout
                return f"the model's process hangs: no answer within engine.answer_timeout {limit:g} s"
            if isinstance(message, _Loaded):
                if message.error:
                    return message.error
                patience_s = SILENCE_S
                self._ready(worker, now - started_s)
            elif isinstance(message, _Answered):
                with self._changed:
                    self._useful = True
                    if message.number == self._number:
                        self._answer = message
                        self._changed.notify_all()
        return ""

    def _ready(self, worker: _Worker, took_s: float) -> None:
        with self._changed:
            self._seen, self._worker, self._was_ready = None, worker, True
            self._health = Health(True, self._health.restarts, "", worker.pid)
            self._changed.notify_all()
        if self._health.restarts:
            self._tell(f"the model's process is back after {took_s:.1f} s")


class _Worker:
    """One worker process, from its start to its end."""

    def __init__(self, memory_file: int) -> None:
        self.pipe, theirs = Pipe()
        self._sending = threading.Lock()
        with theirs:
            files = theirs.fileno(), memory_file
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *map(str, files), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=files,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def stopped(self) -> bool:
        """Whether the process was told to stop (SIGSTOP, a debugger)."""
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/stat").read_text()
            return status.rpartition(")")[2].split()[0] in ("T", "t")
        return False

    def send(self, message: object) -> None:
        """Send what can be sent; that a worker is gone shows where it is heard."""
        with self._sending, suppress(OSError):
            self.pipe.send(message)

    def how_it_ended(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        code = self._process.returncode
        if code is None:
            return "the model's process fell silent"
        if code >= 0:
            return f"the model's process ended with code {code}"
        name = {number.value: number.name for number in signal.Signals}.get(-code, f"signal {-code}")
        why = {
            "SIGKILL": " (out of memory, or killed by hand)",
            "SIGABRT": " (llama.cpp or CUDA gave up; its last words are above)",
        }.get(name, "")
        return f"the model's process was ended by {name}{why}"

    def end(self) -> None:
        """Kill the process and wait for its end: it may hang, and it has nothing to finish."""
        self._process.kill()  # before the pipe is closed: whoever waits for room in the pipe is let go
        self._process.wait()
        with self._sending:
            self.pipe.close()


class _SharedMemory:
    """Room for one picture in an anonymous file that two processes map."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._map: mmap.mmap | None = None

    def grow(self, size: int) -> None:
        """Make room for `size` bytes at least."""
        if os.fstat(self.file).st_size < size:
            os.ftruncate(self.file, size)

    def image(self, picture: _Picture) -> Any:
        """The picture's pixels, uint8, shape (height, width, 3), where both processes see them."""
        if self._map is None or len(self._map) < picture.size:
            self._map = mmap.mmap(self.file, os.fstat(self.file).st_size)
        shape = (picture.height, picture.width, 3)
        return np.frombuffer(self._map, np.uint8, picture.size).reshape(shape)

    def close(self) -> None:
        """Give the memory back. May be called twice."""
        self._map = None
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)


# --- the worker process ------------------------------------------------------------------------------


def main(pipe_file: int, memory_file: int, parent: int) -> None:
    """Load the model and answer questions until the other end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which ends this in its own time
    ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that took effect
        return
    pipe = Connection(pipe_file)
    sending = threading.Lock()

    def send(message: object) -> None:
        with sending:
            try:
                pipe.send(message)
            except OSError:
                os._exit(0)

    def beat() -> None:
        awake.wait()
        while True:
            send(_Alive())
            time.sleep(HEARTBEAT_S)

    # The heart gives way to nobody: a thread is as nice as the one that started it was then. It beats once
    # the libraries are loaded, because Python holds its lock while it loads one.
    awake = threading.Event()
    threading.Thread(target=beat, name="heartbeat", daemon=True).start()
    os.nice(NICENESS)
    from lfm_perception.backends.llama import LlamaVlm

    awake.set()
    try:
        vlm = LlamaVlm(pipe.recv())
    except PerceptionError as error:
        send(_Loaded(str(error)))
        return
    send(_Loaded())
    asked: queue.SimpleQueue[_Ask] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, vlm, asked), name="listener", daemon=True).start()
    memory = _SharedMemory(memory_file)
    frame: Frame | None = None
    while True:
        ask = asked.get()
        if ask.picture is not None:
            frame = Frame(memory.image(ask.picture), ask.picture.stamp_ns, ask.picture.frame_id)
        assert frame is not None
        send(_Answered(ask.number, _answered(vlm, frame, ask)))


def _listen(pipe: Connection, vlm: Vlm, asked: queue.SimpleQueue[_Ask]) -> None:
    """Hear what is asked and taken back, also while an answer is being written."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if isinstance(message, _Cancel):
            with suppress(queue.Empty):
                while True:
                    asked.get_nowait()
            vlm.cancel()
        else:
            asked.put(message)


def _answered(vlm: Vlm, frame: Frame, ask: _Ask) -> Answer | PerceptionError:
    try:
        answer = vlm.describe(frame, ask.question, ask.plan)
        return replace(answer, rejects=dict(answer.rejects))  # a read-only view cannot travel
    except PerceptionError as error:
        return error
    except Exception as error:  # a bug costs one answer
        return PerceptionError(f"the model's process failed unexpectedly: {error!r}")


if __name__ == "__main__":
    # by its real name, so that what is sent has the same types on both sides
    from lfm_perception.backends import worker

    worker.main(*map(int, sys.argv[1:]))
