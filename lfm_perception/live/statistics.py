# SPDX-License-Identifier: Apache-2.0
"""Statistics of a live run: counters, rates and latencies, kept by one thread-safe object."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lfm_perception.geometry import WHOLE
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.scene import Scene

LATENCY_WINDOW = 200
"""Number of inferences over which latency percentiles are computed."""

RATE_WINDOW_S = 2.0
"""Window over which the input rate is computed, in seconds."""

LOSS_WINDOW, MIN_LOSS_FRAMES = 100, 20
"""Maximum and minimum number of frames from whose stamps the share of lost frames is estimated."""


@dataclass(frozen=True, slots=True)
class LiveStatistics:
    """The statistics since the start, as diagnostics publish them.

    Of `frames_received`, `frames_inferred` were inferred, `frames_dropped` were replaced by a newer one,
    `frames_skipped` came while inference was disabled, paused or held back by the motion gate or the duty
    cycle, `frames_rejected` (by reason) had an invalid stamp, and `frames_failed` (by type of error) could
    not be decoded or inferred. `objects_rejected` counts objects in answers by reason. `over_latency_budget`
    inferences were not expected to meet `budget.latency`. `input_hz` is the rate of the frames that were not
    rejected, `lost_share` the estimated share of the camera's frames that did not arrive. Questions were
    answered or refused. `standing_questions_answered` counts the answers to standing questions and about
    attributes of tracks, `standing_questions_failed` the frames with one that failed; the budgets of many
    frames had no room for `questions_without_room`. `time_since_frame_s`
    and `inference_age_s` count from the last such frame and from the last inference, or from the start before
    the first. Latencies run from `submit` to the scene.
    Of `drafted_decisions` with a draft token, `accepted_decisions` were right (speculative decoding).
    `regions_inferred` inferences saw a region of the frame; `last_view` describes the last one's view, and is
    empty without `fovea.mode`.
    """

    enabled: bool
    degradation_level: DegradationLevel
    frames_rejected: Mapping[str, int]
    frames_failed: Mapping[str, int]
    objects_rejected: Mapping[str, int]
    input_hz: float
    lost_share: float
    time_since_frame_s: float
    inference_age_s: float
    latency_p50_s: float
    latency_p95_s: float
    last_error: str
    last_view: str
    questions_without_room: tuple[str, ...]
    frames_received: int = 0
    frames_inferred: int = 0
    frames_dropped: int = 0
    frames_skipped: int = 0
    frames_waiting: int = 0
    answers_truncated: int = 0
    over_latency_budget: int = 0
    regions_inferred: int = 0
    tokens: int = 0
    drafted_decisions: int = 0
    accepted_decisions: int = 0
    tracker_resets: int = 0
    questions_answered: int = 0
    questions_refused: int = 0
    standing_questions_answered: int = 0
    standing_questions_failed: int = 0


class StatisticsRecorder:
    """Records what happens to frames. Thread-safe; moments are on `time.monotonic`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._rejected, self._failed, self._objects_rejected = Counter[str](), Counter[str](), Counter[str]()
        self._frame_times_s = deque[float](maxlen=1000)
        self._stamps_ns = deque[int](maxlen=LOSS_WINDOW)
        self._latencies_s = deque[float](maxlen=LATENCY_WINDOW)
        self._last_inference_s: float | None = None
        self.last_error = self._last_view = ""
        self.questions_without_room: tuple[str, ...] = ()
        self.start()

    def start(self) -> None:
        """Expects frames from now on."""
        self._started_s = time.monotonic()

    def count(self, **increments: int) -> None:
        """Adds to counters, named as in `LiveStatistics`."""
        with self._lock:
            self._counts.update(increments)

    def record_frame(self, now_s: float, stamp_ns: int) -> None:
        """A frame with a valid stamp was received."""
        with self._lock:
            self._counts["frames_received"] += 1
            self._frame_times_s.append(now_s)
            self._stamps_ns.append(stamp_ns)

    def record_rejection(self, reason: str) -> None:
        """A frame was received and rejected."""
        with self._lock:
            self._counts["frames_received"] += 1
            self._rejected[reason] += 1

    def record_failure(self, kind: str) -> None:
        """A frame could not be decoded or inferred."""
        with self._lock:
            self._failed[kind] += 1

    def record_inference(self, scene: Scene, latency_s: float, now_s: float) -> None:
        """A frame was inferred, `latency_s` after it was submitted."""
        usages = [usage for usage in (scene.usage, scene.caption_usage) if usage is not None]
        about_frame = (alert.stamp_ns for alert in scene.alerts if alert.track_id is None)
        about_tracks = (each.stamp_ns for values in scene.attributes.values() for each in values.values())
        self.count(
            frames_inferred=1,
            answers_truncated=int(scene.truncated),
            over_latency_budget=int(scene.over_latency_budget),
            regions_inferred=int(scene.view is not None and scene.view.region != WHOLE),
            tokens=sum(usage.image_tokens + usage.answer_tokens for usage in usages),
            drafted_decisions=sum(usage.drafted_decisions for usage in usages),
            accepted_decisions=sum(usage.accepted_decisions for usage in usages),
            standing_questions_answered=[*about_frame, *about_tracks].count(scene.stamp_ns),
        )
        with self._lock:
            self._objects_rejected.update(scene.rejects)
            self._last_view = str(scene.view or "")
            self._latencies_s.append(latency_s)
            self._last_inference_s = now_s

    def snapshot(self, enabled: bool, level: DegradationLevel, waiting: int) -> LiveStatistics:
        """The statistics now."""
        now_s = time.monotonic()
        with self._lock:
            p50_s, p95_s = np.percentile(list(self._latencies_s) or [0.0], (50, 95)).tolist()
            recent = sum(now_s - moment_s <= RATE_WINDOW_S for moment_s in self._frame_times_s)
            last_frame_s = max([self._started_s, *list(self._frame_times_s)[-1:]])
            return LiveStatistics(
                enabled=enabled,
                degradation_level=level,
                frames_rejected=Counter(self._rejected),
                frames_failed=Counter(self._failed),
                objects_rejected=Counter(self._objects_rejected),
                input_hz=recent / min(RATE_WINDOW_S, max(now_s - self._started_s, 0.1)),
                lost_share=lost_share(list(self._stamps_ns)),
                time_since_frame_s=now_s - last_frame_s,
                inference_age_s=now_s - (self._last_inference_s or self._started_s),
                latency_p50_s=p50_s,
                latency_p95_s=p95_s,
                last_error=self.last_error,
                last_view=self._last_view,
                questions_without_room=self.questions_without_room,
                frames_waiting=waiting,
                **self._counts,
            )


def lost_share(stamps_ns: Sequence[int]) -> float:
    """The estimated share of frames that were lost, from the gaps between the stamps of those that arrived.

    The camera's period is taken as the 10th percentile of the gaps; 0 for less than `MIN_LOSS_FRAMES` frames.
    """
    if len(stamps_ns) < MIN_LOSS_FRAMES:
        return 0.0
    gaps = np.diff(np.asarray(stamps_ns, np.float64))
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return 0.0
    sent = np.maximum(np.round(gaps / np.quantile(gaps, 0.1)), 1.0).sum()
    return float(1.0 - len(gaps) / sent)
