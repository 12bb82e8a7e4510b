# SPDX-License-Identifier: Apache-2.0
"""Questions of operators beside the inference of frames: which is answered next, and which is refused."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lfm_perception.errors import PerceptionError
from lfm_perception.typed_questions import TypedQuestion

MAX_PENDING_QUESTIONS = 8
"""Questions that may wait for a frame; a further one replaces the oldest."""

QUESTION_SHARE = 0.5
"""Maximum share of the time that answers to questions take; frames are inferred in the rest."""


class QuestionQueue:
    """Questions that wait for a frame, oldest first. Any thread may call any method.

    An inference precedes every answer, and an answer is followed by at least its own duration without
    another one (`QUESTION_SHARE`). Every question that is not answered is refused with the reason.
    """

    def __init__(self, refuse: Callable[[str, str], None]) -> None:
        self._refuse, self._lock = refuse, threading.Lock()
        self._waiting = deque[TypedQuestion]()
        self._next_s = 0.0

    def add(self, question: TypedQuestion) -> None:
        """Queue a question; one too many replaces the oldest."""
        with self._lock:
            oldest = self._waiting.popleft() if len(self._waiting) >= MAX_PENDING_QUESTIONS else None
            self._waiting.append(question)
        if oldest is not None:
            self._refuse(oldest.text, f"{MAX_PENDING_QUESTIONS} newer questions wait for the model")

    def clear(self, reason: str) -> None:
        """Refuse all questions that wait."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for question in waiting:
            self._refuse(question.text, reason)

    @contextmanager
    def turn(self) -> Iterator[TypedQuestion | None]:
        """The question that may be answered about the frame in turn; it is refused if the block fails."""
        with self._lock:
            due = bool(self._waiting) and time.monotonic() >= self._next_s
            question = self._waiting.popleft() if due else None
        try:
            yield question
        except Exception as error:
            if question is not None:
                known = isinstance(error, PerceptionError)
                self._refuse(question.text, str(error) if known else "an unexpected error, see the log")
            raise

    def record_answer(self, duration_s: float) -> None:
        """The answer to a question took so long."""
        self._next_s = time.monotonic() + duration_s * (1.0 / QUESTION_SHARE - 1.0)
