# SPDX-License-Identifier: Apache-2.0
"""Parameters of drift (`drift/`)."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.settings.spec import parameter


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """Drift of scores, labels and images against a baseline; not watched by default."""

    baseline: str = parameter("", "file of `lfm-perception drift baseline`; empty: drift is not watched")
    window: float = parameter(
        300.0, "length of the window that is compared with the baseline", (10.0, 86_400.0), "s"
    )
    warn_psi: float = parameter(
        0.25, "population-stability index above which a quantity drifts", (0.1, 100.0)
    )
