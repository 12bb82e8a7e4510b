# SPDX-License-Identifier: Apache-2.0
"""The adviser `vlm`: another model, run by any inference backend, with a settings file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lfm_perception.backends import chosen_backend, model_name, open_vlm
from lfm_perception.errors import PerceptionError
from lfm_perception.files import user_path
from lfm_perception.planning.inference import Inferencer
from lfm_perception.questions import Prompt, ask
from lfm_perception.scene import Frame
from lfm_perception.second_opinion.advisers import register_adviser
from lfm_perception.second_opinion.advisers.process import ProcessAdviser
from lfm_perception.settings import SecondOpinionSettings, Settings

if TYPE_CHECKING:
    from lfm_perception.second_opinion.worker import Answering


def answering(path: str) -> Answering:
    """Answers in words, of up to `caption.max_tokens` tokens, by the model of a settings file.

    Raises:
        PerceptionError: the model cannot be used.
    """
    # this process is a worker already, which is killed when it hangs
    settings = Settings.load(user_path(path)).with_values({"engine.isolation": "thread"})
    inferencer = Inferencer(settings, open_vlm(settings, lambda sentence: None))

    def answer(frame: Frame, question: str) -> tuple[str, float | None]:
        found, _ = inferencer.ask(frame, ask(Prompt(question)), settings.caption.max_tokens)
        return found.text, None

    return answer


def _open(settings: SecondOpinionSettings) -> ProcessAdviser:
    path = settings.model_settings
    chosen = Settings.load(user_path(path))
    if not chosen_backend(chosen).any_frame:
        backend = chosen.engine.backend
        raise PerceptionError(
            f"second_opinion.model_settings {path}: engine.backend {backend} knows no crops: choose another"
        )
    return ProcessAdviser("vlm", path, f"{chosen.engine.backend} with {model_name(chosen)}", settings.timeout)


register_adviser("vlm", _open)
