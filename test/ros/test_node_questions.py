# SPDX-License-Identifier: Apache-2.0
"""Questions to the node: each is answered, or answered with the reason why not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from lifecycle_msgs.msg import Transition
from robot import RELIABLE, Camera, Robot
from std_msgs.msg import String

from lfm_perception.live.questions import MAX_PENDING_QUESTIONS
from lfm_perception.ros.ask import ask_node
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.session import MAX_QUERY_LENGTH, NOT_ANSWERED
from lfm_perception.typed_questions import MAX_QUESTION_LENGTH, TypedQuestion


def answers(running: Robot, since: int) -> list[str]:
    return [message.data for message in running.heard["answer"][since:]]


def answered(running: Robot, question: str) -> str:
    """The answer to a question, which may have to wait for the share of the one before: frames go on."""
    before, camera = len(running.heard["answer"]), Camera()
    running.question(question)
    while not (texts := answers(running, before)):
        running.show(camera.next())
    return texts[0]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("<|im_end|>", "special token"),
        ("  ", "must not be blank"),
        ("x" * (MAX_QUESTION_LENGTH + 1), f"longer than {MAX_QUESTION_LENGTH}"),
        ("x" * 5_000_000, f"longer than {MAX_QUERY_LENGTH}"),
        ('{"question": "Is the door open?", "type": "maybe"}', "must be one of yes_no, choice, number, text"),
    ],
    ids=["special token", "blank", "long", "megabytes", "type"],
)
def test_a_refused_question_is_answered_with_the_reason(running: Robot, question: str, reason: str) -> None:
    before, refused = len(running.heard["answer"]), running.counted("model", "questions refused")
    running.question(question)
    (text,) = running.wait(lambda: answers(running, before), "the refusal")
    assert text.startswith(NOT_ANSWERED)
    assert reason in text
    assert len(text) <= 300
    running.wait(lambda: running.counted("model", "questions refused") == refused + 1, "the count")


def test_questions_too_many_and_those_of_a_deactivated_node_are_answered_too(running: Robot) -> None:
    before = len(running.heard["answer"])
    asked = [f"Question {number}?" for number in range(MAX_PENDING_QUESTIONS + 3)]
    for question in asked:
        running.question(question)
    running.wait(lambda: len(answers(running, before)) == 3, "the refusals of the oldest")
    assert running.change(Transition.TRANSITION_DEACTIVATE)
    running.wait(lambda: len(answers(running, before)) == len(asked), "the refusals of the others")
    assert running.change(Transition.TRANSITION_ACTIVATE)
    for question, text in zip(asked, answers(running, before), strict=True):
        assert text.startswith(f"{NOT_ANSWERED} '{question}'")


def test_an_answer_in_words_can_be_followed_and_costs_nothing_unheard(running: Robot) -> None:
    session = running.node._session
    assert session is not None
    assert session.on_partial_answer() is None
    running.listen("answer_partial", String)
    running.wait(session.on_partial_answer, "the node to see the listener")
    answer = answered(running, "What do you see?")
    heard = running.heard["answer_partial"]
    running.wait(lambda: heard and heard[-1].data == answer, "the last text to be the answer")
    assert all(answer.startswith(message.data) for message in heard)  # how many come depends on the machine


def test_a_question_in_arabic_comes_back_as_it_was_asked(running: Robot) -> None:
    options = ["صندوق", "رافعة شوكية"]
    asked = {"question": "ما الجسم؟", "options": options, "language": "ar"}
    text = answered(running, json.dumps(asked, ensure_ascii=False))
    answer = json.loads(text)
    assert (answer["question"], answer["language"]) == (asked["question"], "ar")
    assert set(answer["probabilities"]) == set(options)
    assert answer["answer"] == answer["value"]
    assert answer["value"] in text  # as it is, not escaped


def test_a_flood_of_questions_leaves_most_of_the_time_to_frames(running: Robot) -> None:
    camera, before = Camera(), len(running.heard["answer"])
    running.show(camera.next())

    def inferred(questions_hz: float, seconds: float = 2.0) -> int:
        count, ends = len(running.heard["detections"]), time.monotonic() + seconds
        due = time.monotonic()
        while time.monotonic() < ends:
            while questions_hz and due < time.monotonic():
                running.question("What do you see?")
                due += 1 / questions_hz
            frame = camera.next()
            running.send_frame(frame)
            time.sleep(1 / 30)
        return len(running.heard["detections"]) - count

    alone = inferred(0.0)
    beside = inferred(20.0)
    assert beside >= 0.4 * alone, (beside, alone)

    def given() -> list[str]:
        return [text for text in answers(running, before) if not text.startswith(NOT_ANSWERED)]

    running.wait(lambda: bool(given()), "an answer")
    assert len(given()) <= len(running.heard["detections"])


def test_words_that_look_like_json_are_an_answer_in_words() -> None:
    others = json.dumps({"question": "Is it open?", "type": "yes_no", "value": "no", "probability": 0.9})
    with spinning_node("model", namespace="/json") as node:  # stands in for one that is asked for JSON
        publisher = node.create_publisher(String, "answer", RELIABLE)

        def answer(question: String) -> None:
            for text in (others, '{"boxes": 2}'):
                publisher.publish(String(data=text))

        node.create_subscription(String, "input_query", answer, RELIABLE)
        assert ask_node("/json/model", TypedQuestion("Count the boxes, as JSON")) == '{"boxes": 2}'


def test_what_is_said_about_another_track_type_or_question_is_no_answer() -> None:
    asked = TypedQuestion("Has it a lid?", "yes_no", track=5)
    entry = {"question": asked.text, "type": "yes_no", "value": "no", "probability": 0.9, "track": 5}
    others = [{**entry, "track": 3}, {**entry, "type": "choice", "value": "maybe"}]
    refused = f"{NOT_ANSWERED} 'Is it open?': the inference was stopped"
    with spinning_node("model", namespace="/others") as node:  # stands in for one that others ask too
        publisher = node.create_publisher(String, "answer", RELIABLE)

        def answer(question: String) -> None:
            for text in (*map(json.dumps, others), refused, json.dumps(entry)):
                publisher.publish(String(data=text))

        node.create_subscription(String, "input_query", answer, RELIABLE)
        assert json.loads(ask_node("/others/model", asked)) == entry


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--language", "de"], r"(ja|nein) \(\d+%\)"),
        (["--json"], r'\{"question": "Is there a box\?", .*"value": "(yes|no)", .*\}'),
    ],
)
def test_a_typed_question_is_answered_from_the_command_line_of_another_process(
    running: Robot, options: list[str], said: str
) -> None:
    running.show(Camera().next())
    ask = "from lfm_perception.cli import main; main()", "ask", f"node:{running.name}"
    command = [sys.executable, "-c", *ask, "Is there a box?", "--yes-no", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        camera = Camera()
        while process.poll() is None:
            running.send_frame(camera.next())
            time.sleep(0.1)
        assert process.stdout is not None
        assert re.fullmatch(said, process.stdout.read().strip())
