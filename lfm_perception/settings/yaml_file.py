# SPDX-License-Identifier: Apache-2.0
"""Settings files: YAML, also as ROS parameter files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import parse_yaml, read_text

ANY_NODE = "/**"
ROS_PARAMETERS = "ros__parameters"
"""The two outer keys of a ROS parameter file for a node in any namespace."""


def read(path: Path) -> Mapping[str, object]:
    """The groups of a settings file, or the parameters of the only node of a ROS parameter file.

    Raises:
        PerceptionError: for a file that cannot be read or holds neither.
    """
    groups = parse_yaml(read_text(path))
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
