"""What every report states beside its figures: model, settings, versions and machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_perception.backends import model_files, model_name
from lfm_perception.provenance import file_facts, versions
from lfm_perception.settings import Settings


def provenance(settings: Settings, *, with_model: bool = True) -> dict[str, Any]:
    """Model (with checksums), settings, versions and machine, ready for `json.dumps`."""
    return {
        **({"model": model_facts(settings)} if with_model else {}),
        "settings": settings.values(),
        "versions": versions(),
        "system": platform.platform(),
    }


def model_facts(settings: Settings) -> dict[str, Any]:
    """The model's files with their checksums, its server, or the recorded answers."""
    if settings.engine.backend == "openai":
        return {"server": settings.openai.url, "name": settings.openai.model}
    if settings.engine.backend == "recorded":
        return {"recorded": file_facts(Path(settings.recorded.path).expanduser())}
    model, mmproj = map(file_facts, model_files(settings))
    return {"demo": not settings.model.path, "model": model, "mmproj": mmproj}


def page_facts(settings: Settings) -> dict[str, str]:
    """Model, machine and versions in one line each, for a page."""
    packages = ", ".join(f"{package} {number}" for package, number in versions().items())
    return {"model": model_name(settings), "system": platform.platform(), "versions": packages}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a report as indented JSON in UTF-8; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
