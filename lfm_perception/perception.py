# SPDX-License-Identifier: Apache-2.0
"""From a frame to a scene: infer detections, track them, caption. The only place that wires the parts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lfm_perception.backends import open_vlm
from lfm_perception.decisions import Decision, answer_probabilities, decide
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import WHOLE, iou_matrix, stack
from lfm_perception.planning.attribute_schedule import MIN_SIDE, AttributeSchedule, is_small, surroundings
from lfm_perception.planning.inference import Inferencer
from lfm_perception.planning.motion_gate import MotionGate
from lfm_perception.planning.question_schedule import QuestionSchedule
from lfm_perception.postprocessing import postprocess
from lfm_perception.questions import Draft, FramePlan, Prompt, ask
from lfm_perception.scene import AttributeValue, Detection, Frame, Scene, Track, Usage
from lfm_perception.settings import Settings
from lfm_perception.stamps import to_seconds
from lfm_perception.tracking import Tracker, open_tracker
from lfm_perception.tracking.ego_motion import EgoMotionEstimator
from lfm_perception.typed_questions import MAX_OPTION_TOKENS, TypedQuestion
from lfm_perception.vlm import CancelledError, OnText, Vlm

if TYPE_CHECKING:
    from lfm_perception.planning.fovea import Choice, Fovea
    from lfm_perception.second_opinion import SecondOpinion


MAX_WITHOUT_ROOM = 10
"""Number of frames whose budgets had no room for a question, one after the other, that is reported."""


class Perception:
    """Infers frames one after the other and predicts the tracks to any later stamp.

    Owned by one thread, except `tracks`, which any thread may call, and `update_ego_motion`, which one other
    thread may; both never wait for the model. A frame older than the one before it resets the tracks: a bag
    was restarted or a clock was set back.
    """

    def __init__(self, settings: Settings, vlm: Vlm, tracker: Tracker) -> None:
        self._tracker = tracker
        self._tracker_lock = threading.Lock()
        self._ego_motion = EgoMotionEstimator()
        self._inferencer, self._gate = Inferencer(settings, vlm), MotionGate(settings.inference)
        self._fovea: Fovea | None = None
        self._schedule, self._attributes = QuestionSchedule(), AttributeSchedule()
        self.second_opinion: SecondOpinion | None = None
        """Asks an adviser about tracks, where one is allowed; closed by the caller. Any thread may set it."""
        self._apply(settings)
        self.reset()

    def reconfigure(self, settings: Settings) -> None:
        """Applies other settings from the next frame on; tracks and caption stay.

        Settings with which the model was loaded keep their values in the model.
        """
        self._inferencer.reconfigure(settings)
        self._gate.reconfigure(settings.inference)
        self._apply(settings)
        with self._tracker_lock:
            self._tracker.reconfigure(settings.tracker)

    def _apply(self, settings: Settings) -> None:
        self._settings = settings
        self._detect = settings.question
        self._caption = ask(Prompt(settings.caption.prompt))
        if settings.fovea.mode == "off":
            self._fovea = None
        elif self._fovea is not None:
            self._fovea.reconfigure(settings.fovea)
        else:
            from lfm_perception.planning.fovea import Fovea  # costs nothing while it is off

            self._fovea = Fovea(settings.fovea)
        self._without_room = Counter[str]()
        self._schedule.reconfigure(settings.questions.alerts, settings.questions.duty_cycle)
        self._attributes.reconfigure(settings.attributes)

    def reset(self) -> None:
        """Removes all tracks and the caption."""
        with self._tracker_lock:
            self._tracker.reset()
        self._newest_ns: int | None = None
        self._caption_text: str | None = None
        self._caption_ns: int | None = None
        self._caption_requested = False
        self.question_problem = ""
        """Why the latest standing question that failed was not answered; empty where none failed."""
        self._last_detections: tuple[Detection, ...] = ()
        self._gate.reset()
        if self._fovea is not None:
            self._fovea.reset()
        self._schedule.reset()
        self._attributes.reset()

    @property
    def questions_without_room(self) -> tuple[str, ...]:
        """Names of standing questions and attributes for which the budgets of many frames had no room."""
        return tuple(name for name, count in self._without_room.items() if count >= MAX_WITHOUT_ROOM)

    @property
    def plan(self) -> FramePlan | None:
        """The plan of the last inferred frame; None before the first."""
        return self._inferencer.plan

    def should_infer(self, frame: Frame) -> bool:
        """Whether the motion gate and the duty cycle let a frame pass; `infer` accepts any frame."""
        return self._caption_requested or self._gate.should_infer(frame, time.monotonic())

    def infer(self, frame: Frame) -> Scene:
        """Detects and tracks the objects in a frame, and captions it when a caption is due.

        Raises:
            PerceptionError: the frame cannot be shown to the model, or the model fails.
        """
        began_s = time.monotonic()
        if self._newest_ns is not None and frame.stamp_ns < self._newest_ns:
            self.reset()
        self._newest_ns, self.question_problem = frame.stamp_ns, ""
        max_tokens, stamp_s = self._settings.detect.max_tokens, to_seconds(frame.stamp_ns)
        tracks = self.tracks(frame.stamp_ns)
        choice = self._choose_region(frame, tracks)
        region = None if choice is None else choice.region
        answer, plan = self._inferencer.infer(frame, self._detect, max_tokens, self._draft(tracks), region)
        view = self._fovea.record(choice, plan.image, stamp_s) if self._fovea and choice else None
        self._last_detections = answer.detections
        detections, rejects = postprocess(answer, self._settings.detect, region or WHOLE)
        with self._tracker_lock:
            rejects.update(self._tracker.update(detections, stamp_s, view))
        caption_usage = None if region else self._caption_if_due(frame)
        if region is None:
            self._ask_standing_questions(frame)
        shown = self.tracks(frame.stamp_ns)
        self._ask_attributes(frame, shown)
        self._schedule.update_tracks({track.track_id for track in shown}, frame.stamp_ns)
        self._gate.record_inference(frame, began_s, time.monotonic())
        scene = Scene(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            width=frame.width,
            height=frame.height,
            detections=detections,
            tracks=shown,
            caption=self._caption_text,
            truncated=answer.truncated,
            rejects=rejects,
            usage=answer.usage,
            caption_stamp_ns=self._caption_ns,
            caption_usage=caption_usage,
            text=answer.text,
            over_latency_budget=not plan.fits,
            alerts=self._schedule.statuses,
            attributes=self._attributes.values(shown),
            file=frame.file,
            view=view,
        )
        second = self.second_opinion
        return scene if second is None else second.consider(frame, scene)

    def infer_picture(self, frame: Frame) -> Scene:
        """Detects the objects in an image independent of all others, and captions it; without tracks."""
        self.reset()
        return replace(self.infer(frame), tracks=())

    def request_caption(self) -> None:
        """Captions the next inferred frame, whether or not a caption is due."""
        self._caption_requested = True

    def answer(self, frame: Frame, question: TypedQuestion, on_text: OnText | None = None) -> Decision:
        """The model's answer to a question about a frame, or about a track in it.

        Free text has up to `caption.max_tokens` tokens.

        The frame of the last inference is neither encoded nor read again. `on_text` receives free text while
        it is decoded, where the backend can do that.

        Raises:
            PerceptionError: there is no such track, the model fails, or a limit ended the answer.
        """
        if not question.language:
            question = replace(question, language=self._settings.questions.language)
        limit, track_id = self._settings.caption.max_tokens, question.track
        track = None if track_id is None else self._track(track_id, frame)
        if track and question.second_opinion:
            self._ask_adviser(frame, track, question.text)
        region = None if track is None else surroundings(track.box)
        answer, plan = self._inferencer.ask(frame, question.question, limit, on_text, region)
        settings, stamp_ns = self._settings.questions, frame.stamp_ns
        return decide(question, answer, settings, stamp_ns=stamp_ns, plan=plan.image, track_id=track_id)

    def _track(self, track_id: int, frame: Frame) -> Track:
        """A track that the frame shows. Raises PerceptionError where there is none, or nearly."""
        tracks = {track.track_id: track for track in self.tracks(frame.stamp_ns)}
        if track_id not in tracks:
            there = ", ".join(map(str, tracks)) or "none"
            raise PerceptionError(f"there is no track {track_id} now, only: {there}")
        if is_small(tracks[track_id].box, frame):
            raise PerceptionError(f"track {track_id} has less than {MIN_SIDE} pixels: too few to ask about")
        return tracks[track_id]

    def _ask_adviser(self, frame: Frame, track: Track, question: str) -> None:
        if self.second_opinion is None:
            raise PerceptionError("a second opinion is asked for, and second_opinion.allowed is false")
        if problem := self.second_opinion.ask(frame, track, question, "a question", again=True):
            raise PerceptionError(f"a second opinion is asked for, but {problem}")

    def update_ego_motion(self, frame: Frame) -> None:
        """Estimates the camera's motion up to a camera frame, inferred or not; takes a few milliseconds.

        Either every camera frame is given in order, or none.
        """
        if self._settings.tracker.camera_motion_compensation == "off":
            return
        stamp_s = to_seconds(frame.stamp_ns)
        with self._tracker_lock:
            moving = self._tracker.moving_boxes(stamp_s)
        motion = self._ego_motion.measure(frame.image, moving)
        with self._tracker_lock:
            self._tracker.add_ego_motion(motion, stamp_s)

    def tracks(self, stamp_ns: int) -> tuple[Track, ...]:
        """The tracks predicted to a stamp at or after the last inferred frame."""
        with self._tracker_lock:
            return self._tracker.predict(to_seconds(stamp_ns))

    def _choose_region(self, frame: Frame, tracks: Sequence[Track]) -> Choice | None:
        """What the inference of a frame sees, given the tracks predicted to it; None without regions."""
        if self._fovea is None:
            return None
        stamp_s = to_seconds(frame.stamp_ns)
        with self._tracker_lock:
            pending = self._tracker.pending(stamp_s)
        picture = self._inferencer.picture(frame)
        return self._fovea.choose((frame.width, frame.height), picture, tracks, pending, stamp_s)

    def _draft(self, tracks: Sequence[Track]) -> Draft | None:
        """The tracks predicted to a frame, as a draft of the answer for speculative decoding.

        They are in the order of the last answer, which a model tends to repeat; tracks not in it come last.
        """
        if not tracks:
            return None
        iou = iou_matrix(stack(t.box for t in tracks), stack(d.box for d in self._last_detections))
        places = [int(row.argmax()) if row.any() else len(row) for row in iou]
        ordered = sorted(zip(places, tracks, strict=True), key=lambda pair: pair[0])
        return tuple((track.label, track.box) for _, track in ordered)

    def _caption_if_due(self, frame: Frame) -> Usage | None:
        """Captions the inferred frame when that is due and the budgets allow it; returns the usage."""
        settings = self._settings.caption
        due = settings.enabled and (
            self._caption_ns is None or to_seconds(frame.stamp_ns - self._caption_ns) >= settings.period
        )
        if not due and not self._caption_requested:
            return None
        answer = self._inferencer.follow_up(frame, self._caption, settings.max_tokens)
        if answer is None:
            return None
        self._caption_text, self._caption_ns = answer.text.strip(), frame.stamp_ns
        self._caption_requested = False
        return answer.usage

    def _ask_standing_questions(self, frame: Frame) -> None:
        """Asks the standing questions that are due, as far as the budgets and their share allow it."""
        stamp_s = to_seconds(frame.stamp_ns)
        while (asked := self._schedule.due(stamp_s)) is not None:
            began_s = time.perf_counter()
            try:
                answer = self._inferencer.follow_up(frame, asked.question.question, MAX_OPTION_TOKENS)
                if answer is None:
                    self._leave_out(asked.name)
                    self._schedule.defer(asked, stamp_s)
                    return
                del self._without_room[asked.name]
                shares = answer_probabilities(asked.question, answer, self._settings.questions)
            except CancelledError:
                raise
            except PerceptionError as error:
                self.question_problem = f"questions.standing {asked.name!r}: {error}"
                self._schedule.postpone(asked, stamp_s)
                self._schedule.spend(stamp_s, time.perf_counter() - began_s)
            else:
                self._schedule.record(asked, shares, frame.stamp_ns, time.perf_counter() - began_s)

    def _leave_out(self, name: str) -> None:
        """Counts that the budgets of a frame had no room for a question."""
        self._without_room[name] += 1

    def _ask_attributes(self, frame: Frame, tracks: Sequence[Track]) -> None:
        """Asks the attributes of tracks that are due, on their crops, in what standing questions left."""
        stamp_s, settings = to_seconds(frame.stamp_ns), self._settings.questions
        for track, attribute, region in self._attributes.due(frame, tracks):
            if stamp_s < self._schedule.next_s:
                return
            began_s, value = time.perf_counter(), None
            question = attribute.question(track.label)
            try:
                answer = self._inferencer.ask_region(frame, region, question.question, MAX_OPTION_TOKENS)
                if answer is None:
                    self._leave_out(attribute.name)
                    return
                del self._without_room[attribute.name]
                decided = answer_probabilities(question, answer, settings)
                shares = dict(zip(attribute.values, decided.values(), strict=True))  # as they were written
                likeliest = max(shares, key=lambda text: shares[text])
                value = AttributeValue(likeliest, shares[likeliest], frame.stamp_ns)
                self._schedule.record_track(attribute.name, track.track_id, shares, frame.stamp_ns)
            except CancelledError:
                raise
            except PerceptionError as error:
                self.question_problem = f"question {attribute.name!r} about a track: {error}"
            self._attributes.record(frame, track, attribute, region, value)
            self._schedule.spend(stamp_s, time.perf_counter() - began_s)


@contextmanager
def open_perception(settings: Settings) -> Iterator[Perception]:
    """Perception with the backend and the model of the settings, which are freed on leaving.

    Warnings about the model are logged.

    Raises:
        PerceptionError: the model cannot be used.
    """
    vlm = open_vlm(settings)
    try:
        yield Perception(settings, vlm, open_tracker(settings.tracker))
    finally:
        vlm.close()
