# SPDX-License-Identifier: Apache-2.0
"""The interface to a vision-language model, which every inference backend (`backends/`) implements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame


@dataclass(frozen=True, slots=True)
class Health:
    """State of a backend: readiness, number of restarts, the latest problem, and the worker's process id."""

    ready: bool = True
    restarts: int = 0
    problem: str = ""
    pid: int | None = None


class Vlm(Protocol):
    """A loaded vision-language model."""

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """Runs one inference. A further question about the same frame with the same image plan costs less.

        Args:
            plan: limits; at the end of the tokens or of the time the answer is marked `truncated`.

        Raises:
            CancelledError: after `cancel`.
            PerceptionError: when the backend cannot answer.
        """
        ...

    def cancel(self) -> None:
        """Ends the running inference, from any thread; later ones are not affected."""
        ...

    def health(self) -> Health:
        """The state of the backend, without waiting."""
        ...

    def close(self) -> None:
        """Cancels the running inference and frees the model. May be called twice."""
        ...


class CancelledError(PerceptionError):
    """The inference was cancelled before its answer was complete."""
