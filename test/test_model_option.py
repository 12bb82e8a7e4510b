# SPDX-License-Identifier: Apache-2.0
"""`run --model` takes the name of a model on this computer, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lfm_perception.cli.options import shortcuts
from lfm_perception.errors import PerceptionError
from lfm_perception.models.store import Store
from lfm_perception.settings import Settings


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a home of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return Store()


def settings_of(model: str, mmproj: Path | None = None) -> Settings:
    return Settings().with_values(shortcuts(model, mmproj, None, None))


def test_a_name_gives_files_checksums_and_recommended_settings(
    store: Store, demo_model: tuple[Path, Path]
) -> None:
    stored = store.add("mine-Q4_0", *demo_model, "added", {"detect.dialect": "bbox_2d"})
    for name in ("mine-Q4_0", "mine"):  # the only quantization that is here
        settings = settings_of(name)
        assert (settings.model.path, settings.mmproj.path) == tuple(map(str, demo_model))
        assert settings.model.sha256 == stored.model.sha256
        assert settings.dialect.name == "bbox_2d"
    other = settings_of("mine", Path("other.gguf"))
    assert (other.mmproj.path, other.mmproj.sha256) == ("other.gguf", "")
    store.add("mine-Q8_0", *demo_model, "added", {})
    with pytest.raises(PerceptionError, match=r"'mine' is not on this computer .*mine-Q4_0, mine-Q8_0"):
        settings_of("mine")


def test_a_file_takes_the_vision_file_beside_it(store: Store, demo_model: tuple[Path, Path]) -> None:
    settings = settings_of(str(demo_model[0]))
    assert (settings.model.path, settings.mmproj.path) == tuple(map(str, demo_model))
