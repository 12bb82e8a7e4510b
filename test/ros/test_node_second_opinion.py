# SPDX-License-Identifier: Apache-2.0
"""Second opinions of the node: the topic `opinions`, consent, rules and questions, on real DDS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from opinions import reply
from robot import IN_THREAD, Camera, Robot, robot
from std_msgs.msg import String

from lfm_perception.second_opinion.opinions import SCHEMA

PARAMETERS = {
    "second_opinion.allowed": True,
    "second_opinion.cameras": ["front_optical"],
    "second_opinion.rate": 600.0,
    "rules.actions": True,
}
RULES = "rules: {seen: {when: {label: box}, actions: {second_opinion: 'Which number?'}}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("opinions")


@pytest.fixture(scope="module")
def asking(folder: Path) -> Iterator[Robot]:
    """A node whose rule asks a person about boxes."""
    (folder / "rules.yaml").write_text(RULES, encoding="utf-8")
    files = {"rules.file": str(folder / "rules.yaml"), "second_opinion.folder": str(folder / "review")}
    with robot({**PARAMETERS, **files, **IN_THREAD}) as started:
        started.listen("opinions", String)
        yield started.bring_up()


def opinions(running: Robot) -> list[dict[str, Any]]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = [json.loads(message.data) for message in running.heard["opinions"]]
    for record in found:
        jsonschema.validate(record, schema)
    return found


def test_a_rule_asks_and_the_answer_is_published_and_merged(asking: Robot, folder: Path) -> None:
    camera = Camera(seed=2)
    frame = camera.next()
    asking.show(frame)
    asking.show(camera.next(5))
    reply(folder / "review", {"answer": "4711"})
    opinion = asking.wait(lambda: opinions(asking), "the opinion")[0]
    assert (opinion["answer"], opinion["label"], opinion["reason"]) == ("4711", "box", "rule seen")
    assert opinion["frame_id"] == "front_optical"
    later = camera.next(5)
    asking.show(later)
    (merged,) = asking.scene(later.stamp_ns)["opinions"]
    assert (merged["answer"], merged["track_id"]) == ("4711", opinion["track_id"])
    assert merged["age_s"] > 0.0
    asking.wait(lambda: asking.counted("second opinion", "answers") == 1, "the diagnostics")
    assert asking.counted("second opinion", "bytes handed over") > 1000


def test_a_question_asks_too_and_consent_can_be_withdrawn_while_the_node_runs(
    asking: Robot, folder: Path
) -> None:
    camera = Camera(seed=2)
    for _ in range(2):
        frame = camera.next(5)
        asking.show(frame)
    (box,) = [each for each in asking.scene(frame.stamp_ns)["objects"] if each["label"] == "box"]
    question = {"question": "Is it dented?", "track": box["track_id"], "second_opinion": True}
    review = folder / "review"
    asking.question(json.dumps(question))
    asking.show(camera.next(5))

    def dented() -> list[Path]:
        return [path for path in review.glob("*.json") if "dented" in path.read_text(encoding="utf-8")]

    asking.wait(dented, "the question in the folder")
    topic = asking.user.resolve_topic_name("opinions")
    assert asking.set(second_opinion__allowed=False).successful
    asking.wait(lambda: not asking.user.get_publishers_info_by_topic(topic), "the end of the topic")
    assert list(review.iterdir()) == [], "what waited is withdrawn"

    def told() -> bool:
        """Whether the next diagnostics have a part about second opinions."""
        asking.heard["/diagnostics"].clear()
        asking.wait(lambda: asking.diagnosis("model"), "the diagnostics")
        return asking.diagnosis("second opinion") is not None

    assert not told() or not told(), "one message may have been under way"
    before = len(asking.heard["answer"])
    for _ in range(2):
        asking.question(json.dumps(question))
        asking.show(camera.next(5))
    asking.wait(lambda: len(asking.heard["answer"]) > before, "the refusal")
    assert "second_opinion.allowed is false" in asking.heard["answer"][-1].data
    assert list(review.iterdir()) == []
    refused = asking.set(second_opinion__cameras=["*"])
    assert not refused.successful, "another node widens no consent"
    assert asking.set(second_opinion__allowed=True).successful
    asking.wait(lambda: asking.user.get_publishers_info_by_topic(topic), "the topic")


def test_a_camera_that_does_not_consent_leaves_nothing(asking: Robot, folder: Path) -> None:
    from dataclasses import replace

    camera = Camera(seed=2)
    before = {path.name for path in (folder / "review").glob("*.jpg")}
    for _ in range(3):
        asking.show(replace(camera.next(5), frame_id="rear_optical"))
    asking.wait(
        lambda: asking.counted("second opinion", "crops dropped: the camera does not consent"), "the count"
    )
    assert {path.name for path in (folder / "review").glob("*.jpg")} <= before
    status = asking.diagnosis("second opinion")
    assert status.message == "camera 'rear_optical' is not in second_opinion.cameras: nothing is asked"


def test_an_adviser_that_cannot_be_used_is_a_warning_and_perception_goes_on(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere.yaml")
    values = {"second_opinion.adviser": "vlm", "second_opinion.model_settings": nowhere}
    with robot({**PARAMETERS, **values, **IN_THREAD}) as started:
        started.bring_up()
        started.show(Camera().next())
        status = started.wait(lambda: started.diagnosis("second opinion"), "the diagnostics")
    assert status.level == DiagnosticStatus.WARN
    assert "nowhere.yaml: cannot be read" in status.message
