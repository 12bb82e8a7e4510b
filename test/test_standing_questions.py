# SPDX-License-Identifier: Apache-2.0
"""Standing questions: what is accepted, when they are asked, and when their alerts are on."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.perception import MAX_WITHOUT_ROOM, Perception
from lfm_perception.planning.question_schedule import ONCE_S, QuestionSchedule
from lfm_perception.scene_json import scene_from_json, scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.standing_questions import Alert, StandingQuestion, standing_questions
from lfm_perception.tracking import open_tracker
from lfm_perception.typed_questions import TypedQuestion

DOOR = StandingQuestion("door", TypedQuestion("Is the door open?", "yes_no"))

WORDS = " ".join(f"word{number}" for number in range(15))
LONG = {"name": "long", "question": "Which?", "options": ["a", WORDS], "answer": "a"}
"""A question that fails: its second option has too many tokens."""


def test_an_entry_is_a_mapping_in_yaml_or_json() -> None:
    text = "{name: door, question: Is the door open, threshold: 0.8, hysteresis: 0.2, for: 1, period: 0.5}"
    expected = replace(
        DOOR,
        question=TypedQuestion("Is the door open", "yes_no"),
        threshold=0.8,
        hysteresis=0.2,
        for_s=1.0,
        period_s=0.5,
    )
    assert StandingQuestion.from_text(text) == expected
    colour = StandingQuestion.from_text('{name: c, question: "Colour?", options: [Red, Blue], answer: red}')
    assert (colour.question.type, colour.answer) == ("choice", "Red")
    many = StandingQuestion.from_text('{"name": "n", "question": "How many?", "maximum": 3, "answer": 3}')
    assert (many.question.answers, many.answer) == (("0", "1", "2", "3"), "3")
    case = '{name: c, question: "Letter?", options: [A, a], answer: %s}'
    assert [StandingQuestion.from_text(case % letter).answer for letter in "Aa"] == ["A", "a"]
    assert StandingQuestion.from_text("{name: shut, question: Open, answer: no}").answer == "no"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{name: door, question: Open, answer: [yes]}", "must be one of yes, no, got"),
        (
            "{name: door, question: Open, threshhold: 0.4}",
            "has no 'threshhold', only name, answer, period, thr",
        ),
        ("{name: door, question: Open, options: [on, off]}", "in quotes, got"),
        ("{name: door, question: Open, type: yes_no, minimum: 3}", "only a question of type number"),
        ("{name: door, question: Open, period: 1e9}", "'period' must be a number from 0 to 86400"),
        (
            "{name: door, question: Open, about: dragon}",
            "questions.standing 'door': no track has the label 'dr",
        ),
        ("{name: hat, question: 'Has the {label} a hat?'}", "about the frame has no {label}: give 'about'"),
        ("{name: door, question: Open, about: box, maximum: 3, answer: 1}", "must be yes_no or choice"),
        ("{name: door, question: Open?, period: 5}", "got '.': put a text with a question mark in quotes$"),
        ("{name: door, question: Open: now}", "got ':'; put the question in quotes$"),
        ("door", "is a mapping with 'name' and 'question'"),
        ("{name: door}", "the text under 'question'"),
        ("{name: 5, question: Open}", "is a mapping with"),
        ("{name: Front Door, question: Open}", "lower-case letters"),
        ("{name: door, question: <|im_end|>}", "special token"),
        ("{name: door, question: Open, type: text}", "text has no probability"),
        ("{name: door, question: Open, answer: maybe}", "must be one of yes, no"),
        ("{name: door, question: Open, options: [a, b]}", "must be one of a, b"),
        ("{name: door, question: Open, threshold: 0}", "'threshold' must be above 0"),
        ("{name: door, question: Open, threshold: 0.3, hysteresis: 0.4}", "above 'hysteresis'"),
        ("{name: door, question: Open, threshold: 2}", "'threshold' must be a number from 0 to 1, got 2"),
        ("{name: door, question: Open, threshold: high}", "must be a number from 0 to 1, got 'high'"),
        ("{name: door, question: Open, period: -1}", "'period' must be a number"),
        ("{name: door, question: Open, period: .nan}", "'period' must be a number"),
        ("{name: door, question: Open, period: 1e400}", "'period' must be a number"),
        ("{name: door, question: Open, for: soon}", "'for' must be a number"),
        ("{name: door, question: Open, every: 5}", "has no 'every'"),
        ("{name: door, question: [", "not valid YAML"),
        ("{name: door, name: door, question: Open}", "not valid YAML"),
    ],
)
def test_an_entry_that_cannot_be_asked_is_one_sentence(entry: str, reason: str) -> None:
    with pytest.raises(PerceptionError, match=reason) as caught:
        Settings().with_values({"questions.standing": (entry,)})
    assert len(str(caught.value)) < 300


def test_names_are_unique_and_few() -> None:
    entry = "{name: door, question: Open}"
    with pytest.raises(PerceptionError, match="more than once"):
        standing_questions([entry, entry])
    with pytest.raises(PerceptionError, match="more than 32"):
        standing_questions([f"{{name: door{number}, question: Open}}" for number in range(33)])


def test_settings_take_mappings_as_yaml_has_them() -> None:
    entry = {"name": "door", "question": "Is the door open?"}
    settings = Settings.from_dict({"questions": {"standing": [entry]}})
    assert settings.questions.standing == (json.dumps(entry),)
    assert settings.questions.alerts == (DOOR,)


def test_an_alert_waits_for_its_duration_and_ends_below_the_hysteresis() -> None:
    alert = Alert(replace(DOOR, threshold=0.7, hysteresis=0.2, for_s=2.0))
    steps = [(0.9, 0.0, False), (0.9, 1.0, False), (0.6, 1.5, False), (0.9, 2.0, False), (0.8, 4.0, True)]
    steps += [(0.55, 5.0, True), (0.45, 6.0, False), (0.65, 7.0, False), (0.9, 8.0, False), (0.9, 10.0, True)]
    assert [alert.update(probability, stamp) for probability, stamp, _ in steps] == [on for *_, on in steps]


def test_questions_are_asked_by_their_periods_and_within_their_duty_cycle() -> None:
    schedule = QuestionSchedule()
    often, rarely = replace(DOOR, name="a", period_s=1.0), replace(DOOR, name="b", period_s=5.0)
    schedule.reconfigure((often, rarely), duty_cycle=0.25)
    asked = []
    for eighth in range(80):
        stamp_s = eighth / 8
        question = schedule.due(stamp_s)
        if question is not None:
            asked.append((question.name, stamp_s))
            schedule.record(question, {"yes": 0.9, "no": 0.1}, from_seconds(stamp_s), 0.125)
            assert schedule.due(stamp_s) is None  # 3/8 s belong to detection
    assert [stamp_s for name, stamp_s in asked if name == "b"] == [0.375, 5.375]
    assert len([name for name, _ in asked if name == "a"]) == 10
    assert all(later - earlier >= 0.375 for (_, earlier), (_, later) in pairwise(asked))
    schedule.reconfigure((rarely,), duty_cycle=0.25)
    assert [status.name for status in schedule.statuses] == ["b"]
    schedule.reset()
    assert not schedule.statuses


def test_scenes_carry_the_latest_answers_and_detection_is_unchanged(vlm: LlamaVlm) -> None:
    entry = {"name": "forklift", "question": "Is there a forklift?", "period": 0.3, "threshold": 0.01}
    entry["hysteresis"] = 0
    plain = Settings().with_values({"caption.enabled": False, "sampling.temperature": 0.0})
    asking = plain.with_values({"questions.standing": [json.dumps(entry)], "questions.duty_cycle": 1.0})
    frames = [World(seed=4, width=256, height=256).snapshot(index).frame for index in range(4)]
    scenes = []
    for settings in (plain, asking):
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        scenes.append([perception.infer(frame) for frame in frames])
    for before, after in zip(*scenes, strict=True):
        assert (before.text, before.tracks) == (after.text, after.tracks)
        assert not before.alerts
        (status,) = after.alerts
        assert status.active
        assert sum(status.probabilities.values()) == pytest.approx(1.0)
        assert scene_from_json(scene_to_json(after)).alerts[0].name == "forklift"
    stamps = [scene.alerts[0].stamp_ns for scene in scenes[1]]
    assert stamps[0] == frames[0].stamp_ns
    assert stamps[1] == frames[0].stamp_ns  # not due yet


def test_a_question_that_fails_costs_no_frame(vlm: LlamaVlm) -> None:
    settings = Settings().with_values({"questions.standing": [json.dumps(LONG)], "caption.enabled": False})
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    scene = perception.infer(World(seed=4, width=256, height=256).snapshot(0).frame)
    assert scene.detections
    assert "questions.standing 'long'" in perception.question_problem
    assert "tokens" in perception.question_problem


def test_the_time_of_a_question_that_fails_counts_in_the_duty_cycle(vlm: LlamaVlm) -> None:
    often = json.dumps({**LONG, "period": 0})
    settings = Settings().with_values({"questions.standing": [often], "caption.enabled": False})
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    frame = World(seed=4, width=256, height=256).snapshot(0).frame
    perception.infer(frame)
    assert perception.question_problem
    perception.infer(replace(frame, stamp_ns=frame.stamp_ns + from_seconds(2 * ONCE_S)))
    assert not perception.question_problem


def test_a_question_without_room_in_the_budgets_is_asked_about_the_next_frame(vlm: LlamaVlm) -> None:
    entry = {"name": "forklift", "question": "Is there a forklift?", "period": 3600}
    changes = {"sampling.temperature": 0.0, "image.max_tokens": 64, "questions.standing": [json.dumps(entry)]}
    settings = Settings().with_values({**changes, "questions.duty_cycle": 1.0, "caption.period": 60.0})
    frames = [World(seed=4, width=256, height=256).snapshot(index).frame for index in range(2)]
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    usages = [perception.infer(frame).usage for frame in frames]
    tokens = max(usage.image_tokens + usage.answer_tokens for usage in usages) + 3  # which the caption takes
    perception = Perception(
        settings.with_values({"budget.tokens": tokens}), vlm, open_tracker(settings.tracker)
    )
    first, second = map(perception.infer, frames)
    assert (first.caption_usage is not None, first.alerts) == (True, ())
    assert [alert.stamp_ns for alert in second.alerts] == [frames[1].stamp_ns]


def test_a_question_that_never_has_room_is_named_until_it_has(vlm: LlamaVlm) -> None:
    entry = {"name": "forklift", "question": "Is there a forklift?", "period": 0}
    settings = Settings().with_values(
        {"image.max_tokens": 64, "questions.standing": [json.dumps(entry)], "questions.duty_cycle": 1.0}
    )
    tight = settings.with_values({"budget.latency": 0.005})
    frames = [World(seed=4, width=256, height=256).snapshot(index).frame for index in range(20)]
    perception, named = Perception(tight, vlm, open_tracker(tight.tracker)), list[tuple[str, ...]]()
    for frame in frames[: MAX_WITHOUT_ROOM + 3]:
        perception.infer(frame)
        assert not perception.question_problem, "it has not failed"
        named.append(perception.questions_without_room)
    assert named == [()] * (MAX_WITHOUT_ROOM - 1) + [("forklift",)] * 4
    perception.reconfigure(settings)
    assert perception.infer(frames[-1]).alerts
    assert not perception.questions_without_room
