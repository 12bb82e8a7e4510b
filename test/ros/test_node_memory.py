# SPDX-License-Identifier: Apache-2.0
"""The memory of the node: captions, counts and events into a file, and questions, on real DDS."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("sqlcipher3", reason="the extra memory is not installed")

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from memories import settings as memory_settings
from robot import IN_THREAD, Camera, Robot, robot
from std_srvs.srv import Trigger

from lfm_perception.geometry import Box
from lfm_perception.memory import MemoryQuestion, MemoryStore, Query
from lfm_perception.memory.store import KINDS
from lfm_perception.ros.eyes import node_eyes
from lfm_perception.ros.memory import NodeMemory
from lfm_perception.scene import Frame, Scene, Track, Usage, Velocity
from lfm_perception.settings import MemorySettings, Settings

KEY = "a key of the robot's memory"
RULES = "rules: {crowded: {when: {count: {}, more_than: 0}, message: a zygomorphic crowd}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    (folder / "key").write_text(KEY, encoding="utf-8")
    (folder / "key").chmod(0o600)
    return folder


def parameters(folder: Path) -> dict[str, object]:
    return {
        "memory.enabled": True,
        "memory.path": str(folder / "memory.db"),
        "memory.key_file": str(folder / "key"),
        "memory.thumbnails": True,
    }


def keeping_settings(folder: Path) -> MemorySettings:
    return Settings().with_values(parameters(folder)).memory


@pytest.fixture(scope="module")
def keeping(folder: Path) -> Iterator[Robot]:
    """A node with a memory and a rule, which has seen some frames and captioned one."""
    with robot({"rules.file": str(folder / "rules.yaml"), **parameters(folder), **IN_THREAD}) as started:
        started.bring_up()
        camera = Camera()
        assert started.call(Trigger, "perception/caption_now", Trigger.Request()).success
        for _ in range(3):
            started.show(camera.next(skip=5))
        started.wait(lambda: started.heard["caption"], "the caption")
        with closing(MemoryStore(keeping_settings(folder))) as store:
            kinds = set(KINDS)
            started.wait(lambda: {each.kind for each in store.search(Query())} == kinds, "the entries")
        yield started


def command(folder: Path, *words: str) -> str:
    """What `lfm-perception memory` prints, in a process of its own."""
    line = [sys.executable, "-c", "from lfm_perception.cli import main; main()", "memory", *words]
    changes = ["--path", str(folder / "memory.db"), "--set", f"memory.key_file={folder / 'key'}"]
    done = subprocess.run([*line, *changes], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_captions_counts_and_events_are_found_while_the_node_writes(keeping: Robot, folder: Path) -> None:
    found = [json.loads(line) for line in command(folder, "search", "--json", "--limit", "999").splitlines()]
    by_kind = {kind: [each for each in found if each["kind"] == kind] for kind in KINDS}
    event = by_kind["event"][0]
    assert event["data"]["rule"] == "crowded"
    assert event["stamp_ns"] == event["data"]["stamp"]["sec"] * 10**9 + event["data"]["stamp"]["nanosec"]
    assert by_kind["caption"][-1]["text"] == keeping.heard["caption"][0].data.strip()
    counts = by_kind["count"][0]
    assert sum(counts["data"]["counts"].values()) > 0
    assert all(label in counts["text"] for label in counts["data"]["counts"])
    shown = command(folder, "search", "--since", "10m", "--thumbnails", str(folder / "thumbnails"))
    assert " ago  event    crowded begin: a zygomorphic crowd" in shown
    assert next((folder / "thumbnails").iterdir()).read_bytes().startswith(b"\xff\xd8")


def test_questions_about_the_past_are_answered_without_an_image(keeping: Robot) -> None:
    keeping.heard["answer"].clear()
    keeping.question("When did you last see a zygomorphic crowd?")
    said = keeping.wait(lambda: keeping.heard["answer"], "the answer")[0].data
    assert said.startswith("zygomorphic crowd: ")
    assert "(event: crowded begin: a zygomorphic crowd" in said
    keeping.question("When was the unicorn last seen?")
    keeping.wait(lambda: keeping.heard["answer"][1:], "the other answer")
    assert keeping.heard["answer"][1].data.startswith("unicorn: not in memory, which goes back ")
    keeping.question('{"type": "memory", "question": "crowd", "since": "soon"}')
    keeping.wait(lambda: keeping.heard["answer"][2:], "the refusal")
    assert keeping.heard["answer"][2].data.startswith("not answered 'crowd': 'soon' is no time")
    with node_eyes(keeping.name) as eyes:
        answer = json.loads(eyes.remember(MemoryQuestion("crowd", "crowd", since="1h")))
    assert answer["entries"][0]["kind"] == "event"
    assert answer["value"].startswith("crowd: ")


def test_the_command_line_asks_the_memory(keeping: Robot) -> None:
    run = [sys.executable, "-c", "from lfm_perception.cli import main; main()", "ask", f"node:{keeping.name}"]
    asked = '{"type": "memory", "question": "crowd", "kind": "event"}'

    def said(*words: str) -> str:
        return subprocess.run([*run, *words], capture_output=True, text=True, check=True, timeout=120).stdout

    assert said(asked).startswith("crowd: ")
    assert json.loads(said(asked, "--json"))["entries"][0]["kind"] == "event"
    assert said("When did you last see a crowd?").startswith("crowd: ")


def test_an_agent_searches_the_memory(keeping: Robot) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    from mcp import Client

    from lfm_perception.agents.mcp_server import make_server

    async def search(server: Any) -> tuple[Any, Any]:
        async with Client(server) as client:
            (tool,) = [each for each in (await client.list_tools()).tools if each.name == "search_memory"]
            return tool, await client.call_tool("search_memory", {"words": "crowd", "kind": "event"})

    with node_eyes(keeping.name) as eyes:
        tool, found = asyncio.run(search(make_server(lambda: eyes, with_memory=True)))
    assert tool.annotations.read_only_hint
    assert json.loads(found.content[0].text)["entries"][0]["data"]["rule"] == "crowded"


def test_the_memory_is_in_the_diagnostics_and_its_secrets_nowhere(keeping: Robot, folder: Path) -> None:
    status = keeping.wait(lambda: keeping.diagnosis("memory"), "the diagnostics")
    assert (status.level, status.message[-12:]) == (DiagnosticStatus.OK, "entries kept")
    content = b"".join(file.read_bytes() for file in folder.glob("memory.db*"))
    for secret in (b"zygomorphic", b"crowd", KEY.encode(), b"\xff\xd8\xff"):
        assert secret not in content
    assert KEY not in str(keeping.heard["/diagnostics"])
    assert not keeping.set(memory__path=str(folder / "other.db")).successful, "only at the start"


def test_with_another_key_the_node_says_that_nothing_is_kept_and_perception_goes_on(
    keeping: Robot, folder: Path
) -> None:
    assert keeping.change(Transition.TRANSITION_DEACTIVATE)
    assert keeping.change(Transition.TRANSITION_CLEANUP)
    (folder / "key").write_text("another key of the robot", encoding="utf-8")
    assert keeping.change(Transition.TRANSITION_CONFIGURE)
    assert keeping.change(Transition.TRANSITION_ACTIVATE)
    keeping.wait(lambda: "cannot be decrypted: check the key in" in keeping.diagnosis("memory").message, "it")
    assert keeping.diagnosis("memory").level == DiagnosticStatus.WARN
    (folder / "key").write_text(KEY, encoding="utf-8")
    with closing(MemoryStore(keeping_settings(folder))) as store:
        assert len(store.search(Query("crowded end"))) == 1, "the event ended when the node was deactivated"


def test_the_thumbnail_of_an_extreme_image_is_kept(tmp_path: Path) -> None:
    settings = memory_settings(tmp_path / "m.db", thumbnails=True)
    memory = NodeMemory(settings, lambda *_: None, print)
    frame = Frame(np.zeros((20_000, 4, 3), np.uint8), 0)
    memory.on_scene(
        Scene(10**15, "camera", 4, 20_000, (), (), "A wall.", False, {}, Usage(), 10**15, Usage()), frame
    )
    memory.close()
    with closing(MemoryStore(settings)) as store:
        (kept,) = store.search(Query(kind="caption"))
    assert kept.thumbnail[:3] == b"\xff\xd8\xff"


def test_counts_are_kept_when_they_change_and_every_ten_seconds(tmp_path: Path) -> None:
    settings = memory_settings(tmp_path / "m.db")
    memory = NodeMemory(settings, lambda *_: None, print)
    frame, step = Frame(np.zeros((4, 4, 3), np.uint8), 0), 2 * 10**8
    labels = {0: ["box", "box"], 40: ["box"], 42: ["box", "person"], 43: ["box"], 130: []}
    present: list[str] = []
    for index in range(150):
        present = labels.get(index, present)
        tracks = (
            Track(number, label, Box(0.1, 0.1, 0.5, 0.5), 0.9, Velocity(0.0, 0.0), 1.0, 0.0)
            for number, label in enumerate(present)
        )
        stamp_ns = 10**15 + index * step
        memory.on_scene(Scene(stamp_ns, "camera", 4, 4, (), (*tracks,), None, False, {}, Usage()), frame)
    memory.close()
    with closing(MemoryStore(settings)) as store:
        kept = [(found.text, (found.stamp_ns - 10**15) / 1e9) for found in store.search(Query())]
    assert kept[::-1] == [
        ("2 box", 0.0),
        ("1 box, 1 person", 9.0),
        ("1 box", 10.0),
        ("1 box", 20.0),
        ("no objects", 27.0),
    ]


def test_without_memory_nothing_of_it_is_imported(imported_by_default: list[str]) -> None:
    names = ("lfm_perception.memory", "lfm_perception.ros.memory", "sqlcipher3")
    assert [each for each in imported_by_default if each.startswith(names)] == []
