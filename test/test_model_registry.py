# SPDX-License-Identifier: Apache-2.0
"""The registry of models, and a team's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from computer import registry_text
from hub import COMMIT

from lfm_perception.errors import PerceptionError
from lfm_perception.models.registry import SHIPPED, Registry
from lfm_perception.settings import Settings


def test_the_registry_names_the_family() -> None:
    registry = Registry(SHIPPED)
    families = [
        "LFM2.5-VL-450M",
        "LFM2.5-VL-1.6B",
        "LFM2.5-VL-3B",
        "LFM2.5-VL-450M-Extract",
        "LFM2.5-VL-1.6B-Extract",
        "LFM2-VL-450M",
        "LFM2-VL-1.6B",
        "LFM2-VL-3B",
    ]
    for family in families:
        model = registry.find(family)
        assert model.name.startswith(f"{family}-Q")
        assert model.repo == f"LiquidAI/{family}-GGUF"
        assert model.license is not None
        assert model.license.key == "lfm1.0"
        assert {"image.min_tokens", "model.grounding"} <= model.settings.keys()
        Settings().with_values(model.settings)
    assert registry.find("LFM2.5-VL-3B").settings["detect.dialect"] == "bbox_2d"
    assert registry.find("LFM2.5-VL-450M").settings["image.min_tokens"] == 32


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("LFM2.5-VL-450M", {"image.min_tokens": 32, "sampling.min_p": 0.15}),
        ("LFM2.5-VL-3B", {"image.resample": "bicubic", "image.min_tiles": 1, "sampling.temperature": 0.2}),
        ("LFM2-VL-450M", {"image.thumbnail": False}),
        ("LFM2-VL-1.6B", {"image.pixel_tolerance": 1.5, "image.thumbnail": True}),
        ("LFM2.5-VL-450M-Extract", {"sampling.temperature": 0.0}),
    ],
)
def test_each_model_has_the_values_of_its_own_processor_and_card(
    name: str, values: dict[str, object]
) -> None:
    settings = Settings().with_values(Registry(SHIPPED).find(name).settings).values()
    assert {key: settings[key] for key in values} == values


def test_a_documented_dialect_and_every_value_of_processor_and_sampling_has_a_source() -> None:
    for model in Registry(SHIPPED):
        documented = model.settings["model.grounding"] == "documented"
        assert documented == (model.name.startswith(("LFM2.5-VL-450M-Q", "LFM2.5-VL-3B-Q"))), model.name
        named = {key for key in model.settings if key.startswith(("image.", "sampling."))}
        assert named | ({"detect.dialect"} if documented else set()) <= model.sources.keys(), model.name


def test_a_model_that_only_a_server_can_run_says_so() -> None:
    with pytest.raises(PerceptionError, match=r"LFM3-VL-2B cannot be pulled: .* lfm3 .* run it on a server"):
        Registry(SHIPPED).find("LFM3-VL-2B")


def test_a_pin_is_whole_or_absent() -> None:
    for model in Registry(SHIPPED):
        for file in (model.file, *model.mmprojs.values()):
            assert bool(file.revision) == bool(file.size) == bool(file.sha256) == file.pinned


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"models": {', '"models": {"demo": {}, ', "'demo' is given twice"),
        ('"repo": "somebody/demo-GGUF"', '"repo": "demo"', "models.demo.repo must be ORGANIZATION/NAME"),
        ('"license": "free"', '"license": "fee"', "models.demo.license 'fee' is not described"),
        ('"settings"', '"seetings"', "models.demo.seetings is unknown: known are 'repo',"),
        ('"bbox_2d"', '"bbox_3d"', "models.demo.settings: detect.dialect must be one of bbox, bbox_2d"),
        ('"sha256": "', '"sha256": "g', "models.demo.files.Q4_0.sha256 must be 64 hexadecimal"),
        ('"bytes": ', '"bytes": -', "models.demo.files.Q4_0.bytes must be a whole number above 0, got -"),
        (f'"revision": "{COMMIT}", ', "", "models.demo.files.Q4_0 has bytes and sha256 alone"),
        ('"demo.gguf"', '"../demo.gguf"', "models.demo.files.Q4_0.file must be the path of a .gguf file"),
        ('"demo": {', '"a demo": {', "models: a name consists of letters, digits, '.', '_' and '-', got"),
        ('"settings": {', '"sources": {"image.max_tokens": "a guess"}, "settings": {',
         "models.demo.sources names 'image.max_tokens', which 'settings' does not hold"),
        ('"models": {', '"servers": {"big": 7}, "models": {', "servers.big must be text, got 7"),
        ('"models": {', '"servers": {"demo": "too big"}, "models": {',
         "servers.demo is under 'models' too: remove one of them"),
        ('"models": {', '"servers": {"my server": "too big"}, "models": {', "servers: a name consists of"),
        ('"models": {',
         '"models": {"empty": {"repo": "a/b", "files": {}, "mmproj": {"F16": {"file": "m.gguf"}}}, ',
         "models.empty.files names no file"),
        ('"demo": {', '"LFM2-VL-3B-Q4_0": {', "models.LFM2-VL-3B-Q4_0 has the name of a model with one"),
        ('"settings": {', '"settings": {"image": {"max_tokens": 64}, ',
         "models.demo.settings: 'image' is a group of parameters: write 'image.max_tokens'"),
        ('"models"', '"model"', "model is unknown: known are 'licenses', 'models'"),
        ("}", "", "not valid JSON, line 1, column"),
    ],
)  # fmt: skip
def test_a_registry_edited_wrongly_is_one_sentence(
    tmp_path: Path, files: dict[str, bytes], old: str, new: str, said: str
) -> None:
    mine = tmp_path / "registry.json"
    text = registry_text(files)
    assert old in text
    mine.write_text(text.replace(old, new, 1))
    with pytest.raises(PerceptionError) as caught:
        Registry(SHIPPED, mine)
    assert str(caught.value).startswith(f"{mine}: {said}")


def test_two_models_of_one_name_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    mine = tmp_path / "registry.json"
    mine.write_text(registry_text(files).replace('"demo": {', '"LFM2.5-VL-450M": {'))
    with pytest.raises(PerceptionError, match=r"gives a second model the name 'LFM2.5-VL-450M-Q4_0'"):
        Registry(SHIPPED, mine)


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(PerceptionError, match=r"did you mean 'LFM2\.5-VL-450M'\?"):
        Registry(SHIPPED).find("LFM2.5-VL-450")
