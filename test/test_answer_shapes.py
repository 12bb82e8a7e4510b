# SPDX-License-Identifier: Apache-2.0
"""Answers that no grammar constrains: units, thinking, and the shapes that models are known for."""

from __future__ import annotations

import json

import pytest

from lfm_perception.answers import RESCALED, parse
from lfm_perception.questions import BBOX, BBOX_2D, Dialect

LABELS = ("cat", "remote control")
RIGHT = ("cat", (0.55, 0.2, 0.75, 0.6))
LEFT = ("cat", (0.1, 0.2, 0.4, 0.6))
REMOTE = ("remote control", (0.1, 0.7, 0.3, 0.8))
ANSWER = '[{"label": "cat", "bbox": [0.55, 0.2, 0.75, 0.6]}]'
DRAFT = '[{"label": "cat", "bbox": [0.0, 0.0, 0.5, 0.5]}]'


def found(text: str, dialect: Dialect = BBOX) -> list[tuple[str, tuple[float, ...]]]:
    parsed = parse(text, dialect, labels=LABELS)
    return [(each.label, tuple(each.box.xyxy.round(6).tolist())) for each in parsed.objects]


@pytest.mark.parametrize(
    "text",
    [
        '{"boxes": [[0.55, 0.2, 0.75, 0.6], [0.1, 0.7, 0.3, 0.8]], "classes": ["cat", "remote control"]}',
        '{"names": ["cat", "remote control"], "bboxes": [[0.55, 0.2, 0.75, 0.6], [0.1, 0.7, 0.3, 0.8]]}',
        '{"cat": {"bbox": [0.55, 0.2, 0.75, 0.6]}, "remote control": [{"box": [0.1, 0.7, 0.3, 0.8]}]}',
        '[{"description": "a cat", "box": [0.55, 0.2, 0.75, 0.6]}, '
        '{"object_name": "remote control", "bbox": [0.1, 0.7, 0.3, 0.8]}]',
        '[("cat", (0.55, 0.2, 0.75, 0.6)), ("remote control", (0.1, 0.7, 0.3, 0.8))]',
        "- cat - [0.55, 0.2, 0.75, 0.6]\n- remote control - [0.1, 0.7, 0.3, 0.8]",
        "cat -> [0.55, 0.2, 0.75, 0.6]\nremote control => [0.1, 0.7, 0.3, 0.8]",
        "1) cat: (0.55, 0.2), (0.75, 0.6)\n2) remote control: ((0.1, 0.7), (0.3, 0.8))",
        "label,x1,y1,x2,y2\ncat,0.55,0.2,0.75,0.6\nremote control,0.1,0.7,0.3,0.8",
        "| object | x1 | y1 | x2 | y2 |\n|---|---|---|---|---|\n| cat | 0.55 | 0.2 | 0.75 | 0.6 |\n"
        "| remote control | 0.1 | 0.7 | 0.3 | 0.8 |",
        "| object | box |\n|:--|:--|\n| **cat** | [0.55, 0.2, 0.75, 0.6] |\n"
        "| remote control | [0.1, 0.7, 0.3, 0.8] |",
        "cat:\n  - [0.55, 0.2, 0.75, 0.6]\nremote control:\n  - [0.1, 0.7, 0.3, 0.8]",
        "```yaml\ncat:\n  bbox: [0.55, 0.2, 0.75, 0.6]\nremote control:\n  bbox: [0.1, 0.7, 0.3, 0.8]\n```",
        "- cat:\n    x1: 0.55\n    y1: 0.2\n    x2: 0.75\n    y2: 0.6\n"
        "- remote control:\n    x1: 0.1\n    y1: 0.7\n    x2: 0.3\n    y2: 0.8",
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(550,200),(750,600)<|box_end|>\n"
        "<|object_ref_start|>remote control<|object_ref_end|><|box_start|>(100,700),(300,800)<|box_end|>",
        json.dumps(
            '[{"label": "cat", "bbox": [0.55, 0.2, 0.75, 0.6]},\n'
            '{"label": "remote control", "bbox": [0.1, 0.7, 0.3, 0.8]}]'
        ),
    ],
)
def test_shapes_of_other_models_are_read(text: str) -> None:
    assert found(text) == [RIGHT, REMOTE]


def test_several_boxes_below_one_name_are_read() -> None:
    text = "cat:\n- [0.55, 0.2, 0.75, 0.6]\n- [0.1, 0.2, 0.4, 0.6]\nremote control:\n- [0.1, 0.7, 0.3, 0.8]"
    assert found(text) == [RIGHT, LEFT, REMOTE]


@pytest.mark.parametrize(
    "text",
    [
        '[{"image_id": 0, "bbox_2d": [1, 2, 3, 4], "label": "cat"}, '
        '{"label": "box", "bbox": [100, 200, 300, 400]}, '
        '{"image_id": 0, "bbox_2d": [500, 600, 700, 800], "label": "person"}]',
        '[["cat", [1, 2, 3, 4]], ["box", [100, 200, 300, 400]], ["person", [500, 600, 700, 800]]]',
        '{"cat": [1, 2, 3, 4], "box": [100, 200, 300, 400], "person": [500, 600, 700, 800]}',
        "cat: [1, 2, 3, 4]\nbox: [100, 200, 300, 400]\nperson: [500, 600, 700, 800]",
        "- cat: [1, 2, 3, 4]\n- box: [100, 200, 300, 400]\n- person: [500, 600, 700, 800]",
        "- label: cat\n  box: [1, 2, 3, 4]\n- label: box\n  box: [100, 200, 300, 400]\n"
        "- label: person\n  box: [500, 600, 700, 800]",
        "<ref>cat</ref><box>[[1, 2, 3, 4]]</box><ref>box</ref><box>[[100, 200, 300, 400]]</box>"
        "<ref>person</ref><box>[[500, 600, 700, 800]]</box>",
    ],
)
def test_a_label_may_be_called_box(text: str) -> None:
    found = parse(text, BBOX_2D, labels=["cat", "person", "box"]).objects
    assert [(each.label, each.box.x1) for each in found] == [("cat", 0.001), ("box", 0.1), ("person", 0.5)]


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}</think>{ANSWER}",
        f'<think effort="low">{DRAFT}</think>{ANSWER}',
        f"<seed:think>{DRAFT}</seed:think>{ANSWER}",
        f"◁think▷{DRAFT}◁/think▷{ANSWER}",
        f"[THINK]{DRAFT}[/THINK]{ANSWER}",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|>{ANSWER}",
        f"<|START_THINKING|>{DRAFT}<|END_THINKING|>{ANSWER}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
        f"{DRAFT}</think>{ANSWER}",
        f"{ANSWER}<reflection>{DRAFT}",
    ],
)
def test_drafts_in_thinking_are_no_detections(text: str) -> None:
    assert found(text) == [RIGHT]


@pytest.mark.parametrize(
    "text",
    [
        "Image size: 640, 480, 3, 1",
        "The image was taken at 10, 20, 30, 40 metres.",
        "There is no cat in the 640 x 480 image, and no remote control.",
        "Sections 1, 2, 3, 4 of the report",
        'Format: [{"label": ..., "bbox": [x1, y1, x2, y2]}, ...]',
    ],
)
def test_prose_is_no_detection(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "cat 0.55 0.2 0.75 0.6",
        "<loc> cat (0.55, 0.2, 0.75, 0.6) or so",
        "A cat lies at [0.55, 0.2, 0.75, 0.6], I believe.",
        '<box label="cat" x1="0.55" y1="0.2" x2="0.75" y2="0.6"/><p>0.55, 0.2, 0.75, 0.6</p>',
    ],
)
def test_a_box_in_a_shape_that_is_not_read_is_counted(text: str) -> None:
    parsed = parse(text, BBOX, labels=LABELS)
    assert parsed.objects == ()
    assert sum(parsed.rejects.values()) >= 1


@pytest.mark.parametrize(
    ("sides", "box", "rejects"),
    [
        ("0, 0, 1, 1", (0.0, 0.0, 1.0, 1.0), {RESCALED: 1}),
        ("0.5, 0.2, 1.02, 0.6", (0.5, 0.2, 1.0, 0.6), {RESCALED: 1}),
        ("0.55, 0.2, 0.75, 0.6], [100, 200, 300, 400", (0.1, 0.2, 0.3, 0.4), {"zero_area": 1}),
        ("550, 200, 550.2, 600", None, {"zero_area": 1}),
        ("550, 200, 551, 600", (0.55, 0.2, 0.551, 0.6), {}),
    ],
)
def test_fractions_under_a_dialect_of_integers_are_never_specks(
    sides: str, box: tuple[float, ...] | None, rejects: dict[str, int]
) -> None:
    text = f'[{{"label": "cat", "bbox_2d": [[{sides}]]}}]'
    assert found(text, BBOX_2D) == ([("cat", box)] if box else [])
    assert dict(parse(text, BBOX_2D, labels=LABELS).rejects) == rejects
