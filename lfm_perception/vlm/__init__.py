"""Asking a vision-language model about frames. Every back end has the one interface here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lfm_perception.errors import PerceptionError
from lfm_perception.planning.image_plan import ImagePlan
from lfm_perception.scene import Answer, Frame
from lfm_perception.vlm.prompts import Question


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What one question about one frame may cost, decided before any pixel is encoded.

    `deadline_s` counts from the call of `describe`, in seconds; None: no deadline.
    """

    image: ImagePlan
    answer_tokens: int
    deadline_s: float | None = None


class Vlm(Protocol):
    """A vision-language model that is loaded and can be asked."""

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """The answer to a question about a frame, within the plan.

        At the end of the tokens or of the time it holds what was found so far and is marked
        `truncated`. Asking again about the same frame with the same image plan may cost less.

        Raises CancelledError after `cancel`, and PerceptionError when there can be no answer.
        """
        ...

    def cancel(self) -> None:
        """End what is being asked now, from any thread; what is asked later is not affected."""
        ...

    def close(self) -> None:
        """Cancel, and free the model. May be called twice."""
        ...


class CancelledError(PerceptionError):
    """The question was taken back before its answer was finished."""
