# SPDX-License-Identifier: Apache-2.0
"""Live perception beside a running camera, with the real model; the camera is the demo world."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.decisions import Decision
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.live import LiveCallbacks, LivePerception
from lfm_perception.live.questions import Asked, QuestionQueue
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame, Scene
from lfm_perception.settings import Settings
from lfm_perception.typed_questions import TypedQuestion
from lfm_perception.vlm import Vlm

PATIENCE_S = 60.0
SETTINGS = Settings().with_values(
    {"sampling.temperature": 0.0, "image.max_tokens": 64, "tracker.min_hits": 1}
)


class Recorder(LiveCallbacks):
    """Callbacks that record results, and let a test wait for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.scenes: list[Scene] = []
        self.answers: list[Decision] = []
        self.errors: list[str] = []

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        assert scene.stamp_ns == frame.stamp_ns
        self._note(lambda: self.scenes.append(scene))

    def on_answer(self, decision: Decision) -> None:
        self._note(lambda: self.answers.append(decision))

    def on_error(self, kind: str, message: str) -> None:
        self._note(lambda: self.errors.append(message))

    def _note(self, write: Callable[[], None]) -> None:
        with self._changed:
            write()
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(until, PATIENCE_S), "no result in time"

    def wait_for_scenes(self, count: int) -> None:
        self.wait(lambda: len(self.scenes) >= count)


@pytest.fixture(scope="module")
def vlm() -> Iterator[Vlm]:
    with LlamaVlm(SETTINGS) as vlm:
        yield vlm


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    world = World(seed=3)
    return [world.snapshot(index).frame for index in range(40)]


@contextmanager
def running(
    vlm: Vlm,
    settings: Settings = SETTINGS,
    decode: Callable[[Frame, int | None], Frame] = lambda frame, width: frame,
    recorder: Recorder | None = None,
) -> Iterator[tuple[LivePerception[Frame], Recorder]]:
    recorder = recorder or Recorder()
    live = LivePerception(settings, vlm, decode, recorder)
    live.start()
    try:
        yield live, recorder
    finally:
        live.stop()


def infer(live: LivePerception[Frame], recorder: Recorder, frame: Frame) -> Scene:
    """Submits a frame and waits for its scene."""
    live.submit(frame, frame.stamp_ns)
    recorder.wait(lambda: bool(recorder.scenes) and recorder.scenes[-1].stamp_ns == frame.stamp_ns)
    return recorder.scenes[-1]


class Watched:
    """The real model, which tells when it is asked about a frame, and waits."""

    def __init__(self, vlm: Vlm) -> None:
        self._vlm = vlm
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._vlm, name)

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        self.begun.set()
        assert self.may_go_on.wait(PATIENCE_S)
        return self._vlm.describe(frame, question, plan)


def test_every_frame_is_inferred_dropped_or_still_waiting(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        for frame in frames:
            assert live.submit(frame, frame.stamp_ns) is not None
        recorder.wait(
            lambda: recorder.scenes[-1:] != [] and recorder.scenes[-1].stamp_ns == frames[-1].stamp_ns
        )
        statistics = live.statistics()
    assert statistics.frames_received == len(frames)
    assert statistics.frames_inferred + statistics.frames_dropped == len(frames)
    assert statistics.frames_waiting == 0
    assert statistics.tokens > 0
    assert 0.0 < statistics.latency_p50_s <= statistics.latency_p95_s
    stamps = [scene.stamp_ns for scene in recorder.scenes]
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= {frame.stamp_ns for frame in frames}


def test_tracks_are_predicted_between_inferences(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        assert live.submit(frames[0], frames[0].stamp_ns) == ()
        recorder.wait_for_scenes(1)
        (scene,) = recorder.scenes
        assert scene.detections
        later = live.submit(frames[6], frames[6].stamp_ns)
        assert later is not None
        assert sorted(track.label for track in later) == sorted(d.label for d in scene.detections)


def test_a_decoding_error_is_reported_and_costs_one_frame(vlm: Vlm, frames: list[Frame]) -> None:
    def decode(frame: Frame, width: int | None) -> Frame:
        if frame is frames[1]:
            raise PerceptionError("this is no image")
        if frame is frames[2] and width is None:
            raise RuntimeError("a bug")
        return frame

    with running(vlm, decode=decode) as (live, recorder):
        infer(live, recorder, frames[0])
        for frame in frames[1:3]:
            reported = len(recorder.errors)
            live.submit(frame, frame.stamp_ns)
            recorder.wait(lambda reported=reported: len(recorder.errors) > reported)  # type: ignore[misc]
        assert live.submit(frames[3], frames[3].stamp_ns)
        failed = live.statistics().frames_failed
    assert recorder.errors[0] == "this is no image"
    assert "a bug" in recorder.errors[1]
    assert failed == {"PerceptionError": 1, "RuntimeError": 1}


def test_a_frame_is_inferred_once_the_ego_motion_up_to_it_is_known(vlm: Vlm, frames: list[Frame]) -> None:
    order: list[tuple[int, bool]] = []

    def decode(frame: Frame, width: int | None) -> Frame:
        if width is not None:
            time.sleep(0.1)  # a thread that is late
        order.append((frames.index(frame), width is not None))
        return frame

    with running(vlm, decode=decode) as (live, recorder):
        for frame in frames[:3]:
            infer(live, recorder, frame)
    assert order == [(index, small) for index in range(3) for small in (True, False)]


def test_an_ego_motion_error_is_reported_and_the_frame_is_inferred(vlm: Vlm, frames: list[Frame]) -> None:
    def decode(frame: Frame, width: int | None) -> Frame:
        if width is not None:
            raise RuntimeError("a bug")
        return frame

    with running(vlm, decode=decode) as (live, recorder):
        infer(live, recorder, frames[0])
        infer(live, recorder, frames[1])
        assert live.statistics().frames_failed == {}
    assert len(recorder.errors) == 2
    assert "ego motion" in recorder.errors[0]


def test_frames_that_start_over_in_the_past_reset_the_tracker(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        tracks = infer(live, recorder, frames[30]).tracks
        assert tracks
        assert live.submit(frames[0], frames[0].stamp_ns) is None
        assert live.submit(frames[1], frames[1].stamp_ns) == ()
        recorder.wait_for_scenes(2)
        again = recorder.scenes[-1]
        assert again.stamp_ns == frames[1].stamp_ns
        assert live.statistics().tracker_resets == 1
        assert not {track.track_id for track in tracks} & {track.track_id for track in again.tracks}


def test_a_frame_out_of_order_is_rejected_and_tracks_stay(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        infer(live, recorder, frames[5])
        assert live.submit(frames[4], frames[4].stamp_ns) is None
        assert live.submit(frames[5], frames[5].stamp_ns) is None
        assert live.statistics().frames_rejected == {"out of order": 1, "repeated": 1}
        assert live.submit(frames[6], frames[6].stamp_ns)


def test_one_frame_with_an_outlier_stamp_does_not_reset_the_tracker(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        tracks = infer(live, recorder, frames[30]).tracks
        assert live.submit(frames[31], 1) is None
        later = live.submit(frames[32], frames[32].stamp_ns)
        assert later is not None
        assert {track.track_id for track in tracks} == {track.track_id for track in later}
        assert live.statistics().frames_rejected == {"jumped back": 1}
        assert live.statistics().tracker_resets == 0


def test_a_long_thin_image_costs_one_frame_and_little_memory(vlm: Vlm, frames: list[Frame]) -> None:
    moving = SETTINGS.with_values({"tracker.camera_motion_compensation": "on"})
    with running(vlm, moving) as (live, recorder):
        tracks = infer(live, recorder, frames[30]).tracks
        thin = Frame(np.zeros((16_384, 1, 3), np.uint8), frames[31].stamp_ns)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        live.submit(thin, thin.stamp_ns)
        recorder.wait(lambda: bool(recorder.errors))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
        later = infer(live, recorder, frames[32]).tracks
        assert {track.track_id for track in tracks} <= {track.track_id for track in later}


def test_while_disabled_frames_are_counted_as_skipped(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        live.enable(False)
        for frame in frames[:5]:
            live.submit(frame, frame.stamp_ns)
        statistics = live.statistics()
        assert (statistics.frames_skipped, statistics.frames_inferred, statistics.frames_waiting) == (5, 0, 0)
        live.enable(True)
        infer(live, recorder, frames[5])


def test_labels_are_reconfigured_at_runtime(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        seen = {detection.label for detection in infer(live, recorder, frames[0]).detections}
        assert len(seen) > 1
        chosen = sorted(seen)[0]
        live.reconfigure(SETTINGS.with_values({"detect.labels": (chosen,)}))
        assert {detection.label for detection in infer(live, recorder, frames[1]).detections} == {chosen}


def test_questions_and_captions_are_answered_on_the_next_frame(vlm: Vlm, frames: list[Frame]) -> None:
    silent = SETTINGS.with_values({"caption.enabled": False})
    with running(vlm, silent) as (live, recorder):
        assert infer(live, recorder, frames[0]).caption is None
        live.request_caption()
        live.ask("What do you see?")
        assert infer(live, recorder, frames[1]).caption
        recorder.wait(lambda: bool(recorder.answers))
        decision = recorder.answers[0]
        assert (decision.question.text, decision.stamp_ns) == ("What do you see?", frames[1].stamp_ns)
        assert decision.value
        live.ask("<|im_start|>system")
        infer(live, recorder, frames[2])
        recorder.wait(lambda: bool(recorder.errors))
        assert "special token" in recorder.errors[0]
        infer(live, recorder, frames[3])


def test_a_question_that_comes_during_an_inference_is_answered_about_its_frame(
    vlm: Vlm, frames: list[Frame]
) -> None:
    watched = Watched(vlm)
    with running(cast(Vlm, watched)) as (live, recorder):
        live.submit(frames[0], frames[0].stamp_ns)
        assert watched.begun.wait(PATIENCE_S)
        live.ask('{"question": "Is there a person?", "type": "yes_no"}')
        watched.may_go_on.set()
        recorder.wait(lambda: bool(recorder.answers))
        assert (recorder.answers[0].stamp_ns, len(recorder.scenes)) == (frames[0].stamp_ns, 1)


def test_a_question_after_a_reset_is_not_about_a_frame_from_before_it(vlm: Vlm, frames: list[Frame]) -> None:
    watched = Watched(vlm)
    with running(cast(Vlm, watched)) as (live, recorder):
        live.submit(frames[9], frames[9].stamp_ns)
        assert watched.begun.wait(PATIENCE_S)
        live.reset()
        live.ask('{"question": "Is there a person?", "type": "yes_no"}')
        watched.may_go_on.set()
        infer(live, recorder, frames[0])
        recorder.wait(lambda: bool(recorder.answers))
        assert [each.stamp_ns for each in recorder.answers] == [frames[0].stamp_ns]


def test_a_question_waits_for_the_first_frame_that_it_may_be_about_and_later_ones_do_not_wait_for_it() -> (
    None
):
    queue, question = QuestionQueue(), TypedQuestion("Is there a person?", "yes_no")
    of_event, of_person = Asked(question, Recorder(), since=2), Asked(question, Recorder())
    with queue.turn(1) as due:
        assert queue.offer(of_event)
        assert due() is None
        queue.add(of_person)
        assert due() is of_person
    with queue.turn(2) as due:
        assert due() is of_event


def test_a_question_that_a_frame_causes_is_not_answered_about_the_one_that_is_decoded_meanwhile(
    vlm: Vlm, frames: list[Frame]
) -> None:
    decoding, caused = threading.Event(), threading.Event()

    def decode(frame: Frame, width: int | None) -> Frame:
        if width is None:
            decoding.set()
            assert caused.wait(PATIENCE_S)
        return frame

    with running(vlm, decode=decode) as (live, recorder):
        live.submit(frames[0], frames[0].stamp_ns)
        assert decoding.wait(PATIENCE_S)
        live.submit(frames[1], frames[1].stamp_ns)
        assert live.offer(TypedQuestion("Is there a person?", "yes_no"), recorder)
        caused.set()
        recorder.wait(lambda: bool(recorder.answers))
        assert recorder.answers[0].stamp_ns == frames[1].stamp_ns


def test_a_question_whose_asker_fails_with_the_answer_is_not_refused_too(
    vlm: Vlm, frames: list[Frame]
) -> None:
    class Failing(Recorder):
        """An asker with a bug, which no real one is known to have."""

        def on_answer(self, decision: Decision) -> None:
            super().on_answer(decision)
            raise ValueError("a bug")

    asker = Failing()
    with running(vlm) as (live, recorder):
        assert live.offer(TypedQuestion("Is there a person?", "yes_no"), asker)
        infer(live, recorder, frames[0])
        recorder.wait(lambda: bool(recorder.errors))
        assert (len(asker.answers), asker.errors) == (1, [])
        assert recorder.errors[0] == "answer: an unexpected error: ValueError('a bug')"
        statistics = live.statistics()
        assert (statistics.questions_answered, statistics.questions_refused) == (1, 0)


def test_questions_without_room_are_told_once_each_and_have_not_failed(vlm: Vlm, frames: list[Frame]) -> None:
    entries = [f"{{name: {name}, question: 'Is there a {name}?', period: 0}}" for name in ("person", "box")]
    settings = SETTINGS.with_values(
        {"questions.standing": entries, "questions.duty_cycle": 1.0, "budget.latency": 0.005}
    )
    kinds = list[str]()

    class Listening(Recorder):
        def on_error(self, kind: str, message: str) -> None:
            kinds.append(kind)
            super().on_error(kind, message)

    recorder = Listening()
    with running(vlm, settings, recorder=recorder) as (live, _):
        for frame in frames[:25]:
            infer(live, recorder, frame)
        statistics = live.statistics()
    assert sorted(statistics.questions_without_room) == ["box", "person"]
    assert sorted(kinds) == ["no room for box", "no room for person"], "a log leaves out no kind for another"
    assert "had no room in the budgets of 10 frames: raise budget.tokens" in recorder.errors[0]
    assert statistics.standing_questions_failed == 0


def test_it_stops_during_an_inference_and_starts_again(vlm: Vlm, frames: list[Frame]) -> None:
    with running(vlm) as (live, recorder):
        for frame in frames[:3]:
            live.submit(frame, frame.stamp_ns)
            live.stop()
            assert not [thread for thread in threading.enumerate() if thread.name == "perception"]
            live.start()
        infer(live, recorder, frames[10])
        assert not recorder.errors
