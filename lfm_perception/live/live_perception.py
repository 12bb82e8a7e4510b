# SPDX-License-Identifier: Apache-2.0
"""`LivePerception` runs a `Perception` beside a camera, on threads of its own.

    camera thread ──submit──► LatestWorker ──► thread `perception`: decode, infer, call back
                  ──submit──► LatestWorker ──► thread `ego motion`: decode small, estimate the camera's motion
                  ◄────────── tracks predicted to the frame's stamp, without waiting for the model

At most one frame waits for each thread; a newer one replaces it, and dropped frames are counted. A frame is
inferred once the camera's motion up to it is known, so that the results follow from the frames alone and not
from which thread was faster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lfm_perception.decisions import Decision
from lfm_perception.errors import PerceptionError
from lfm_perception.live.latest_worker import LatestWorker
from lfm_perception.live.questions import Asked, Asker, QuestionQueue
from lfm_perception.live.statistics import LiveStatistics, StatisticsRecorder
from lfm_perception.perception import MAX_WITHOUT_ROOM, Perception
from lfm_perception.planning.thermal import DegradationLevel, degraded
from lfm_perception.scene import Frame, Scene, Track
from lfm_perception.settings import Settings
from lfm_perception.stamps import StampFilter
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.ego_motion import FLOW_WIDTH
from lfm_perception.typed_questions import TypedQuestion
from lfm_perception.vlm import CancelledError, OnText, Vlm

if TYPE_CHECKING:
    from lfm_perception.second_opinion import SecondOpinion

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueuedFrame(Generic[T]):
    """A frame before it is decoded; it was submitted at `submitted_s` on `time.monotonic`.

    Frames are numbered in the order in which they were submitted, from 1.
    """

    item: T
    submitted_s: float
    number: int


@dataclass(slots=True)
class _Requests:
    """Requests of other threads, which the thread `perception` applies before the next inference."""

    settings: Settings | None = None
    caption: bool = False
    reset: bool = False


class LiveCallbacks(Asker, Protocol):
    """Receives results on the threads of `live`; an implementation must return quickly."""

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        """A frame was inferred."""
        ...

    def on_refusal(self, question: str, reason: str) -> None:
        """A question of `ask` will not be answered; also on the thread that asks."""
        self.on_error("question", reason)

    def on_reset(self) -> None:
        """Tracks and caption were removed."""
        return

    def on_error(self, kind: str, message: str) -> None:
        """A frame failed or was rejected; perception goes on."""
        ...

    def on_unexpected(self, where: str, error: Exception) -> None:
        """A bug cost a frame; perception goes on."""
        self.on_error(type(error).__name__, _unexpected(where, error))


class LivePerception(Generic[T]):
    """A `Perception` on its own thread between `start` and `stop`. Any thread may call any method.

    An error with a frame is counted, reported to the callbacks, and costs that frame only; the tracks stay.

    Args:
        settings: validated settings.
        vlm: the loaded model; the caller closes it.
        decode: `decode(item, width)` makes a frame of a submitted item: in full on the thread `perception`
            (`width` None), and about `width` pixels wide on the thread `ego motion`. Raises PerceptionError
            for an item that is no image.
        callbacks: receives scenes, answers and errors.
    """

    def __init__(
        self,
        settings: Settings,
        vlm: Vlm,
        decode: Callable[[T, int | None], Frame],
        callbacks: LiveCallbacks,
    ) -> None:
        self._settings, self._vlm, self._decode, self._callbacks = settings, vlm, decode, callbacks
        self._perception = Perception(settings, vlm, open_tracker(settings.tracker))
        self._statistics = StatisticsRecorder()
        self._worker: LatestWorker[QueuedFrame[T]] | None = None
        self._ego_motion: LatestWorker[T] | None = None
        self._lock = threading.Lock()
        self._stamps = StampFilter()
        self._requests = _Requests()
        self._newest = 0  # number of the newest frame
        self._oldest = 1  # number of the first frame after the last reset
        self._questions = QuestionQueue()
        self._enabled = True
        self._level = DegradationLevel.NONE
        self.scene: Scene | None = None
        """The scene of the last inferred frame."""
        self.latency_s = 0.0
        """Seconds from `submit` to that scene."""

    def start(self) -> None:
        """Starts the threads. Frames are expected from now on."""
        if self._worker is None:
            self._statistics.start()
            self._ego_motion = LatestWorker(
                "ego motion",
                lambda item: self._perception.update_ego_motion(self._decode(item, FLOW_WIDTH)),
                lambda error: self._fail("ego motion", error),
            )
            self._worker = LatestWorker("perception", self._try, lambda error: self._fail("inference", error))

    def stop(self) -> None:
        """Discards the frame and the questions that wait and cancels the inference. The tracks stay."""
        if self._worker is not None and self._ego_motion is not None:
            self._worker.close(self._vlm.cancel)
            self._ego_motion.close()
            self._worker = self._ego_motion = None
        self._questions.clear("the inference was stopped")

    # --- frames --------------------------------------------------------------------------------------

    def submit(self, item: T, stamp_ns: int) -> tuple[Track, ...] | None:
        """Queues a frame and returns the tracks predicted to its stamp, or None when the stamp is rejected.

        Takes microseconds and never waits for the model. Stamps that start over in the past reset the
        tracker.
        """
        now_s = time.monotonic()
        with self._lock:
            rejection, restarted = self._stamps.check(stamp_ns)
            self._requests.reset |= restarted
            if rejection is None:
                self._newest += 1
            if restarted:
                self._oldest = self._newest
            number = self._newest
            active = self._enabled and self._level is not DegradationLevel.PAUSED
            resetting = self._requests.reset
        if rejection is not None:
            self.reject(*rejection)
            return None
        self._statistics.record_frame(now_s, stamp_ns)
        # until the reset is applied, the tracks belong to a time that is over
        tracks = () if resetting else self._perception.tracks(stamp_ns)
        worker, ego_motion = self._worker, self._ego_motion
        if ego_motion is not None and self._settings.tracker.camera_motion_compensation != "off":
            ego_motion.submit(item)
        if worker is None or not active:
            self._statistics.count(frames_skipped=1)
        elif worker.submit(QueuedFrame(item, now_s, number)):
            self._statistics.count(frames_dropped=1)
        return tracks

    def reject(self, reason: str, message: str) -> None:
        """Counts a frame as rejected and reports why."""
        self._statistics.record_rejection(reason)
        self._report(reason, message)

    # --- requests ------------------------------------------------------------------------------------

    def ask(self, question: str) -> None:
        """Answers a question about the newest frame, or refuses it (see `QuestionQueue`).

        Args:
            question: words, or JSON with the type of the answer (`TypedQuestion.from_json`).
        """
        try:
            asked = TypedQuestion.from_json(question, self._settings.questions.language)
        except PerceptionError as error:
            self.refuse(question, str(error))
        else:
            with self._lock:
                since = self._oldest
            self._questions.add(Asked(asked, _Counting(self._callbacks, self._statistics), since))

    def offer(self, question: TypedQuestion, asker: Asker) -> bool:
        """Answers a question of another part of the program, if there is room for it; whether there is.

        It is answered about a frame that is at least as new as the last submitted one, which it is due to.
        """
        with self._lock:
            since = max(self._oldest, self._newest)
        return self._questions.offer(Asked(question, _Counting(asker, self._statistics), since))

    def refuse(self, question: str, reason: str) -> None:
        """Counts a question as refused and reports why."""
        _Counting(self._callbacks, self._statistics).on_refusal(question, reason)

    def request_caption(self) -> None:
        """Captions the next frame."""
        with self._lock:
            self._requests.caption = True

    def enable(self, on: bool) -> None:
        """Switches inference on or off. While it is off, frames are counted as skipped and tracks coast."""
        with self._lock:
            self._enabled = on
        if not on:
            self._discard_waiting()

    def reset(self) -> None:
        """Removes all tracks and the caption before the next inference."""
        with self._lock:
            self._requests.reset = True
            self._oldest = self._newest + 1
            self._stamps.reset()
        self._discard_waiting()

    def reconfigure(self, settings: Settings) -> None:
        """Applies other settings from the next frame on."""
        with self._lock:
            self._settings = settings
            self._requests.settings = degraded(settings, self._level)

    def set_second_opinion(self, second_opinion: SecondOpinion | None) -> None:
        """Have an adviser asked from the next frame on, or none."""
        self._perception.second_opinion = second_opinion

    def ask_adviser(self, item: T, frame_id: str, track: Track, question: str, reason: str) -> None:
        """Asks for a second opinion about a track that the item of this camera shows.

        The item is decoded only where consent and rate allow the question, and one that cannot be decoded
        does not count as asked.
        """
        second = self._perception.second_opinion
        if second is not None and not second.admit(frame_id, track.track_id, question):
            try:
                second.submit(self._decode(item, None), track, question, reason)
            except PerceptionError as error:
                second.withdraw(track.track_id, question)
                self._report("second opinion", str(error))

    def set_degradation(self, level: DegradationLevel) -> None:
        """Applies a thermal degradation level. While it is PAUSED, frames are counted as skipped."""
        with self._lock:
            self._level = level
            self._requests.settings = degraded(self._settings, level)
        if level is DegradationLevel.PAUSED:
            self._discard_waiting()

    def _discard_waiting(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.clear()

    def statistics(self) -> LiveStatistics:
        """Counters, rates and latencies since the start."""
        worker = self._worker
        return self._statistics.snapshot(self._enabled, self._level, worker.waiting if worker else 0)

    # --- threads -------------------------------------------------------------------------------------

    def _try(self, queued: QueuedFrame[T]) -> None:
        try:
            self._infer(queued)
        except CancelledError:
            pass
        except PerceptionError as error:
            self._statistics.record_failure(type(error).__name__)
            self._report(type(error).__name__, str(error))

    def _fail(self, where: str, error: Exception) -> None:
        if where == "inference":
            self._statistics.record_failure(type(error).__name__)
        self._statistics.last_error = _unexpected(where, error)
        self._callbacks.on_unexpected(where, error)

    def _infer(self, queued: QueuedFrame[T]) -> None:
        if self._ego_motion is not None:
            self._ego_motion.wait_idle()
        self._apply_requests()
        frame = self._decode(queued.item, None)
        with self._questions.turn(queued.number) as due:
            if due() is None and not self._perception.should_infer(frame):
                self._statistics.count(frames_skipped=1)
                return
            scene = self._perception.infer(frame)
            now_s = time.monotonic()
            with self._lock:
                reset = self._requests.reset
                if not reset:
                    self.scene, self.latency_s = scene, now_s - queued.submitted_s
            if not reset:  # else the clock was set back meanwhile: the scene belongs to the past
                self._statistics.record_inference(scene, self.latency_s, now_s)
                self._callbacks.on_scene(scene, frame)
            self._report_questions_without_room(self._perception.questions_without_room)
            if self._perception.question_problem:
                self._statistics.count(standing_questions_failed=1)
                self._report("question", self._perception.question_problem)
            # one that came during the inference need not wait for another
            if (asked := due()) is not None:
                self._answer(asked, frame)

    def _report_questions_without_room(self, names: tuple[str, ...]) -> None:
        """Report each question for which there is no room any more, once."""
        before, self._statistics.questions_without_room = self._statistics.questions_without_room, names
        for name in names:
            if name not in before:  # each is a reason of its own: it is told, whatever else is told just now
                self._report(
                    f"no room for {name}",
                    f"question {name!r} had no room in the budgets of {MAX_WITHOUT_ROOM} frames: raise "
                    "budget.tokens or budget.latency",
                )

    def _answer(self, asked: Asked, frame: Frame) -> None:
        began_s = time.monotonic()
        try:
            decision = self._perception.answer(frame, asked.question, asked.asker.on_partial_answer())
        except PerceptionError as error:
            asked.refuse(str(error))
            return
        finally:
            self._questions.record_answer(time.monotonic() - began_s)
        try:
            asked.asker.on_answer(decision)
        except Exception as error:  # the question is answered: nobody is told that it is not
            self._fail("answer", error)

    def _apply_requests(self) -> None:
        with self._lock:
            requests, self._requests = self._requests, _Requests()
            if requests.reset:
                self._perception.reset()
                self._statistics.count(tracker_resets=1)
                self.scene = None
        if requests.reset:
            self._callbacks.on_reset()
        if requests.settings is not None:
            self._perception.reconfigure(requests.settings)
        if requests.caption:
            self._perception.request_caption()

    def _report(self, reason: str, message: str) -> None:
        self._statistics.last_error = message
        self._callbacks.on_error(reason, message)


def _unexpected(where: str, error: Exception) -> str:
    return f"{where}: an unexpected error: {error!r}"


class _Counting(Asker):
    """Tells an asker, and counts, what becomes of a question."""

    def __init__(self, asker: Asker, statistics: StatisticsRecorder) -> None:
        self._asker, self._statistics = asker, statistics

    def on_answer(self, decision: Decision) -> None:
        self._statistics.count(questions_answered=1)
        self._asker.on_answer(decision)

    def on_partial_answer(self) -> OnText | None:
        return self._asker.on_partial_answer()

    def on_refusal(self, question: str, reason: str) -> None:
        self._statistics.count(questions_refused=1)
        self._asker.on_refusal(question, reason)
