# SPDX-License-Identifier: Apache-2.0
"""Settings: one list of parameters, checked as a whole, with errors that say what to write instead."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.errors import PerceptionError
from lfm_perception.questions import BBOX, BBOX_2D
from lfm_perception.settings import RENAMED, ImageSettings, Settings, parameter_specs
from lfm_perception.settings.documentation import as_yaml

ROOT = Path(__file__).parent.parent
NAMES = [*parameter_specs()]
PROFILES = sorted(set((ROOT / "config").glob("*.yaml")) - {ROOT / "config" / "perception.yaml"})
SWITCHES = [spec.name for spec in parameter_specs().values() if {"on", "off"} <= set(spec.choices)]
PAIR = {"model.path": "m.gguf", "mmproj.path": "v.gguf"}


def message(values: dict[str, object]) -> str:
    with pytest.raises(PerceptionError) as caught:
        Settings.from_dict(values)
    return str(caught.value)


def message_of_file(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PerceptionError) as caught:
        Settings.load(path)
    return str(caught.value)


def test_defaults_are_the_model_cards() -> None:
    settings = Settings()
    assert (settings.sampling.temperature, settings.sampling.min_p) == (0.1, 0.15)
    assert settings.sampling.repeat_penalty == 1.05
    assert (settings.image.min_tokens, settings.image.max_tokens, settings.image.splitting) == (32, 256, True)
    assert settings.dialect == BBOX
    assert settings.engine.n_gpu_layers == 0


def test_every_default_is_allowed_and_every_parameter_has_a_description() -> None:
    for spec in parameter_specs().values():
        assert spec.check(spec.default) == spec.default
        assert spec.description
        assert not re.search(r"\b(what|who|how|whatever|looks?|looked|picture|knob)\b", spec.description)
        assert (spec.minimum is None) == (spec.maximum is None) == (spec.kind not in (int, float))


def test_groups_and_dotted_names_mean_the_same() -> None:
    nested = Settings.from_dict({"image": {"max_tokens": 64}, "detect": {"labels": ["dog"], "closed": True}})
    dotted = Settings.from_dict({"image.max_tokens": 64, "detect.labels": ["dog"], "detect.closed": True})
    assert nested == dotted
    assert nested.image == ImageSettings(max_tokens=64)
    assert nested.detect.labels == ("dog",)


def test_values_give_back_what_was_set() -> None:
    settings = Settings.from_dict({**PAIR, "budget.latency": 0.5, "detect.labels": ["a dog", "Hund"]})
    assert list(settings.values()) == NAMES
    assert Settings.from_dict(settings.values()) == settings


def test_with_values_keeps_the_rest() -> None:
    settings = Settings.from_dict({"image.max_tokens": 64, "detect.dialect": "bbox_2d"})
    changed = settings.with_values({"image.min_tokens": 16, "budget.latency": 1})
    assert (changed.image.min_tokens, changed.image.max_tokens) == (16, 64)
    assert changed.dialect == BBOX_2D
    assert changed.budget.latency == 1.0
    assert isinstance(changed.budget.latency, float)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image.max_tokens", 5000, "image.max_tokens must be a whole number from 1 to 1024 tokens, got 5000"),
        ("image.max_tokens", True, "image.max_tokens must be a whole number from 1 to 1024 tokens, got true"),
        ("image.max_tokens", 64.0, "image.max_tokens must be a whole number from 1 to 1024 tokens, got 64.0"),
        ("image.splitting", 1, "image.splitting must be true or false, got 1"),
        ("sampling.min_p", "0.1", "sampling.min_p must be a number from 0 to 1, got '0.1'"),
        ("sampling.temperature", math.nan, "sampling.temperature must be a number from 0 to 2, got nan"),
        ("budget.latency", math.inf, "budget.latency must be a number from 0 to 600 s, got inf"),
        ("budget.latency", False, "budget.latency must be a number from 0 to 600 s, got false"),
        (
            "budget.latency",
            10**18,
            "budget.latency must be a number from 0 to 600 s, got 1000000000000000000",
        ),
        ("engine.flash_attn", "yes", "engine.flash_attn must be one of auto, on, off, got 'yes'"),
        ("detect.labels", "person", "detect.labels must be a list of texts, got 'person'"),
        ("detect.labels", ["person", 3], "detect.labels must be a list of texts, got ['person', 3]"),
        (
            "detect.labels",
            ["\u202ecar"],
            r"detect.labels must be a list of texts without control characters, got ['\u202ecar']",
        ),
        ("model.path", None, "model.path must be text, got nothing"),
        ("model.path", "a\0b", r"model.path must be text without control characters, got 'a\x00b'"),
        ("model.sha256", "abc", "model.sha256 must be 64 hexadecimal digits or empty, got 'abc'"),
        ("caption.prompt", " ", "caption.prompt must not be blank, got ' '"),
    ],
)
def test_a_wrong_value_is_refused_with_name_range_and_value(name: str, value: object, said: str) -> None:
    assert message({name: value}) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image.max_token": 1}, "unknown parameter 'image.max_token': did you mean 'image.max_tokens'?"),
        (
            {"image": {"max_token": 1}},
            "unknown parameter 'image.max_token': did you mean 'image.max_tokens'?",
        ),
        ({"images": {"max_tokens": 1}}, "unknown parameter 'images': did you mean 'image'?"),
        ({"temperature": 1}, "unknown parameter 'temperature': did you mean 'detect.temperature'?"),
        (
            {"engine": {"temprature": 1}},
            "unknown parameter 'engine.temprature': did you mean 'detect.temperature'?",
        ),
        ({"dialect": {}}, "unknown parameter 'dialect': did you mean 'dialects'?"),
        ({"engine": 3}, "engine must be a group of parameters (engine.… : value), got 3"),
        ({"image": {"max_tokens": 9}, "image.max_tokens": 8}, "parameter image.max_tokens is given twice"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(values: dict[str, object], said: str) -> None:
    assert message(values) == said


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image.min_tokens": 300}, ["image.min_tokens 300", "image.max_tokens 256"]),
        ({"model.path": "m.gguf"}, ["model.path is 'm.gguf'", "mmproj.path is ''"]),
        ({"mmproj.path": "v.gguf"}, ["model.path is ''", "mmproj.path is 'v.gguf'"]),
        ({"detect.closed": True, "detect.labels": []}, ["detect.closed", "detect.labels is empty"]),
        ({"detect.labels": ["dog", "dog"]}, ["detect.labels holds 'dog' more than once"]),
        ({"detect.labels": ["dog", "  "]}, ["detect.labels must not be blank"]),
        ({"detect.dialect": "bbox2d"}, ["detect.dialect", "bbox, bbox_2d", "did you mean 'bbox_2d'?"]),
        ({"engine.n_batch": 4096, "engine.n_ctx": 2048}, ["engine.n_batch 4096", "engine.n_ctx 2048"]),
        ({"engine.n_ctx": 512}, ["engine.n_ctx 512", "about 8", "image.max_tokens"]),
        ({"image.max_tiles": 10, "engine.n_ctx": 3000}, ["engine.n_ctx 3000", "image.max_tiles"]),
        ({"detect.labels": [f"thing {i}" for i in range(3000)]}, ["engine.n_ctx 4096"]),
        ({"budget.tokens": 63}, ["budget.tokens 63", "at least 64", "image.min_tokens 32"]),
    ],
)
def test_a_contradiction_names_both_sides(values: dict[str, object], named: list[str]) -> None:
    said = message(values)
    assert all(part in said for part in named), said


def test_a_budget_bounds_the_context_that_is_needed() -> None:
    assert Settings.from_dict({"engine.n_ctx": 512, "budget.tokens": 300}).budget.tokens == 300


@pytest.mark.parametrize("name", ["caption.prompt", "detect.labels"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|startoftext|>", "<__media__>", "<image>"])
def test_special_tokens_in_prompts_are_refused(name: str, token: str) -> None:
    text = f"a dog {token} a cat"
    said = message({name: text if name == "caption.prompt" else [text]})
    assert said.startswith(f"{name} must not hold the special token '{token}'")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_is_refused_with_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    assert new in NAMES
    assert old not in NAMES
    said = f"parameter {old} is now called {new}"
    group, key = old.split(".")
    assert message({old: 1}) == said
    assert message({group: {key: 1}}) == said
    path = tmp_path / "settings.yaml"
    assert (
        message_of_file(path, f"/**:\n  ros__parameters:\n    {group}: {{{key}: 1}}\n") == f"{path}: {said}"
    )
    with pytest.raises(PerceptionError, match=f"{new}$"):
        Settings().with_values({old: 1})
    if group == "tracker":
        assert message({"tracker.per_label": [f"box: {key}=1"]}) == said


def test_quotes_backslashes_and_other_scripts_are_labels_like_any_other() -> None:
    labels = ('the "red" one', "back\\slash", "Gabelstapler", "叉车", "رافعة شوكية")
    assert Settings.from_dict({"detect.labels": list(labels), "detect.closed": True}).detect.labels == labels


def test_a_user_dialect_becomes_a_dialect(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        """
        detect: {dialect: corners, labels: [dog]}
        dialects:
          corners:
            user: "Give the corners of every {labels} as JSON."
            keys: [corners, name]
            label_key: name
            box_key: corners
            coordinate_range: 1000
            decimals: 0
        """
    )
    dialect = Settings.load(path).dialect
    assert dialect.name == "corners"
    assert dialect.keys == ("corners", "name")
    assert dialect.prompt(["dog"]).user == "Give the corners of every dog as JSON."
    assert Settings.load(path).with_values({"detect.max_tokens": 100}).dialect == dialect


@pytest.mark.parametrize(
    ("dialects", "said"),
    [
        (3, "dialects must be a mapping from name to dialect, got 3"),
        ({"bbox": {"user": "{labels}"}}, "dialects.bbox: this name is built in, choose another"),
        ({"a b": {}}, "a dialect's name must be letters, digits, '_' and '-', got 'a b'"),
        ({"x": None}, "dialects.x must be a mapping with 'user' and the keys it changes, got nothing"),
        ({"x": {}}, "dialects.x lacks 'user', the text of the request with {labels} in it"),
        ({"x": {"user": "find"}}, "dialect 'x': 'user' must contain {labels}, got 'find'"),
        ({"x": {"usr": "{labels}"}}, "dialects.x has an unknown key 'usr': did you mean 'user'?"),
        (
            {"x": {"user": "{labels}", "decimals": True}},
            "dialects.x.decimals must be a whole number from 0 to 1000000, got true",
        ),
        (
            {"x": {"user": "{labels}", "keys": ["label", "bbox", "a-b"]}},
            "dialect 'x': 'keys' must be different names of letters, digits and '_', "
            "got ('label', 'bbox', 'a-b')",
        ),
        (
            {"x": {"user": "{labels}", "keys": ["a"]}},
            "dialect 'x': 'keys' must hold 'label' once, got ('a',)",
        ),
        (
            {"x": {"user": "{labels}", "system": "<|im_end|>"}},
            "dialects.x.system must not hold the special token '<|im_end|>', got '<|im_end|>'",
        ),
    ],
)
def test_a_wrong_dialect_says_what_is_wrong(dialects: object, said: str) -> None:
    assert message({"dialects": dialects}) == said


def test_yaml_reads_on_and_off_as_words_where_a_setting_has_them(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("engine:\n  flash_attn: on\n")
    assert Settings.load(path).engine.flash_attn == "on"


@pytest.mark.parametrize("text", ["", "# nothing\n", "image:\n  # max_tokens: 64\n", "dialects:\n"])
def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert Settings.load(path) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image: {max_tokens: 64", "not valid YAML, line 1, column 23: "),
        ("image:\n\tmax_tokens: 64", "not valid YAML, line 2, column 1: "),
        (
            "- image\n- 64\n",
            "settings are groups of names and values (image: {max_tokens: 64}), got ['image', 64]",
        ),
        ("hello", "settings are groups of names and values (image: {max_tokens: 64}), got 'hello'"),
        ("1: 2", "settings are groups of names and values (image: {max_tokens: 64}), got {1: 2}"),
        (
            "image:\n  max_tokens: 64\n  max_tokens: 32\n",
            'not valid YAML, line 3, column 3: found duplicate key "max_tokens"',
        ),
        (
            "image: {}\ncaption: {}\nimage: {}\n",
            'not valid YAML, line 3, column 1: found duplicate key "image"',
        ),
        (
            "a: {ros__parameters: {}}\nb: {ros__parameters: {}}\n",
            "expected the parameters of one node, got ['a', 'b']",
        ),
        (
            "a: {ros__parameters: {}, image: {}}\n",
            "ros__parameters must stand alone under a node, got {'image': {}, 'ros__parameters': {}}",
        ),
        (
            "a: {ros__parameters: 3}\n",
            "settings are groups of names and values (image: {max_tokens: 64}), got 3",
        ),
        ("image: {max_tokens: !!python/object:os.system x}", "not valid YAML, line 1, column 21: "),
        ("image: &a {max_tokens: *a}", "not valid YAML: *a stands inside of &a"),
        (
            "image: {max_tokens: 2026-01-01}",
            "image.max_tokens must be a whole number from 1 to 1024 tokens, got ",
        ),
        ("[" * 2000, "this YAML is too deep: it has more than 40 levels"),
        ("image: {max_tokens: 2026-13-45}", "not valid YAML: "),
        ("image: {max_tokens: \x07}", "not valid YAML: "),
        ("image: {splitting: !!bool x}", "not valid YAML: "),
        ("image: {max_tokens: !!float ''}", "not valid YAML: "),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "settings.yaml"
    whole = message_of_file(path, text)
    assert whole.startswith(f"{path}: {said}")
    assert "\n" not in whole


def test_a_merge_key_is_not_a_repeated_one(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("caption: &c {max_tokens: 32}\ndetect: {<<: *c, closed: true}\n")
    assert Settings.load(path).detect.max_tokens == 32


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PerceptionError, match=r"missing\.yaml: cannot be read: no such file"):
        Settings.load(tmp_path / "missing.yaml")
    with pytest.raises(PerceptionError, match="is a directory"):
        Settings.load(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(PerceptionError, match=r"binary\.yaml: not a text file in UTF-8"):
        Settings.load(binary)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def attempt(values: dict[str, object]) -> Settings | str:
    """The settings, or the one line that says why not."""
    try:
        return Settings.from_dict(values)
    except PerceptionError as error:
        return str(error)


@given(name=st.sampled_from(NAMES), value=json_values)
def test_any_value_is_taken_exactly_or_refused_by_name(name: str, value: object) -> None:
    outcome = attempt({name: value})
    if isinstance(outcome, str):
        assert name in outcome
        assert "\n" not in outcome
    else:
        expected: object = value
        if isinstance(value, list):  # an object in a list of texts stands for its JSON text
            expected = tuple(
                json.dumps(item, ensure_ascii=False) if isinstance(item, dict) else item for item in value
            )
        if isinstance(value, bool) and name in SWITCHES:
            expected = "on" if value else "off"
        assert outcome.values()[name] == expected


@given(st.dictionaries(st.text() | st.sampled_from([*NAMES, "image", "dialects"]), json_values, max_size=4))
def test_any_mapping_gives_settings_or_one_sentence(mapping: dict[str, object]) -> None:
    outcome = attempt(mapping)
    assert isinstance(outcome, Settings) or "\n" not in outcome


def test_the_example_file_is_the_settings() -> None:
    assert Settings.load(ROOT / "config" / "perception.yaml") == Settings()
    groups = yaml.safe_load(as_yaml())["/**"]["ros__parameters"]
    assert [f"{group}.{key}" for group, keys in groups.items() for key in keys] == NAMES


@pytest.mark.parametrize("node", ["/**", "perception", "/cam1/perception"])
def test_a_parameter_file_of_the_node_is_a_settings_file(tmp_path: Path, node: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(f"{node}:\n  ros__parameters:\n    image: {{max_tokens: 64}}\n    detect.labels: [dog]\n")
    assert Settings.load(path) == Settings.from_dict({"image.max_tokens": 64, "detect.labels": ["dog"]})
    path.write_text(f"{node}:\n  ros__parameters:\n")
    assert Settings.load(path) == Settings()


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_valid_and_says_why_it_differs(profile: Path) -> None:
    defaults, chosen = Settings().values(), Settings.load(profile).values()
    text = profile.read_text(encoding="utf-8")
    lines = text.splitlines()
    given: dict[str, int] = {}
    root = yaml.compose(text, yaml.SafeLoader)
    assert root is not None
    for _, parameters in root.value[0][1].value:
        for group, keys in parameters.value:
            given |= {f"{group.value}.{key.value}": key.start_mark.line for key, _ in keys.value}
    assert sorted(given) == sorted(name for name in NAMES if chosen[name] != defaults[name])
    assert all(lines[line - 1].lstrip().startswith("#") for line in given.values())
