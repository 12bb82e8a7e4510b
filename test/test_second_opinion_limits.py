# SPDX-License-Identifier: Apache-2.0
"""Second opinions under load and beside bugs: what is decoded, what a bug costs, and shared folders."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import pytest
from opinions import CAMERA, box_track, chosen, opened, reply, scene_of, shown, wait

from lfm_perception.decisions import Decision
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.live import LiveCallbacks, LivePerception
from lfm_perception.scene import Frame, Scene
from lfm_perception.second_opinion import Outcome, Request, SecondOpinion
from lfm_perception.second_opinion.advisers.review import PREFIX, ReviewFolder
from lfm_perception.second_opinion.service import MAX_OPINIONS
from lfm_perception.vlm import Vlm


class Unused(LiveCallbacks):
    """Callbacks of a live perception that is never started."""

    def on_scene(self, scene: Scene, frame: Frame) -> None: ...
    def on_answer(self, decision: Decision) -> None: ...
    def on_error(self, kind: str, message: str) -> None: ...


def test_an_image_is_decoded_only_where_consent_and_rate_allow_the_question(tmp_path: Path, vlm: Vlm) -> None:
    settings, decoded = chosen(folder=str(tmp_path), rate=30.0), list[int]()

    def decode(frame: Frame, width: int | None) -> Frame:
        decoded.append(frame.stamp_ns)
        return frame

    live = LivePerception(settings, vlm, decode, Unused())
    with opened(settings) as (second, _):
        live.set_second_opinion(second)
        for stamp_ns in range(1, 21):
            live.ask_adviser(shown(stamp_ns, 64, 48), CAMERA, box_track(stamp_ns), "?", "a rule")
            live.ask_adviser(shown(stamp_ns, 64, 48), "rear", box_track(stamp_ns), "?", "a rule")
        assert decoded == [1, 2, 3], "a tenth of the crops of a minute"
        dropped = second.counts().dropped
    assert dropped["second_opinion.rate is used up"] == 17
    assert dropped["the camera does not consent"] == 20


def test_a_track_that_its_crop_cannot_show_is_counted_with_the_reason_until_it_is_asked_about(
    tmp_path: Path,
) -> None:
    cut_off, small = (
        box_track(track_id, box=box)
        for track_id, box in ((1, Box(0.0, 0.4, 0.2, 0.7)), (2, Box(0.8, 0.1, 0.83, 0.4)))
    )
    pair = [box_track(track_id, box=Box(x, 0.4, x + 0.15, 0.7)) for track_id, x in ((3, 0.4), (4, 0.551))]
    with opened(chosen(folder=str(tmp_path))) as (second, _):
        for stamp_ns in (1, 2):
            frame = shown(stamp_ns)
            second.consider(frame, scene_of(frame, cut_off, small, *pair))
        assert second.counts().not_shown == {
            "the image's edge cuts them off": 1,
            "they are smaller than 24 pixels": 1,
            "another object is in their crop": 2,
        }
        frame = shown(3)
        second.consider(frame, scene_of(frame, cut_off, pair[0]))
        wait(lambda: second.counts().asked == 1)
        assert second.counts().not_shown["another object is in their crop"] == 1
        frame = shown(4, frame_id="rear")
        second.consider(frame, scene_of(frame, box_track(5, box=cut_off.box)))
        assert second.counts().not_shown["the image's edge cuts them off"] == 1, "a camera without consent"


def test_all_tracks_that_no_crop_can_show_are_counted_though_only_the_latest_are_remembered(
    tmp_path: Path,
) -> None:
    count = MAX_OPINIONS + 30
    with opened(chosen(folder=str(tmp_path))) as (second, _):
        for number in range(1, count + 1):
            frame = shown(number)
            seen = [box_track(each, box=Box(0.0, 0.4, 0.2, 0.7)) for each in (number, number + 1)]
            second.consider(frame, scene_of(frame, *seen[: 1 + (number < count)]))
        assert second.counts().not_shown == {"the image's edge cuts them off": count}
        assert len(second._not_shown) == MAX_OPINIONS


def test_a_question_whose_image_cannot_be_decoded_does_not_count_as_asked(tmp_path: Path, vlm: Vlm) -> None:
    settings, decoded = chosen(folder=str(tmp_path), rate=1.0), list[int]()

    def decode(frame: Frame, width: int | None) -> Frame:
        decoded.append(frame.stamp_ns)
        if len(decoded) == 1:
            raise PerceptionError("a damaged image")
        return frame

    live = LivePerception(settings, vlm, decode, Unused())
    with opened(settings) as (second, _):
        live.set_second_opinion(second)
        for stamp_ns in (1, 2, 3):
            live.ask_adviser(shown(stamp_ns, 64, 48), CAMERA, box_track(), "?", "a rule")
        assert decoded == [1, 2], "neither the rate nor the repetition keeps the second one back"
        wait(lambda: second.counts().asked == 1)


def test_a_crop_that_comes_after_the_end_is_dropped(tmp_path: Path) -> None:
    with opened(chosen(folder=str(tmp_path))) as (second, _):
        assert not second.admit(CAMERA, 1, "?")
    second.submit(shown(), box_track(), "?", "a rule")
    counts = second.counts()
    assert (counts.queued, counts.dropped) == (0, {"the adviser has ended": 1})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_crops_that_wait_for_an_adviser_that_ends_the_thread_are_dropped_for_this_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = threading.Event()

    def end(self: ReviewFolder, timeout_s: float) -> None:
        assert ending.wait(10)
        raise SystemExit

    monkeypatch.setattr(ReviewFolder, "poll", end)
    with opened(chosen(folder=str(tmp_path))) as (second, _):
        for track in (1, 2, 3):
            second.ask(shown(), box_track(track), "?", "a rule")
        wait(lambda: second.counts().queued == 2)
        ending.set()
        wait(lambda: not second.counts().queued)
        assert second.counts().dropped == {"the adviser has ended": 2}


def test_an_exception_of_who_receives_the_outcomes_costs_one_outcome(tmp_path: Path) -> None:
    outcomes, unexpected = list[Outcome](), list[Exception]()

    def receive(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == 1:
            raise ZeroDivisionError("a bug")

    def reached(count: int) -> bool:
        return len(outcomes) == count

    settings = chosen(folder=str(tmp_path)).second_opinion
    second = SecondOpinion(settings, receive, lambda said: None, lambda kind, said: None, unexpected.append)
    for track in (1, 2):
        second.ask(shown(), box_track(track), "?", "a rule")
        reply(tmp_path, {"answer": "4711"})
        wait(partial(reached, track))
    second.close()
    assert [type(error) for error in unexpected] == [ZeroDivisionError]
    assert second.counts().answered == 2


def test_an_exception_of_an_adviser_costs_one_answer_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, failures = ReviewFolder.submit, iter([ZeroDivisionError("a bug")])

    def fail_once(self: ReviewFolder, request: object) -> None:
        for error in failures:
            raise error
        submit(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(ReviewFolder, "submit", fail_once)
    with opened(chosen(folder=str(tmp_path))) as (second, log):
        second.ask(shown(), box_track(1), "?", "a rule")
        wait(lambda: log.outcomes)
        second.ask(shown(), box_track(2), "?", "a rule")
        reply(tmp_path, {"answer": "4711"})
        wait(lambda: len(log.outcomes) == 2)
        counts = second.counts()
    assert (counts.failed, counts.answered) == ({"unexpected": 1}, 1)
    assert [type(error) for error in log.unexpected] == [ZeroDivisionError]
    assert "failed unexpectedly: ZeroDivisionError('a bug')" in log.warned[0]


def test_nodes_that_share_a_review_folder_delete_no_question_of_each_other(tmp_path: Path) -> None:
    """Although the timeout of the other one is over, and the clock may have jumped."""
    patient, hasty = chosen(folder=str(tmp_path)), chosen(folder=str(tmp_path), timeout=0.1)
    with opened(patient) as (one, log), opened(hasty) as (other, other_log):
        one.ask(shown(), box_track(1), "?", "a rule")
        question = wait(lambda: list(tmp_path.glob("*.json")))[0]
        wait(lambda: one.counts().asked)
        for path in tmp_path.iterdir():
            os.utime(path, (1.0, 1.0))
        other.ask(shown(), box_track(2), "?", "a rule")
        wait(lambda: other_log.outcomes)
        assert len(list(tmp_path.iterdir())) == 2, "the hasty one has deleted its own"
        question.with_suffix(".answer.json").write_text('{"answer": "kept"}', encoding="utf-8")
        wait(lambda: log.outcomes)
    assert log.records[0]["answer"] == "kept"
    assert list(tmp_path.iterdir()) == []


def test_a_question_whose_node_was_killed_is_deleted_by_another_one(tmp_path: Path) -> None:
    settings = chosen(folder=str(tmp_path)).second_opinion
    killed, other = ReviewFolder(settings), ReviewFolder(settings)
    killed.submit(request("first"))
    for path in tmp_path.iterdir():
        os.utime(path, (1.0, 1.0))
    other.submit(request("second"))
    assert len(list(tmp_path.glob("*.json"))) == 2, "it still waits"
    killed._waiting["first"].lock.close()  # as the system does
    other.submit(request("third"))
    assert {path.name for path in tmp_path.glob("*.json")} == {
        f"{PREFIX}second.json", f"{PREFIX}third.json"
    }  # fmt: skip
    for folder in (killed, other):
        folder.close()
    assert list(tmp_path.iterdir()) == []


def request(name: str) -> Request:
    track, frame = box_track(), shown()
    return Request(name, 1, "box", track.box, 1, CAMERA, "?", "a rule", frame.image, 0.0, b"jpeg")
