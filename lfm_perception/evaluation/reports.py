# SPDX-License-Identifier: Apache-2.0
"""Provenance of reports: model, settings, versions and machine."""

from __future__ import annotations

from typing import Any

from lfm_perception.backends import model_name, model_provenance
from lfm_perception.provenance import machine, versions
from lfm_perception.settings import Settings


def provenance(settings: Settings, *, with_model: bool = True) -> dict[str, Any]:
    """Model (with checksums), settings, versions and machine, as JSON for a report."""
    model = {"name": model_name(settings), **model_provenance(settings)} if with_model else None
    return {
        **({"model": model} if model else {}),
        "settings": settings.values(),
        "versions": versions(),
        "machine": machine(),
    }
