# SPDX-License-Identifier: Apache-2.0
"""The settings as ROS parameters: declared, described, read and changed under their dotted names.

A wrong value never stops the node from starting. Configuring the node fails then, with a sentence that holds
parameter, value and range.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import user_path
from lfm_perception.planning.thermal import DegradationLevel, degraded
from lfm_perception.settings import ParameterSpec, Settings, parameter_specs

TYPES = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple: ParameterType.PARAMETER_STRING_ARRAY,
}

DIALECTS = "dialects"
"""Group of the user's dialects, `dialects.NAME.KEY`, which are read from the overrides and not declared."""

SETTINGS_FILE = "settings_file"
"""Parameter with the path of a settings file, which `lfm-perception run --settings` takes too."""

OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")
"""Parameters of every node, and the group of those that change a topic's quality of service."""


class Parameters:
    """The settings of a node, declared on it with its overrides (from files, launch or the command line)."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._overrides: dict[str, Parameter] = dict(node._parameter_overrides)  # else shown nowhere
        self._refused: dict[str, object] = {}
        self._file_problem: PerceptionError | None = None
        try:
            self._read_settings_file()
        except PerceptionError as error:
            self._file_problem = error
        for spec in parameter_specs().values():
            self._declare(spec)

    def _read_settings_file(self) -> None:
        """Take the values of the file that `settings_file` names where no other override gives one."""
        about = ParameterDescriptor(
            description="settings file; other parameters take precedence", read_only=True, dynamic_typing=True
        )
        path = self._node.declare_parameter(SETTINGS_FILE, "", about).value
        if not isinstance(path, str):
            raise PerceptionError(f"{SETTINGS_FILE} must be the path of a file, got {shown(path)}")
        values = ros_parameters(Settings.load(user_path(path))) if path else {}
        for name, value in values.items():
            kind = Parameter.Type.STRING_ARRAY if isinstance(value, list) else None
            override = self._overrides.setdefault(name, Parameter(name, kind, value))
            self._node._parameter_overrides.setdefault(name, override)

    def _declare(self, spec: ParameterSpec) -> None:
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        try:
            self._node.declare_parameter(spec.name, default, descriptor(spec))
        except (InvalidParameterTypeException, InvalidParameterValueException):
            self._refused[spec.name] = self._overrides[spec.name].value
            self._node.declare_parameter(spec.name, default, descriptor(spec), ignore_override=True)

    def settings(self) -> Settings:
        """The current settings. Raises PerceptionError for wrong values and unknown or renamed parameters."""
        if self._file_problem:
            raise self._file_problem
        specs = parameter_specs()
        for name in self._overrides:
            if name not in specs and name.partition(".")[0] not in (*OF_ROS, DIALECTS, SETTINGS_FILE):
                Settings().with_values({name: None})  # raises, with the right name
        now = {name: plain(self._node.get_parameter(name).value) for name in specs}
        empty: dict[str, object] = {  # a file's [] arrives without a type and so without a value
            name: [] for name, spec in specs.items() if spec.kind is tuple and now[name] is None
        }
        refused = {name: plain(value) for name, value in self._refused.items()}
        return Settings.from_dict({**now, **empty, **refused, DIALECTS: self._dialects()})

    def problem(self) -> str:
        """Why the node cannot be configured with its parameters; empty if it can."""
        try:
            self.settings()
        except PerceptionError as error:
            return str(error)
        return ""

    def _dialects(self) -> dict[str, dict[str, object]]:
        """The user's dialects as the settings file has them."""
        dialects: dict[str, dict[str, object]] = {}
        for name, parameter in self._overrides.items():
            group, _, rest = name.partition(".")
            if group == DIALECTS:
                dialect, _, key = rest.partition(".")
                dialects.setdefault(dialect, {})[key] = plain(parameter.value)
        return dialects

    def store(self, settings: Settings) -> None:
        """Make the parameters show these settings, also where a file gave the value in another type."""
        self._refused.clear()
        now = {name: plain(self._node.get_parameter(name).value) for name in settings.values()}
        wrong = [
            Parameter(name, Parameter.Type.STRING_ARRAY, list(value))
            if isinstance(value, tuple)
            else Parameter(name, value=value)
            for name, value in settings.values().items()
            if now[name] != (list(value) if isinstance(value, tuple) else value)
        ]
        if wrong:
            self._node.set_parameters_atomically(wrong)

    def check(self, parameters: Iterable[Parameter], *, configured: bool) -> None:
        """Check a change of parameters, of which those of ROS itself are ignored.

        Args:
            configured: whether the settings are in force: the change must then be valid together with all
                other parameters, at every degradation level, and leave those that are read-only. Otherwise
                each value is checked alone.

        Raises:
            PerceptionError: with the reason why the change is refused.
        """
        specs = parameter_specs()
        values = {p.name: plain(p.value) for p in parameters if p.name in specs}
        checked = {name: specs[name].check(value) for name, value in values.items()}
        if configured:
            now = self.settings()
            for name, value in checked.items():
                if specs[name].read_only and value != now.values()[name]:
                    raise PerceptionError(
                        f"{name} cannot change now, {specs[name].read_only}: clean the node up first"
                    )
            after = now.with_values(values)
            for level in DegradationLevel:
                degraded(after, level)
        for name in values:
            self._refused.pop(name, None)


def ros_parameters(settings: Settings) -> dict[str, object]:
    """The settings that differ from the defaults, and the user's dialects, as ROS parameters."""
    defaults = Settings().values()
    changed = {name: value for name, value in settings.values().items() if value != defaults[name]}
    for dialect in settings.dialects:
        parts = {each.name: getattr(dialect, each.name) for each in fields(dialect) if each.name != "name"}
        changed |= {f"{DIALECTS}.{dialect.name}.{key}": part for key, part in parts.items() if part != ""}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def plain(value: Any) -> object:
    """A parameter's value as a Python value: arrays, also those that rclpy packs, become lists."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else list(value)


def descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    """The descriptor that `ros2 param describe` shows."""
    described: dict[str, Any] = {}
    if spec.kind is int:
        described["integer_range"] = [
            IntegerRange(from_value=int(spec.minimum or 0), to_value=int(spec.maximum or 0))
        ]
    if spec.kind is float:
        limits = FloatingPointRange(from_value=float(spec.minimum or 0), to_value=float(spec.maximum or 0))
        described["floating_point_range"] = [limits]
    constraints = spec.allowed
    if spec.fixed:
        constraints += "; only at the start of the node, by a parameter file, launch or the command line"
    elif spec.read_only:
        constraints += f"; only before the node is configured: {spec.read_only}"
    return ParameterDescriptor(
        name=spec.name,
        type=TYPES[spec.kind],
        description=spec.description,
        additional_constraints=constraints,
        read_only=spec.fixed,
        # accepts an integer where a float is expected, and an empty list, whose type ROS does not know
        dynamic_typing=spec.kind in (float, tuple),
        **described,
    )
