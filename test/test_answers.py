# SPDX-License-Identifier: Apache-2.0
"""Answers: every whole object is found, the rest is counted, and nothing raises."""

from __future__ import annotations

import json

import pytest
from answer_texts import BOTH, CONE, PERSON, named
from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.answers import REJECTS, RESCALED, parse
from lfm_perception.answers.collector import LABEL_LIMIT, OVERSHOOT
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D, REFCOCO, Dialect


@pytest.mark.parametrize(
    "text",
    [
        f"[{PERSON}, {CONE}]",
        f"[{PERSON},{CONE}]".replace(": ", ":").replace(", ", ","),
        f"```json\n[{PERSON}, {CONE}]\n```",
        f"Here's the scene (2 objects):\n[{PERSON}, {CONE}]\nThat's \"all\" I see.",
        f'The answer is "[{PERSON}, {CONE}]".',
        f"[{PERSON}, {CONE},]".replace("]}", ",],}"),
        str([json.loads(PERSON), json.loads(CONE)]),
        f"[{PERSON}, {CONE}]".replace('"', ""),
        f"{PERSON}\n{CONE}",
        f"{PERSON} {CONE}".replace("[", "(").replace("]", ")"),
        json.dumps([json.loads(PERSON), json.loads(CONE)], indent=4),
        json.dumps({"objects": [json.loads(PERSON), json.loads(CONE)]}),
        json.dumps({"answer": {"detections": [json.loads(PERSON), json.loads(CONE)]}}),
        f"[{PERSON}, {CONE}]".replace("bbox", "bounding_box").replace("label", "category"),
        f"[{PERSON}, {CONE}]".replace('"bbox"', '"BBox"').replace('"label"', '"Name"'),
        f"[{PERSON}, {CONE}]".replace("[0.1, 0.2, 0.3, 0.4]", '["0.1", "0.2", "0.3", "0.4"]'),
        f"[{PERSON}, {CONE}]".replace("[0.1, 0.2, 0.3, 0.4]", '"[0.1, 0.2, 0.3, 0.4]"'),
        f"[{PERSON}, {CONE}]".replace("[0.1, 0.2, 0.3, 0.4]", "[[0.1, 0.2], [0.3, 0.4]]"),
        f"[{PERSON}, {CONE}]".replace("[0.1, 0.2, 0.3, 0.4]", "[[0.1, 0.2, 0.3, 0.4]]"),
        f"[{PERSON}, {CONE}]".replace("[0.1, 0.2, 0.3, 0.4]", '{"x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4}'),
        '[{"name": "person", "xmin": 0.1, "ymin": 0.2, "xmax": 0.3, "ymax": 0.4}, ' + CONE,
        '[{"x0": ".1", "y0": 0.2, "x1": 3e-1, "y1": +0.4, "class": "person"}, ' + CONE,
        '{"person": [[0.1, 0.2, 0.3, 0.4]], "cone": [[0.5, 0.6, 0.7, 0.8]]}',
        '{"person": [0.1, 0.2, 0.3, 0.4], "cone": {"bbox": [0.5, 0.6, 0.7, 0.8]}}',
        '[{"label": "person", "boxes": [[0.1, 0.2, 0.3, 0.4]]}, {"label": "cone", "instances": '
        '[{"bbox": [0.5, 0.6, 0.7, 0.8]}]}]',
        f"[{PERSON}, {CONE}]".replace('"label": "person", ', "").replace("0.4]", '0.4], "label": "person"'),
        "[{“label”： “person”， “bbox”： [0.1， 0.2， 0.3， 0.4]}， " + CONE + "]",
    ],
)
def test_the_same_objects_however_they_are_written(text: str) -> None:
    parsed = parse(text, BBOX)
    assert named(parsed) == BOTH
    assert not parsed.rejects


@pytest.mark.parametrize(
    "dialect", [BBOX, BBOX_2D, Dialect("mine", "{labels}", keys=("b", "l"), label_key="l", box_key="b")]
)
def test_what_a_dialect_writes_is_read_back(dialect: Dialect) -> None:
    objects = [("traffic light", Box(0.125, 0.25, 0.5, 1.0)), ("猫 (left)", Box(0.0, 0.0, 0.001, 0.999))]
    parsed = parse(dialect.answer(objects), dialect)
    assert [(found.label, found.box) for found in parsed.objects] == objects
    assert not parsed.rejects


@pytest.mark.parametrize(
    "text", ["", "[]", "```json\n[]\n```", "There is nothing to see.", "{}", "null", "No. (Sorry!)"]
)
def test_an_answer_without_objects_is_empty(text: str) -> None:
    parsed = parse(text, BBOX, labels=["person"])
    assert (parsed.objects, dict(parsed.rejects)) == ((), {})


DOG_AND_CAT = [("dog", (0.1, 0.2, 0.3, 0.4)), ("cat", (0.5, 0.6, 0.7, 0.8))]


@pytest.mark.parametrize(
    "text",
    [
        '[["dog", [0.1, 0.2, 0.3, 0.4]], ["cat", [0.5, 0.6, 0.7, 0.8]]]',
        '["dog", [0.1, 0.2, 0.3, 0.4], "cat", [0.5, 0.6, 0.7, 0.8]]',
        '[[0.1, 0.2, 0.3, 0.4, "dog"], [0.5, 0.6, 0.7, 0.8, "cat"]]',
        "dog: [0.1, 0.2, 0.3, 0.4]\ncat: [0.5, 0.6, 0.7, 0.8]",
        "Here they are:\n- dog: [0.1, 0.2, 0.3, 0.4]\n- cat: [0.5, 0.6, 0.7, 0.8]",
        "1. **dog**: [0.1, 0.2, 0.3, 0.4]\n2. **cat** [0.5, 0.6, 0.7, 0.8]",
        "- label: dog\n  bbox: [0.1, 0.2, 0.3, 0.4]\n- label: cat\n  bbox: [0.5, 0.6, 0.7, 0.8]",
        "- label: dog\n  bbox:\n  - 0.1\n  - 0.2\n  - 0.3\n  - 0.4\n"
        "- label: cat\n  bbox:\n  - 0.5\n  - 0.6\n  - 0.7\n  - 0.8",
        '[{"label": "dog", "coordinates": [0.1, 0.2, 0.3, 0.4]}, '
        '{"label": "cat", "position": {"x1": 0.5, "y1": 0.6, "x2": 0.7, "y2": 0.8}}]',
        '[{"label": "dog", "bbox_2d": [0.1, 0.2, 0.3, 0.4]}, {"bbox": [0.5, 0.6, 0.7, 0.8], "label": "cat"}]',
        '{"bboxes": [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], "labels": ["dog", "cat"]}',
        "{'<OD>': {'bboxes': [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], 'labels': ['dog', 'cat']}}",
        "<ref>dog</ref><box>[[0.1, 0.2, 0.3, 0.4]]</box><ref>cat</ref><box>(0.5,0.6),(0.7,0.8)</box>",
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(0.1,0.2),(0.3,0.4)<|box_end|>"
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(0.5,0.6),(0.7,0.8)<|box_end|>",
    ],
)
def test_shapes_of_other_models_are_read(text: str) -> None:
    parsed = parse(text, BBOX)
    assert (named(parsed), dict(parsed.rejects)) == (DOG_AND_CAT, {})


@pytest.mark.parametrize(
    "text",
    [
        f"<think>Perhaps [{PERSON}].</think>[]",
        f"Perhaps [{PERSON}].\n</think>\n[]",
        f"<think>Perhaps [{PERSON}], or",
        "I think the person is at: [0.1, 0.2, 0.3, 0.4]",
        "There are 2 people [see figure 1] (1, 2, 3, 4).",
        "person<loc_52><loc_333><loc_932><loc_774>",
        '{"person": 2, "cone": 1}',
    ],
)
def test_thinking_and_prose_are_no_detections(text: str) -> None:
    assert parse(text, BBOX, labels=["person", "cone"]).objects == ()


def test_thinking_does_not_move_the_spans() -> None:
    text = f"<think>[{CONE}]</think>[{PERSON}]"
    (found,) = parse(text, BBOX).objects
    assert found.label_span is not None
    assert text[slice(*found.label_span)] == found.label == "person"


def test_a_dialect_for_one_expression_takes_the_first_box() -> None:
    text = REFCOCO.answer([("a cone", Box(0.1, 0.2, 0.3, 0.4)), ("box", Box(0.5, 0.6, 0.7, 0.8))])
    parsed = parse(text, REFCOCO, labels=["the pallet left of the door"])
    (found,) = parsed.objects
    assert (found.label, found.phrase, found.box.x1) == ("the pallet left of the door", "a cone", 0.1)
    assert dict(parsed.rejects) == {"further": 1}


def test_swapped_corners_are_put_in_order() -> None:
    parsed = parse('[{"label": "person", "bbox": [0.3, 0.4, 0.1, 0.2]}]', BBOX)
    assert named(parsed) == BOTH[:1]


def test_an_answer_in_another_unit_is_recognized_as_a_whole_and_converted() -> None:
    text = '[{"label": "person", "bbox": [64, 48, 320, 240]}, {"label": "cone", "bbox": [0, 0, 1, 1]}]'
    boxes = [("person", (0.064, 0.048, 0.32, 0.24)), ("cone", (0.0, 0.0, 0.001, 0.001))]
    assert (named(parse(text, BBOX_2D)), dict(parse(text, BBOX_2D).rejects)) == (boxes, {})
    assert (named(parse(text, BBOX)), dict(parse(text, BBOX).rejects)) == (boxes, {RESCALED: 2})
    fractions = '[{"label": "person", "bbox_2d": [0.064, 0.048, 0.32, 1]}]'
    parsed = parse(fractions, BBOX_2D)
    assert named(parsed) == [("person", (0.064, 0.048, 0.32, 1.0))]
    assert dict(parsed.rejects) == {RESCALED: 1}


@pytest.mark.parametrize(
    ("sides", "rejects"),
    [
        ("0, 0, 1, 1", {}),
        ("0.5, 48, 320, 240", {"out_of_range": 1}),
        ("64, 48, 320, 1240", {"out_of_range": 1}),
        ("64.0, 48.0, 320.0, 240.0", {"out_of_range": 1}),
    ],
)
def test_a_mixed_answer_is_not_converted(sides: str, rejects: dict[str, int]) -> None:
    text = f'[{{"label": "person", "bbox": [{sides}]}}]'
    assert parse(text, BBOX).rejects == rejects


def test_a_little_outside_is_clipped_and_more_is_dropped() -> None:
    near, far = 1.0 + OVERSHOOT / 2, 1.0 + OVERSHOOT * 2
    text = '[{"label": "a", "bbox": [%s, 0.2, %s, 0.4]}]'
    assert named(parse(text % (1.0 - near, near), BBOX)) == [("a", (0.0, 0.2, 1.0, 0.4))]
    assert parse(text % (0.1, far), BBOX).rejects == {"out_of_range": 1}
    assert parse(text % (1.0 - far, 0.5), BBOX).rejects == {"out_of_range": 1}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"label": "x", "bbox": [0.1, 0.2, 0.3]}', "not_four_numbers"),
        ('{"label": "x", "bbox": [0.1, 0.2, 0.3, 0.4, 0.5]}', "not_four_numbers"),
        ('{"label": "x", "bbox": [0.1, null, 0.3, 0.4]}', "not_four_numbers"),
        ('{"label": "x", "bbox": [0.1, 0.2px, 0.3, 0.4]}', "not_four_numbers"),
        ('{"label": "x", "x1": 0.1, "y1": 0.2, "x2": 0.3}', "not_four_numbers"),
        ('{"label": "x", "bbox": [0.1, NaN, 0.3, 0.4]}', "not_finite"),
        ('{"label": "x", "bbox": [0.1, -Infinity, 0.3, 0.4]}', "not_finite"),
        ('{"label": "x", "bbox": [0.1, 0.2, 0.3, 1e999]}', "not_finite"),
        ('{"label": "x", "bbox": [100, 200, 300, 400]}', "out_of_range"),
        ('{"label": "x", "bbox": [0.1, 0.2, 0.1, 0.4]}', "zero_area"),
        ('{"label": "x", "bbox": [0.1, 1.01, 0.3, 1.02]}', "zero_area"),
        ('{"label": "x"}', "no_box"),
        ('{"label": "x", "bbox": null}', "no_box"),
        ('{"label": "x", "place": "left"}', "no_box"),
        ('{"labels": ["x"], "bboxes": [[0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.3, 0.4]]}', "no_label"),
        ('{"bbox": [0.1, 0.2, 0.3, 0.4]}', "no_label"),
        ('{"label": null, "bbox": [0.1, 0.2, 0.3, 0.4]}', "no_label"),
        ("[0.1, 0.2, 0.3, 0.4]", "no_label"),
        ('{"label": "", "bbox": [0.1, 0.2, 0.3, 0.4]}', "bad_label"),
        ('{"label": " ", "bbox": [0.1, 0.2, 0.3, 0.4]}', "bad_label"),
        ('{"label": "a<|im_end|>", "bbox": [0.1, 0.2, 0.3, 0.4]}', "bad_label"),
        ('{"label": "\\ud83d", "bbox": [0.1, 0.2, 0.3, 0.4]}', "bad_label"),
        ('{"label": "%s", "bbox": [0.1, 0.2, 0.3, 0.4]}' % ("x" * (LABEL_LIMIT + 1)), "bad_label"),
        ('{"label": "person, "bbox": [0.1, 0.2, 0.3, 0.4]}', "duplicate"),
        ("[" * 40 + "0.1, 0.2, 0.3, 0.4" + "]" * 40, "malformed"),
        (PERSON, "duplicate"),
    ],
)
def test_a_broken_object_is_counted_and_its_neighbours_are_kept(broken: str, reason: str) -> None:
    parsed = parse(f"[{PERSON}, {broken}, {CONE}]", BBOX)
    assert named(parsed) == BOTH
    assert dict(parsed.rejects) == {reason: 1}


def test_every_reason_is_documented() -> None:
    assert all(words for words in REJECTS.values())
    with pytest.raises(TypeError):
        REJECTS["other"] = ""  # type: ignore[index]


@pytest.mark.parametrize("lost", range(1, len(f"[{PERSON}, {CONE}]")))
def test_a_lost_character_costs_at_most_the_object_it_is_in(lost: int) -> None:
    text = f"[{PERSON}, {CONE}, {PERSON.replace('0.4', '0.9')}]"
    untouched = {"cone"} if lost <= len(PERSON) else {"person"}
    labels = {found.label for found in parse(text[:lost] + text[lost + 1 :], BBOX).objects}
    assert labels >= untouched


@given(st.integers(0, 200))
def test_cutting_the_text_never_loses_or_invents_a_whole_object(length: int) -> None:
    text = f"[{PERSON}, {CONE}]"
    parsed = parse(text[:length], BBOX)
    # An object is whole when its box is: the closing brace adds nothing.
    whole = sum(length >= text.index(part) + len(part) for part in ("0.4]", "0.8]"))
    assert named(parsed) == BOTH[:whole]
    begun = sum(length > text.index(part) for part in ('{"label": "person"', '{"label": "cone"'))
    assert sum(parsed.rejects.values()) == begun - whole
    assert set(parsed.rejects) <= {"truncated"}


def test_a_cut_label_or_number_is_not_believed() -> None:
    assert parse('[{"image_id": 0, "bbox_2d": [1, 2, 3, 4], "label": "traffic li', BBOX_2D).rejects == {
        "truncated": 1
    }
    assert parse('{"label": "x", "x1": 0.1, "y1": 0.2, "x2": 0.3, "y2": 0.4', BBOX).rejects == {
        "truncated": 1
    }


def test_labels_take_the_spelling_that_was_asked_for() -> None:
    text = '[{"label": " Traffic  LIGHT", "bbox": [0.1, 0.2, 0.3, 0.4]}]'
    assert parse(text, BBOX, labels=["traffic light", "cone"]).objects[0].label == "traffic light"
    assert parse(text, BBOX).objects[0].label == "Traffic LIGHT"


def test_a_closed_vocabulary_drops_other_names() -> None:
    parsed = parse(f"[{PERSON}, {CONE}]", BBOX, labels=["cone"], closed=True)
    assert named(parsed) == BOTH[1:]
    assert dict(parsed.rejects) == {"not_asked": 1}


@pytest.mark.parametrize(
    "text",
    ["[[0.1, 0.2, 0.3, 0.4]]", '{"bbox": [0.1, 0.2, 0.3, 0.4]}', '{"objects": [(0.1, 0.2, 0.3, 0.4)]}'],
)
def test_a_box_without_a_name_is_the_one_label_that_was_asked_for(text: str) -> None:
    (found,) = parse(text, BBOX, labels=["person"]).objects
    assert (found.label, found.label_span) == ("person", None)
    assert parse(text, BBOX, labels=["person", "cone"]).rejects == {"no_label": 1}


@pytest.mark.parametrize(
    "label",
    ['a "quoted" thing', "back\\slash", "driver's seat", "box [red]", "a {b}", "nota\tbene", "貓", "عربة"],
)
@pytest.mark.parametrize("dialect", [BBOX, BBOX_2D])
def test_any_name_that_was_asked_for_is_read_back(label: str, dialect: Dialect) -> None:
    text = dialect.answer([(label, Box(0.1, 0.2, 0.3, 0.4)), ("cone", Box(0.5, 0.6, 0.7, 0.8))])
    parsed = parse(text, dialect, labels=[label, "cone"], closed=True)
    assert [found.label for found in parsed.objects] == [label, "cone"]
