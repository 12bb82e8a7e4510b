"""Settings files: YAML, with the place of every mistake, also as ROS parameter files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError, YAMLError

from lfm_perception.errors import PerceptionError, shown

ANY_NODE = "/**"
ROS_PARAMETERS = "ros__parameters"
"""The two outer keys of a ROS parameter file for a node in any namespace."""


def parse(text: str) -> object:
    """The value of a YAML text, read as ROS parameter files are (YAML 1.1: on and yes are true).

    Raises:
        PerceptionError: with line and column of the mistake, also for a repeated key.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)  # 1e-3 is a number
            return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(error.problem).partition(" with value")[0]
        raise PerceptionError(f"not valid YAML{place}: {problem}") from error
    except (YAMLError, ValueError, LookupError, RecursionError) as error:  # an impossible date, `!!bool x`
        raise PerceptionError(f"not valid YAML: {' '.join(str(error).split())}") from error


def read(path: Path) -> Mapping[str, object]:
    """The groups of a settings file, or the parameters of the only node of a ROS parameter file.

    Raises:
        PerceptionError: for a file that cannot be read or holds neither.
    """
    try:
        groups = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PerceptionError(
            f"cannot read the settings: {(error.strerror or str(error)).lower()}"
        ) from error
    except UnicodeDecodeError as error:
        raise PerceptionError("not a text file in UTF-8") from error
    if isinstance(groups, Mapping):
        nodes = [node for node in groups.values() if isinstance(node, Mapping) and ROS_PARAMETERS in node]
        if nodes and len(groups) > 1:
            raise PerceptionError(f"expected the parameters of one node, got {shown(list(groups))}")
        if nodes and len(nodes[0]) > 1:
            raise PerceptionError(f"{ROS_PARAMETERS} must stand alone under a node, got {shown(nodes[0])}")
        groups = nodes[0][ROS_PARAMETERS] if nodes else groups
    if groups is None:
        return {}
    if not isinstance(groups, Mapping) or not all(isinstance(key, str) for key in groups):
        raise PerceptionError(
            f"settings are groups of names and values (image: {{max_tokens: 64}}), got {shown(groups)}"
        )
    return groups
