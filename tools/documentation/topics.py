# SPDX-License-Identifier: Apache-2.0
"""The tables of topics, timers, services and tools of commands, from their declarations."""

from __future__ import annotations

from collections.abc import Sequence

from documentation.marks import table
from lfm_perception.commands import TOOLS
from lfm_perception.commands.tools import Tool
from lfm_perception.ros.topics import (
    COMMANDS,
    DEMO_CAMERA,
    DEPTH,
    FORWARD,
    OPINIONS,
    PERCEPTION,
    RULES,
    STANDING_QUESTION,
    Qos,
    Topic,
)


def texts() -> dict[str, str]:
    """The tables by the names of their marks."""
    return {
        "topics/subscriptions": _topics(PERCEPTION.subscriptions, "when"),
        "topics/publishers": _topics(PERCEPTION.publishers, "rate"),
        "topics/standing-questions": _topics(STANDING_QUESTION, "rate"),
        "topics/commands": _topics([*COMMANDS.subscriptions, *COMMANDS.publishers], "when"),
        "topics/depth": _topics(DEPTH.subscriptions, "when"),
        "topics/rules": _topics(RULES.publishers, "when"),
        "topics/forward": _topics([*FORWARD.subscriptions, *FORWARD.publishers], "when"),
        "topics/opinions": _topics(OPINIONS.publishers, "when"),
        "topics/demo-camera": _topics(DEMO_CAMERA.publishers, "rate"),
        "commands/tools": table(
            ("tool", "arguments", "does"),
            [(f"`{tool.name}`", _arguments(tool), tool.description) for tool in TOOLS.values()],
        ),
        "topics/timers": table(
            ("timer", "period", "clock", "purpose"),
            [(each.name, f"`{each.parameter}`", each.clock, each.description) for each in PERCEPTION.timers],
        ),
        "topics/services": table(
            ("service", "type", "purpose"),
            [(f"`{each.name}`", each.type, each.description) for each in PERCEPTION.services],
        ),
        "topics/overview": table(
            ("topic", "type", "when", "content"),
            [(f"`{each.name}`", each.type, each.when, each.description) for each in _overview()],
        ),
    }


def _arguments(tool: Tool) -> str:
    return ", ".join(f"`{name}`: {slot}" for name, slot in tool.parameters.items())


def _overview() -> list[Topic]:
    """What the node reads and publishes, without the second transport of images."""
    topics = [*PERCEPTION.subscriptions, *PERCEPTION.publishers]
    return [topic for topic in topics if topic.name != "image_raw/compressed"]


def _topics(topics: Sequence[Topic], when: str) -> str:
    return table(
        ("topic", "type", "quality of service", when, "content"),
        [
            (
                *(f"`{topic.name}`", topic.type, _quality(topic.qos)),
                topic.when + (", while subscribed to" if topic.on_demand else ""),
                topic.description,
            )
            for topic in topics
        ],
    )


def _quality(qos: Qos) -> str:
    return f"{qos.reliability}, {qos.durability}, depth {qos.depth}".replace("_", " ")
