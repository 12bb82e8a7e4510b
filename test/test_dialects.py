# SPDX-License-Identifier: Apache-2.0
"""Dialects, free names and guards from end to end, with made-up models whose texts are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lfm_perception.backends.recorded import FORMAT, VERSION, image_hash
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels.base import LabelledImage
from lfm_perception.evaluation.wordings import Wordings, verdict
from lfm_perception.geometry import Box
from lfm_perception.perception import open_perception
from lfm_perception.postprocessing import DUPLICATE, WHOLE_IMAGE, postprocess
from lfm_perception.questions import BBOX, BBOX_2D, REFCOCO, FramePlan, Question, detect
from lfm_perception.scene import Answer, Detection, Frame, Scene
from lfm_perception.scene_json import detection_from_json, detection_to_json
from lfm_perception.settings import DetectSettings, Settings
from lfm_perception.vlm import Health

FRAME = Frame(np.full((96, 128, 3), 90, np.uint8), stamp_ns=10**9)
LABELS = ["cat", "remote control"]


def test_the_vendors_boxes_prompt_is_kept_byte_for_byte() -> None:
    assert BBOX_2D.system.encode() == (
        b"When asked for bounding boxes for objects, return a valid JSON array.\n"
        b"Each array item must be an object with:\n"
        b"- image_id: the 0-based index of the image\n"
        b"- bbox_2d: [xmin, ymin, xmax, ymax] normalized integer coordinates in [0, 1000]\n"
        b"- label: a concise label you choose for the predicted object or region\n"
        b"\n"
        b"Return one item per visible matching object or region. Return [] if none are visible."
    )
    assert BBOX_2D.prompt(["the two cats"]).user == "Provide bounding boxes for the two cats."
    assert REFCOCO.system == ""


def test_a_dialect_for_one_expression_refuses_several_labels() -> None:
    with pytest.raises(PerceptionError, match=r"dialect refcoco asks for one referring .* holds 5"):
        Settings().with_values({"detect.dialect": "refcoco"})
    labels = ["the pallet left of the door"]
    one = Settings().with_values({"detect.dialect": "refcoco", "detect.labels": labels})
    assert one.question.prompt.user.startswith(
        "Locate the object described by this referring expression:\n" + labels[0] + "\n\nReturn only"
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"decimals": 1}, "a box cannot be read back from 10 steps"),
        ({"keys": ["Box", "box"], "label_key": "Box", "box_key": "box"}, "'keys' must be different names"),
        ({"keys": ["label", "x1"], "box_key": "x1"}, "'keys' holds 'x1', one side of a box, so a box cannot"),
        ({"keys": ["label", "bbox", "xmin"]}, "'keys' holds 'xmin', one side of a box"),
    ],
)
def test_a_dialect_whose_boxes_cannot_be_read_back_is_refused(parts: dict[str, object], said: str) -> None:
    with pytest.raises(PerceptionError, match=f"dialect 'mine': {said}"):
        Settings.from_dict({"dialects": {"mine": {"user": "{labels}", **parts}}})


def scene_of(folder: Path, text: str, dialect: str = "bbox", **values: object) -> Scene:
    """What becomes of a text that a made-up model writes about the frame."""
    path = folder / "answers.jsonl"
    settings = Settings().with_values(
        {
            "engine.backend": "recorded",
            "recorded.path": str(path),
            "detect.labels": LABELS,
            "detect.dialect": dialect,
            "caption.enabled": False,
            "tracker.min_hits": 1,
            **{name.replace("__", "."): value for name, value in values.items()},
        }
    )
    question = settings.question
    line = {
        "image": image_hash(FRAME), "stamp_ns": FRAME.stamp_ns, "frame_id": FRAME.frame_id,
        "system": question.prompt.system, "user": question.prompt.user, "dialect": dialect,
        "labels": list(question.labels), "closed": question.closed, "text": text, "truncated": False,
        "rejects": {}, "usage": {},
    }  # fmt: skip
    path.write_text(json.dumps({"format": FORMAT, "version": VERSION}) + "\n" + json.dumps(line) + "\n")
    with open_perception(settings) as perception:
        return perception.infer(FRAME)


RIGHT = [
    ("cat", (0.55, 0.2, 0.75, 0.6)),
    ("remote control", (0.1, 0.7, 0.3, 0.8)),
    ("cat", (0.1, 0.2, 0.4, 0.6)),
]


@pytest.mark.parametrize(
    ("text", "rejects"),
    [
        (
            '[{"label": "cat on the right", "bbox": [0.55, 0.2, 0.75, 0.6]}, {"label": '
            '"small remote controls", "bbox": [0.1, 0.7, 0.3, 0.8]}, {"label": "the left cat", '
            '"bbox": [0.1, 0.2, 0.4, 0.6]}]',
            {},
        ),
        (
            '[{"label": "cat", "bbox": [0.55, 0.2, 0.75, 0.6]}, {"label": "cat", "bbox": '
            '[0.55, 0.21, 0.75, 0.6]}, {"label": "remote control", "bbox": '
            "[0.1, 0.7, 0.3, 0.8]}, "
            '{"label": "cat", "bbox": [0.1, 0.2, 0.4, 0.6]}, {"label": "dog", '
            '"bbox": [0.1, 0.2, 0.4, 0.59]}]',
            {DUPLICATE: 2},
        ),
        (
            '[{"bbox_2d": [550, 200, 750, 600], "label": "cat"}, {"label": "Remote Control", "bbox": '
            '[100, 700, 300, 800]}, {"label": "cats", "bbox": [100, 200, 400, 600]}]',
            {"rescaled": 3},
        ),
        (
            '[{"label": "cat", "bbox": [0.55, 0.2, 0.75, 0.6]}, {"label": "remote control", "bbox": '
            '[0.1, 0.7, 0.3, 0.8]}, {"label": "cat", "bbox": [0.1, 0.2, 0.4, 0.6]}, '
            '{"label": "cat", "bbox": [0.0, 0.0, 1.0, 1.0]}]',
            {WHOLE_IMAGE: 1},
        ),
        (
            '<think>A cat at [0.0, 0.0, 0.5, 0.5]?</think>```json\n[["cat", [0.55, 0.2, 0.75, 0.6]], '
            '["remote control", [0.1, 0.7, 0.3, 0.8]], ["cat", [0.1, 0.2, 0.4, 0.6]]]\n```',
            {},
        ),
    ],
    ids=["free names out of order", "named twice", "per mille", "whole image", "thinking and pairs"],
)
def test_a_made_up_model_gives_the_right_detections(
    tmp_path: Path, text: str, rejects: dict[str, int]
) -> None:
    scene = scene_of(tmp_path, text)
    assert [each.label for each in scene.detections] == [label for label, _ in RIGHT]
    for found, (_, box) in zip(scene.detections, RIGHT, strict=True):
        assert found.box.xyxy == pytest.approx(box)
    assert dict(scene.rejects) == rejects
    assert sorted(track.label for track in scene.tracks) == ["cat", "cat", "remote control"]


def test_an_expression_keeps_its_label_and_its_words(tmp_path: Path) -> None:
    text = '[{"image_id": 0, "bbox_2d": [100, 200, 400, 600], "label": "wooden pallet"}]'
    labels = ["the pallet left of the door"]
    scene = scene_of(tmp_path, text, "refcoco", detect__labels=labels)
    (found,) = scene.detections
    assert (found.label, found.phrase, [track.label for track in scene.tracks]) == (
        labels[0], "wooden pallet", labels,
    )  # fmt: skip
    assert detection_from_json(detection_to_json(found)) == found


def test_the_guards_can_be_turned_off() -> None:
    boxes = (Box(0, 0, 1, 1), Box(0.1, 0.1, 0.5, 0.5), Box(0.1, 0.1, 0.5, 0.49))
    answer = Answer(
        "", tuple(Detection("cat", box, score) for box, score in zip(boxes, (0.9, 0.5, 0.6), strict=True))
    )
    kept, rejects = postprocess(answer, DetectSettings(score_gain=1.0, score_bias=0.0))
    assert ([each.box for each in kept], dict(rejects)) == ([boxes[2]], {WHOLE_IMAGE: 1, DUPLICATE: 1})
    off = DetectSettings(score_gain=1.0, score_bias=0.0, max_area=1.0, nms_iou=1.0)
    assert postprocess(answer, off)[0] == answer.detections


class Partial:
    """A fake model that finds both objects in one dialect and the first one in all others."""

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        assert question.dialect is not None
        found: tuple[Detection, ...] = (
            Detection("cat", Box(0.1, 0.1, 0.3, 0.3), 0.9),
            Detection("dog", Box(0.5, 0.5, 0.9, 0.9), 0.9),
        )
        if question.dialect.single:
            found = tuple(each for each in found if each.label in question.labels)
        return Answer("", found if question.dialect.name == "mine" else found[:1])

    def cancel(self) -> None: ...

    def close(self) -> None: ...

    def health(self) -> Health:
        return Health()


def test_wordings_are_compared_with_their_uncertainty() -> None:
    mine = {"mine": {"user": "Where is {labels}?"}}
    settings = Settings.from_dict({"dialects": mine, "detect": {"labels": ["cat", "dog"]}})
    trial = Wordings(Partial(), settings, ["cat", "dog"], list(settings.known_dialects))
    truth = (Annotation("cat", Box(0.1, 0.1, 0.3, 0.3)), Annotation("dog", Box(0.5, 0.5, 0.9, 0.9)))
    for number in range(8):
        trial.run(LabelledImage(f"{number}.png", FRAME, truth if number % 2 else truth[:1]))
    figures = trial.figures(seed=0)
    assert trial.images == 8
    assert set(figures) == {"bbox", "bbox_2d", "refcoco", "mine"}
    assert figures["bbox"]["recall"] == pytest.approx(8 / 12, abs=1e-4)
    assert figures["mine"]["recall"] == figures["refcoco"]["recall"] == 1.0
    assert 0.0 < figures["bbox"]["standard_error"] < 0.1
    assert verdict(figures).startswith(next(iter(figures)))
    assert "beyond chance" in verdict(figures)


def test_the_question_of_the_settings_holds_the_synonyms() -> None:
    settings = Settings().with_values({"detect.labels": ["cat"], "detect.synonyms": ["cat: kitten"]})
    assert settings.question == detect(BBOX, ["cat"], synonyms=["cat: kitten"])
