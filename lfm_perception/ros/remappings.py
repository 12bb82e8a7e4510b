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

OF_ROS = "rosout", "parameter_events", "clock"

_REMAPPED = re.compile(r"(?:[\w/*]+:)?/?(?:~/)?([\w/]+):=")
"""The name in a remapping rule that is no expression. `__ns` and `__node` are rules of another kind."""


def remapping_problems(arguments: Sequence[str], *, of_rules: bool) -> list[str]:
    """Which remappings among the arguments of the node have no effect, in a sentence each.

    Args:
        of_rules: whether the node may have topics and services that its rules name.
    """
    return list(dict.fromkeys(_problems(arguments, of_rules)))


def _problems(arguments: Sequence[str], of_rules: bool) -> Iterator[str]:
    known = _known_names()
    for option, rule in pairwise(dropwhile(lambda each: each != "--ros-args", arguments)):
        found = _REMAPPED.match(rule)
        if option not in ("-r", "--remap") or found is None or found[1].startswith("__"):
            continue
        name = found[1]
        if new := RENAMED.get(name.rpartition("/")[2]):
            yield f"the remapping {safe_line(rule)} has no effect: this topic is now called {new}"
        elif not of_rules and not re.search(rf"(^|/)({'|'.join(known)}|(decisions|alerts)/\w+)$", name):
            said = f"no topic or service is called {name}{suggestion(name, known)}"
            yield f"the remapping {safe_line(rule)} has no effect: {said}"


def _known_names() -> list[str]:
    interfaces = PERCEPTION, COMMANDS, DEPTH, RULES, OPINIONS
    names = [topic.name for each in interfaces for topic in (*each.publishers, *each.subscriptions)]
    names += [service.name for each in interfaces for service in each.services]
    return [*(name.removeprefix("~").lstrip("/") for name in names), *OF_ROS]
