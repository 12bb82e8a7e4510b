"""From a frame to a scene: plan, ask the model, follow what it saw. The only place that wires the parts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from lfm_perception.backends import open_vlm
from lfm_perception.calibration import calibrated
from lfm_perception.geometry import iou_matrix, stack
from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.motion_gate import MotionGate
from lfm_perception.planning.planner import Planner
from lfm_perception.questions import Draft, FramePlan, Prompt, ask, detect
from lfm_perception.scene import Answer, Detection, Frame, Scene, Track, Usage
from lfm_perception.settings import Settings
from lfm_perception.tracking import Tracker, open_tracker
from lfm_perception.tracking.ego_motion import EgoMotionEstimator
from lfm_perception.vlm import Vlm

LOW_SCORE = "low score"
"""The reject of a detection below `detect.min_score`."""


class Perception:
    """Looks at frames one after the other and knows, at any later moment, where things are.

    Owned by one thread, but for `tracks`, which any thread may call, and `watch`, which one thread may; both
    never wait for the model. A frame older than the one before it is a new beginning: a bag that starts
    over, a clock that was set back.
    """

    def __init__(self, settings: Settings, vlm: Vlm, tracker: Tracker) -> None:
        self._vlm = vlm
        self._tracker = tracker
        self._tracker_lock = threading.Lock()
        self._camera = EgoMotionEstimator()
        self._planner, self._gate = Planner(settings), MotionGate(settings.inference)
        self._adopt(settings)
        self.reset()

    def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings from the next frame on; what is known stays.

        Those with which the model was loaded keep their values in the model.
        """
        self._adopt(settings)
        with self._tracker_lock:
            self._tracker.reconfigure(settings.tracker)

    def _adopt(self, settings: Settings) -> None:
        self._settings = settings
        self._detect = detect(settings.dialect, settings.detect.labels, closed=settings.detect.closed)
        self._caption = ask(Prompt(settings.caption.prompt))
        self._planner.reconfigure(settings)
        self._gate.reconfigure(settings.inference)

    def reset(self) -> None:
        """Forget tracks and caption."""
        with self._tracker_lock:
            self._tracker.reset()
        self._newest_ns: int | None = None
        self._caption_text: str | None = None
        self._caption_ns: int | None = None
        self._caption_wanted = False
        self._named: tuple[Detection, ...] = ()
        self._gate.reset()
        self.plan: FramePlan | None = None
        """What was planned for the frame looked at last."""

    def should_infer(self, frame: Frame) -> bool:
        """Whether a frame is worth looking at (`planning.motion_gate`). `look` looks at any frame."""
        return self._caption_wanted or self._gate.should_infer(frame, time.monotonic())

    def infer(self, frame: Frame) -> Scene:
        """Have the model look at a frame; it describes the scene in words too when that is due.

        Raises PerceptionError when the frame cannot be shown to the model or the model fails.
        """
        started, began = time.perf_counter(), time.monotonic()
        if self._newest_ns is not None and frame.stamp_ns < self._newest_ns:
            self.reset()
        self._newest_ns = frame.stamp_ns

        self._planner.calibrate(self._vlm, self._detect)
        wanted = self._settings.detect.max_tokens
        plan = self._planner.plan_first(frame.width, frame.height, wanted, time.perf_counter() - started)
        self.plan = plan = replace(plan, draft=self._draft(frame.stamp_ns))
        answer = self._vlm.describe(frame, self._detect, plan)
        self._planner.observe(plan.image, answer.usage)
        self._named = answer.detections
        detections, rejects = self._accepted(answer)
        with self._tracker_lock:
            rejects.update(self._tracker.update(detections, frame.stamp_ns / 1e9))
        caption_usage = self._describe(frame, plan.image, answer.usage.answer_tokens, started)
        self._gate.record_inference(frame, began, time.monotonic())
        return Scene(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            width=frame.width,
            height=frame.height,
            detections=detections,
            tracks=self.tracks(frame.stamp_ns),
            caption=self._caption_text,
            truncated=answer.truncated,
            rejects=rejects,
            usage=answer.usage,
            caption_stamp_ns=self._caption_ns,
            caption_usage=caption_usage,
            text=answer.text,
            over_latency_budget=not plan.fits,
        )

    def request_caption(self) -> None:
        """Have the next frame described in words, whether or not that is due."""
        self._caption_wanted = True

    def answer(self, frame: Frame, question: str) -> str:
        """What the model says to a question in words about a frame, within the caption's token limit.

        Raises PerceptionError when the question cannot be asked or the model fails.
        """
        wanted = self._settings.caption.max_tokens
        if self.plan is not None and frame.stamp_ns == self._newest_ns:  # what was read of it is still there
            plan = self._planner.plan_followup(self.plan.image, wanted, 0, 0.0)
        else:
            plan = self._planner.plan_first(frame.width, frame.height, wanted, 0.0)
        return self._vlm.describe(frame, ask(Prompt(question)), plan).text.strip()

    def update_ego_motion(self, frame: Frame) -> None:
        """See from a camera frame how the camera moves, whether or not the model looks at the frame.

        Every frame in order, or none; it takes a few milliseconds.
        """
        if self._settings.tracker.camera_motion_compensation == "off":
            return
        stamp_s = frame.stamp_ns / 1e9
        with self._tracker_lock:
            moving = self._tracker.moving_boxes(stamp_s)
        view = self._camera.measure(frame.image, moving)
        with self._tracker_lock:
            self._tracker.add_ego_motion(view, stamp_s)

    def tracks(self, stamp_ns: int) -> tuple[Track, ...]:
        """Where the known objects are at a stamp at or after the last frame looked at."""
        with self._tracker_lock:
            return self._tracker.predict(stamp_ns / 1e9)

    def _draft(self, stamp_ns: int) -> Draft | None:
        """The objects that the next answer will probably name: the tracks, where they are at that stamp.

        In the order of the last answer, for a model keeps to one; what was not in it comes last.
        """
        tracks = self.tracks(stamp_ns)
        if not tracks:
            return None
        overlap = iou_matrix(stack(t.box for t in tracks), stack(d.box for d in self._named))
        places = [int(row.argmax()) if row.any() else len(row) for row in overlap]
        ordered = sorted(zip(places, tracks, strict=True), key=lambda pair: pair[0])
        return tuple((track.label, track.box) for _, track in ordered)

    def _accepted(self, answer: Answer) -> tuple[tuple[Detection, ...], Counter[str]]:
        """The detections that score high enough, and all rejects by reason."""
        found = calibrated(answer.detections, self._settings.detect)
        rejects = Counter(answer.rejects)
        if len(found) < len(answer.detections):
            rejects[LOW_SCORE] = len(answer.detections) - len(found)
        return found, rejects

    def _describe(self, frame: Frame, image: ImagePlan, spent_tokens: int, started: float) -> Usage | None:
        """Ask for a caption when it is due and the budgets allow one; returns its cost."""
        settings = self._settings.caption
        due = settings.enabled and (
            self._caption_ns is None or frame.stamp_ns - self._caption_ns >= settings.period * 1e9
        )
        if not due and not self._caption_wanted:
            return None
        elapsed_s = time.perf_counter() - started
        plan = self._planner.plan_followup(image, settings.max_tokens, spent_tokens, elapsed_s)
        if plan.answer_tokens < 1 or (plan.deadline_s is not None and plan.deadline_s <= 0.0):
            return None
        answer = self._vlm.describe(frame, self._caption, plan)
        self._caption_text, self._caption_ns = answer.text.strip(), frame.stamp_ns
        self._caption_wanted = False
        return answer.usage


@contextmanager
def open_perception(settings: Settings) -> Iterator[Perception]:
    """Perception with the model the settings name; the model is freed on leaving.

    Raises PerceptionError when the model cannot be used.
    """
    vlm = open_vlm(settings)
    try:
        yield Perception(settings, vlm, open_tracker(settings.tracker))
    finally:
        vlm.close()
