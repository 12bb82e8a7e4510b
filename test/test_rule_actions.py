# SPDX-License-Identifier: Apache-2.0
"""The actions of a rule file: what is read, and the sentence about what is wrong."""

from __future__ import annotations

import pytest

from lfm_perception.rules import Known, RuleFile, parse_rules
from lfm_perception.rules.schema import ParameterChange
from lfm_perception.typed_questions import TypedQuestion


def read(actions: str, when: str = "label: person") -> RuleFile:
    text = f"lines: {{door: [[0, 0], [1, 1]]}}\nrules:\n  acts: {{when: {{{when}}}, actions: {actions}}}\n"
    return parse_rules(text, Known(language="de"))


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        ("{ask: {question: Is it, track: 3}}", "the question is about the track of the event"),
        ("{ask: {question: How, type: much}}", "the type of a question must be one of"),
        ("{ask: 3}", "a question in JSON must be an object"),
        ("{ask: ''}", "a question must not be blank"),
        ("{set_parameter: {value: 1}}", "set_parameter needs the `name` of a parameter"),
        ("{set_parameter: {name: a}}", "set_parameter needs a `value`"),
        ("{set_parameter: a}", "set_parameter must be a mapping, got 'a'"),
        ("{set_parameter: {name: a, value: [1, x]}}", "a parameter is true, a number, a text, or a list"),
        ("{set_parameter: {name: a, value: []}}", "a parameter is true, a number, a text, or a list"),
        ("{set_parameter: {name: a, value: null}}", "a parameter is true, a number, a text, or a list"),
        ("{set_parameter: {name: a, value: 9223372036854775808}}", "no parameter can have the value"),
        ("{set_parameter: {name: a, value: [.nan]}}", "no parameter can have the value nan"),
        ('{set_parameter: {name: a, value: "\\e"}}', "printable characters"),
        ("{set_parameter: {name: a, value: 1, node: 'a b'}}", "node takes a ROS name"),
    ],
)
def test_a_wrong_action_is_a_sentence(actions: str, sentence: str) -> None:
    (problem,) = read(actions).problems
    assert sentence in problem.sentence


def test_a_moment_cannot_set_a_parameter_back() -> None:
    change = "{set_parameter: {name: a, value: 1, end: 0}}"
    (problem,) = read(change, "crosses: door").problems
    assert "a moment does not end" in problem.sentence
    assert not read(change).problems


def test_questions_and_parameters_are_read() -> None:
    (rule,) = read(
        '{ask: "Was trägt er?", set_parameter: {node: /arm, name: speed.max, value: [0.1, 0.2], end: [1.0]}}'
    ).rules
    assert rule.actions.ask == TypedQuestion("Was trägt er?", language="de")
    assert rule.actions.set_parameter == ParameterChange("speed.max", (0.1, 0.2), (1.0,), "/arm")
    (rule,) = read('{ask: {question: "Is it safe?", type: yes_no, language: en}}').rules
    assert rule.actions.ask == TypedQuestion("Is it safe?", "yes_no")
