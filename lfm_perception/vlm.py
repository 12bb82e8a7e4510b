"""The interface to a vision-language model: `Vlm.describe` answers a question about a frame within a plan.

Every inference backend (`backends/`) implements it; whoever asks a model depends on this module only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame


@dataclass(frozen=True, slots=True)
class Health:
    """How a back end is: whether it can be asked now, how often it had to be started again and what was the
    matter last; `pid` of its process, None where it has none.
    """

    ready: bool = True
    restarts: int = 0
    problem: str = ""
    pid: int | None = None


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

    def health(self) -> Health:
        """How the back end is; answers at once."""
        ...

    def close(self) -> None:
        """Cancel, and free the model. May be called twice."""
        ...


class CancelledError(PerceptionError):
    """The question was taken back before its answer was finished."""
