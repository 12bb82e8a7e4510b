# SPDX-License-Identifier: Apache-2.0
"""Answers recorded from the real model and given again without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import Command

from lfm_perception.backends import open_vlm
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.backends.recorded import NotRecordedError, RecordedVlm, image_hash, recording
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.perception import Perception, open_perception
from lfm_perception.questions import BBOX, CAPTION, FramePlan, ask, detect
from lfm_perception.scene import Frame, Scene
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

PLAN = FramePlan(ImagePlan(256, 256), answer_tokens=Settings().detect.max_tokens)
FIND = detect(BBOX, LABELS)
FRAMES = 4


def demo_frames(count: int = FRAMES) -> list[Frame]:
    world = World(seed=1, width=256, height=256, fps=5.0)
    return [world.snapshot(index).frame for index in range(count)]


@pytest.fixture(scope="module")
def answers(vlm: LlamaVlm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model says about the frames: objects and a caption for each."""
    path = tmp_path_factory.mktemp("recorded") / "answers.jsonl"
    with recording(path, vlm, {"source": "a video"}) as writer:
        for frame in demo_frames():
            writer.describe(frame, FIND, PLAN)
            writer.describe(frame, ask(CAPTION), PLAN)
    return path


def replaying(path: Path, **values: object) -> Settings:
    dotted = {name.replace("__", "."): value for name, value in values.items()}
    return Settings().with_values({"engine.backend": "recorded", "recorded.path": str(path), **dotted})


def test_recorded_answers_are_replayed_to_the_last_digit(answers: Path, vlm: LlamaVlm) -> None:
    recorded = open_vlm(replaying(answers))
    assert isinstance(recorded, RecordedVlm)
    for frame in demo_frames():
        for question in (FIND, ask(CAPTION)):
            then, now = recorded.describe(frame, question, PLAN), vlm.describe(frame, question, PLAN)
            assert (then.text, then.detections, then.truncated) == (now.text, now.detections, now.truncated)
            assert then.usage.answer_tokens == now.usage.answer_tokens
            assert then == recorded.describe(frame, question, PLAN)
    assert recorded.health().ready
    recorded.close()


def test_scenes_from_recorded_answers_equal_those_of_the_model(answers: Path, vlm: LlamaVlm) -> None:
    def scenes(looking: Perception) -> list[Scene]:
        return [looking.infer(frame) for frame in demo_frames()]

    settings = replaying(answers, caption__period=0.0, detect__labels=list(LABELS))
    now = scenes(Perception(settings, vlm, open_tracker(settings.tracker)))
    with open_perception(settings) as looking:
        then = scenes(looking)
    assert [(s.detections, s.tracks, s.caption) for s in then] == [
        (s.detections, s.tracks, s.caption) for s in now
    ]
    assert any(scene.tracks for scene in then)


def test_a_frame_that_was_not_recorded_is_a_problem_that_says_so(answers: Path) -> None:
    recorded = RecordedVlm(replaying(answers))
    new = World(seed=9, width=256, height=256).snapshot(0).frame
    with pytest.raises(NotRecordedError, match=r"256x256 frame stamped 0\.000 s is not in .*answers\.jsonl"):
        recorded.describe(new, FIND, PLAN)
    with pytest.raises(NotRecordedError, match=r"no answer to 'Detect .*zebra.* only to 'Detect .*, 'Desc"):
        recorded.describe(demo_frames()[0], detect(BBOX, ["zebra"]), PLAN)


def test_a_frame_is_identified_by_its_pixels_or_by_its_stamp(answers: Path) -> None:
    first = demo_frames()[0]
    restamped = Frame(first.image, 77, first.frame_id)
    touched = Frame(np.where(first.image > 250, first.image - 1, first.image + 1), first.stamp_ns)
    by_image, by_stamp = (
        RecordedVlm(replaying(answers)),
        RecordedVlm(replaying(answers, recorded__match="stamp")),
    )
    assert by_image.describe(restamped, FIND, PLAN) == by_stamp.describe(touched, FIND, PLAN)
    with pytest.raises(NotRecordedError, match="identified by their image"):
        by_image.describe(touched, FIND, PLAN)
    with pytest.raises(NotRecordedError, match="identified by their stamp"):
        by_stamp.describe(restamped, FIND, PLAN)


def test_an_image_hash_covers_pixels_and_shape() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_hash(Frame(image, 1)) == image_hash(Frame(image.copy(), 2, "other"))
    assert image_hash(Frame(image, 1)) != image_hash(Frame(image.reshape(4, 2, 3), 1))
    turned = image.transpose(1, 0, 2)
    assert image_hash(Frame(turned, 1)) == image_hash(Frame(np.ascontiguousarray(turned), 1))
    assert len(image_hash(Frame(image, 1))) == 32


def test_the_file_is_lines_of_json_and_the_later_line_counts(answers: Path, tmp_path: Path) -> None:
    head, *lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert (head["format"], head["version"], head["source"]) == ("lfm_perception answers", 2, "a video")
    assert len(lines) == 2 * FRAMES
    assert set(lines[0]) == {
        *("image", "stamp_ns", "frame_id", "system", "user", "dialect", "labels", "closed"),
        *("text", "truncated", "calibrated", "rejects", "detections", "usage"),
    }
    later = {**lines[1], "text": "Something else.", "note": "a key of a later version"}
    copy = tmp_path / "copy.jsonl"
    copy.write_text(answers.read_text(encoding="utf-8") + json.dumps(later) + "\n\n", encoding="utf-8")
    assert (
        RecordedVlm(replaying(copy)).describe(demo_frames()[0], ask(CAPTION), PLAN).text == "Something else."
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read .*: no such file"),
        (b"", "not a file of recorded answers: make one with lfm-perception record"),
        (b"\xff\xfe\n", "not a text file in UTF-8"),
        (b'{"version": 1}\n', "not a file of recorded answers"),
        (b"[" * 100_000, "not a file of recorded answers"),
        (b'{"format": "lfm_perception answers", "version": 1}\n', "version 1.*reads version 2.*again"),
        (
            b'{"format": "lfm_perception answers", "version": 2}\n\n{"image": "ab"}\n',
            "line 3 is no recorded",
        ),
        (b'{"format": "lfm_perception answers", "version": 2}\n[]\n', "line 2 is no recorded answer"),
        (b'{"format": "lfm_perception answers", "version": 2}\n{"half', "line 2 is no recorded answer"),
    ],
)
def test_an_invalid_recording_is_refused_with_the_line(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PerceptionError, match=said) as failure:
        RecordedVlm(replaying(path))
    assert str(path) in str(failure.value)


def test_a_box_outside_the_image_in_the_file_is_refused(answers: Path, tmp_path: Path) -> None:
    lines = answers.read_text(encoding="utf-8").splitlines()
    entry = json.loads(lines[1])
    outside = {"label": "box", "confidence": 0.5, "bbox": [0.1, 0.1, 7.0, 0.2], "bbox_std": None}
    entry["detections"] = [outside]
    path = tmp_path / "edited.jsonl"
    path.write_text("\n".join([lines[0], json.dumps(entry)]), encoding="utf-8")
    with pytest.raises(PerceptionError, match=r"line 2 is no recorded answer .*corners"):
        RecordedVlm(replaying(path))


def test_recorded_without_a_file_is_a_contradiction() -> None:
    with pytest.raises(PerceptionError, match=r"recorded\.path is empty: name the file"):
        Settings().with_values({"engine.backend": "recorded"})


def test_a_recording_appears_whole_or_not_at_all(vlm: LlamaVlm, tmp_path: Path) -> None:
    def interrupted() -> None:
        with recording(tmp_path / "answers.jsonl", vlm, {}) as writer:
            writer.describe(demo_frames(1)[0], FIND, PLAN)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with recording(tmp_path / "answers.jsonl", vlm, {}):
        """Nothing is asked."""
    assert list(tmp_path.iterdir()) == []
    nowhere = recording(tmp_path / "none" / "answers.jsonl", vlm, {})
    with pytest.raises(PerceptionError, match="in a folder that exists"), nowhere:
        """Never comes here."""


# --- the command -------------------------------------------------------------------------------------


def test_a_recorded_run_sees_what_the_model_saw(command: Command, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    source = ("demo", "--frames", "5", "--set", "image.max_tokens=64", "--set", "engine.isolation=thread")
    recorded = command(
        "record", *source, "--out", answers, "--every", "2", "--question", "Describe what you see."
    )
    assert recorded.code == 0, recorded.err
    assert recorded.out == f"9 answers in {answers}\n"  # frames 0, 2, 4: objects, caption, question
    runs = {
        "model": ("--set", "sampling.seed=0"),
        "recorded": ("--set", "engine.backend=recorded", "--set", f"recorded.path={answers}"),
    }
    for name, choice in runs.items():
        done = command("run", *source, "--every", "2", "--out", tmp_path / name, *choice)
        assert done.code == 0, done.err

    def seen(name: str) -> list[object]:
        lines = (tmp_path / name / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
        return [{key: value for key, value in json.loads(line).items() if key != "usage"} for line in lines]

    assert seen("recorded") == seen("model")
    summary = json.loads((tmp_path / "recorded" / "summary.json").read_text())
    assert summary["model"]["recorded"]["file"] == "answers.jsonl"
    beyond = command(
        "run", "demo", "--frames", "5", "--every", "1", "--out", tmp_path / "beyond", *runs["recorded"]
    )
    assert beyond.code == 1
    assert "the 640x480 frame stamped 0.033 s is not in" in beyond.err


def test_replaying_loads_neither_llama_cpp_nor_what_it_needs(answers: Path) -> None:
    code = (
        "import sys; from lfm_perception.settings import Settings\n"
        "from lfm_perception.backends import open_vlm\n"
        "values = {'engine.backend': 'recorded', 'recorded.path': sys.argv[1]};"
        "open_vlm(Settings().with_values(values));"
        "print(sorted({'llama_cpp', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code, answers], capture_output=True, text=True)
    assert shown.stdout == "[]\n", shown.stderr
