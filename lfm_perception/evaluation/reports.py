# SPDX-License-Identifier: Apache-2.0
"""Reports: their provenance (model, settings, versions, machine), and their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lfm_perception.backends import model_name, model_provenance
from lfm_perception.media.page import Section, drawing, write_report
from lfm_perception.media.staging import staged, write_json, writing
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


def write_results(
    folder: Path, name: str, title: str, sections: Iterable[Section], found: Mapping[str, Any]
) -> str:
    """Write all figures as `NAME.json` and the page `NAME.html`, which appear together.

    Args:
        sections: made while the page is drawn, whose problems do not cost the figures.
        found: the figures with their provenance.

    Returns:
        The sentence that says where they are.

    Raises:
        PerceptionError: they cannot be written.
    """
    with staged(folder) as staging, writing(folder):
        write_json(staging.path / f"{name}.json", found)
        with drawing("the page"):
            write_report(staging.path / f"{name}.html", title, list(sections), found)
        staging.publish()
    return f"results in {folder}: open {folder / f'{name}.html'}"
