# SPDX-License-Identifier: Apache-2.0
"""The tools that a command can call, as values, and their list as LFM2's chat template has it.

A new tool is one row of `TOOLS`, and one operation in `ros/commands.py`. Names, descriptions and schemas are
those that the demo model was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lfm_perception.errors import PerceptionError, shown

REFUSAL = "I cannot do that."
"""The model's answer to what none of the tools can do."""

SCHEMAS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "labels": {"type": "array", "items": {"type": "string"}},
        "integer": {"type": "integer"},
        "seconds": {"type": "number"},
        "share": {"type": "number"},
        "name": {"type": "string"},
        "alert": {"type": "string"},
        "question": {"type": "string"},
    }
)
"""The JSON schema of each slot (see `slots`)."""


@dataclass(frozen=True, slots=True)
class Tool:
    """An operation of the node. `parameters` are its arguments in order, with their slots (`SCHEMAS`)."""

    name: str
    description: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def schema(self) -> dict[str, Any]:
        """The tool as an entry of the tool list."""
        properties = {name: SCHEMAS[slot] for name, slot in self.parameters.items()}
        required = list(self.parameters)
        parameters = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "description": self.description, "parameters": parameters}


TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("set_labels", "Detect these labels from now on", {"labels": "labels"}),
        Tool("set_token_budget", "Tokens for each frame", {"tokens": "integer"}),
        Tool("set_latency_budget", "Seconds for each frame", {"seconds": "seconds"}),
        Tool("set_duty_cycle", "Share of the time for inference", {"share": "share"}),
        Tool("set_min_score", "Least score of a detection", {"score": "share"}),
        Tool("set_caption_period", "Seconds between captions", {"seconds": "seconds"}),
        Tool("caption_now", "Describe the scene now"),
        Tool("enable", "Turn inference on"),
        Tool("disable", "Turn inference off"),
        Tool("reset", "Forget all tracks"),
        Tool("add_alert", "Watch for something", {"name": "name", "question": "question"}),
        Tool("remove_alert", "Stop an alert", {"name": "alert"}),
        Tool("status", "Report how the node is"),
    )
}
"""All tools by their names."""


def check_tools(names: Iterable[str]) -> None:
    """Refuse names that are no tools with a PerceptionError."""
    for name in names:
        if name not in TOOLS:
            raise PerceptionError(f"there is no tool {shown(name)}, only {', '.join(TOOLS)}")


def tool_list(names: Iterable[str]) -> str:
    """The text of the system turn that lists these tools."""
    return f"List of tools: {json.dumps([TOOLS[name].schema() for name in names])}"
