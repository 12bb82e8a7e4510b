# SPDX-License-Identifier: Apache-2.0
"""Rule files: what is wrong is a sentence with its line and column, and never costs the other rules."""

from __future__ import annotations

from pathlib import Path

import pytest
from rule_scenes import PLACES

from lfm_perception.errors import PerceptionError
from lfm_perception.rules import Known, parse_rules, read_rules
from lfm_perception.rules.reader import MAX_HINTS, MAX_RULES
from lfm_perception.settings import Settings
from lfm_perception.text import MAX_SENTENCE

GOOD = "  good: {when: {label: person}}\n"


def many(count: int) -> str:
    return "rules:\n" + "".join(f"  r{index}: {{when: {{label: a}}}}\n" for index in range(count))


def problem(rule: str, known: Known | None = None) -> str:
    """The problem of a file with a good rule and this one, which is called `bad`."""
    file = parse_rules(f"{PLACES}{GOOD}  bad: {rule}\n", known)
    assert [each.name for each in file.rules] == ["good"]
    (found,) = file.problems
    assert len(str(found)) <= MAX_SENTENCE
    assert (found.line, found.about) == (9, "rule 'bad'")
    return f"{found.column}: {found.sentence}"


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("{}", "3: a rule needs `when`"),
        ("{when: {labels: person}}", "24: a condition has no key 'labels': did you mean 'label'?"),
        ("{when: {inside: dok}}", "24: there is no zone 'dok': did you mean 'dock'?"),
        ("{when: {inside: []}}", "16: expected a name or a list of names, got []"),
        ("{when: {label: person, crosses: }}", "39: expected the name of a line, got nothing"),
        ("{when: {attributes: {hat: [red]}}}", "29: expected the name of a value, got ['red']"),
        ("{when: {attributes: }}", "27: attributes by name must be a mapping, got nothing"),
        ("{when: {crosses: dor}}", "25: there is no line 'dor'"),
        ("{when: {crosses: {line: door, to: up}}}", "42: expected one of left, right, both, got 'up'"),
        ("{when: {score: {above: 2, below: 1}}}", "16: no score is above 2 and below 1"),
        ("{when: {speed: {hysteresis: 1}}}", "16: the range of speed needs `above` or `below`"),
        ("{when: {speed: {above: fast}}}", "31: expected a number, got 'fast'"),
        ("{when: {inside: dock, outside: dock}}", "39: inside and outside of 'dock' at once"),
        ("{when: {all: [{label: a}, {not: {label: a}}]}}", "34: a condition and its opposite: this is never"),
        ("{when: {any: [{label: a}]}}", "16: any takes a list of at least 2 conditions"),
        ("{when: {count: {label: a}}}", "9: a count needs more_than, fewer_than or exactly"),
        ("{when: {count: {label: a}, more_than: 3, fewer_than: 4}}", "9: no number is more than 3 and fewer"),
        ("{when: {count: {label: a}, fewer_than: 0}}", "9: no number is fewer than 0"),
        ("{when: {count: {label: a}, exactly: 1.5}}", "44: exactly is a whole number, got 1.5"),
        ("{when: {count: {crosses: door}, exactly: 1}}", "16: moments cannot be counted"),
        ("{when: {distance: {below: 101}}}", "34: expected a number from 0 to 100, got 101"),
        ("{when: {distance: {below: 0}}}", "16: no distance is below 0"),
        ("{when: {distance: {above: 65.6}}}", "16: no distance is above 65.6"),
        ("{when: {speed: {below: 0}}}", "16: no speed is below 0"),
        ("{when: {size: {above: 0.1, hysteresis: 0.2}}}", "47: this hysteresis is so large"),
        ("{when: {score: {below: 0.5, hysteresis: 0.6}}}", "48: this hysteresis is so large"),
        ("{when: {distance: {above: 1, below: 9, hysteresis: 60}}}", "59: this hysteresis is so large"),
        ("{when: {size: {above: 1}}}", "16: no size is above 1"),
        ("{when: {count: {label: a}, more_than: 0, hysteresis: 1}}", "61: this hysteresis is so large"),
        ("{when: {distance: 2}}", "26: the range of distance must be a mapping, got 2"),
        ("{when: {near: {label: box}}}", "16: near takes `within`"),
        ("{when: {near: {label: box, within: 0}}}", "43: a distance of 0 is never undercut"),
        ("{when: {crosses: door}, for: 2}", "37: crossing, appearing and disappearing are moments"),
        ("{when: {crosses: door, appears: 1}}", "9: crosses, appears and disappears are different moments"),
        ("{when: {not: {crosses: door}}}", "9: true in every frame, not only where objects cross"),
        ("{when: {any: [{appears: 0}, {label: a}]}}", "9: true in every frame, not only where objects cross"),
        ("{when: {rule: bad}}", "9: a rule cannot refer to itself"),
        ("{when: {rule: best}}", "22: there is no rule 'best'"),
        ("{when: {label: person}, for: -1}", "37: expected a number from 0 to 86400, got -1"),
        ("{when: {label: person}, actions: {publish_bool: 'a b'}}", "56: publish_bool takes a ROS name"),
        ("{when: {label: person}, actions: {publish_bool: 'tür'}}", "56: publish_bool takes a ROS name"),
        ("{when: {label: person}, actions: {snapshot: much}}", "52: snapshot is true or false, got 'much'"),
        ("{when: {crosses: door}, actions: {publish_bool: a}}", "32: a moment does not end"),
        (
            "{when: {label: box, disappears: 1}, actions: {second_opinion: Read it}}",
            "44: what has disappeared has no crop",
        ),
        ("{when: [a, b]}", "9: a condition is a mapping such as {label: person, inside: dock}"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_a_sentence_with_its_column_and_the_others_go_on(rule: str, sentence: str) -> None:
    assert problem(rule).startswith(sentence)


@pytest.mark.parametrize("name", ["2", "yes", "null", "2026-11-27", "[a]"])
def test_a_name_that_is_no_text_is_a_problem_of_its_entry_alone(name: str) -> None:
    file = parse_rules(
        f"zones: {{dock: [[0, 0], [1, 0], [1, 1]], {name}: [[0, 0], [1, 0], [1, 1]]}}\n"
        f"rules:\n  {name}: {{when: {{inside: dock}}}}\n{GOOD}"
        "  one: {when: {inside: dok}}\n  two: {when: {rule: god}}\n"
    )
    assert [each.name for each in file.rules] == ["good"]
    assert [each.sentence.partition(":")[0] for each in file.problems] == [
        "a name is text of 1 to 64 characters on one line",
        "a name is text of 1 to 64 characters on one line",
        "there is no zone 'dok'",
        "there is no rule 'god'",
    ]


def test_names_from_outside_must_be_known_where_they_are_known() -> None:
    known = Known(labels=["person", "box"], attributes={"helmet": ["yes", "no"]}, alerts=["spill"])
    assert problem("{when: {label: [box, persn]}}", known) == (
        "16: there is no label 'persn': did you mean 'person'?"
    )
    assert "there is no attribute 'hat'" in problem("{when: {attributes: {hat: red}}}", known)
    assert "there is no value 'red'" in problem("{when: {attributes: {helmet: red}}}", known)
    assert "there is no standing question 'spil'" in problem("{when: {alert: spil}}", known)
    fine = "{when: {all: [{label: person, attributes: {helmet: no}}, {alert: spill}]}}"
    assert not parse_rules(f"rules:\n  fine: {fine}\n", known).problems


def test_the_answers_to_a_standing_question_about_tracks_are_attributes_of_rules() -> None:
    about = "{name: no_helmet, question: 'A helmet?', about: person, answer: no}"
    known = Known.of(Settings().with_values({"questions.standing": [about]}))
    assert not parse_rules("rules:\n  r: {when: {attributes: {no_helmet: no}}}\n", known).problems
    assert "there is no value 'red'" in problem("{when: {attributes: {no_helmet: red}}}", known)


@pytest.mark.parametrize(
    ("zone", "sentence"),
    [
        ("[[0.1, 0.1], [0.9, 0.9]]", "a zone has 3 to 50 points, got 2"),
        ("[[0, 0], [1, 1], [1, 0], [0, 1]]", "edges 1 and 3 cross"),
        ("[[0, 0], [0.5, 0.5], [1, 1]]", "a zone of less than"),
        ("[[0, 0], [0, 0], [1, 1], [1, 0]]", "a point follows that is the same"),
        ("[[0, 0], [640, 0], [640, 480]]", "lies outside the image: give shares"),
        ("[[0, 0], [0.5], [1, 1]]", "a point is [x, y], got [0.5]"),
        ("[[0, 0], [0.5, .nan], [1, 1]]", "expected a number, got nan"),
        ("[[0, 0], [1.0e-4, 0], [0, 1.0e-4]]", "a zone of less than 1e-05 of the image"),
        ("dock", "points are a list of [x, y], got 'dock'"),
    ],
)
def test_a_wrong_zone_costs_the_rules_that_use_it(zone: str, sentence: str) -> None:
    text = f"zones:\n  bad: {zone}\nrules:\n  uses: {{when: {{inside: bad}}}}\n{GOOD}"
    first, second = parse_rules(text).problems
    assert first.line == 2
    assert sentence in str(first)
    assert str(second) == "line 4, column 25, rule 'uses': the zone 'bad' has a problem of its own, see there"
    assert [rule.name for rule in parse_rules(text).rules] == ["good"]


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ("{label: a}, {label: [b, c]}", "no object has all of these labels: 'a', 'b'"),
        ("{inside: dock}, {outside: dock}", "inside and outside of 'dock' at once"),
        ("{inside: dock}, {inside: pit}", "no object is inside of both 'dock' and 'pit', which lie apart"),
        ("{inside: pit}, {all: [{inside: dock}, {label: a}]}", "no object is inside of both 'pit'"),
        ("{speed: {above: 1}}, {speed: {below: 0.5}}", "no speed is in all of these ranges"),
        ("{attributes: {hat: red}}, {attributes: {hat: blue}}", "no object has both values of 'hat'"),
        ("{crosses: door}, {appears: 0}", "crosses, appears and disappears are different moments: this is"),
        ("{crosses: {line: door, to: left}}, {crosses: {line: door, to: right}}", "line 'door' is crossed"),
        ("{count: {label: a}, more_than: 4}, {count: {label: a}, fewer_than: 2}", "no number is in all of"),
        ("{label: a}, {all: [{inside: dock}, {label: b}]}", "no object has all of these labels: 'a', 'b'"),
    ],
)  # fmt: skip
def test_conditions_that_never_hold_together_are_refused(parts: str, sentence: str) -> None:
    said = problem(f"{{when: {{all: [{parts}]}}}}")
    assert said.startswith(f"16: {sentence}")
    assert said.endswith("this is never true")


def test_a_rule_of_too_many_conditions_is_refused_before_they_are_compared() -> None:
    """Comparing the zones of hundreds took 20 s."""
    parts = ", ".join(["{inside: dock}", "{inside: pit}"] * 17)
    assert "more than 32 conditions: make several" in problem(f"{{when: {{all: [{parts}]}}}}")


@pytest.mark.parametrize(
    "condition",
    [
        "{all: [{label: [a, b]}, {label: [b, c]}, {not: {label: a}}]}",
        "{all: [{inside: [dock, pit]}, {outside: dock}]}",
        "{all: [{inside: [dock, pit]}, {inside: dock}]}",
        "{all: [{inside: dock}, {count: {inside: pit}, more_than: 0}]}",
        "{any: [{inside: dock}, {inside: pit}]}",
        "{all: [{speed: {above: 0.5, hysteresis: 0.2}}, {speed: {below: 0.5}}]}",
        "{all: [{count: {label: a}, more_than: 4}, {count: {label: b}, fewer_than: 2}]}",
        "{all: [{count: {label: a}, more_than: 2}, {count: {label: a}, fewer_than: 4}]}",
        "{all: [{crosses: door}, {any: [{label: a}, {label: b}]}]}",
        "{all: [{crosses: door}, {not: {any: [{appears: 0}, {label: b}]}}]}",
        "{any: [{crosses: door}, {appears: 0}]}",
        "{any: [{label: a}, {label: b}]}",
    ],
)
def test_conditions_that_may_hold_together_are_not_refused(condition: str) -> None:
    assert not parse_rules(f"{PLACES}  fine: {{when: {condition}}}\n").problems


@pytest.mark.parametrize("action", ["publish_bool", "call_set_bool"])
def test_a_topic_that_two_rules_would_set_belongs_to_the_first(action: str) -> None:
    acting = f"actions: {{{action}: dock/lamp}}"
    text = f"rules:\n  one: {{when: {{label: a}}, {acting}}}\n  two: {{when: {{label: b}}, {acting}}}\n"
    file = parse_rules(text + "  after: {when: {rule: two}}\n" + GOOD)
    assert [rule.name for rule in file.rules] == ["one", "good"]
    first, second = file.problems
    assert str(first).startswith("line 3, column")
    assert first.sentence.startswith("'dock/lamp' belongs to rule 'one'")
    assert second.sentence == "a rule that it refers to cannot be used"


@pytest.mark.parametrize(
    ("sort", "first", "second"),
    [
        ("topic", "publish_bool", "publish_text"),
        ("topic", "publish_text", "publish_bool"),
        ("service", "call_trigger", "call_set_bool"),
        ("service", "call_set_bool", "call_trigger"),
    ],
)
def test_a_topic_or_a_service_has_one_type(sort: str, first: str, second: str) -> None:
    one, two = (
        f"  {name}: {{when: {{label: a}}, actions: {{{action}: {topic}}}}}\n"
        for name, action, topic in (("one", first, "dock/lamp"), ("two", second, "/dock/lamp"))
    )
    file = parse_rules("rules:\n" + one + two + GOOD, Known(node="/perception"))
    assert [rule.name for rule in file.rules] == ["one", "good"]
    (problem,) = file.problems
    assert str(problem).startswith("line 3, column")
    assert problem.sentence == (
        f"the {sort} '/dock/lamp' cannot have two types, {first} of rule 'one' and {second} of rule 'two': "
        "give one of them another name"
    )


def test_one_rule_gives_a_topic_one_type_and_a_service_of_the_same_name_is_another_thing() -> None:
    both = "{when: {label: a}, actions: {publish_bool: lamp, publish_text: lamp}}"
    assert "publish_bool of rule 'bad' and publish_text of rule 'bad'" in problem(both)
    shared = "actions: {publish_text: lamp, call_trigger: lamp}"
    rules = "".join(f"  {name}: {{when: {{label: a}}, {shared}}}\n" for name in ("a", "b"))
    assert not parse_rules("rules:\n" + rules).problems


def test_a_rule_that_refers_to_a_later_one_that_is_not_used_takes_no_topic_from_another() -> None:
    text = """
rules:
  early: {when: {rule: second}, actions: {publish_bool: lamp}}
  first: {when: {label: a}, actions: {publish_bool: horn}}
  second: {when: {label: b}, actions: {publish_bool: horn}}
  late: {when: {label: a}, actions: {publish_bool: lamp}}
"""
    file = parse_rules(text)
    assert [rule.name for rule in file.rules] == ["first", "late"]
    assert [problem.about for problem in file.problems] == ["rule 'early'", "rule 'second'"]


def test_a_short_and_a_full_name_are_one_where_the_node_is_known() -> None:
    rules = "".join(
        f"  {name}: {{when: {{label: {name}}}, actions: {{{action}}}}}\n"
        for name, action in (
            ("a", "publish_bool: lamp"),
            ("b", "publish_bool: /dock/lamp"),
            ("c", "publish_bool: /lamp"),
            ("d", "set_parameter: {name: speed, value: 1, end: 2}"),
            ("e", "set_parameter: {name: speed, value: 3, end: 2, node: /dock/eyes}"),
            ("f", "set_parameter: {name: speed, value: 3, end: 2, node: other}"),
        )
    )
    assert not parse_rules(f"rules:\n{rules}").problems
    problems = parse_rules(f"rules:\n{rules}", Known(node="/dock/eyes")).problems
    assert [(each.about, each.sentence.partition(":")[0]) for each in problems] == [
        ("rule 'b'", "'/dock/lamp' belongs to rule 'a'"),
        ("rule 'e'", "'/dock/eyes speed' belongs to rule 'd'"),
    ]


def test_two_rules_that_set_a_parameter_back_at_their_end_collide_and_others_do_not() -> None:
    when = "when: {label: a}, actions: {set_parameter: {name: speed, value: 1"
    one, two = (f"  {name}: {{{when}, end: 0}}}}}}\n" for name in ("one", "two"))
    lasting = f"  lasting: {{{when}}}}}}}\n"
    other = f"  other: {{{when}, end: 0, node: wheels}}}}}}\n"
    file = parse_rules("rules:\n" + one + two + lasting + other)
    assert [rule.name for rule in file.rules] == ["one", "lasting", "other"]
    assert "'speed' belongs to rule 'one'" in str(file.problems[0])


@pytest.mark.parametrize(
    "wrong",
    [
        "  a: {when: {rule: b}, ACT}\n  b: {when: {rule: a}}\n",
        "  a: {when: {label: a}, actions: {publish_bool: horn}}\n"
        "  b: {when: {label: b}, actions: {publish_bool: horn, call_set_bool: lamp}}\n",
        "  a: {when: {label: a}, actions: {publish_bool: horn}}\n"
        "  b: {when: {label: b}, actions: {publish_bool: horn}}\n  c: {when: {rule: b}, ACT}\n",
    ],
    ids=["circle", "refused for another topic", "waits for a refused one"],
)
def test_a_rule_that_cannot_be_used_takes_no_topic_or_service_from_another(wrong: str) -> None:
    acting = "actions: {call_set_bool: lamp}"
    text = wrong.replace("ACT", acting) + f"  user: {{when: {{label: c}}, {acting}}}\n"
    assert "user" in [rule.name for rule in parse_rules(f"rules:\n{text}").rules]


def test_rules_that_trigger_each_other_are_refused_with_those_that_need_them() -> None:
    text = "rules:\n  a: {when: {rule: b}}\n  b: {when: {rule: a}}\n  c: {when: {rule: a}}\n" + GOOD
    text += "  after: {when: {rule: good}}\n"
    file = parse_rules(text)
    assert [(each.about, each.sentence) for each in file.problems] == [
        ("rule 'a'", "rules trigger each other in a circle: 'a', 'b'"),
        ("rule 'b'", "rules trigger each other in a circle: 'a', 'b'"),
        ("rule 'c'", "a rule that it refers to cannot be used"),
    ]
    assert [rule.name for rule in file.rules] == ["good", "after"]


def test_each_circle_of_rules_is_named_alone() -> None:
    pairs = {"a": "b", "b": "a", "self": "self", "between": "a", "c": "d", "d": "c"}
    text = "rules:\n" + "".join(f"  {name}: {{when: {{rule: {other}}}}}\n" for name, other in pairs.items())
    text = text.replace("c: {when: {rule: d}}", "c: {when: {all: [{rule: d}, {rule: between}]}}")
    assert [(each.about, each.sentence) for each in parse_rules(text).problems] == [
        ("rule 'a'", "rules trigger each other in a circle: 'a', 'b'"),
        ("rule 'b'", "rules trigger each other in a circle: 'a', 'b'"),
        ("rule 'self'", "a rule cannot refer to itself"),
        ("rule 'between'", "a rule that it refers to cannot be used"),
        ("rule 'c'", "rules trigger each other in a circle: 'c', 'd'"),
        ("rule 'd'", "rules trigger each other in a circle: 'c', 'd'"),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_chain_of_rules_is_no_circle_and_is_lost_with_its_first_one(order: int) -> None:
    chain = [f"  r{index}: {{when: {{rule: r{index - 1}}}}}\n" for index in range(1, 40)]
    for first, count in (("{label: a}", 0), ("{label: 3}", 40)):
        entries = [f"  r0: {{when: {first}}}\n", *chain][::order]
        problems = parse_rules("rules:\n" + "".join(entries)).problems
        assert len(problems) == count
        said = {each.sentence for each in problems if each.about != "rule 'r0'"}
        assert said == ({"a rule that it refers to cannot be used"} if count else set())


def test_a_file_full_of_misspelt_names_does_not_look_for_the_nearest_of_each() -> None:
    wrong = "".join(f"  rule {index}: {{when: {{rule: role {index}}}}}\n" for index in range(MAX_HINTS + 5))
    said = [each.sentence for each in parse_rules("rules:\n" + wrong).problems]
    assert len(said) == MAX_HINTS + 5
    assert sum("did you mean" in each for each in said) == MAX_HINTS
    assert said[-1] == f"there is no rule 'role {MAX_HINTS + 4}'"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rules: [", "not valid YAML, line 1"),
        ("rules: {a: {when: {label: x}}, a: {when: {label: x}}}", "not valid YAML, line 1"),
        ("rules: {a: {when: {label: x}, actions: {ask: Is it open?}}}", "question mark in quotes"),
        ("", "line 1, column 1, the file: a rule file must be a mapping, got nothing"),
        ("- a", "line 1, column 1, the file: a rule file must be a mapping"),
        ("rule: {}", "line 1, column 1, the file: a rule file has no key 'rule': did you mean 'rules'?"),
        ("units: pixels", "pixels need the size of their image"),
        ("units: inches", "line 1, column 8, the file: expected one of normalized, pixels"),
        ("rules: 3", "rules must be a mapping from names, got 3"),
        (many(10_000), "this YAML is too large: it has more than 30000 values"),
        (many(MAX_RULES + 1), "1001 rules, more than 1000"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_rule_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PerceptionError) as caught:
        read_rules(path)
    assert str(caught.value).startswith(f"{path}: ") or len(str(caught.value)) == MAX_SENTENCE
    assert sentence in str(caught.value)


def test_a_name_that_is_no_text_costs_its_rule_only() -> None:
    file = parse_rules(f"rules:\n  1: {{when: {{label: a}}}}\n{GOOD}")
    assert "a name is text" in file.problems[0].sentence
    assert [rule.name for rule in file.rules] == ["good"]


def test_pixels_are_those_of_the_given_image() -> None:
    normalized = parse_rules(
        """
zones: {dock: [[0.5, 0.5], [1, 0.5], [1, 1]]}
lines: {door: [[0.25, 0], [0.25, 1]]}
rules:
  near: {when: {near: {within: 0.1, hysteresis: 0.05}, speed: {above: 0.2}, size: {above: 0.1}}}
"""
    )
    pixels = parse_rules(
        """
units: pixels
image: [640, 640]
zones: {dock: [[320, 320], [640, 320], [640, 640]]}
lines: {door: [[160, 0], [160, 640]]}
rules:
  near: {when: {near: {within: 64, hysteresis: 32}, speed: {above: 128}, size: {above: 64}}}
"""
    )
    assert normalized == pixels
    assert not pixels.problems
