# SPDX-License-Identifier: Apache-2.0
"""The registry of inference backends and the parameter that chooses one."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from lfm_perception.backends import chosen_backend, model_name, model_provenance, open_vlm
from lfm_perception.errors import PerceptionError
from lfm_perception.settings import Settings

NAMES = ("llama", "openai", "recorded")


def choosing(name: str, **values: object) -> Settings:
    return Settings().with_values({"engine.backend": name, "recorded.path": "answers.jsonl", **values})


def test_every_choice_of_engine_backend_is_registered_and_nothing_else() -> None:
    with pytest.raises(PerceptionError) as refused:
        choosing("none of these")
    choices = re.search(r"must be one of (.*), got", str(refused.value))
    assert choices
    assert tuple(re.findall(r"\w+", choices[1])) == NAMES
    assert tuple(chosen_backend(choosing(name)).name for name in NAMES) == NAMES


def test_a_model_is_named_and_documented_by_its_backend(tmp_path: Path) -> None:
    assert model_name(Settings()) == "demo model"
    assert model_name(choosing("recorded")) == "answers in answers.jsonl"
    assert model_name(choosing("openai", **{"openai.model": "m"})) == "m at 127.0.0.1:8000"
    assert model_provenance(Settings())["demo"] is True
    assert model_provenance(choosing("openai")) == {"server": "http://127.0.0.1:8000/v1", "name": ""}
    (tmp_path / "a.jsonl").write_bytes(b"abc")
    facts = model_provenance(choosing("recorded", **{"recorded.path": str(tmp_path / "a.jsonl")}))
    assert facts["recorded"] == {
        "file": "a.jsonl",
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


def test_a_check_names_the_first_problem_before_anything_is_opened() -> None:
    assert "checksums right" in chosen_backend(Settings()).check(Settings())
    for settings, problem in (
        (choosing("recorded", **{"recorded.path": "/nowhere/a.jsonl"}), "cannot read /nowhere/a.jsonl"),
        (choosing("openai", **{"openai.url": "ftp://fleet"}), "openai.url must be an address"),
    ):
        with pytest.raises(PerceptionError, match=re.escape(problem)):
            chosen_backend(settings).check(settings)


def test_boxes_of_a_model_without_a_documented_prompt_are_announced() -> None:
    said: list[str] = []
    with closing(open_vlm(Settings().with_values({"model.grounding": "undocumented"}), said.append)):
        assert len(said) == 1
        assert "documents no prompt for boxes, so boxes in the dialect bbox may be poor" in said[0]
