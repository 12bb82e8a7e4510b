# SPDX-License-Identifier: Apache-2.0
"""When standing questions are asked: by their periods, within their duty cycle."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lfm_perception.scene import AlertStatus
from lfm_perception.stamps import to_seconds
from lfm_perception.standing_questions import FRAME, Alert, StandingQuestion

ONCE_S = 0.001
"""Shortest time between two answers to a question, so that it is asked once about a frame."""


@dataclass(slots=True)
class _State:
    alert: Alert
    due_s: float = 0.0
    status: AlertStatus | None = None
    tracks: dict[int, tuple[Mapping[str, float], int]] = field(default_factory=dict)
    """Probabilities of the latest answer about each track, and the stamp of its frame."""


class QuestionSchedule:
    """The standing questions, the latest answer to each, and which is asked next.

    After an answer that took t seconds none is asked for t * (1 / duty_cycle - 1) seconds, so that all
    together take at most this share of the time. Times are seconds of the frames' stamps.
    """

    def __init__(self) -> None:
        self._states: dict[StandingQuestion, _State] = {}
        self._duty_cycle = 1.0
        self._next_s = 0.0

    def reconfigure(self, questions: Sequence[StandingQuestion], duty_cycle: float) -> None:
        """Applies other questions; those that stay keep their answers and alerts."""
        self._duty_cycle = duty_cycle
        self._states = {
            question: self._states.get(question) or _State(Alert(question)) for question in questions
        }

    @property
    def next_s(self) -> float:
        """Stamp from which on the duty cycle lets another question be asked."""
        return self._next_s

    def spend(self, stamp_s: float, duration_s: float) -> None:
        """A question about the frame of this stamp took so long."""
        self._next_s = stamp_s + duration_s * (1.0 / self._duty_cycle - 1.0)

    def reset(self) -> None:
        """Forgets all answers and turns all alerts off."""
        self._states = {question: _State(Alert(question)) for question in self._states}
        self._next_s = 0.0

    def due(self, stamp_s: float) -> StandingQuestion | None:
        """The question about the frame that is longest overdue; None without one, or without time for it."""
        about_frame = [question for question in self._states if question.about == FRAME]
        if not about_frame or stamp_s < self._next_s:
            return None
        question = min(about_frame, key=lambda each: self._states[each].due_s)
        return question if self._states[question].due_s <= stamp_s else None

    def defer(self, question: StandingQuestion, stamp_s: float) -> None:
        """The question had no room in the frame's budgets: it waits for another frame, after the others."""
        self._states[question].due_s = stamp_s + ONCE_S

    def postpone(self, question: StandingQuestion, stamp_s: float) -> None:
        """The question failed: it is asked again after its period."""
        self._states[question].due_s = stamp_s + max(question.period_s, ONCE_S)

    def record(
        self,
        question: StandingQuestion,
        probabilities: Mapping[str, float],
        stamp_ns: int,
        duration_s: float,
    ) -> None:
        """The question was answered about the frame of this stamp, in `duration_s` seconds."""
        stamp_s, state = to_seconds(stamp_ns), self._states[question]
        active = state.alert.update(probabilities[question.answer], stamp_s)
        state.status = _status(question, probabilities, active, stamp_ns)
        state.due_s = stamp_s + max(question.period_s, ONCE_S)
        self.spend(stamp_s, duration_s)

    def record_track(
        self, name: str, track_id: int, probabilities: Mapping[str, float], stamp_ns: int
    ) -> None:
        """The attribute of this name was asked about a track; it may be that of a standing question."""
        for question, state in self._states.items():
            if question.name == name and question.about != FRAME:
                state.tracks[track_id] = probabilities, stamp_ns

    def update_tracks(self, track_ids: Collection[int], stamp_ns: int) -> None:
        """Updates the alerts about tracks, given those that are there: the likeliest one counts."""
        for question, state in self._states.items():
            if question.about == FRAME:
                continue
            state.tracks = {key: known for key, known in state.tracks.items() if key in track_ids}
            ranked = sorted(state.tracks.items(), key=lambda item: -item[1][0][question.answer])
            probability = ranked[0][1][0][question.answer] if ranked else 0.0
            active = state.alert.update(probability, to_seconds(stamp_ns))
            if ranked:
                track_id, (probabilities, asked_ns) = ranked[0]
                state.status = _status(question, probabilities, active, asked_ns, track_id)
            elif state.status is not None:
                state.status = replace(state.status, probability=0.0, active=active)

    @property
    def statuses(self) -> tuple[AlertStatus, ...]:
        """The latest answers, in the order of the questions."""
        return tuple(state.status for state in self._states.values() if state.status)


def _status(
    question: StandingQuestion,
    probabilities: Mapping[str, float],
    active: bool,
    stamp_ns: int,
    track_id: int | None = None,
) -> AlertStatus:
    ranked = dict(sorted(probabilities.items(), key=lambda item: -item[1]))
    return AlertStatus(question.name, ranked, probabilities[question.answer], active, stamp_ns, track_id)
