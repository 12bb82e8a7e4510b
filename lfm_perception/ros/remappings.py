# SPDX-License-Identifier: Apache-2.0
"""Remappings without effect, of names that the perception node does not have. Imports without ROS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import dropwhile, pairwise

from lfm_perception.ros.topics import COMMANDS, DEPTH, OPINIONS, PERCEPTION, RULES
from lfm_perception.settings.validation import suggestion
from lfm_perception.text import safe_line

RENAMED = {"dbg_image": "debug_image", "raw_answer": "model_output"}
"""New names of topics, by the old ones."""

OF_ROS = (
    *("/rosout", "/parameter_events", "/clock"),
    *(f"~/{name}" for name in (
        "change_state", "get_state", "get_available_states", "get_available_transitions",
        "get_transition_graph", "transition_event", "get_type_description", "describe_parameters",
        "get_parameters", "get_parameter_types", "list_parameters", "set_parameters",
        "set_parameters_atomically")),
)  # fmt: skip
"""Topics and services that ROS gives to every lifecycle node."""

_REMAPPED = re.compile(r"(?:(\w+):)?(~?[\w/]+):=")
"""Node and name in a remapping rule that is no expression. `__ns` and `__node` are rules of another kind."""


def remapping_problems(arguments: Sequence[str], node: str, *, of_rules: bool) -> list[str]:
    """Which remappings among the arguments of a node have no effect, in a sentence each.

    Args:
        node: its full name. Remappings for nodes of other names are passed over.
        of_rules: whether it may have topics and services that its rules name.
    """
    return list(dict.fromkeys(_problems(arguments, node, of_rules)))


def _problems(arguments: Sequence[str], node: str, of_rules: bool) -> Iterator[str]:
    namespace, _, node_name = node.rpartition("/")
    known = _known_names()
    full = {_full(name, node) for name in known}
    for option, rule in pairwise(dropwhile(lambda each: each != "--ros-args", arguments)):
        found = _REMAPPED.match(rule)
        if option not in ("-r", "--remap") or found is None or found[1] not in (None, node_name):
            continue
        name = found[2]
        asked = _full(name, node)
        if name.startswith("__") or asked in full:
            continue
        problem = f"the remapping {safe_line(rule)} has no effect"
        if new := RENAMED.get(name.rpartition("/")[2]):
            yield f"{problem}: this topic is now called {new}"
        elif not of_rules and not re.fullmatch(rf"{namespace}/(decisions|alerts)/\w+", asked):
            yield f"{problem}: {node} has no topic or service {name}{suggestion(name, known)}"


def _full(name: str, node: str) -> str:
    """The full name that ROS makes of one for this node."""
    if name.startswith("~"):
        return node + name[1:]
    return name if name.startswith("/") else f"{node.rpartition('/')[0]}/{name}"


def _known_names() -> list[str]:
    interfaces = PERCEPTION, COMMANDS, DEPTH, RULES, OPINIONS
    names = [topic.name for each in interfaces for topic in (*each.publishers, *each.subscriptions)]
    return [*names, *(service.name for each in interfaces for service in each.services), *OF_ROS]
