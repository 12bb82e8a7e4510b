"""Asking a vision-language model about frames. Every back end has the one interface here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from lfm_perception.errors import PerceptionError
from lfm_perception.planning.image_plan import ImagePlan
from lfm_perception.scene import Answer, Frame
from lfm_perception.vlm.prompts import Draft, Question

if TYPE_CHECKING:
    from lfm_perception.settings import Settings


_DEMO = Path(__file__).parents[1] / "demo" / "model"


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What one question about one frame may cost, decided before any pixel is encoded.

    `deadline_s` counts from the call of `describe`, in seconds; None: no deadline. `draft` are the objects
    that the answer is expected to hold, in the order in which it may name them; None: nothing is known. It
    changes how soon the answer comes, and nothing in it. `expected_s` is what the answer will probably take,
    None where nobody asked; `fits` is False when that is more than the budget has left.
    """

    image: ImagePlan
    answer_tokens: int
    deadline_s: float | None = None
    draft: Draft | None = None
    expected_s: float | None = None
    fits: bool = True

    def __str__(self) -> str:
        image = self.image
        tiles = f" in {image.columns}x{image.rows} tiles" if image.tiled else ""
        time = "" if self.expected_s is None else f", about {self.expected_s:.3f} s"
        return (
            f"{image.width}x{image.height}{tiles}, {image.tokens} image tokens, "
            f"at most {self.answer_tokens} answer tokens{time}{'' if self.fits else ', too slow'}"
        )


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


def model_files(settings: Settings) -> tuple[Path, Path]:
    """The language model and the vision file that the settings name; without names, the demo model's."""
    if settings.model.path:
        return Path(settings.model.path).expanduser(), Path(settings.mmproj.path).expanduser()
    return _DEMO / "demo-vl-Q4_0.gguf", _DEMO / "mmproj-demo-vl.gguf"


def open_vlm(settings: Settings, tell: Callable[[str], None] = lambda sentence: None) -> Vlm:
    """Who answers by the settings: the model in a process of its own or in this one, a server, a recording.

    `tell` hears of losses and recoveries of a process or a server. Raises PerceptionError when what the
    settings name cannot be used.
    """
    # Imported here, because each loads what the others shall not.
    if settings.engine.backend == "openai":
        from lfm_perception.vlm.remote import RemoteVlm

        return RemoteVlm(settings, tell)
    if settings.engine.backend == "recorded":
        from lfm_perception.vlm.recorded import RecordedVlm

        return RecordedVlm(settings)
    if settings.engine.isolation == "process":
        from lfm_perception.vlm.worker import WorkerVlm

        return WorkerVlm(settings, tell)
    from lfm_perception.vlm.llama import LlamaVlm

    return LlamaVlm(settings)


def model_name(settings: Settings) -> str:
    """Who answers, as people are told: on pictures, in logs, in diagnostics."""
    if settings.engine.backend == "openai":
        server = urlsplit(settings.openai.url).netloc
        return f"{settings.openai.model} at {server}" if settings.openai.model else server
    if settings.engine.backend == "recorded":
        return f"answers in {Path(settings.recorded.path).name}"
    return Path(settings.model.path).stem or "demo model"
