# SPDX-License-Identifier: Apache-2.0
"""Parameters of commands in words."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.settings.spec import parameter


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """Commands in words to the node, on `input_command`; none is taken unless its tool is allowed."""

    allowed: tuple[str, ...] = parameter(
        (), "names of the tools that commands may call; empty: no commands", fixed=True
    )
    min_probability: float = parameter(
        0.6, "minimum probability of a call; one that is less probable is refused", (0.0, 1.0), fixed=True
    )
    dry_run: bool = parameter(False, "calls are validated and answered, and change nothing", fixed=True)
