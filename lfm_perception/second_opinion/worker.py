# SPDX-License-Identifier: Apache-2.0
"""The worker process of an adviser: opens it for the first request, and answers until its input ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

import cv2
import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.parent import end_with_parent
from lfm_perception.scene import Frame
from lfm_perception.text import sentence

Answering = Callable[[Frame, str], tuple[str, float | None]]
"""The answer to a question about a crop, in words, with a confidence if there is one."""

NICENESS = 5
"""Niceness of the process: its CPU priority is below that of perception."""


def main(memory: int, replies: int, parent: int, kind: str, argument: str) -> None:
    """Run the adviser that `advisers.KIND.answering` opens; `memory` and `replies` are file descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    if not end_with_parent(parent, signal.SIGKILL):
        return
    os.nice(NICENESS)
    cv2.setNumThreads(1)

    def send(**message: object) -> None:
        with os.fdopen(os.dup(replies), "w", encoding="utf-8", errors="replace") as file:
            file.write(json.dumps(message) + "\n")

    adviser = import_module(f"lfm_perception.second_opinion.advisers.{kind}")
    answer: Answering | None = None
    for _ in sys.stdin.buffer:
        header, _, jpeg = os.pread(memory, os.fstat(memory).st_size, 0).partition(b"\n")
        try:
            if answer is None:
                answer = adviser.answering(argument)
                send(ready=True)
            asked = json.loads(header)
            bgr = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            text, confidence = answer(Frame(rgb, asked["stamp_ns"]), asked["question"])
            send(answer=text, confidence=confidence)
        except PerceptionError as error:
            send(problem=str(error))
        except Exception as error:  # a bug costs one answer
            send(problem=sentence(f"unexpected {error!r}"))


if __name__ == "__main__":
    _memory, _replies, _parent = map(int, sys.argv[1:4])
    main(_memory, _replies, _parent, *sys.argv[4:])
