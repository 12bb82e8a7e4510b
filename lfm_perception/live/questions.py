# SPDX-License-Identifier: Apache-2.0
"""Questions of operators beside the inference of frames: which is answered next, and which is refused."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from lfm_perception.decisions import Decision
from lfm_perception.errors import PerceptionError
from lfm_perception.typed_questions import TypedQuestion
from lfm_perception.vlm import OnText

MAX_PENDING_QUESTIONS = 8
"""Questions that may wait for a frame; a further one replaces the oldest."""

QUESTION_SHARE = 0.5
"""Maximum share of the time that answers to questions take; frames are inferred in the rest."""


class Asker(Protocol):
    """Who asks questions: receives what becomes of them; must return quickly."""

    def on_answer(self, decision: Decision) -> None:
        """A question was answered."""
        ...

    def on_partial_answer(self) -> OnText | None:
        """What receives the text so far of the answer that begins; None where nobody follows it."""
        return None

    def on_refusal(self, question: str, reason: str) -> None:
        """A question will not be answered; also on the thread that asks."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and who is told its answer; `since` is the number of the first frame it may be about."""

    question: TypedQuestion
    asker: Asker
    since: int = 0

    def refuse(self, reason: str) -> None:
        self.asker.on_refusal(self.question.text, reason)


class QuestionQueue:
    """Questions that wait for a frame, oldest first. Any thread may call any method.

    An inference precedes every answer, in which the question may come, and an answer is followed by at least
    its own duration without another one (`QUESTION_SHARE`). Every question that is not answered is refused
    with the reason.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = deque[Asked]()
        self._next_s = 0.0

    def add(self, asked: Asked) -> None:
        """Queue a question; one too many replaces the oldest."""
        with self._lock:
            oldest = self._waiting.popleft() if len(self._waiting) >= MAX_PENDING_QUESTIONS else None
            self._waiting.append(asked)
        if oldest is not None:
            oldest.refuse(f"{MAX_PENDING_QUESTIONS} newer questions wait for the model")

    def offer(self, asked: Asked) -> bool:
        """Queue a question if there is room; whether there was."""
        with self._lock:
            room = len(self._waiting) < MAX_PENDING_QUESTIONS
            if room:
                self._waiting.append(asked)
        return room

    def clear(self, reason: str) -> None:
        """Refuse all questions that wait."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            asked.refuse(reason)

    @contextmanager
    def turn(self, number: int) -> Iterator[Callable[[], Asked | None]]:
        """A function that tells the question to answer about the frame in turn, None if there is none yet.

        Once there is one, it stays the same; it is refused if the block fails.

        Args:
            number: that of the frame; questions that may be about later ones only go on waiting.
        """
        asked: Asked | None = None

        def due() -> Asked | None:
            nonlocal asked
            with self._lock:
                if asked is None and time.monotonic() >= self._next_s:
                    asked = next((each for each in self._waiting if each.since <= number), None)
                    if asked is not None:
                        self._waiting.remove(asked)
            return asked

        try:
            yield due
        except Exception as error:
            if asked is not None:
                known = isinstance(error, PerceptionError)
                asked.refuse(str(error) if known else "an unexpected error, see the log")
            raise

    def record_answer(self, duration_s: float) -> None:
        """The answer to a question took so long."""
        self._next_s = time.monotonic() + duration_s * (1.0 / QUESTION_SHARE - 1.0)
