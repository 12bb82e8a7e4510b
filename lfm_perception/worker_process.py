# SPDX-License-Identifier: Apache-2.0
"""The model's worker process, started by its supervisor, or ahead of it by a program that soon needs it.

The process imports the engine for half a second before it reads the settings from its pipe: a node that
starts it ahead does its own imports meanwhile. Imports nothing of the package, so that it is loaded first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

MODULE = "lfm_perception.backends.worker"


@dataclass(frozen=True)
class WorkerProcess:
    """A process that waits for the settings.

    Attributes:
        process: Its standard error is a pipe.
        pipe: This process's end of the connection.
        memory_file: Descriptor of the shared memory for frames, which the taker closes.
    """

    process: subprocess.Popen[bytes]
    pipe: Connection
    memory_file: int


def start(memory_file: int) -> WorkerProcess:
    """Start a worker process. It ends with the thread that starts it. Raises OSError when it cannot start."""
    pipe, worker_end = Pipe()
    # A worker inherits it: Ctrl-C while it imports ends nothing, and this process ends it.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with worker_end:
            files = worker_end.fileno(), memory_file
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *map(str, files), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
                pass_fds=files,
            )
    except OSError:
        pipe.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return WorkerProcess(process, pipe, memory_file)


_ahead: list[WorkerProcess] = []


def start_ahead() -> None:
    """Start the process that the next `take` returns. Where it cannot start, the supervisor says so later."""
    memory_file = os.memfd_create("frame")
    try:
        _ahead.append(start(memory_file))
    except OSError:
        os.close(memory_file)


def take() -> WorkerProcess | None:
    """The process that was started ahead, once."""
    return _ahead.pop() if _ahead else None


def discard() -> None:
    """End the process that was started ahead, if nobody took it."""
    while (unused := take()) is not None:
        unused.process.kill()
        unused.process.wait()
        assert unused.process.stderr
        unused.process.stderr.close()
        unused.pipe.close()
        os.close(unused.memory_file)
