# SPDX-License-Identifier: Apache-2.0
"""One run: the frames of a video are annotated and every n-th is inferred, or each picture for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lfm_perception.errors import PerceptionError
from lfm_perception.media.overlay import Overlay, View
from lfm_perception.media.report import Report
from lfm_perception.media.sinks import AnnotatedFrame, Recording
from lfm_perception.media.sources import Source
from lfm_perception.perception import Perception
from lfm_perception.scene import NO_DRAWING, Frame, Scene
from lfm_perception.stamps import to_seconds

if TYPE_CHECKING:
    from lfm_perception.rules import Event, RuleEngine


@dataclass(frozen=True, slots=True)
class Limits:
    """Length of a run at most, None for no limit: frames of the source, seconds by their stamps."""

    frames: int | None = None
    seconds: float | None = None

    def total(self, source: Source) -> int | None:
        """The number of frames that will be read, None when unknown."""
        by_time = None if self.seconds is None else max(1, round(self.seconds * source.rate))
        counts = (source.count, self.frames, by_time)
        return min((count for count in counts if count is not None), default=None)


def record(
    source: Source,
    perception: Perception,
    recording: Recording,
    report: Report,
    *,
    every: int,
    limits: Limits,
    badge: str,
    on_progress: Callable[[], bool],
    rules: RuleEngine | None = None,
    on_events: Callable[[Frame, Sequence[Event]], None] | None = None,
) -> None:
    """Run until the source ends, a limit is reached or `on_progress`, called after each frame, returns False.

    The model infers frames 0, `every`, 2 `every`...; the others show its tracks, predicted to their stamps.
    `badge` is a note on every annotated image. Figures go into `report`. `rules` see all frames of a video;
    `on_events` receives the events of a frame.

    Raises:
        PerceptionError: a frame cannot be read or inferred; the frames before it are recorded.
    """
    if source.pictures:
        _record_pictures(source, perception, recording, report, limits, badge, on_progress)
        return
    overlay: Overlay | None = None
    scene: Scene | None = None
    inference_s, first_ns = 0.0, 0
    newest_ns = 0
    for index, frame in enumerate(limited(source.frames, limits)):
        if overlay is None:
            overlay, first_ns = Overlay(frame.width, frame.height, badge, panel="strip"), frame.stamp_ns
        elif frame.stamp_ns < newest_ns:
            perception.reset()  # the stamps started over
        newest_ns = frame.stamp_ns
        perception.update_ego_motion(frame)
        inferred = index % every == 0
        if inferred:
            scene, inference_s = _timed(perception.infer, frame, f"frame {index} of {source.name}")
            report.add_scene(scene, inference_s)
        tracks = scene.tracks if scene and inferred else perception.tracks(frame.stamp_ns)
        aspect = frame.height / frame.width
        events = rules.update(frame.stamp_ns, tracks, aspect, scene) if rules else None
        if events and on_events:
            on_events(frame, events)
        drawing = rules.drawing() if rules else NO_DRAWING
        seconds = to_seconds(frame.stamp_ns - first_ns)
        image = overlay.draw(View(frame, seconds, tracks, scene, inference_s, drawing))
        found = scene if inferred else None
        recording.write(AnnotatedFrame(index, frame, tracks, image, found, inference_s, events))
        report.add_frame(frame.stamp_ns)
        if not on_progress():
            return


def _record_pictures(
    source: Source,
    perception: Perception,
    recording: Recording,
    report: Report,
    limits: Limits,
    badge: str,
    on_progress: Callable[[], bool],
) -> None:
    for index, frame in enumerate(limited(source.frames, limits)):
        scene, inference_s = _timed(perception.infer_picture, frame, f"image {frame.file}")
        report.add_scene(scene, inference_s)
        image = Overlay(frame.width, frame.height, badge, panel="").draw(
            View(frame, 0.0, (), scene, inference_s)
        )
        recording.write(AnnotatedFrame(index, frame, (), image, scene, inference_s))
        report.add_frame(frame.stamp_ns)
        if not on_progress():
            return


def _timed(infer: Callable[[Frame], Scene], frame: Frame, name: str) -> tuple[Scene, float]:
    """The scene and the seconds that it took. Raises PerceptionError with the frame's name."""
    started = time.perf_counter()
    try:
        return infer(frame), time.perf_counter() - started
    except PerceptionError as error:
        raise PerceptionError(f"{name}: {error}") from error


def limited(frames: Iterator[Frame], limits: Limits) -> Iterator[Frame]:
    """The frames up to the first limit."""
    first_ns: int | None = None
    for index, frame in enumerate(frames):
        first_ns = frame.stamp_ns if first_ns is None else first_ns
        if limits.seconds is not None and to_seconds(frame.stamp_ns - first_ns) >= limits.seconds:
            return
        yield frame
        if index + 1 == limits.frames:
            return
