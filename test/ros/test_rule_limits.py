# SPDX-License-Identifier: Apache-2.0
"""The limits of the actions of rules: questions, calls and images are bounded, and counted beyond."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from mqtt_broker import wait
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from lfm_perception.live import Asker
from lfm_perception.ros import rule_actions
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.rule_actions import MAX_PENDING, RuleActions
from lfm_perception.ros.rule_questions import MAX_OPEN, RuleQuestions
from lfm_perception.rules import Event, parse_rules
from lfm_perception.rules.events import FILE_PREFIX
from lfm_perception.scene import Frame
from lfm_perception.settings import RulesSettings
from lfm_perception.typed_questions import TypedQuestion

QUESTION = TypedQuestion("Is it open?")


def moment(number: int, rule: str = "acts") -> Event:
    return Event(f"{rule}-{number}", rule, "moment", number, number)


def test_questions_of_rules_that_wait_are_bounded_and_the_others_counted() -> None:
    askers, counts, published = list[Asker](), Counter[str](), list[Event]()

    def ask(question: TypedQuestion, asker: Asker) -> bool:
        askers.append(asker)
        return True

    questions = RuleQuestions(ask, published.append, counts)
    for number in range(MAX_OPEN + 3):
        questions.ask(moment(number, f"rule{number}"), QUESTION, about_track=False)
    questions.ask(moment(99, "rule0"), QUESTION, about_track=False)
    assert (len(askers), counts["questions asked"], counts["questions left out"]) == (MAX_OPEN, MAX_OPEN, 4)
    askers[0].on_refusal("?", "no room")
    questions.ask(moment(100, "late"), QUESTION, about_track=False)
    assert (len(askers), published[0].rule) == (MAX_OPEN + 1, "rule0")


@contextmanager
def acting(
    rules: str, settings: RulesSettings, warnings: list[str]
) -> Iterator[tuple[Node, RuleActions, Counter[str]]]:
    counts = Counter[str]()
    questions = RuleQuestions(lambda question, asker: False, lambda event: None, counts)
    with spinning_node("acting") as node:
        actions = RuleActions(
            node,
            parse_rules(rules).rules,
            settings,
            lambda raw, width: Frame(np.zeros((8, 8, 3), np.uint8), 1),
            lambda kind, said: warnings.append(said),
            questions,
            counts,
            lambda *asked: None,
        )
        try:
            yield node, actions, counts
        finally:
            actions.close()


def test_calls_that_a_service_does_not_answer_are_bounded_given_up_and_counted() -> None:
    rules = "rules: {acts: {when: {appears: 0}, actions: {call_trigger: /deaf}}}"
    warnings, answer = list[str](), threading.Event()

    def deaf(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        assert answer.wait(60.0)
        return response

    with spinning_node("server") as server:
        server.create_service(Trigger, "/deaf", deaf, callback_group=ReentrantCallbackGroup())
        with acting(rules, RulesSettings(actions=True), warnings) as (_, actions, counts):
            client = actions._endpoints["acts"].clients["call_trigger"]
            wait(client.service_is_ready, "the service")
            for number in range(MAX_PENDING + 3):
                actions.act([moment(number)], b"", "camera")
                assert len(actions._endpoints["acts"].pending["call_trigger"]) <= MAX_PENDING
            assert len(client._pending_requests) == MAX_PENDING
            assert counts["calls lost"] == 3
            assert warnings[0] == (
                f"rule 'acts': /deaf has not answered {MAX_PENDING} calls: the oldest is given up"
            )
            answer.set()
            done: Callable[[], bool] = lambda: not client._pending_requests  # noqa: E731
            wait(done, "the answers")
            actions.act([moment(99)], b"", "camera")
        assert counts["calls lost"] == 3


def test_saved_images_are_bounded_the_oldest_deleted_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_actions, "MAX_SNAPSHOTS", 3)
    own = tmp_path / "holiday.jpg"
    own.write_bytes(b"")
    rules = "rules: {acts: {when: {appears: 0}, actions: {snapshot: true}}}"
    settings = RulesSettings(actions=True, snapshots=str(tmp_path))
    with acting(rules, settings, []) as (_, actions, counts):
        for number in range(5):
            actions.act([moment(number)], b"image", "camera")
        assert counts["snapshots deleted"] == 2
        actions.act([moment(number) for number in range(5, 10)], b"image", "camera")
        assert (counts["snapshots deleted"], counts["snapshots lost"]) == (5, 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["holiday.jpg", *(f"{FILE_PREFIX}acts-{number}.jpg" for number in (5, 6, 7))]


def test_images_that_are_saved_are_not_lost_where_old_ones_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(files: list[Path]) -> list[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(rule_actions, "MAX_SNAPSHOTS", 2)
    monkeypatch.setattr(rule_actions, "oldest_first", refuse)
    settings = RulesSettings(actions=True, snapshots=str(tmp_path))
    rules, warnings = "rules: {acts: {when: {appears: 0}, actions: {snapshot: true}}}", list[str]()
    with acting(rules, settings, warnings) as (_, actions, counts):
        actions.act([moment(number) for number in range(3)], b"image", "camera")
        assert counts["snapshots lost"] == 1
    assert len(list(tmp_path.iterdir())) == 2
    assert "permission denied" in warnings[0]
