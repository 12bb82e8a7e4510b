# SPDX-License-Identifier: Apache-2.0
"""`Settings`: all groups of parameters, from YAML files, mappings and dotted names."""

# ruff: noqa: RUF009 (the groups are frozen)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from lfm_perception.attributes import Attribute, attributes
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.questions import DIALECTS, Dialect, Question, detect
from lfm_perception.settings import model_schema, schema, validation, yaml_file
from lfm_perception.settings.commands import CommandSettings
from lfm_perception.settings.dialects import user_dialects
from lfm_perception.settings.drift import DriftSettings
from lfm_perception.settings.fovea import FoveaSettings
from lfm_perception.settings.memory import MemorySettings
from lfm_perception.settings.rules import RulesSettings
from lfm_perception.settings.second_opinion import SecondOpinionSettings
from lfm_perception.settings.spec import ParameterSpec, Value, specs_of


@dataclass(frozen=True, slots=True)
class Settings:
    """All parameters. `dialects` are those that the user added to the built-in ones.

    Raises PerceptionError when a value is out of range or two values contradict each other.
    """

    model: model_schema.ModelSettings = model_schema.ModelSettings()
    mmproj: model_schema.MmprojSettings = model_schema.MmprojSettings()
    lora: model_schema.LoraSettings = model_schema.LoraSettings()
    engine: model_schema.EngineSettings = model_schema.EngineSettings()
    openai: model_schema.OpenaiSettings = model_schema.OpenaiSettings()
    recorded: model_schema.RecordedSettings = model_schema.RecordedSettings()
    image: schema.ImageSettings = schema.ImageSettings()
    sampling: schema.SamplingSettings = schema.SamplingSettings()
    budget: schema.BudgetSettings = schema.BudgetSettings()
    inference: schema.InferenceSettings = schema.InferenceSettings()
    fovea: FoveaSettings = FoveaSettings()
    detect: schema.DetectSettings = schema.DetectSettings()
    caption: schema.CaptionSettings = schema.CaptionSettings()
    questions: schema.QuestionSettings = schema.QuestionSettings()
    commands: CommandSettings = CommandSettings()
    tracker: schema.TrackerSettings = schema.TrackerSettings()
    rules: RulesSettings = RulesSettings()
    drift: DriftSettings = DriftSettings()
    memory: MemorySettings = MemorySettings()
    second_opinion: SecondOpinionSettings = SecondOpinionSettings()
    thermal: schema.ThermalSettings = schema.ThermalSettings()
    node: schema.NodeSettings = schema.NodeSettings()
    dialects: tuple[Dialect, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.values().items():
            parameter_specs()[name].check(value)
        validation.check(self)

    @classmethod
    def load(cls, path: str | Path) -> Settings:
        """The settings of a YAML file; a parameter that it leaves out keeps its default.

        Args:
            path: a file with the groups at the top, or under a node as in ROS parameter files.

        Raises:
            PerceptionError: with the file's name, for everything that is wrong with it.
        """
        try:
            return cls.from_dict(yaml_file.read(Path(path)))
        except PerceptionError as error:
            raise PerceptionError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object]) -> Settings:
        """Settings from groups (`{"image": {"max_tokens": 64}}`) or dotted names, over the defaults.

        Raises:
            PerceptionError: for unknown, repeated or renamed names and for values that are not allowed.
        """
        values: dict[str, object] = {}
        for key, entry in mapping.items():
            if key == "dialects":
                continue
            group = {key: entry}
            if key in default_groups():
                if entry is not None and not isinstance(entry, Mapping):
                    raise PerceptionError(
                        f"{key} must be a group of parameters ({key}.… : value), got {shown(entry)}"
                    )
                # None: every line of the group is commented out
                group = {f"{key}.{name}": value for name, value in (entry or {}).items()}
            for name in group.keys() & values.keys():
                raise PerceptionError(f"parameter {name} is given twice")
            values.update(group)
        return _built(cls(), values, user_dialects(mapping.get("dialects")))

    def with_values(self, values: Mapping[str, object]) -> Settings:
        """A copy with the parameters of these dotted names changed: `{"image.max_tokens": 64}`."""
        return _built(self, values, self.dialects)

    def values(self) -> dict[str, Value]:
        """Every parameter by its dotted name, in the order of `parameter_specs()`."""
        return {
            name: getattr(getattr(self, spec.group), spec.key) for name, spec in parameter_specs().items()
        }

    @property
    def dialect(self) -> Dialect:
        """The dialect that `detect.dialect` names."""
        return self.known_dialects[self.detect.dialect]

    @property
    def question(self) -> Question:
        """The detection question."""
        chosen = self.detect
        return detect(self.dialect, chosen.labels, closed=chosen.closed, synonyms=chosen.synonyms)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes of tracks, those of standing questions too; PerceptionError for unusable entries."""
        own = attributes(self.detect.attributes, self.questions.language)
        return (*own, *(alert.attribute for alert in self.questions.alerts if alert.attribute))

    @property
    def box_sampling(self) -> schema.SamplingSettings:
        """Sampling of box answers: without a penalty, which would change digits and the number of objects."""
        chosen = self.detect
        return replace(
            self.sampling,
            temperature=chosen.temperature,
            top_k=chosen.top_k,
            min_p=chosen.min_p,
            repeat_penalty=1.0,
        )

    @property
    def known_dialects(self) -> dict[str, Dialect]:
        """The built-in and the user's dialects by name."""
        return {**DIALECTS, **{dialect.name: dialect for dialect in self.dialects}}


@cache
def default_groups() -> dict[str, Any]:
    """The default value of each group of parameters, by the group's name."""
    return {entry.name: entry.default for entry in fields(Settings) if entry.name != "dialects"}


@cache
def parameter_specs() -> Mapping[str, ParameterSpec]:
    """The specifications of all parameters by their dotted names, in the order of the documentation."""
    specs = [spec for group in default_groups().items() for spec in specs_of(*group).values()]
    return {
        spec.name: replace(spec, read_only=schema.LOADED) if spec.group in schema.LOADED_GROUPS else spec
        for spec in specs
    }


def _built(base: Settings, values: Mapping[str, object], dialects: tuple[Dialect, ...]) -> Settings:
    specs = parameter_specs()
    changes: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        if name not in specs:
            raise validation.unknown_name(name, value, [*specs, *default_groups(), "dialects"])
        spec = specs[name]
        changes.setdefault(spec.group, {})[spec.key] = spec.check(value)
    groups = {group: replace(getattr(base, group), **entries) for group, entries in changes.items()}
    return replace(base, **groups, dialects=dialects)
