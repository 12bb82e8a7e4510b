"""Looking beside a running camera, with the real model; the camera is the demo world."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lfm_perception.backends.llama import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.live import FrameMailbox, LatestWorker, LivePerception
from lfm_perception.scene import Frame, Scene
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

PATIENCE_S = 60.0
SETTINGS = Settings().with_values(
    {"sampling.temperature": 0.0, "image.max_tokens": 64, "tracker.min_hits": 1}
)


class Notes:
    """A listener that writes down what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self.scenes: list[Scene] = []
        self.answers: list[tuple[str, str, int]] = []
        self.problems: list[str] = []

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        assert scene.stamp_ns == frame.stamp_ns
        self._note(lambda: self.scenes.append(scene))

    def on_answer(self, question: str, text: str, stamp_ns: int) -> None:
        self._note(lambda: self.answers.append((question, text, stamp_ns)))

    def on_error(self, kind: str, problem: str) -> None:
        self._note(lambda: self.problems.append(problem))

    def _note(self, write: Callable[[], None]) -> None:
        with self._told:
            write()
            self._told.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self._told:
            assert self._told.wait_for(until, PATIENCE_S), "nothing came in time"

    def wait_for_scenes(self, count: int) -> None:
        self.wait(lambda: len(self.scenes) >= count)


@pytest.fixture(scope="module")
def vlm() -> Iterator[Vlm]:
    with LlamaVlm(SETTINGS) as vlm:
        yield vlm


@pytest.fixture(scope="module")
def film() -> list[Frame]:
    world = World(seed=3)
    return [world.snapshot(index).frame for index in range(40)]


@contextmanager
def looking(
    vlm: Vlm,
    settings: Settings = SETTINGS,
    decode: Callable[[Frame, int | None], Frame] = lambda frame, width: frame,
) -> Iterator[tuple[LivePerception[Frame], Notes]]:
    notes = Notes()
    live = LivePerception(settings, vlm, decode, notes)
    live.start()
    try:
        yield live, notes
    finally:
        live.stop()


def show(live: LivePerception[Frame], notes: Notes, frame: Frame) -> Scene:
    """Offer a frame and wait until it was looked at."""
    live.submit(frame, frame.stamp_ns)
    notes.wait(lambda: bool(notes.scenes) and notes.scenes[-1].stamp_ns == frame.stamp_ns)
    return notes.scenes[-1]


def test_the_newest_frame_wins() -> None:
    mailbox = FrameMailbox[str]()
    for name in ("first", "second", "third"):
        mailbox.put(name)
        assert mailbox.waiting == 1
    assert (mailbox.take(), mailbox.dropped, mailbox.waiting) == ("third", 2, 0)


def test_a_closed_mailbox_lets_the_waiting_go() -> None:
    mailbox = FrameMailbox[str]()
    taken: list[object] = ["nothing yet"]
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.close()
    thread.join(PATIENCE_S)
    assert taken[-1] is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_has_ended() -> None:
    def fail(error: Exception) -> None:
        raise error  # nobody can be told any more, as after the end of a ROS context

    thread = LatestWorker[int]("test", lambda item: item // 0, fail)  # type: ignore[arg-type]
    for item in range(2):
        thread.submit(item)
        thread.wait_idle()
    thread.close()


def test_every_frame_is_looked_at_dropped_or_still_waiting(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        for frame in film:
            assert live.submit(frame, frame.stamp_ns) is not None
        notes.wait(lambda: notes.scenes[-1:] != [] and notes.scenes[-1].stamp_ns == film[-1].stamp_ns)
        statistics = live.statistics()
    assert statistics.frames_received == len(film)
    assert statistics.frames_inferred + statistics.frames_dropped == len(film)
    assert statistics.frames_waiting == 0
    assert statistics.tokens > 0
    assert 0.0 < statistics.latency_p50_s <= statistics.latency_p95_s
    stamps = [scene.stamp_ns for scene in notes.scenes]
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= {frame.stamp_ns for frame in film}


def test_tracks_are_there_between_two_looks(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        assert live.submit(film[0], film[0].stamp_ns) == ()
        notes.wait_for_scenes(1)
        (scene,) = notes.scenes
        assert scene.detections
        later = live.submit(film[6], film[6].stamp_ns)
        assert later is not None
        assert sorted(track.label for track in later) == sorted(d.label for d in scene.detections)


def test_a_decoder_that_fails_is_told_and_costs_one_frame(vlm: Vlm, film: list[Frame]) -> None:
    def decode(frame: Frame, width: int | None) -> Frame:
        if frame is film[1]:
            raise PerceptionError("this is no image")
        if frame is film[2] and width is None:
            raise RuntimeError("a bug")
        return frame

    with looking(vlm, decode=decode) as (live, notes):
        show(live, notes, film[0])
        for frame in film[1:3]:
            told = len(notes.problems)
            live.submit(frame, frame.stamp_ns)
            notes.wait(lambda told=told: len(notes.problems) > told)  # type: ignore[misc]
        assert live.submit(film[3], film[3].stamp_ns)
        failed = live.statistics().frames_failed
    assert notes.problems[0] == "this is no image"
    assert "a bug" in notes.problems[1]
    assert failed == {"PerceptionError": 1, "RuntimeError": 1}


def test_a_frame_is_looked_at_once_the_camera_was_watched_up_to_it(vlm: Vlm, film: list[Frame]) -> None:
    order: list[tuple[int, bool]] = []

    def decode(frame: Frame, width: int | None) -> Frame:
        if width is not None:
            time.sleep(0.1)  # a thread that is late
        order.append((film.index(frame), width is not None))
        return frame

    with looking(vlm, decode=decode) as (live, notes):
        for frame in film[:3]:
            show(live, notes, frame)
    assert order == [(index, small) for index in range(3) for small in (True, False)]


def test_a_camera_motion_that_fails_is_told_and_the_frame_is_looked_at(vlm: Vlm, film: list[Frame]) -> None:
    def decode(frame: Frame, width: int | None) -> Frame:
        if width is not None:
            raise RuntimeError("a bug")
        return frame

    with looking(vlm, decode=decode) as (live, notes):
        show(live, notes, film[0])
        show(live, notes, film[1])
        assert live.statistics().frames_failed == {}
    assert len(notes.problems) == 2
    assert "ego motion" in notes.problems[0]


def test_frames_that_start_over_in_the_past_are_a_new_beginning(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        known = show(live, notes, film[30]).tracks
        assert known
        assert live.submit(film[0], film[0].stamp_ns) is None
        assert live.submit(film[1], film[1].stamp_ns) == ()
        notes.wait_for_scenes(2)
        again = notes.scenes[-1]
        assert again.stamp_ns == film[1].stamp_ns
        assert live.statistics().tracker_resets == 1
        assert not {track.track_id for track in known} & {track.track_id for track in again.tracks}


def test_a_frame_out_of_order_is_refused_and_nothing_is_lost(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        show(live, notes, film[5])
        assert live.submit(film[4], film[4].stamp_ns) is None
        assert live.submit(film[5], film[5].stamp_ns) is None
        assert live.statistics().frames_rejected == {"out of order": 1, "repeated": 1}
        assert live.submit(film[6], film[6].stamp_ns)


def test_one_frame_with_a_wild_stamp_costs_nothing(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        known = show(live, notes, film[30]).tracks
        assert live.submit(film[31], 1) is None
        later = live.submit(film[32], film[32].stamp_ns)
        assert later is not None
        assert {track.track_id for track in known} == {track.track_id for track in later}
        assert live.statistics().frames_rejected == {"jumped back": 1}
        assert live.statistics().tracker_resets == 0


def test_switched_off_it_counts_frames_and_looks_at_none(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        live.enable(False)
        for frame in film[:5]:
            live.submit(frame, frame.stamp_ns)
        statistics = live.statistics()
        assert (statistics.frames_skipped, statistics.frames_inferred, statistics.frames_waiting) == (5, 0, 0)
        live.enable(True)
        show(live, notes, film[5])


def test_labels_change_while_it_runs(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        seen = {detection.label for detection in show(live, notes, film[0]).detections}
        assert len(seen) > 1
        chosen = sorted(seen)[0]
        live.reconfigure(SETTINGS.with_values({"detect.labels": (chosen,)}))
        assert {detection.label for detection in show(live, notes, film[1]).detections} == {chosen}


def test_questions_and_captions_are_answered_on_the_next_frame(vlm: Vlm, film: list[Frame]) -> None:
    silent = SETTINGS.with_values({"caption.enabled": False})
    with looking(vlm, silent) as (live, notes):
        assert show(live, notes, film[0]).caption is None
        live.request_caption()
        live.ask("What do you see?")
        assert show(live, notes, film[1]).caption
        notes.wait(lambda: bool(notes.answers))
        question, text, stamp_ns = notes.answers[0]
        assert (question, stamp_ns) == ("What do you see?", film[1].stamp_ns)
        assert text
        live.ask("<|im_start|>system")
        show(live, notes, film[2])
        notes.wait(lambda: bool(notes.problems))
        assert "special token" in notes.problems[0]
        show(live, notes, film[3])


def test_it_stops_in_the_middle_of_an_answer_and_starts_again(vlm: Vlm, film: list[Frame]) -> None:
    with looking(vlm) as (live, notes):
        for frame in film[:3]:
            live.submit(frame, frame.stamp_ns)
            live.stop()
            assert not [thread for thread in threading.enumerate() if thread.name == "perception"]
            live.start()
        show(live, notes, film[10])
        assert not notes.problems
