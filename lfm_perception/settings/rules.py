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
    clips: str = parameter("", "folder for the recordings that actions make; empty: none", fixed=True)
    clip_before: float = parameter(5.0, "duration of a recording before its event", (0.0, 60.0), "s")
    clip_after: float = parameter(5.0, "duration of a recording after its event", (1.0, 60.0), "s")
    clip_rate: float = parameter(10.0, "maximum rate of the images in recordings", (0.1, 100.0), "Hz")
    clip_memory: float = parameter(
        64.0, "maximum size of the compressed images kept in memory for recordings", (1.0, 4096.0), "MB"
    )
    clip_disk: float = parameter(
        1000.0, "maximum size of all recordings together; the oldest are deleted", (1.0, 1e6), "MB"
    )
