"""Perception beside a running camera: frames are offered at camera rate, the model looks at what it can.

    camera thread ──offer──► FrameMailbox ──► thread `perception`: decode, look, tell the listener
                  ──offer──► FrameMailbox ──► thread `ego motion`: decode small, see how the camera moves
                  ◄─────────── where things are at the frame's stamp, without waiting for the model

At most one frame waits for each thread. A newer one takes its place, and what was dropped is counted. A frame
is looked at once the camera's motion up to it is known, so that what is published follows from the frames
alone and not from which thread was faster.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.perception import Perception
from lfm_perception.planning.thermal import DegradationLevel, degraded
from lfm_perception.scene import Frame, Scene, Track
from lfm_perception.settings import Settings
from lfm_perception.tracking import association, open_tracker
from lfm_perception.tracking.ego_motion import SMALL_WIDTH
from lfm_perception.vlm import CancelledError, Vlm

T = TypeVar("T")

STAMP_RESET_S = 0.5
"""Two frames in a row that are older than the newest by more than this are a new beginning: a bag that starts
over, a clock that was set back. One alone, or one that is older by less, is refused."""

REMEMBERED = 200
"""Answers over which latencies are taken."""

RATE_WINDOW_S = 2.0
"""Over which the rate of the input is taken."""

MOST_QUESTIONS = 8
"""Questions that may wait for a frame; a further one takes the place of the oldest."""


@dataclass(frozen=True, slots=True)
class QueuedFrame(Generic[T]):
    """A frame as it came, before it is decoded. `offered_s`: when, on `time.monotonic`."""

    item: T
    stamp_ns: int
    offered_s: float


class FrameMailbox(Generic[T]):
    """One place between the camera and the model. The newest frame wins; nobody waits to put one in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: T | None = None
        self._open = True
        self.dropped = 0
        """Frames that a newer one replaced."""

    def put(self, frame: T) -> None:
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def take(self) -> T | None:
        """The newest frame, once there is one; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or not self._open)
            frame, self._frame = self._frame, None
            return frame if self._open else None

    def clear(self) -> None:
        """Throw away what waits."""
        with self._changed:
            self._frame = None

    def open(self) -> None:
        with self._changed:
            self._frame, self._open = None, True

    def close(self) -> None:
        """Throw away what waits, and let whoever waits for a frame go."""
        with self._changed:
            self._frame, self._open = None, False
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Frames that wait: 0 or 1."""
        return int(self._frame is not None)


class LatestWorker(Generic[T]):
    """Does something with each item on a thread of its own, skipping those that a newer one replaced.

    `fail` hears of what `work` raises; an item that is no image (PerceptionError) is passed over, for that
    is told where it is looked at.
    """

    def __init__(self, name: str, work: Callable[[T], None], fail: Callable[[Exception], None]) -> None:
        self._work, self._fail = work, fail
        self._mailbox = FrameMailbox[tuple[int, T]]()
        self._settled = threading.Condition()
        self._put = 0
        self._done: float = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Takes microseconds."""
        with self._settled:
            self._put += 1
            self._mailbox.put((self._put, item))

    def wait_idle(self) -> None:
        """Wait until all that was put by now is done with."""
        with self._settled:
            newest = self._put
            self._settled.wait_for(lambda: self._done >= newest)

    def close(self) -> None:
        """Drop what waits, and let whoever waits for it go."""
        self._mailbox.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (taken := self._mailbox.take()) is not None:
                number, item = taken
                self._try(item)
                self._now_done(number)
        finally:  # whatever ends the thread, nobody waits for it
            self._now_done(math.inf)

    def _try(self, item: T) -> None:
        try:
            self._work(item)
        except PerceptionError:
            pass
        except Exception as error:  # a bug must not end the thread
            self._fail(error)

    def _now_done(self, number: float) -> None:
        with self._settled:
            self._done = number
            self._settled.notify_all()


class LiveCallbacks(Protocol):
    """Who is told what was seen, on the thread `perception`; it should not keep that thread for long."""

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        """The model looked at a frame."""
        ...

    def on_answer(self, question: str, text: str, stamp_ns: int) -> None:
        """The model answered a question about the frame of this stamp."""
        ...

    def on_error(self, kind: str, problem: str) -> None:
        """A frame or a question was of no use; the sentence says why. Everything goes on."""
        ...


@dataclass(frozen=True, slots=True)
class LiveStatistics:
    """What happened since the start, as diagnostics need it.

    `level`: what is done against the board's heat. Frames: `received` were offered, of which `looked` at,
    `dropped` for a newer one, `gated` while switched off, paused or because the gate was closed, `refused` by
    reason (stamps), `failed` by the kind of error (decoding, the model). `rejects` counts objects in answers
    that were dropped, by reason; `over_latency_budget` inferences missed `budget.latency`. `input_hz`:
    of frames that were not refused, over the last two seconds. `camera_silence_s`: since the last of them;
    `answer_age_s`: since the last answer; both since the start where there was none. `latency_p50_s`,
    `latency_p95_s`: from offer to answer.
    """

    enabled: bool
    degradation_level: DegradationLevel
    frames_received: int
    frames_inferred: int
    frames_dropped: int
    frames_skipped: int
    frames_waiting: int
    frames_rejected: Mapping[str, int]
    frames_failed: Mapping[str, int]
    objects_rejected: Mapping[str, int]
    answers_truncated: int
    over_latency_budget: int
    tokens: int
    input_hz: float
    time_since_frame_s: float
    inference_age_s: float
    latency_p50_s: float
    latency_p95_s: float
    tracker_resets: int
    newest_stamp_ns: int | None
    last_error: str


class LivePerception(Generic[T]):
    """A `Perception` on its own thread, between `start` and `stop`. All methods may be called by any thread.

    `decode(item, width)` makes the frame of what was offered: whole on the thread `perception`, for what is
    looked at, and where `width` is given about so many pixels wide, on the thread `ego motion`; it raises
    PerceptionError for what is no image. Whatever goes wrong with a frame is counted,
    told to the listener and forgotten; the tracks stay.
    """

    def __init__(
        self,
        settings: Settings,
        vlm: Vlm,
        decode: Callable[[T, int | None], Frame],
        listener: LiveCallbacks,
    ) -> None:
        self._settings, self._vlm, self._decode, self._listener = settings, vlm, decode, listener
        self._level = DegradationLevel.NONE
        association.prepare()  # before the camera is looked at
        self._perception = Perception(settings, vlm, open_tracker(settings.tracker))
        self._mailbox = FrameMailbox[QueuedFrame[T]]()
        self._thread: threading.Thread | None = None
        self._motion: LatestWorker[T] | None = None
        self._lock = threading.Lock()
        self._questions = deque[str](maxlen=MOST_QUESTIONS)
        self._changes: Settings | None = None
        self._caption_wanted = self._reset_wanted = False
        self._enabled = True
        self._newest_ns: int | None = None
        self._suspect_ns: int | None = None
        self._scene: Scene | None = None
        self._started_s = time.monotonic()
        self._receipts = deque[float](maxlen=1000)
        self._latencies = deque[float](maxlen=REMEMBERED)
        self._answered_s: float | None = None
        self._received = self._looked = self._gated = self._truncated = self._too_slow = self._tokens = (
            self._resets
        ) = 0
        self._refused, self._failed, self._rejects = Counter[str](), Counter[str](), Counter[str]()
        self._last_problem = ""

    # --- from the camera -----------------------------------------------------------------------------

    def submit(self, item: T, stamp_ns: int) -> tuple[Track, ...] | None:
        """Hand over a frame, and have the tracks at its stamp as they are known before it is looked at.

        Takes microseconds and never waits for the model. None when its stamp makes the frame useless. Frames
        that start over in the past are a new beginning: the tracks are forgotten.
        """
        now = time.monotonic()
        with self._lock:
            self._received += 1
            problem = self._stamp_problem(stamp_ns)
            if problem is None:
                self._newest_ns, self._suspect_ns = stamp_ns, None
                self._receipts.append(now)
                enabled = self._enabled and self._level is not DegradationLevel.PAUSED
                self._gated += not enabled
        if problem is not None:
            self._refuse(*problem)
            return None
        # of a time that is over, until the next look forgets it
        tracks = () if self._reset_wanted else self._perception.tracks(stamp_ns)
        if self._motion is not None and self._settings.tracker.camera_motion_compensation != "off":
            self._motion.submit(item)
        if enabled:
            self._mailbox.put(QueuedFrame(item, stamp_ns, now))
        return tracks

    def _stamp_problem(self, stamp_ns: int) -> tuple[str, str] | None:
        """Why a stamp is of no use, in a word and in a sentence."""
        newest_ns, suspect_ns = self._newest_ns, self._suspect_ns
        if newest_ns is None or stamp_ns > newest_ns:
            return None
        if stamp_ns == newest_ns:
            return (
                "repeated",
                "a frame has the stamp of the one before it and is refused",
            )
        behind_s = (newest_ns - stamp_ns) / 1e9
        if behind_s <= STAMP_RESET_S:
            return "out of order", f"a frame is {behind_s:.3f} s older than the one before and is refused"
        if suspect_ns is None or stamp_ns <= suspect_ns:
            self._suspect_ns = stamp_ns
            sentence = f"a frame is {behind_s:.3f} s older than the one before: refused unless more follow"
            return "jumped back", sentence
        self._reset_wanted = True
        return None

    def reject(self, kind: str, problem: str) -> None:
        """Count a frame that was not worth offering, and tell why."""
        with self._lock:
            self._received += 1
        self._refuse(kind, problem)

    def _refuse(self, kind: str, problem: str) -> None:
        with self._lock:
            self._refused[kind] += 1
        self._tell(kind, problem)

    # --- from the user -------------------------------------------------------------------------------

    def ask(self, question: str) -> None:
        """Have a question in words answered about the next frame that is looked at."""
        with self._lock:
            self._questions.append(question)

    def request_caption(self) -> None:
        """Have the next frame described in words."""
        with self._lock:
            self._caption_wanted = True

    def enable(self, on: bool) -> None:
        """Switch the looking on or off. While off, frames are counted and the tracks age."""
        with self._lock:
            self._enabled = on
        if not on:
            self._mailbox.clear()

    def reset(self) -> None:
        """Forget the tracks and the caption, before the next frame is looked at."""
        with self._lock:
            self._reset_wanted = True
            self._newest_ns = self._suspect_ns = None
        self._mailbox.clear()

    def reconfigure(self, settings: Settings) -> None:
        """Go on with other settings, from the next frame on."""
        with self._lock:
            self._settings = settings
            self._changes = degraded(settings, self._level)

    def set_degradation(self, level: DegradationLevel) -> None:
        """Do less, or more again, because of the board's heat. While paused, frames are counted as gated."""
        with self._lock:
            self._level = level
            self._changes = degraded(self._settings, level)
        if level is DegradationLevel.PAUSED:
            self._mailbox.clear()

    # --- state ---------------------------------------------------------------------------------------

    @property
    def scene(self) -> Scene | None:
        """What was seen last."""
        return self._scene

    @property
    def latency_s(self) -> float:
        """Seconds from offer to answer, the last time; 0 before."""
        return self._latencies[-1] if self._latencies else 0.0

    def statistics(self) -> LiveStatistics:
        now = time.monotonic()
        with self._lock:
            latencies = list(self._latencies) or [0.0]
            p50, p95 = np.percentile(latencies, (50, 95)).tolist()
            return LiveStatistics(
                enabled=self._enabled,
                degradation_level=self._level,
                frames_received=self._received,
                frames_inferred=self._looked,
                frames_dropped=self._mailbox.dropped,
                frames_skipped=self._gated,
                frames_waiting=self._mailbox.waiting,
                frames_rejected=MappingProxyType(dict(self._refused)),
                frames_failed=MappingProxyType(dict(self._failed)),
                objects_rejected=MappingProxyType(dict(self._rejects)),
                answers_truncated=self._truncated,
                over_latency_budget=self._too_slow,
                tokens=self._tokens,
                input_hz=_rate(self._receipts, now),
                time_since_frame_s=now - (self._receipts[-1] if self._receipts else self._started_s),
                inference_age_s=now - (self._answered_s or self._started_s),
                latency_p50_s=p50,
                latency_p95_s=p95,
                tracker_resets=self._resets,
                newest_stamp_ns=self._newest_ns,
                last_error=self._last_problem,
            )

    def start(self) -> None:
        """Begin to look. The camera is expected from now on."""
        if self._thread is None:
            self._started_s = time.monotonic()
            self._mailbox.open()
            self._motion = LatestWorker("ego motion", self._watch, self._miss)
            self._thread = threading.Thread(target=self._run, name="perception", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Drop what waits and what is being looked at. The tracks stay; `start` goes on."""
        if self._thread is not None:
            self._mailbox.close()
            while self._thread.is_alive():
                self._vlm.cancel()  # again: the thread may have been between two questions
                self._thread.join(0.1)
            self._thread = None
            if self._motion is not None:
                self._motion.close()
                self._motion = None

    # --- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (offered := self._mailbox.take()) is not None:
            self._try(offered)

    def _try(self, offered: QueuedFrame[T]) -> None:
        try:
            self._look(offered)
        except CancelledError:
            pass
        except PerceptionError as error:
            self._fail(type(error).__name__, str(error))
        except Exception as error:  # a bug must not make a robot blind
            self._fail(type(error).__name__, f"a frame failed unexpectedly: {error!r}")

    def _watch(self, item: T) -> None:
        self._perception.update_ego_motion(self._decode(item, SMALL_WIDTH))

    def _miss(self, error: Exception) -> None:
        self._tell(type(error).__name__, f"ego motion: a frame failed unexpectedly: {error!r}")

    def _look(self, offered: QueuedFrame[T]) -> None:
        if self._motion is not None:
            self._motion.wait_idle()
        with self._lock:
            changes, self._changes = self._changes, None
            reset, self._reset_wanted = self._reset_wanted, False
            caption, self._caption_wanted = self._caption_wanted, False
            if reset:
                self._perception.reset()
                self._resets += 1
                self._scene = None
        if changes is not None:
            self._perception.reconfigure(changes)
        if caption:
            self._perception.request_caption()
        frame = self._decode(offered.item, None)
        if not self._questions and not self._perception.should_infer(frame):
            with self._lock:
                self._gated += 1
            return
        scene = self._perception.infer(frame)
        answered = time.monotonic()
        with self._lock:
            if self._reset_wanted:  # the clock jumped meanwhile: what was seen belongs to the past
                return
            self._scene = scene
            self._looked += 1
            self._truncated += scene.truncated
            self._too_slow += scene.over_latency_budget
            self._rejects.update(scene.rejects)
            usages = [usage for usage in (scene.usage, scene.caption_usage) if usage is not None]
            self._tokens += sum(usage.image_tokens + usage.answer_tokens for usage in usages)
            self._latencies.append(answered - offered.offered_s)
            self._answered_s = answered
        self._listener.on_scene(scene, frame)
        while self._questions:
            question = self._questions.popleft()
            self._listener.on_answer(question, self._perception.answer(frame, question), frame.stamp_ns)

    def _fail(self, kind: str, problem: str) -> None:
        with self._lock:
            self._failed[kind] += 1
        self._tell(kind, problem)

    def _tell(self, kind: str, problem: str) -> None:
        with self._lock:
            self._last_problem = problem
        self._listener.on_error(kind, problem)


def _rate(receipts: Iterable[float], now: float) -> float:
    recent = sum(now - moment <= RATE_WINDOW_S for moment in receipts)
    return recent / RATE_WINDOW_S
