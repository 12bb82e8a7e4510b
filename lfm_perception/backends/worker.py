# SPDX-License-Identifier: Apache-2.0
"""The worker process: loads the model and answers requests until the supervisor's end of the pipe closes."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from types import ModuleType

from lfm_perception.backends import worker_messages as messages
from lfm_perception.backends.worker_messages import HEARTBEAT_S, CommandRequest, Request, SharedMemory
from lfm_perception.errors import PerceptionError
from lfm_perception.parent import end_with_parent
from lfm_perception.scene import Answer, Frame
from lfm_perception.vlm import Vlm

NICENESS = 1
"""Lowers the model's CPU priority below that of the publishers. With 10, inference took eleven times as
long beside busy programs (`benchmarks/contention.py`)."""


def main(pipe_file: int, memory_file: int, parent: int) -> None:
    """Run the worker, given two file descriptors and the supervisor's process id.

    The first message in the pipe is the settings.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the supervisor ends this process
    if not end_with_parent(parent, signal.SIGKILL):
        return
    pipe = Connection(pipe_file)
    sending = threading.Lock()

    def send(message: object) -> None:
        with sending:
            try:
                pipe.send(message)
            except OSError:
                os._exit(0)

    def send_heartbeats() -> None:
        imported.wait()
        while True:
            send(messages.Heartbeat())
            time.sleep(HEARTBEAT_S)

    # A thread inherits its niceness when it starts: the heartbeat starts before `os.nice`. It waits for the
    # import of the libraries, during which Python holds its lock.
    imported = threading.Event()
    threading.Thread(target=send_heartbeats, name="heartbeat", daemon=True).start()
    os.nice(NICENESS)
    # The engine uses the bindings alone. Their package would import an interface of its own, with jinja2.
    sys.modules["llama_cpp.llama"] = ModuleType("llama_cpp.llama")
    from lfm_perception.backends.llama_vlm import LlamaVlm

    imported.set()
    try:
        vlm = LlamaVlm(pipe.recv(), on_stage=send)
    except PerceptionError as error:
        send(messages.Loaded(str(error)))
        return
    send(messages.Loaded())
    requests: queue.SimpleQueue[Request | CommandRequest] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, vlm, requests), name="receiver", daemon=True).start()
    memory = SharedMemory(memory_file)
    frame: Frame | None = None
    while True:
        request = requests.get()
        if isinstance(request, CommandRequest):
            send(messages.Response(request.number, _result(partial(vlm.command, request.command))))
            continue
        if shared := request.frame:
            frame = Frame(memory.image(shared), shared.stamp_ns, shared.frame_id)
        assert frame is not None
        on_text = partial(_send_text, send, request.number) if request.streamed else None
        ask = partial(vlm.stream, frame, request.question, request.plan, on_text)
        send(messages.Response(request.number, _result(ask)))


def _send_text(send: Callable[[object], None], number: int, text: str) -> None:
    send(messages.PartialText(number, text))


def _receive(pipe: Connection, vlm: Vlm, requests: queue.SimpleQueue[Request | CommandRequest]) -> None:
    """Queue requests and apply cancellations, also during inference."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if isinstance(message, messages.Cancel):
            with suppress(queue.Empty):
                while True:
                    requests.get_nowait()
            vlm.cancel()
        else:
            requests.put(message)


def _result(ask: Callable[[], Answer]) -> Answer | PerceptionError:
    try:
        answer = ask()
        return replace(answer, rejects=dict(answer.rejects))  # a MappingProxyType cannot be pickled
    except PerceptionError as error:
        return error
    except Exception as error:  # a bug costs one answer, not the process
        return PerceptionError(f"the worker process failed unexpectedly: {error!r}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
