# SPDX-License-Identifier: Apache-2.0
"""The interface to a vision-language model, which every inference backend (`backends/`) implements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame

if TYPE_CHECKING:
    from lfm_perception.commands import Command


OnText = Callable[[str], object]
"""Receives the text of an answer so far, while it is decoded, on any thread; it must return quickly."""


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


@runtime_checkable
class StreamingVlm(Vlm, Protocol):
    """A model that supports streaming of free text while it is decoded; those of the backend `llama`."""

    def stream(self, frame: Frame, question: Question, plan: FramePlan, on_text: OnText) -> Answer:
        """See `describe`; of an answer in words, `on_text` receives the text so far."""
        ...


@runtime_checkable
class CommandVlm(Vlm, Protocol):
    """A model that takes commands too; those of the backend `llama` do."""

    def command(self, command: Command) -> Answer:
        """The call that a command means, or `commands.REFUSAL`, as text, and its probability.

        Only text is read: no frame, and nothing that was read of one. A running inference ends first.

        Raises:
            CancelledError: after `cancel`.
            PerceptionError: when the model cannot answer.
        """
        ...


class CancelledError(PerceptionError):
    """The inference was cancelled before its answer was complete."""
