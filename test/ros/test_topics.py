# SPDX-License-Identifier: Apache-2.0
"""The page of topics and services says what the running node has: names, types, quality of service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from rclpy.qos import QoSProfile
from robot import Robot, robot  # isort: split - chooses how messages travel

from lfm_perception.backends.recorded import FORMAT, VERSION

PAGE = Path(__file__).parents[2] / "docs" / "topics.md"
OF_EVERY_NODE = ("lifecycle_msgs", "rcl_interfaces", "type_description_interfaces")
Row = tuple[str, ...]


def documented(heading: str, columns: int) -> set[Row]:
    """The first columns of the table under a heading of the page."""
    section = re.split(rf"^## {heading}$", PAGE.read_text(encoding="utf-8"), flags=re.M)[1].split("\n## ")[0]
    rows = [
        tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {row[:columns] for row in rows if len(row) > columns - 1 and "/" in row[1]}


@contextmanager
def running(folder: Path, transport: str, reliability: str = "best_effort") -> Iterator[Robot]:
    """A node, active, that answers from an empty recording: no model is needed to have topics."""
    answers = folder / "answers.jsonl"
    answers.write_text(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
    parameters = {
        "engine.backend": "recorded",
        "recorded.path": str(answers),
        "node.image_transport": transport,
        "node.image_reliability": reliability,
    }
    with robot(parameters) as started:
        yield started.bring_up()


def kind(message: type) -> str:
    """`std_msgs/String`."""
    return f"{message.__module__.partition('.')[0]}/{message.__name__}"


def short(started: Robot, name: str) -> str:
    """A name as the page has it: relative to the namespace, or to the node (`~`)."""
    own, namespace = f"{started.name}/", f"{started.node.get_namespace()}/"
    return f"~/{name[len(own) :]}" if name.startswith(own) else name.removeprefix(namespace)


def row(started: Robot, name: str, message: type, quality: QoSProfile) -> Row:
    policies = f"{quality.reliability.name}, {quality.durability.name}".lower().replace("_", " ")
    return (short(started, name), kind(message), f"{policies}, depth {quality.depth}")


def subscribed(started: Robot) -> set[Row]:
    own: list[Any] = list(started.node.subscriptions)
    return {row(started, each.topic_name, each.msg_type, each.qos_profile) for each in own}


def published(started: Robot) -> set[Row]:
    own: list[Any] = list(started.node.publishers)
    rows = {row(started, each.topic, each.msg_type, each.qos_profile) for each in own}
    return {each for each in rows if not each[1].startswith(OF_EVERY_NODE)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """A node that subscribes to raw images."""
    with running(tmp_path_factory.mktemp("raw"), "raw") as started:
        yield started


def test_the_page_names_all_that_is_subscribed(raw: Robot, tmp_path: Path) -> None:
    with running(tmp_path, "compressed") as compressed:
        assert subscribed(raw) | subscribed(compressed) == documented("Subscriptions", 3)
        assert len(subscribed(raw)) == len(subscribed(compressed)) == 2


def test_an_image_subscription_is_reliable_where_the_setting_says_so(tmp_path: Path) -> None:
    with running(tmp_path, "raw", "reliable") as started:
        images = [each for each in subscribed(started) if each[0] == "image_raw"]
        assert [each[2].partition(",")[0] for each in images] == ["reliable"]


def test_the_page_names_all_that_is_published(raw: Robot) -> None:
    assert published(raw) == documented("Publishers", 3)


def test_the_page_names_all_services(raw: Robot) -> None:
    own: list[Any] = list(raw.node.services)
    services = {(short(raw, each.srv_name), kind(each.srv_type)) for each in own}
    own_services = {each for each in services if not each[1].startswith(OF_EVERY_NODE)}
    assert own_services == documented("Services", 2)
