# SPDX-License-Identifier: Apache-2.0
"""Second opinions beside perception: a queue of requests, a thread that asks the adviser, and its answers.

    consider(frame, scene) ──crop──► queue ──► thread `second opinion` ──JPEG──► adviser
                           ◄── scene with the opinions so far            ◄─answer─

Nobody waits for the adviser. A crop is made while the frame is there, and is dropped where the rate, the
queue or the consent do not allow it; every crop that was handed over has one outcome.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lfm_perception.errors import shown
from lfm_perception.scene import Frame, Opinion, Scene, Track
from lfm_perception.second_opinion.advisers import Adviser, open_adviser
from lfm_perception.second_opinion.opinions import (
    AdviserError,
    Outcome,
    Reply,
    Request,
    cropped,
    encoded,
)
from lfm_perception.second_opinion.policy import Policy
from lfm_perception.settings import SecondOpinionSettings

MAX_QUEUED = 8
"""Maximum number of crops that wait for the adviser; a further one replaces the oldest."""

MAX_OPINIONS = 500
"""Maximum number of tracks of which the latest opinion, or why none is asked for, is kept."""

MAX_ANSWER = 2000
"""Maximum length of an answer, characters."""

ENDED = "the adviser has ended"
"""Reason for dropping crops that wait when the adviser ends, or come later."""

WITHDRAWN = "the consent was withdrawn"
"""Reason for dropping crops that had consent when they were made, and have none any more."""

POLL_S = 0.2
"""Longest wait for an adviser before the queue is checked again."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the start: crops handed over with their bytes, answers; crops dropped and failures by reason.

    `not_shown` are tracks of a low confidence that are not asked about, as their crop cannot show them, by
    reason. `queued` crops wait for the adviser. `problem` is the last failure in a sentence, and
    `refused_camera` the frame id of the last camera without consent that was to be asked about, None where
    there is none.
    """

    asked: int
    bytes: int
    answered: int
    queued: int
    dropped: Mapping[str, int]
    not_shown: Mapping[str, int]
    failed: Mapping[str, int]
    problem: str
    refused_camera: str | None


class SecondOpinion:
    """Asks an adviser about tracks. To be closed. For any thread; only `drain` and `close` wait.

    Args:
        settings: their `allowed` is true.
        on_outcome: receives the outcome of each crop that was handed over, on the thread of this object.
        tell: receives a sentence for each crop before it is handed over: what, to whom, how large, why.
        warn: called as `warn(kind, sentence)` for each failure.
        on_error: receives unexpected exceptions; the thread goes on.

    Raises:
        PerceptionError: the adviser cannot be used.
    """

    def __init__(
        self,
        settings: SecondOpinionSettings,
        on_outcome: Callable[[Outcome], None],
        tell: Callable[[str], object],
        warn: Callable[[str, str], object],
        on_error: Callable[[Exception], object],
    ) -> None:
        self._settings, self._on_outcome, self._tell, self._warn = settings, on_outcome, tell, warn
        self._on_error = on_error
        self._adviser: Adviser = open_adviser(settings)
        self._changed = threading.Condition()
        self._policy = Policy(settings)
        self._queue = deque[Request]()
        self._opinions: dict[int, Opinion] = {}
        self._asked = self._bytes = self._answered = 0
        self._dropped, self._failed = Counter[str](), Counter[str]()
        self._not_shown, self._not_shown_before = dict[int, str](), Counter[str]()
        self._problem = ""
        self._refused_camera: str | None = None
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._run, name="second opinion", daemon=True)
        self._thread.start()

    @property
    def source(self) -> str:
        """The adviser's name."""
        return self._adviser.source

    def counts(self) -> Counts:
        """What has happened since the start."""
        with self._changed:
            return Counts(
                self._asked,
                self._bytes,
                self._answered,
                len(self._queue),
                dict(self._dropped),
                dict(self._not_shown_before + Counter(self._not_shown.values())),
                dict(self._failed),
                self._problem,
                self._refused_camera,
            )

    def consider(self, frame: Frame, scene: Scene) -> Scene:
        """Ask about the doubtful tracks of a scene of this frame; the scene with the opinions so far.

        Tracks for which there is no room now stay candidates for later scenes.
        """
        question, now_s = self._settings.question, time.monotonic()
        with self._changed:
            doubtful = []
            for track, reason, obstacle in self._policy.doubtful(scene.tracks, frame.width, frame.height):
                if self._policy.was_asked(track.track_id, question, now_s):
                    continue
                self._not_shown.pop(track.track_id, None)
                if not obstacle:
                    doubtful.append((track, reason))
                elif self._policy.consents(frame.frame_id):
                    self._not_shown[track.track_id] = obstacle
            while len(self._not_shown) > MAX_OPINIONS:
                self._not_shown_before[self._not_shown.pop(next(iter(self._not_shown)))] += 1
            room = MAX_QUEUED - len(self._queue) if doubtful and self._consents(frame.frame_id) else 0
        for track, reason in doubtful[:room]:
            if self.ask(frame, track, question, reason):
                break
        with self._changed:
            known = [self._opinions.get(track.track_id) for track in scene.tracks]
        return replace(scene, opinions=tuple(each for each in known if each is not None))

    def ask(self, frame: Frame, track: Track, question: str, reason: str, *, again: bool = False) -> str:
        """Queue a question about a track that this frame shows, if it is admitted: `admit` and `submit`."""
        if refusal := self.admit(frame.frame_id, track.track_id, question, again=again):
            return refusal
        self.submit(frame, track, question, reason)
        return ""

    def admit(self, frame_id: str, track_id: int, question: str, *, again: bool = False) -> str:
        """Whether consent and rate allow a question, which then counts as asked. Needs no image.

        Args:
            again: also where the same was asked less than `second_opinion.repeat` ago.

        Returns:
            Why nothing is asked; empty where the question is to be handed to `submit`, or to `withdraw`.
        """
        now_s = time.monotonic()
        with self._changed:
            if not self._consents(frame_id):
                return self._drop("the camera does not consent")
            if not again and self._policy.was_asked(track_id, question, now_s):
                return "it was asked already"
            if self._closing:
                return self._drop(ENDED)
            if not self._policy.admit(track_id, question, now_s):
                return self._drop("second_opinion.rate is used up")
        return ""

    def withdraw(self, track_id: int, question: str) -> None:
        """Take back an admitted question, whose image cannot be had: it may be asked again at once."""
        with self._changed:
            self._policy.withdraw(track_id, question)

    def submit(self, frame: Frame, track: Track, question: str, reason: str) -> None:
        """Queue an admitted question about a track that this frame shows; a full queue loses its oldest.

        Args:
            reason: why it is asked.
        """
        image = cropped(frame, track.box, self._settings.max_side)
        request = Request(
            request_id=f"{frame.stamp_ns}-{track.track_id}-{uuid.uuid4().hex[:8]}",
            track_id=track.track_id,
            label=track.label,
            box=track.box,
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            question=question,
            reason=reason,
            image=image,
            asked_s=time.monotonic(),
        )
        with self._changed:
            if self._closing:
                self._drop(ENDED)
                return
            if len(self._queue) >= MAX_QUEUED:
                self._queue.popleft()
                self._drop("newer crops wait for the adviser")
            self._queue.append(request)
            self._changed.notify_all()

    def reconfigure(self, settings: SecondOpinionSettings) -> None:
        """Apply other limits. The adviser stays; crops without consent are dropped."""
        with self._changed:
            self._settings = settings
            self._policy.reconfigure(settings)

    def drain(self, go_on: Callable[[], bool]) -> None:
        """Wait until all that was asked has an outcome, or `go_on` is false."""
        with self._changed:
            while (self._queue or self._busy) and not self._closing and go_on():
                self._changed.wait(POLL_S)

    def close(self) -> None:
        """Drop the crops that wait and end the adviser."""
        with self._changed:
            self._end()
        self._thread.join()

    def _end(self) -> None:
        self._closing = True
        self._drop(ENDED, len(self._queue))
        self._queue.clear()
        self._changed.notify_all()

    def _consents(self, frame_id: str) -> bool:
        consents = self._policy.consents(frame_id)
        if not consents:
            self._refused_camera = frame_id
        return consents

    def _drop(self, reason: str, count: int = 1) -> str:
        if count:
            self._dropped[reason] += count
        return reason

    # --- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._step()
                except Exception as error:  # noqa: PERF203 - a bug costs one outcome
                    self._on_error(error)
                    time.sleep(POLL_S)
        finally:
            self._adviser.close()
            with self._changed:
                self._busy = False
                self._end()

    def _step(self) -> None:
        request = self._next()
        if request is not None or not self._closing:
            for reply in self._replies(request):
                self._finish(reply)

    def _replies(self, request: Request | None) -> Sequence[Reply]:
        """Hand a request over, if there is one, and wait a moment for replies."""
        adviser = self._adviser
        try:
            if request is not None:
                request = self._hand_over(request)
            return adviser.poll(POLL_S if adviser.waits else 0.0)
        except AdviserError as error:
            failure = error
        except Exception as error:  # a bug of an adviser costs one answer
            self._on_error(error)
            failure = AdviserError("unexpected", f"{adviser.source} failed unexpectedly: {error!r}")
            time.sleep(POLL_S)
        return () if request is None else (Reply(request, error=failure),)

    def _next(self) -> Request | None:
        """The next request with consent, once the adviser has room; None where it is to be polled."""
        adviser = self._adviser
        with self._changed:
            self._busy = adviser.waits
            self._changed.notify_all()
            while not (self._closing or adviser.waits or (self._queue and adviser.has_room)):
                self._changed.wait(POLL_S if self._queue else None)
            while self._queue and adviser.has_room and not self._closing:
                request = self._queue.popleft()
                if self._policy.consents(request.frame_id):
                    self._busy = True
                    return request
                self._drop(WITHDRAWN)
        return None

    def _hand_over(self, request: Request) -> Request:
        """Hand a crop to the adviser; returns the request with what was handed over."""
        request = replace(request, jpeg=encoded(request.image, self._settings.max_bytes))
        self._tell(f"second opinion: {request} to {self.source}: {request.reason}")
        self._adviser.submit(request)
        with self._changed:
            self._asked += 1
            self._bytes += len(request.jpeg)
        return request

    def _finish(self, reply: Reply) -> None:
        """Check a reply, count it, keep the opinion and report the outcome."""
        request, error = reply.request, reply.error
        if error is None and len(reply.answer) > MAX_ANSWER:
            length = len(reply.answer)
            error = AdviserError("unusable", f"{self.source} answered with {length} characters: not used")
        confidence = reply.confidence
        if error is None and confidence is not None and not 0.0 <= confidence <= 1.0:
            error = AdviserError(
                "unusable", f"{self.source} gave the confidence {shown(confidence)}: not used"
            )
        opinion = None
        with self._changed:
            if error is not None:
                self._failed[error.kind] += 1
                self._problem = str(error)
            else:
                self._answered += 1
                opinion = Opinion(
                    request.track_id,
                    request.question,
                    reply.answer.strip(),
                    self.source,
                    request.stamp_ns,
                    confidence,
                    time.monotonic() - request.asked_s,
                )
                self._opinions.pop(request.track_id, None)
                self._opinions[request.track_id] = opinion
                if len(self._opinions) > MAX_OPINIONS:
                    del self._opinions[next(iter(self._opinions))]
        if error is not None:
            self._warn(f"second opinion {error.kind}", f"second opinion: {error}")
        self._on_outcome(Outcome(request, self.source, opinion, "" if error is None else str(error)))
