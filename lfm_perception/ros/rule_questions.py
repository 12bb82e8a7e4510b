# SPDX-License-Identifier: Apache-2.0
"""The questions that rules ask about their events, and the answers as messages of these events."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lfm_perception.decisions import Decision
from lfm_perception.live import Asker
from lfm_perception.rules import Event
from lfm_perception.text import safe_text
from lfm_perception.typed_questions import TypedQuestion

MAX_OPEN = 4
"""Maximum number of unanswered questions, one of each rule; further ones are left out and counted."""

MAX_ANSWER = 400
"""Maximum length of a question, an answer or a reason in a message, characters."""


class RuleQuestions:
    """Asks questions about events, and publishes what becomes of them. For any thread.

    Args:
        ask: asks a question in the name of an asker, if there is room for it.
        publish: receives the event with the answer, on the thread that answers.
        counts: counts the questions.
    """

    def __init__(
        self,
        ask: Callable[[TypedQuestion, Asker], bool],
        publish: Callable[[Event], None],
        counts: Counter[str],
    ) -> None:
        self._ask, self._publish, self._counts = ask, publish, counts
        self._lock = threading.Lock()
        self._open: set[str] = set()

    def ask(self, event: Event, question: TypedQuestion, *, about_track: bool) -> None:
        """Ask about the event's first track, or about the frame."""
        if about_track and event.tracks:
            question = replace(question, track=event.tracks[0].track_id)
        with self._lock:
            wanted = len(self._open) < MAX_OPEN and event.rule not in self._open
            if wanted:
                self._open.add(event.rule)
        asked = wanted and self._ask(question, _EventAsker(event, self._finish))
        if wanted and not asked:
            self._close(event.rule)
        self._counts["questions asked" if asked else "questions left out"] += 1

    def _finish(self, event: Event) -> None:
        self._close(event.rule)
        self._publish(event)

    def _close(self, rule: str) -> None:
        with self._lock:
            self._open.discard(rule)


class _EventAsker(Asker):
    """Makes an answer, or the reason why there is none, a message of its event."""

    def __init__(self, event: Event, finish: Callable[[Event], None]) -> None:
        self._event, self._finish = event, finish

    def on_answer(self, decision: Decision) -> None:
        found: dict[str, Any] = {"value": safe_text(decision.value, MAX_ANSWER)}
        if decision.probability is not None:
            found["probability"] = round(decision.probability, 4)
        self._tell(decision.question.text, found, decision.stamp_ns)

    def on_refusal(self, question: str, reason: str) -> None:
        self._tell(question, {"refused": safe_text(reason, MAX_ANSWER)}, self._event.stamp_ns)

    def _tell(self, question: str, found: Mapping[str, Any], stamp_ns: int) -> None:
        answer = {"question": safe_text(question, MAX_ANSWER), **found}
        self._finish(replace(self._event, state="answer", stamp_ns=stamp_ns, suppressed=0, answer=answer))
