# SPDX-License-Identifier: Apache-2.0
"""The second opinions of one run: asked about tracks and events, and gathered for the summary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lfm_perception.backends import log_warning
from lfm_perception.second_opinion import Outcome, SecondOpinion, outcome_to_json

if TYPE_CHECKING:
    from lfm_perception.rules import Event
    from lfm_perception.scene import Frame
    from lfm_perception.settings import Settings


class RunOpinions:
    """Opens an adviser for a run; to be closed. `questions`, by rule, are asked when its events begin.

    Raises:
        PerceptionError: the adviser cannot be used.
    """

    def __init__(self, settings: Settings, questions: Mapping[str, str]) -> None:
        self._questions = questions
        self._outcomes: list[Outcome] = []
        tell, warned = logging.getLogger("lfm_perception").info, set[str]()

        def warn(kind: str, sentence: str) -> None:
            if kind not in warned:
                warned.add(kind)
                log_warning(sentence)

        def on_error(error: Exception) -> None:
            warn("unexpected", f"unexpected error in the second opinions, please report it: {error!r}")

        self.second = SecondOpinion(settings.second_opinion, self._outcomes.append, tell, warn, on_error)

    def on_events(self, frame: Frame, events: Sequence[Event]) -> None:
        """Ask the questions of the rules whose events begin at this frame about their first tracks."""
        for event in events:
            question = self._questions.get(event.rule)
            if question and event.begins and event.tracks:
                self.second.ask(frame, event.tracks[0], question, f"rule {event.rule}")

    def summary(self, go_on: Callable[[], bool]) -> dict[str, Any]:
        """Counts and outcomes by `opinion.schema.json`, once all have come or `go_on` is false."""
        self.second.drain(go_on)
        outcomes = [outcome_to_json(outcome) for outcome in list(self._outcomes)]
        return {"adviser": self.second.source, **asdict(self.second.counts()), "outcomes": outcomes}

    def close(self) -> None:
        """End the adviser."""
        self.second.close()
