# SPDX-License-Identifier: Apache-2.0
"""Advisers: who is asked for a second opinion.

The file NAME.py in this package registers the adviser NAME and is imported when `second_opinion.adviser`
chooses it. To add one, write that file and add its name to the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from lfm_perception.second_opinion.opinions import Reply, Request
from lfm_perception.settings import SecondOpinionSettings


class Adviser(Protocol):
    """Answers requests. Owned by one thread; nothing in it may block for long but `poll`."""

    source: str
    """Who it is, for logs and results."""

    @property
    def has_room(self) -> bool:
        """Whether it takes a request now."""
        ...

    @property
    def waits(self) -> bool:
        """Whether something is expected from it, so that it is to be polled."""
        ...

    def submit(self, request: Request) -> None:
        """Hand a request over, with its `jpeg`. Raises AdviserError where that fails."""
        ...

    def poll(self, wait_s: float) -> Sequence[Reply]:
        """The replies that have come, one for each request sooner or later; waits for the first that long."""
        ...

    def close(self) -> None:
        """End everything; requests that were not answered are withdrawn as far as that can be done."""
        ...


Open = Callable[[SecondOpinionSettings], Adviser]

_ADVISERS: dict[str, Open] = {}


def register_adviser(name: str, opens: Open) -> None:
    """Make an adviser available under its name; `opens` raises PerceptionError where it cannot be used."""
    _ADVISERS[name] = opens


def open_adviser(settings: SecondOpinionSettings) -> Adviser:
    """The adviser that the settings choose. Raises PerceptionError when it cannot be used."""
    name = settings.adviser
    if name not in _ADVISERS:
        import_module(f"{__name__}.{name}")
    return _ADVISERS[name](settings)
