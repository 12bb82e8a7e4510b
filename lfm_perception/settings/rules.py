# SPDX-License-Identifier: Apache-2.0
"""Parameters of the rules (`rules/`)."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.settings.spec import parameter


@dataclass(frozen=True, slots=True)
class RulesSettings:
    """Rules over tracks, which publish events; none by default."""

    file: str = parameter("", "rule file, read again when it changes; empty: no rules")
    max_rate: float = parameter(
        5.0, "maximum number of events that begin per second, of one rule", (0.1, 1000.0), "Hz"
    )
    actions: bool = parameter(
        False, "execution of the actions in the rule file; false: events only", fixed=True
    )
    snapshots: str = parameter("", "folder for the images that actions save; empty: none", fixed=True)
