# SPDX-License-Identifier: Apache-2.0
"""A question to a running node: published on `input_query`, answered on `answer`."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, Protocol

from std_msgs.msg import String

from lfm_perception.errors import PerceptionError
from lfm_perception.files import parse_json
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.processes import wait_for
from lfm_perception.ros.session import NOT_ANSWERED, not_answered
from lfm_perception.ros.topics import QUESTIONS, RESULT
from lfm_perception.text import safe_text

DISCOVERY_S = 10.0
"""Maximum time until the node is found."""

ANSWER_S = 30.0
"""Maximum time until the node answers: it needs an image, and other questions may come first."""


class Asked(Protocol):
    """A question to the node: a `TypedQuestion`, or a `memory.MemoryQuestion`."""

    @property
    def text(self) -> str: ...

    @property
    def type(self) -> str: ...

    def to_json(self) -> str: ...


def ask_node(name: str, question: Asked) -> str:
    """The answer of the node with this full name, as on its topic `answer`.

    An answer in words names no question: of several that are asked at once, the first one is taken.

    Raises:
        PerceptionError: the node does not run, gives no answer, or says why it gives none.
    """
    namespace = name.rpartition("/")[0]
    answers: list[str] = []
    answered = threading.Event()

    def on_answer(message: String) -> None:
        if _answers(message.data, question):
            answers.append(safe_text(message.data))  # anyone may publish there
            answered.set()

    with spinning_node("perception_ask", namespace=namespace) as node:
        node.create_subscription(String, "answer", on_answer, RESULT.profile())
        publisher = node.create_publisher(String, "input_query", QUESTIONS.profile())
        wait_for(
            lambda: publisher.get_subscription_count() and node.count_publishers("answer"),
            DISCOVERY_S,
            f"{name} to listen on {publisher.topic_name} (is it active, and ROS_DOMAIN_ID the same?)",
        )
        publisher.publish(String(data=question.to_json()))
        if not answered.wait(ANSWER_S):
            raise PerceptionError(
                f"{name} gave no answer within {ANSWER_S:.0f} s: check that images arrive (ros2 topic hz)"
            )
    if answers[0].startswith(NOT_ANSWERED):
        raise PerceptionError(answers[0])
    return answers[0]


def _answers(text: str, question: Asked) -> bool:
    """Whether a text on `answer` can be the answer to the question; others may ask too."""
    if text.startswith(NOT_ANSWERED):
        return text.startswith(tuple(not_answered(each) for each in ("", question.text, question.to_json())))
    answer = _answer_in_json(text)
    if question.type == "text" or answer is None:
        return question.type == "text" and answer is None
    asked = parse_json(question.to_json())
    return all(answer.get(key) == asked.get(key) for key in ("question", "type", "track"))


def _answer_in_json(text: str) -> dict[str, Any] | None:
    """An answer in JSON, which repeats its question; None for words, which a model may write as JSON too."""
    with suppress(PerceptionError):
        entry = parse_json(text)
        if isinstance(entry, dict) and isinstance(entry.get("question"), str):
            return entry
    return None
