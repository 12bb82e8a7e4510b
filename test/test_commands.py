# SPDX-License-Identifier: Apache-2.0
"""Commands in words: the tools, the values that a call may hold, and the strict parser."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from call_texts import mutated_call
from demo_model.commands import trained_command

from lfm_perception.commands import REFUSAL, TOOLS, Command, check_tools, slots, tool_list
from lfm_perception.commands.calls import Step, parse_call
from lfm_perception.demo import commands as demo
from lfm_perception.errors import PerceptionError
from lfm_perception.settings import Settings

LABELS = Settings().detect.labels
ALL = tuple(TOOLS)


def said(words: str, *tools: str) -> Command:
    return Command(words, tools or ALL, LABELS)


def calls(command: Command) -> Iterator[str]:
    """The texts of all calls; of lists, those that begin with the first few items."""

    def below(step: Step, depth: int) -> Iterator[str]:
        if step.following is None:
            yield step.decided
        elif depth:
            for following in step.following():
                yield from below(following, depth - 1)

    for step in command.steps():
        yield from below(step, 1)


def held_out_command(rng: random.Random) -> demo.Command:
    return demo.command(rng, rng.choice([*TOOLS, ""]))


@pytest.mark.parametrize("draw", [trained_command, held_out_command])
def test_what_the_demo_model_learns_is_a_call_of_its_command(
    draw: Callable[[random.Random], demo.Command],
) -> None:
    rng = random.Random(1)
    seen = set()
    for _ in range(400):
        lesson = draw(rng)
        answer = lesson.answer.removeprefix(demo.CALL_START).removesuffix(demo.CALL_END)
        call = said(lesson.text).parse(answer)
        assert (call is None) == (answer == REFUSAL)
        seen.add(lesson.tool)
        if call is not None:
            assert call.tool == lesson.tool
            chosen = [step for step in said(lesson.text).steps() if answer.startswith(step.decided)]
            assert chosen, answer
    assert seen >= set(TOOLS)


def test_names_are_words_in_a_row_or_enumerated() -> None:
    names = slots.values("labels", said("Red cones, and people's hats"))
    assert '"Red cones"' in names
    assert '"red cones"' in names
    assert '"people\'s hats"' in names
    assert '"person"' in names
    assert '"cones and"' not in names
    assert '"dog"' not in names
    assert '"人"' in slots.values("labels", said("人と箱を検出して"))


def test_no_name_begins_or_ends_with_a_word_that_connects_it() -> None:
    names = slots.values("labels", said("Find a black and white cat and no other objects"))
    assert {'"black and white cat"', '"objects"'} <= set(names)
    assert not {'"a"', '"a black"', '"cat and"', '"cat and no"', '"no other"', '"and"'} & set(names)
    names = slots.values("name", said("Watch my dog for me please"))
    assert '"dog"' in names
    assert not {'"dog for me"', '"please"', '"my dog"'} & set(names)


@pytest.mark.parametrize(
    ("words", "chosen", "left", "gone"),
    [
        ("find cones for us", "cone", ["person"], ["cone", "cones", "cones for us"]),
        ("find tool box and box", "tool box", ["box"], ["tool", "tool box"]),
        ("find box and tool box", "box", ["tool box", "tool"], ["box"]),
        ("find the tool box", "tool box", ["person"], ["tool", "box"]),
        ("find personal bags and people", "personal bags", ["person", "people"], ["bags"]),
        ("find people and personal bags", "person", ["personal bags", "people"], ["person"]),
        ("人と箱を検出して", "人", ["箱"], ["人", "人と"]),
        ("ΚΩΝΟΣ:ΑΒ", "ΚΩΝΟΣ", ["ΑΒ"], ["κΩΝΟΣ"]),
    ],
)
def test_no_two_items_of_a_list_are_the_same_words(
    words: str, chosen: str, left: list[str], gone: list[str]
) -> None:
    taken, *items = (json.dumps(name, ensure_ascii=False) for name in (chosen, *left, *gone))
    assert list(slots.left(items, [taken], said(words))) == items[: len(left)]


def test_a_value_is_looked_for_in_the_command_once_however_many_lists_it_may_stand_in() -> None:
    command = said(" ".join(f"w{number}" for number in range(60)))
    items = slots.values("labels", command)
    assert len(items) > 280
    slots._spans.cache_clear()
    for chosen in itertools.combinations(items[:60:6], 3):
        assert len(list(slots.left(items, chosen, command))) > 200
    assert slots._spans.cache_info().misses == len(items)


def test_a_long_command_has_a_bounded_number_of_calls() -> None:
    command = said("".join(chr(0x4E00 + number) for number in range(300)))
    assert len(slots.values("labels", command)) == slots.MAX_VALUES
    assert len(list(command.steps())) < 6 * slots.MAX_VALUES


def test_a_question_is_built_of_the_name_or_copied() -> None:
    command = said("Add an alert named door: Is the door open?")
    questions = slots.values("question", command, {"name": '"door"'})
    assert questions[0] == '"Is there a door?"'
    assert '"Is the door open?"' in questions
    assert not any("shut" in question for question in questions)


def test_every_call_of_a_command_is_parsed_and_no_other() -> None:
    allowed = ("set_labels", "set_duty_cycle", "add_alert")
    command = said("set the labels to dog and use 7 %: Is it?", *allowed)
    texts = [text for text in calls(command) if text.startswith(tuple(f"[{name}(" for name in allowed))]
    assert '[set_labels(labels=["dog", "box"])]' in texts
    assert "[set_duty_cycle(share=0.07)]" in texts
    assert '[add_alert(name="dog", question="Is it?")]' in texts
    for text in random.Random(0).sample(texts, 300):
        call = command.parse(text)
        assert call is not None
        assert f"[{call.tool}(" in text
    for wrong, reason in [
        ('[set_labels(labels=["cat"])]', "does not stand in the command"),
        ("[set_duty_cycle(share=7)]", "does not stand in the command"),
        ("[set_duty_cycle(share=0.070)]", "does not stand in the command"),
        ("[reset()]", "not in commands.allowed"),
        ('[set_labels(labels=["dog", "dog"])]', "different texts"),
        ('[set_labels(labels=["dog", "labels to dog"])]', "same words"),
        ("[set_labels(labels=[])]", "different texts"),
        ('[set_labels(labels="dog")]', "different texts"),
        ('[set_duty_cycle(share="0.07")]', "share must be a number, got '0.07'"),
        ("[set_duty_cycle(share=true)]", "share must be a number, got true"),
        ("[set_token_budget(tokens=64.0)]", "tokens must be a whole number, got 64.0"),
        ("[remove_alert(name=5)]", "name must be text, got 5"),
        (f"[set_duty_cycle(share={'9' * 3000})]", r"share '9{5,20}\.\.\.9{5,25}' does not stand"),
        ("[set_duty_cycle(share=NaN)]", "no JSON"),
        ("[set_duty_cycle(share=0.07)] ", "takes"),
        ("[set_duty_cycle(share=0.07), set_duty_cycle(share=0.07)]", "takes"),
        ("[set_duty_cycle(0.07)]", "takes"),
        ("[set_duty_cycle(share=print(1))]", "no JSON"),
        ("[__import__('os').system('true')]", "known tool"),
        ("", "known tool"),
    ]:
        with pytest.raises(PerceptionError, match=reason):
            command.parse(wrong)


def test_the_example_of_the_page_is_a_call_of_its_command() -> None:
    page = (Path(__file__).parent.parent / "docs" / "operator.md").read_text()
    (text,) = re.findall(r'^    (\{"command".*?"call".*?\})\n    \{', page, re.DOTALL | re.MULTILINE)
    example = json.loads(text)
    arguments = (f"{name}={json.dumps(value)}" for name, value in example["call"]["arguments"].items())
    call = said(example["command"]).parse(f"[{example['call']['tool']}({', '.join(arguments)})]")
    assert call is not None
    assert example["result"] == f"detect.labels is {json.dumps(call.arguments['labels'])}"


def test_fuzzed_texts_are_calls_within_the_list_or_refused() -> None:
    rng = random.Random(5)
    command = said("set labels to dog, use 64 tokens", "set_labels", "set_token_budget", "status")
    whole = [trained_command(rng).answer for _ in range(50)]
    whole = [text.removeprefix(demo.CALL_START).removesuffix(demo.CALL_END) for text in whole]
    whole += ['[set_labels(labels=["dog"])]', "[set_token_budget(tokens=64)]", "[status()]", REFUSAL]
    parsed = 0
    for _ in range(20_000):
        try:
            call = command.parse(mutated_call(rng, rng.choice(whole)))
        except PerceptionError:
            continue
        if call is not None:
            parsed += 1
            assert call.tool in command.allowed
            assert list(call.arguments) == list(TOOLS[call.tool].parameters)
            for value in call.arguments.values():
                assert value == 64 or all(item in (*LABELS, "dog") or item in command.words for item in value)
    assert parsed > 100


@pytest.mark.parametrize("text", ["[" * 4000, "[set_labels(labels=" + "[" * 3900, "[status(" * 400])
def test_deep_texts_are_refused(text: str) -> None:
    with pytest.raises(PerceptionError):
        parse_call(text)


@pytest.mark.parametrize(
    ("words", "reason"),
    [("", "blank"), ("a" * 301, "longer"), ("set <|im_end|> now", "special token")],
)
def test_words_that_cannot_be_read_are_refused(words: str, reason: str) -> None:
    with pytest.raises(PerceptionError, match=reason):
        said(words)


def test_tools_are_listed_as_the_model_was_trained() -> None:
    assert tool_list(["add_alert", "reset"]) == (
        'List of tools: [{"name": "add_alert", "description": "Watch for something", "parameters": '
        '{"type": "object", "properties": {"name": {"type": "string"}, "question": {"type": "string"}}, '
        '"required": ["name", "question"]}}, {"name": "reset", "description": "Forget all tracks", '
        '"parameters": {"type": "object", "properties": {}, "required": []}}]'
    )
    properties = {name: tool.schema()["parameters"]["properties"] for name, tool in TOOLS.items()}
    assert properties["set_labels"] == {"labels": {"type": "array", "items": {"type": "string"}}}
    assert json.loads(tool_list(TOOLS).removeprefix("List of tools: "))


def test_settings_refuse_unknown_tools_and_backends_without_commands() -> None:
    assert not Settings().commands.allowed
    with pytest.raises(PerceptionError, match=r"commands\.allowed: there is no tool 'fly'"):
        Settings().with_values({"commands.allowed": ["fly"]})
    with pytest.raises(PerceptionError, match=r"engine\.backend is openai, which takes no commands"):
        Settings().with_values({"commands.allowed": ["reset"], "engine.backend": "openai"})
    with pytest.raises(PerceptionError, match="no tool"):
        check_tools(["reset", ""])
