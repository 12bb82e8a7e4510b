# SPDX-License-Identifier: Apache-2.0
"""An adviser in a worker process, whose crashes and hangs cost its own answers only.

    submit() ──question, JPEG──► shared memory ──► process: `worker`
             ──line──► its standard input
    poll()   ◄── a line of JSON, up to `MAX_LINE` ──

The process is started by the first request, killed when an answer is late or larger than that, and started
again for the next request after a back-off. It ends with this process, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lfm_perception.errors import PerceptionError, os_reason
from lfm_perception.files import json_problem, parse_json, typed
from lfm_perception.second_opinion.opinions import AdviserError, Reply, Request

MODULE = "lfm_perception.second_opinion.worker"

MAX_LINE = 64_000
"""Maximum size of an answer as JSON, bytes."""

LOAD_TIMEOUT_S = 120.0
"""Longest time until the process is ready for a question."""

MIN_BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
"""Delay before the process is started again; doubled while it ends without an answer."""


class ProcessAdviser:
    """One request at a time, answered by `lfm_perception.second_opinion.worker`.

    Args:
        kind: module of the adviser in this package, such as `ocr`.
        argument: passed to its function `answering`.
        source: the adviser's name in logs and results.
        timeout_s: longest time to an answer; the loading before the first one does not count.
    """

    def __init__(self, kind: str, argument: str, source: str, timeout_s: float) -> None:
        self._arguments, self.source, self._timeout_s = (kind, argument), source, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = os.memfd_create("crop")
        self._replies = -1
        self._received = b""
        self._request: Request | None = None
        self._ready, self._until_s = False, 0.0
        self._backoff_s, self._not_before_s = 0.0, 0.0

    @property
    def has_room(self) -> bool:
        return self._request is None and time.monotonic() >= self._not_before_s

    @property
    def waits(self) -> bool:
        return self._request is not None

    def submit(self, request: Request) -> None:
        """Hand a request to the process, which is started if need be. Raises AdviserError."""
        try:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._start()
            header = json.dumps({"question": request.question, "stamp_ns": request.stamp_ns}).encode() + b"\n"
            os.ftruncate(self._memory, 0)
            os.pwrite(self._memory, header + request.jpeg, 0)
            assert self._process
            assert self._process.stdin
            self._process.stdin.write(b"\n")
        except OSError as error:
            self._lose()
            raise AdviserError("dead", f"{self.source} cannot be asked: {os_reason(error)}") from error
        self._request = request
        self._until_s = time.monotonic() + (self._timeout_s if self._ready else LOAD_TIMEOUT_S)

    def poll(self, wait_s: float) -> Sequence[Reply]:
        """The reply to the request, if it comes within this time or must be given up."""
        request = self._request
        if request is None:
            return ()
        try:
            message = self._receive(wait_s)
            if message is None:
                return ()
            if "ready" in message and not self._ready:
                self._ready, self._until_s = True, time.monotonic() + self._timeout_s
                return ()
            reply = self._reply(request, message)
            self._backoff_s = 0.0
        except AdviserError as error:
            reply = Reply(request, error=error)
            if error.kind != "refused":
                self._lose()
        self._request = None
        return (reply,)

    def close(self) -> None:
        """Kill the process."""
        self._end()
        os.close(self._memory)

    def _start(self) -> None:
        replies, workers_end = os.pipe2(os.O_CLOEXEC)
        files = self._memory, workers_end
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *map(str, files), str(os.getpid()), *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=files,
            )
        except OSError:
            os.close(replies)
            raise
        finally:
            os.close(workers_end)
        os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]
        self._replies, self._received, self._ready = replies, b"", False

    def _receive(self, wait_s: float) -> dict[str, Any] | None:
        """The next message of the process, None while there is none.

        Raises AdviserError: it is late, too large or no message, or the process has ended.
        """
        left_s = self._until_s - time.monotonic()
        if (
            b"\n" not in self._received
            and select.select([self._replies], [], [], max(min(wait_s, left_s), 0.0))[0]
        ):
            read = os.read(self._replies, MAX_LINE)
            if not read:
                raise AdviserError("dead", f"{self.source} {self._end_of_process()}")
            self._received += read
        line, whole, rest = self._received.partition(b"\n")
        if len(line) > MAX_LINE:
            raise AdviserError(
                "unusable", f"{self.source} answered with more than {MAX_LINE} bytes: not used"
            )
        if not whole:
            if left_s <= 0.0:
                limit_s = self._timeout_s if self._ready else LOAD_TIMEOUT_S
                raise AdviserError(
                    "timeout", f"{self.source} gave no answer within {limit_s:g} s: it is ended"
                )
            return None
        self._received = rest
        try:
            return typed(parse_json(line.decode()), dict)
        except (PerceptionError, TypeError, UnicodeDecodeError) as error:
            raise AdviserError("unusable", f"{self.source} answered with no JSON object: {error}") from error

    def _reply(self, request: Request, message: dict[str, Any]) -> Reply:
        if "problem" in message:
            raise AdviserError("refused", f"{self.source}: {message['problem']}")
        try:
            confidence = message["confidence"]
            return Reply(
                request,
                typed(message["answer"], str),
                None if confidence is None else typed(confidence, float),
            )
        except (KeyError, TypeError) as error:
            raise AdviserError("unusable", f"{self.source} gave no answer: {json_problem(error)}") from error

    def _end_of_process(self) -> str:
        assert self._process
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with code {code}"
        return "has closed its pipe"

    def _lose(self) -> None:
        """End the process; the next one may start after the back-off."""
        self._end()
        self._backoff_s = min(max(2.0 * self._backoff_s, MIN_BACKOFF_S), MAX_BACKOFF_S)
        self._not_before_s = time.monotonic() + self._backoff_s

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin
            process.stdin.close()
            os.close(self._replies)
