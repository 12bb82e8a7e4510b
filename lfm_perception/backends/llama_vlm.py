# SPDX-License-Identifier: Apache-2.0
"""The model in a thread of this process: llama.cpp and its mtmd library.

The thread makes every call into llama.cpp: loading, encoding, decoding, freeing (see `engine/engine.py`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from lfm_perception.backends.llama import check_loads, checked_files
from lfm_perception.engine.engine import Engine, OnStage
from lfm_perception.engine.kv_cache import StopRequest
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import Health, OnText

if TYPE_CHECKING:
    from lfm_perception.commands import Command


class LlamaVlm:
    """A `Vlm` in this process. Safe to use from several threads; questions are answered one by one.

    A deadline and `cancel` take effect within a batch of the language model on the CPU, and after the batch
    on a GPU; the encoding of one tile is never interrupted.

    Args:
        settings: The files and all parameters of the engine.
        on_stage: Given in a worker process, where llama.cpp may abort: receives each stage before it begins.
            Otherwise, files are first loaded in a worker process.

    Raises:
        PerceptionError: The model's files cannot be used.
    """

    def __init__(self, settings: Settings, on_stage: OnStage | None = None) -> None:
        if on_stage is None:
            check_loads(settings)
        model, mmproj = checked_files(settings)
        self._stops: set[StopRequest] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama")
        try:
            self._engine = self._thread.submit(
                Engine, model, mmproj, settings, on_stage or (lambda stage: None)
            ).result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        self._free = weakref.finalize(self, _free, self._thread, self._engine)
        self._free.atexit = False  # the end of the process frees everything

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`."""
        return self.stream(frame, question, plan, None)

    def stream(self, frame: Frame, question: Question, plan: FramePlan, on_text: OnText | None) -> Answer:
        """See `StreamingVlm.stream`; the text comes on the engine's thread."""
        return self._run(
            lambda stop: self._engine.answer(frame, question, plan, stop, on_text), plan.deadline_s
        )

    def command(self, command: Command) -> Answer:
        """See `CommandVlm.command`."""
        return self._run(lambda stop: self._engine.command(command, stop), None)

    def _run(self, ask: Callable[[StopRequest], Answer], deadline_s: float | None) -> Answer:
        stop = StopRequest()
        self._stops.add(stop)
        try:
            try:
                job = self._thread.submit(ask, stop)
            except RuntimeError as error:
                raise PerceptionError("the model has been closed: open it again before asking") from error
            try:
                wait((job,), timeout=None if deadline_s is None else max(0.0, deadline_s))
            finally:  # the deadline has passed, or Ctrl-C came; a finished job ignores it
                stop.request()
            return job.result()
        finally:
            self._stops.discard(stop)

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        for stop in tuple(self._stops):
            stop.request(cancelled=True)

    def health(self) -> Health:
        """See `Vlm.health`."""
        return Health()

    def close(self) -> None:
        """See `Vlm.close`."""
        self.cancel()
        self._free()
        self._thread.shutdown()

    def __enter__(self) -> LlamaVlm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free(thread: ThreadPoolExecutor, engine: Engine) -> None:
    """Free the engine after its last job, without waiting: the collector may run this on that very thread."""
    thread.submit(engine.free)
    thread.shutdown(wait=False)
