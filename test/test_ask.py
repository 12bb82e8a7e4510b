# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception ask`: images and videos in, answers out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from lfm_perception.cli import main
from lfm_perception.demo.world import World
from lfm_perception.typed_questions import TypedQuestion

QUICK = ("--set", "engine.isolation=thread", "--set", "image.max_tokens=64")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as ended:
        main(["ask", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out.splitlines(), err


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(2):
        image = World(seed=seed, width=128, height=128).snapshot(0).frame.image
        cv2.imwrite(str(folder / f"{seed}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def test_every_image_of_a_folder_is_answered_with_a_probability(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, _ = said(capsys, str(photos), "Is there a box?", "--yes-no", "--json", *QUICK)
    assert code == 0
    answers = [json.loads(line) for line in lines]
    assert [answer["file"] for answer in answers] == ["0.png", "1.png"]
    for answer in answers:
        assert answer["value"] in ("yes", "no")
        assert answer["probabilities"]["yes"] + answer["probabilities"]["no"] == pytest.approx(1.0, abs=1e-3)


def test_one_frame_of_a_video_is_answered_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, _ = said(capsys, "demo", "How many boxes are there?", "--number", "0..8", *QUICK)
    assert code == 0
    (line,) = lines
    assert line.split()[0] in map(str, range(9))
    assert "%), expected " in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--choice", "red"), "2 to 100 options, got 1"),
        (("--choice", "red,,blue"), "must not be blank"),
        (("--number", "5"), "a range such as 0..10"),
        (("--number", "9..1"), "its minimum below its maximum"),
        (("--number", "a..b"), "a range such as 0..10"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: tuple[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, err = said(capsys, "demo", "What?", *options)
    assert (code, lines) == (1, [])
    assert reason in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("ask", "node", "Which?", "--topic", "/x"), "--topic"),
        (("ask", "node", "Which?", "--every", "4", "--frames", "2"), "--frames and --every"),
        (
            ("ask", "node", "Which?", "--topic", "/x", "--every", "4", "--seed", "5"),
            "--every, --topic and --seed",
        ),
    ],
)
def test_options_that_mean_nothing_for_a_node_are_refused(
    arguments: tuple[str, ...],
    names: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    assert f"reads its own camera: leave out {names} " in capsys.readouterr().err


def test_an_answer_in_words_has_no_json_and_a_question_in_json_no_other_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for arguments, reason in {
        ("node", "What do you see?", "--json"): "leave out --json, or name a type",
        ("demo", '{"question": "How many?", "type": "number"}', "--yes-no"): "names its type itself",
    }.items():
        code, lines, err = said(capsys, *arguments)
        assert (code, lines) == (2, [])
        assert reason in err


@pytest.mark.parametrize(
    "question",
    ['{"type": "memory", "question": "Tür"}', "When did you last see a forklift?", "What is there?"],
)
def test_a_question_in_words_to_a_node_has_no_language(
    question: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, lines, err = said(capsys, "node", question, "--language", "de")
    assert (code, lines) == (2, [])
    assert "in any language: leave out --language" in err


def test_a_question_survives_its_json() -> None:
    for question in (
        TypedQuestion("Open?", "yes_no"),
        TypedQuestion("Which?", "choice", ("a", "b")),
        TypedQuestion("How many?", "number", minimum=2, maximum=7),
        TypedQuestion("What do you see?"),
        TypedQuestion("{curly}"),
    ):
        assert TypedQuestion.from_json(question.to_json()) == question
