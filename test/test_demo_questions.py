# SPDX-License-Identifier: Apache-2.0
"""Questions about demo scenes and commands: the answers are true, and what measures is never trained."""

from __future__ import annotations

import ast
import json
import random
import re
from collections import Counter

import pytest
from demo_model import commands as trained_commands
from demo_model.commands import trained_command

from lfm_perception.commands import REFUSAL, TOOLS, tool_list
from lfm_perception.demo import commands
from lfm_perception.demo.bodies import EASY, HARD, LABELS
from lfm_perception.demo.commands import CALL_END, CALL_START, command
from lfm_perception.demo.scene_questions import (
    KINDS,
    SceneQuestion,
    plural,
    scene_question,
    scene_questions,
)
from lfm_perception.demo.world import Snapshot, still


@pytest.fixture(scope="module")
def asked() -> list[tuple[Snapshot, SceneQuestion]]:
    """Questions of every kind, in wordings of the training and in others."""
    rng = random.Random(1)
    snapshots = [still(rng, 192, 192, HARD if index % 2 else EASY) for index in range(60)]
    kinds = [(kind, held) for kind in KINDS for held in (False, True)]
    tried = [(each, scene_question(rng, each, held, kind)) for each in snapshots for kind, held in kinds]
    return [(snapshot, question) for snapshot, question in tried if question]


def test_every_kind_is_asked_and_the_answer_is_one_of_the_options(
    asked: list[tuple[Snapshot, SceneQuestion]],
) -> None:
    assert {question.kind for _, question in asked} == set(KINDS)
    for _, each in asked:
        if each.question.type == "text":
            assert each.answer.endswith(".")
        else:
            assert each.answer in each.question.answers


def test_answers_agree_with_the_objects(asked: list[tuple[Snapshot, SceneQuestion]]) -> None:
    checked = Counter[str]()
    for snapshot, question in asked:
        if question.question.type == "text":
            continue
        counts = Counter(thing.label for thing in snapshot.objects)
        words = set(re.findall(r"\w+", question.question.text))
        named = [label for label in LABELS if {label, plural(label)} & words]
        centres = {t.label: (t.box.x1 + t.box.x2) / 2 for t in snapshot.objects if counts[t.label] == 1}
        if question.kind == "there":
            assert question.answer == ("Yes" if named and counts[named[0]] else "No")
        elif question.kind == "several":
            assert question.answer == ("Yes" if counts[named[0]] > 1 else "No")
        elif question.kind == "count":
            assert int(question.answer) == (counts[named[0]] if named else len(snapshot.objects))
        elif question.kind == "side":
            first, second = sorted(named, key=lambda label: re.search(rf"\b{label}\b", question.text).start())  # type: ignore[union-attr]
            is_left = centres[first] < centres[second]
            assert question.answer == ("Yes" if is_left == ("left" in words) else "No")
        elif question.kind == "colour":
            assert question.answer in {t.colour for t in snapshot.objects if t.label == named[0]}
        elif question.kind == "helmet":
            (helmet,) = (t.helmet for t in snapshot.objects if t.label == "person")
            assert question.answer == ("Yes" if helmet else "No")
        checked[question.kind] += 1
    assert min(checked[kind] for kind in ("there", "several", "count", "side", "colour", "helmet")) > 5


def test_the_answers_that_are_asked_for_are_balanced() -> None:
    rng = random.Random(2)
    scenes = [still(rng, 160, 160, HARD) for _ in range(150)]
    for kind in ("there", "several", "side", "helmet"):
        found = [scene_question(rng, each, False, kind, sentences=0.0) for each in scenes]
        answers = [question.answer == "Yes" for question in found if question]
        assert 0.3 < sum(answers) / len(answers) < 0.7, kind
    asked = [question for each in scenes for question in scene_questions(rng, each, 6)]
    counts = Counter(q.answer for q in asked if q.kind == "count" and q.question.answers)
    assert counts["0"] < 0.4 * counts.total()


def heard(text: str) -> str:
    """The words of a command without what differs by chance."""
    return re.sub(r"\W+", " ", text.lower()).strip()


@pytest.mark.parametrize("tool", [*TOOLS, ""])
def test_a_tool_is_asked_for_in_many_ways_and_the_held_out_ones_are_none_of_them(tool: str) -> None:
    rng = random.Random(3)
    trained = {heard(trained_command(rng, tool).text) for _ in range(1500)}
    assert len(trained) > 400
    held = {heard(command(rng, tool).text) for _ in range(200)}
    assert not trained & held


def test_questions_that_are_held_out_are_not_trained() -> None:
    rng = random.Random(4)
    snapshots = [still(rng, 192, 192, HARD) for _ in range(40)]
    trained, held = (
        {q.text for s in snapshots for kind in KINDS if (q := scene_question(rng, s, is_held, kind))}
        for is_held in (False, True)
    )
    assert trained
    assert held
    assert not trained & held


def test_a_call_holds_what_was_said() -> None:
    """Numbers and names are those of the command; shares and times have other units, labels may be plural."""
    rng = random.Random(5)
    held_out = [command(rng, tool) for tool in [*TOOLS, ""] for _ in range(40)]
    for asked in [*held_out, *(trained_command(rng) for _ in range(600))]:
        if not asked.tool:
            assert asked.answer == REFUSAL
            continue
        call = ast.parse(asked.answer.removeprefix(CALL_START).removesuffix(CALL_END), mode="eval").body
        assert isinstance(call, ast.List)
        (call,) = call.elts
        assert isinstance(call, ast.Call)
        assert isinstance(call.func, ast.Name)
        assert call.func.id == asked.tool
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        assert list(arguments) == list(TOOLS[asked.tool].parameters)
        for name, value in arguments.items():
            for said in value if isinstance(value, list) else [value]:
                forms = [str(said), plural(str(said))]
                if name in ("share", "score"):
                    forms += [f"{round(100 * said)} percent", f"{round(100 * said)}%"]
                    forms += [f"{round(100 * said)} per cent", f"{round(100 * said)} %"]
                if name == "seconds":
                    forms += [f"{round(1000 * said)} m", f"{round(said / 60)} min"]
                if name == "question":
                    forms.append(arguments["name"])
                assert any(form.lower() in asked.text.lower() for form in forms), asked


def test_names_in_commands_are_words_that_the_other_set_of_wordings_does_not_have() -> None:
    rng = random.Random(6)
    said = " ".join(trained_command(rng).text for _ in range(2000)).lower().split()
    assert not set(commands.NOUNS) & set(said)
    assert len(set(said)) > 1500  # many of them are invented


def test_the_list_of_tools_is_json_with_a_schema_of_each() -> None:
    tools = json.loads(tool_list(["add_alert", "reset"]).removeprefix("List of tools: "))
    assert [tool["name"] for tool in tools] == ["add_alert", "reset"]
    assert tools[0]["parameters"] == {
        "type": "object",
        "properties": {"name": {"type": "string"}, "question": {"type": "string"}},
        "required": ["name", "question"],
    }
    assert tools[1]["parameters"]["properties"] == {}


def test_every_tool_has_wordings() -> None:
    assert set(commands.WORDINGS) == set(trained_commands.WORDINGS) == {*TOOLS, ""}
