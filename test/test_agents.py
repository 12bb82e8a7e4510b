# SPDX-License-Identifier: Apache-2.0
"""Eyes for agents: `lfm-perception mcp` as a client sees it, over standard input and output."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from lfm_perception.agents.eyes import SourceEyes
from lfm_perception.cli import main
from lfm_perception.errors import PerceptionError

pytest.importorskip("mcp", reason="the extra mcp is not installed")

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

Calls = Callable[[Any], Awaitable[None]]
RUN = "from lfm_perception.cli import main; main()"


def served(use: Calls, *words: str) -> None:
    """Let a client use the server of `lfm-perception mcp` with these words."""

    async def connect() -> None:
        arguments = ["-c", RUN, "mcp", *words, "--set", "image.max_tokens=64"]
        server = StdioServerParameters(command=sys.executable, args=arguments, env={**os.environ})
        with open(os.devnull, "w") as errors:  # noqa: PTH123
            async with Client(stdio_client(server, errlog=errors)) as client:
                await use(client)

    asyncio.run(connect())


def picture(content: Any) -> Any:
    assert content.type == "image"
    assert content.mime_type == "image/jpeg"
    return cv2.imdecode(np.frombuffer(base64.b64decode(content.data), np.uint8), cv2.IMREAD_COLOR)


def test_an_agent_looks_asks_and_changes_labels() -> None:
    async def use(client: Any) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"look", "tracks", "caption", "ask", "snapshot", "set_labels"}
        assert [name for name, tool in tools.items() if not tool.annotations.read_only_hint] == ["set_labels"]
        scene, image = (await client.call_tool("look")).content
        first = json.loads(scene.text)
        assert first["detections"]
        assert picture(image).shape == (480, 640, 3)
        (clean,) = (await client.call_tool("snapshot")).content
        assert (picture(clean) != picture(image)).any()
        asked = {"question": "Is there a box?", "type": "yes_no"}
        (answer,) = (await client.call_tool("ask", asked)).content
        decision = json.loads(answer.text)
        assert decision["value"] in ("yes", "no")
        assert decision["stamp_ns"] == first["stamp"]["nanosec"]
        (caption,) = (await client.call_tool("caption")).content
        assert len(caption.text.split()) > 3
        wrong = await client.call_tool("ask", {"question": "Which?", "type": "choice", "options": ["a"]})
        assert wrong.is_error
        assert "a choice has 2 to 100 options" in wrong.content[0].text
        many = await client.call_tool("ask", {"question": "How many boxes?", "minimum": 20})
        assert many.is_error
        assert "with 'minimum' 20 needs a 'maximum' too" in many.content[0].text
        refused = await client.call_tool("set_labels", {"labels": ["box", "box"]})
        assert refused.is_error
        assert "more than once" in refused.content[0].text
        await client.call_tool("set_labels", {"labels": ["person"]})
        for _ in range(3):
            later = json.loads((await client.call_tool("look")).content[0].text)
        assert later["stamp"]["nanosec"] != first["stamp"]["nanosec"]
        assert {found["label"] for found in later["detections"]} <= {"person"}
        (tracks,) = (await client.call_tool("tracks")).content
        assert json.loads(tracks.text) == {"stamp": later["stamp"], "objects": later["objects"]}

    served(use, "demo", "--allow-changes")


def test_without_permission_an_agent_only_reads() -> None:
    code = (
        "import asyncio\n"
        "from lfm_perception.agents.mcp_server import make_server\n"
        "tools = asyncio.run(make_server(lambda: None).list_tools())\n"
        "assert all(tool.annotations.read_only_hint for tool in tools)\n"
        "print(len(tools))\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == "5", process.stderr


def test_a_source_that_cannot_be_opened_is_told_to_the_agent() -> None:
    async def use(client: Any) -> None:
        result = await client.call_tool("look")
        assert result.is_error
        assert "there is no nowhere/" in result.content[0].text

    served(use, "nowhere/")


def test_a_source_that_cannot_be_opened_is_told_on_standard_error() -> None:
    command = [sys.executable, "-c", RUN, "mcp", "missing.png"]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("lfm-perception: warning: there is no missing.png: give ")


def test_options_that_mean_nothing_for_a_node_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["mcp", "node", "--set", "image.max_tokens=64", "--topic", "/x", "--seed", "5"])
    assert ended.value.code == 2
    assert "reads its own camera: leave out --set, --topic and --seed " in capsys.readouterr().err


def test_a_source_that_ends_says_so() -> None:
    source: Any = SimpleNamespace(name="photos/", frames=iter(()), pictures=True, every=1)
    with pytest.raises(PerceptionError, match="photos/ has no more frames"):
        SourceEyes(source, perception=None, settings=None).snapshot(boxes=False)  # type: ignore[arg-type]
