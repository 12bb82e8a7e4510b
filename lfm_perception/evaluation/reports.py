# SPDX-License-Identifier: Apache-2.0
"""Provenance of reports: model, settings, versions and machine."""

from __future__ import annotations

import platform
from typing import Any

from lfm_perception.backends import model_name, model_provenance
from lfm_perception.provenance import versions
from lfm_perception.settings import Settings


def provenance(settings: Settings, *, with_model: bool = True) -> dict[str, Any]:
    """Model (with checksums), settings, versions and machine, as JSON for a report."""
    return {
        **({"model": model_provenance(settings)} if with_model else {}),
        "settings": settings.values(),
        "versions": versions(),
        "system": platform.platform(),
    }


def page_facts(settings: Settings) -> dict[str, str]:
    """Model, machine and versions in one line each, for a page."""
    packages = ", ".join(f"{package} {number}" for package, number in versions().items())
    return {"model": model_name(settings), "system": platform.platform(), "versions": packages}
