# SPDX-License-Identifier: Apache-2.0
"""Second opinions: who is asked about what, what leaves, and how answers come back, with a review folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from opinions import CAMERA, box_track, chosen, opened, reply, scene_of, shown, wait

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.scene import Frame, Track
from lfm_perception.scene_json import SCHEMA, scene_from_json, scene_to_json
from lfm_perception.second_opinion.advisers import review
from lfm_perception.second_opinion.opinions import AdviserError, cropped, encoded
from lfm_perception.second_opinion.policy import Policy
from lfm_perception.typed_questions import TypedQuestion


def asked_about(settings: object, *tracks: Track) -> list[int]:
    policy = Policy(chosen(folder="x", **settings).second_opinion)  # type: ignore[arg-type]
    return [track.track_id for track, _, obstacle in policy.doubtful(tracks, 640, 480) if not obstacle]


# --- policy -----------------------------------------------------------------------------------------


def test_tracks_below_the_confidence_of_their_label_are_asked_about_the_lowest_first() -> None:
    tracks = [box_track(1, 0.6), box_track(2, 0.3), box_track(3, 0.1), box_track(4, 0.1, label="cone")]
    apart = [
        Track(
            t.track_id, t.label, Box(0.1 + 0.2 * i, 0.4, 0.25 + 0.2 * i, 0.6), t.score, t.velocity, 1.0, 0.0
        )
        for i, t in enumerate(tracks)
    ]
    assert asked_about({"ask_below": ["box: 0.5"]}, *apart) == [3, 2]
    assert asked_about({"ask_below": ["box: 1"]}, box_track(1, 1.0)) == [1], "1 asks always"
    assert asked_about({"ask_below": []}, *apart) == []


def test_only_what_its_crop_shows_well_is_asked_about() -> None:
    at_edge = box_track(1, box=Box(0.0, 0.4, 0.2, 0.7))
    small = box_track(2, box=Box(0.4, 0.4, 0.43, 0.7))
    unseen = Track(3, "box", Box(0.4, 0.1, 0.6, 0.3), 0.5, box_track().velocity, 1.0, 0.2)
    assert asked_about({}, at_edge, small, unseen) == []
    behind, before = box_track(4), box_track(5, box=Box(0.55, 0.4, 0.75, 0.8), label="cone")
    both = {"ask_below": ["box: 1", "cone: 1"]}
    assert asked_about(both, behind, before) == [5], "a nearer object hides a part of the other"
    beside = box_track(6, box=Box(0.601, 0.4, 0.8, 0.7))
    assert asked_about({}, behind, beside) == [], "the crop of each shows the other box"
    apart = box_track(7, box=Box(0.62, 0.4, 0.8, 0.7))
    assert asked_about({}, behind, apart) == [4, 7]
    assert asked_about({}) == []


def test_the_rate_holds_and_a_pause_allows_no_storm() -> None:
    policy = Policy(chosen(folder="x", rate=60.0).second_opinion)
    assert [policy.admit(track, "?", 1000.0) for track in range(8)] == [True] * 6 + [False] * 2
    assert [policy.admit(9, "?", now_s) for now_s in (1000.5, 1001.0, 1001.5)] == [False, True, False]
    assert not policy.admit(9, "?", 999.0), "a clock that goes back gives nothing"
    assert policy.was_asked(9, "?", 1060.0)
    assert not policy.was_asked(9, "?", 1061.5)
    assert not policy.was_asked(9, "other", 1002.0)
    for track in range(5000):
        policy.admit(track, "?", 2000.0 + 10.0 * track)
    assert len(policy._asked_s) <= 1000, "bounded"


@pytest.mark.parametrize(
    ("allowed", "cameras", "consents"),
    [(False, ["*"], False), (True, [], False), (True, ["rear"], False), (True, ["rear", CAMERA], True),
     (True, ["*"], True)],
)  # fmt: skip
def test_a_camera_consents_by_its_frame_id_and_none_by_default(
    allowed: bool, cameras: list[str], consents: bool
) -> None:
    settings = chosen(folder="x", allowed=allowed, cameras=cameras).second_opinion
    assert Policy(settings).consents(CAMERA) == consents


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ask_below": ["box"]}, "second_opinion.ask_below takes `label: confidence` from 0 to 1, got 'box'"),
        ({"ask_below": ["box: 1.5"]}, "got 'box: 1.5'"),
        ({"ask_below": ["box: nan"]}, "got 'box: nan'"),
        ({"ask_below": ["bax: 0.5"]}, "no track has the label 'bax': did you mean 'box'?"),
        ({"adviser": "review", "folder": ""}, "which needs second_opinion.folder: name it"),
        ({"adviser": "vlm"}, "which needs second_opinion.model_settings: name it"),
        ({"adviser": "oracle"}, "second_opinion.adviser must be one of ocr, review, vlm, got 'oracle'"),
        ({"question": " "}, "second_opinion.question must not be blank"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_a_sentence(values: dict[str, object], said: str) -> None:
    with pytest.raises(PerceptionError, match="second_opinion") as refused:
        chosen(**{"folder": "x", **values})
    assert said in str(refused.value)


# --- crops ------------------------------------------------------------------------------------------


def test_a_crop_is_copied_and_bounded_in_pixels_and_bytes() -> None:
    frame = shown(width=1920, height=1080)
    image = cropped(frame, Box(0.1, 0.1, 0.9, 0.9), 512)
    assert image.shape == (288, 512, 3)
    small = cropped(frame, Box(0.5, 0.5, 0.51, 0.51), 512)
    assert not np.shares_memory(small, frame.image)
    assert cropped(frame, Box(1.0, 1.0, 1.0, 1.0), 512).size == 3
    assert 20_000 < len(encoded(image, 200_000)) <= 200_000
    assert len(encoded(image, 100_000)) <= 100_000, "by a lower quality"
    with pytest.raises(AdviserError, match=r"over second_opinion\.max_bytes 2000"):
        encoded(image, 2000)


# --- the way of a question --------------------------------------------------------------------------


def test_an_answer_is_merged_with_its_source_stamp_and_age(tmp_path: Path) -> None:
    settings = chosen(folder=str(tmp_path), question="Which number?")
    frame, later = shown(10**9), shown(3 * 10**9)
    with opened(settings) as (second, log):
        first = second.consider(frame, scene_of(frame, box_track(7)))
        assert first.opinions == ()
        wait(lambda: len(list(tmp_path.iterdir())) == 2)
        files = sorted(tmp_path.iterdir())
        question = json.loads(files[1].read_text(encoding="utf-8"))
        assert (question["question"], question["label"], question["track_id"]) == ("Which number?", "box", 7)
        assert question["reason"] == "confidence 0.50, asked below 1"
        picture = cv2.imdecode(np.frombuffer(files[0].read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape[:2] == (question["crop"]["height"], question["crop"]["width"]) == (158, 140)
        reply(tmp_path, {"answer": " 4711\n"})
        wait(lambda: log.outcomes)
        other = box_track(8, box=Box(0.1, 0.1, 0.3, 0.3))
        scene = second.consider(later, scene_of(later, box_track(7), other))
        wait(lambda: not tmp_path.exists() or len(list(tmp_path.iterdir())) == 2)
    (opinion,) = scene.opinions
    assert (opinion.track_id, opinion.answer, opinion.stamp_ns) == (7, "4711", 10**9)
    assert opinion.source == f"review in {tmp_path}"
    record = scene_to_json(scene)
    jsonschema.validate(record, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert record["opinions"][0]["age_s"] == 2.0
    assert scene_from_json(record).opinions[0].answer == "4711"
    assert scene.tracks == (box_track(7), other), "tracks stay as they are"
    assert log.records[0]["answer"] == "4711"
    assert log.records[0]["crop"]["bytes"] > 1000
    assert log.told[0].startswith(f"second opinion: box #7 of {CAMERA}, 140 x 158 px, ")
    assert f"to review in {tmp_path}: confidence 0.50" in log.told[0]
    assert list(tmp_path.iterdir()) == [], "what nobody judged is deleted"


def test_the_same_is_not_asked_again_soon_unless_a_person_asks(tmp_path: Path) -> None:
    frame = shown()
    with opened(chosen(folder=str(tmp_path))) as (second, _):
        for _ in range(5):
            second.consider(frame, scene_of(frame, box_track()))
        assert second.ask(frame, box_track(), second._settings.question, "a rule") == "it was asked already"
        assert second.ask(frame, box_track(), second._settings.question, "a question", again=True) == ""
        wait(lambda: second.counts().asked == 2)


def test_nothing_is_made_or_written_for_a_camera_without_consent(tmp_path: Path) -> None:
    frame = shown(frame_id="rear")
    with opened(chosen(folder=str(tmp_path / "review"))) as (second, log):
        second.consider(frame, scene_of(frame, box_track()))
        assert second.counts().refused_camera == "rear", "what is wrong with the settings can be told"
        assert second.ask(frame, box_track(), "?", "a rule") == "the camera does not consent"
        counts = second.counts()
    assert counts.dropped == {"the camera does not consent": 1}
    assert (counts.asked, counts.bytes, log.told, log.outcomes) == (0, 0, [], [])
    assert not (tmp_path / "review").exists()


def test_limits_change_while_it_runs(tmp_path: Path) -> None:
    frame = shown()
    with opened(chosen(folder=str(tmp_path))) as (second, log):
        second.reconfigure(chosen(folder=str(tmp_path), max_bytes=2000).second_opinion)
        second.ask(frame, box_track(), "?", "a rule")
        wait(lambda: log.outcomes)
        second.reconfigure(chosen(folder=str(tmp_path), cameras=["rear"]).second_opinion)
        assert second.ask(frame, box_track(), "?", "a rule", again=True) == "the camera does not consent"
    assert "over second_opinion.max_bytes 2000" in log.records[0]["problem"]
    assert log.records[0]["crop"]["bytes"] == 0, "nothing left"
    assert list(tmp_path.iterdir()) == []


# --- the review folder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"answer": 7}', "is no answer: expected str, got 7"),
        (b'{"reply": "x"}', "is no answer: it lacks 'answer'"),
        (b"[]", "is no answer: expected dict, got []"),
        (b"\xff\xfe", "is no answer: not a text file in UTF-8"),
        (b'{"answer": "' + b"x" * 20_000 + b'"}', "is no answer: cannot be read: larger than 16000 bytes"),
        (b'{"answer": "' + b"x" * 2001 + b'"}', "answered with 2001 characters: not used"),
        (b"{" * 10_000, "is no answer: not valid JSON"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_in_a_sentence(
    tmp_path: Path, answer: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "SETTLED_S", 0.0)
    frame = shown()
    with opened(chosen(folder=str(tmp_path))) as (second, log):
        second.consider(frame, scene_of(frame, box_track()))
        question = wait(lambda: list(tmp_path.glob("*.json")))[0]
        unfinished = tmp_path / "mine"
        unfinished.write_bytes(answer)
        unfinished.replace(question.with_suffix(".answer.json"))
        wait(lambda: log.outcomes)
        counts = second.counts()
    assert said in (log.records[0]["problem"] or "")
    assert len(log.records[0]["problem"]) <= 300
    assert counts.failed == {"unusable": 1}
    assert log.warned == [f"second opinion: {counts.problem}"]
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    frame = shown()
    with opened(chosen(folder=str(tmp_path))) as (second, log):
        second.consider(frame, scene_of(frame, box_track()))
        question = wait(lambda: list(tmp_path.glob("*.json")))[0]
        with question.with_suffix(".answer.json").open("w", encoding="utf-8") as file:
            file.write('{"answer": ')
            file.flush()
            time.sleep(0.5)
            assert log.outcomes == []
            file.write('"done"}')
        wait(lambda: log.outcomes)
    assert log.records[0]["answer"] == "done"


def test_a_folder_that_is_removed_a_late_person_and_a_full_folder_cost_their_answers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, folder = shown(), tmp_path / "review"
    with opened(chosen(folder=str(folder))) as (second, log):
        second.ask(frame, box_track(1), "?", "a rule")
        wait(lambda: second.counts().asked == 1 and list(folder.glob("*.json")))
        shutil.rmtree(folder)
        wait(lambda: log.outcomes)
        assert "was removed from" in log.records[0]["problem"]
        monkeypatch.setattr(review, "MAX_FILES", 1)
        for track in (2, 3):
            second.ask(frame, box_track(track), "?", "a rule")
        wait(lambda: len(log.outcomes) == 2)
        assert "is full: 1 crops" in log.records[1]["problem"]
    with opened(chosen(folder=str(folder), timeout=0.1)) as (second, log):
        second.ask(frame, box_track(4), "?", "a rule")
        wait(lambda: log.outcomes)
        assert "nobody answered within 0.1 s" in log.records[0]["problem"]
        assert list(folder.iterdir()) == []


def test_files_that_a_killed_process_left_are_deleted_once_they_are_out_of_time(tmp_path: Path) -> None:
    left, own = tmp_path / f"{review.PREFIX}left.jpg", tmp_path / "own.jpg"
    for path in (left, own):
        path.write_bytes(b"x")
        os.utime(path, (1.0, 1.0))
    frame = shown()
    with opened(chosen(folder=str(tmp_path))) as (second, _):
        second.ask(frame, box_track(), "?", "a rule")
        wait(lambda: not left.exists())
    assert own.exists()


def test_a_clock_that_jumps_ahead_deletes_no_question_that_waits(tmp_path: Path) -> None:
    frame = shown()
    with opened(chosen(folder=str(tmp_path))) as (second, log):
        second.ask(frame, box_track(1), "?", "a rule")
        question = wait(lambda: list(tmp_path.glob("*.json")))[0]
        for path in tmp_path.iterdir():
            os.utime(path, (1.0, 1.0))
        second.ask(frame, box_track(2), "?", "a rule")
        wait(lambda: second.counts().asked == 2)
        assert question.exists()
        question.with_suffix(".answer.json").write_text('{"answer": "kept"}', encoding="utf-8")
        wait(lambda: log.outcomes)
    assert log.records[0]["answer"] == "kept"


def test_a_link_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"answer": "secret"}', encoding="utf-8")
    frame = shown()
    with opened(chosen(folder=str(tmp_path / "review"))) as (second, log):
        second.ask(frame, box_track(), "?", "a rule")
        question = wait(lambda: list(tmp_path.glob("review/*.json")))[0]
        question.with_suffix(".answer.json").symlink_to(tmp_path / "secret.json")
        wait(lambda: log.outcomes)
    assert log.records[0]["problem"].endswith("is no answer: it is a link")
    assert (tmp_path / "secret.json").exists()


@pytest.mark.parametrize("place", ["file", "/dev/full/x", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_a_failure_in_a_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    frame = shown()
    with opened(chosen(folder=str(tmp_path / place))) as (second, log):
        second.ask(frame, box_track(), "?", "a rule")
        wait(lambda: log.outcomes)
        assert second.counts().failed == {"folder": 1}
    assert log.records[0]["problem"].startswith(f"second_opinion.folder {tmp_path / place}: ")


# --- questions --------------------------------------------------------------------------------------


def test_a_question_asks_for_a_second_opinion_about_a_track_only() -> None:
    question = TypedQuestion.from_json('{"question": "Which?", "track": 3, "second_opinion": true}')
    assert question.second_opinion
    assert TypedQuestion.from_json(question.to_json()) == question
    with pytest.raises(PerceptionError, match="a second opinion is about a track: give its id"):
        TypedQuestion.from_json('{"question": "Which?", "second_opinion": true}')
    with pytest.raises(PerceptionError, match="'second_opinion' of a question must be true or false, got 1"):
        TypedQuestion.from_json('{"question": "Which?", "track": 3, "second_opinion": 1}')
    with pytest.raises(PerceptionError, match="'track' of a question must be a whole number, got true"):
        TypedQuestion.from_json('{"question": "Which?", "track": true}')


def test_frames_of_one_pixel_and_scenes_without_tracks_pass(tmp_path: Path) -> None:
    frame = Frame(np.zeros((1, 1, 3), np.uint8), 1, CAMERA)
    with opened(chosen(folder=str(tmp_path))) as (second, log):
        assert second.consider(frame, scene_of(frame)).opinions == ()
        assert second.ask(frame, box_track(), "?", "a rule") == ""
        wait(lambda: second.counts().asked)
    assert log.told
