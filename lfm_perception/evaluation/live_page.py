# SPDX-License-Identifier: Apache-2.0
"""A run of the node on one page: video, figures, positions over time, latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfm_perception.evaluation.live import Boxes, LiveReport, LiveRun
from lfm_perception.evaluation.tracking_charts import Course, courses_chart
from lfm_perception.media.charts import histogram
from lfm_perception.media.latency import Answered, latency_section, timeline_section
from lfm_perception.media.page import Section, video_source, write_report
from lfm_perception.stamps import to_seconds


def write_live_page(
    path: Path, run: LiveRun, report: LiveReport, video: Path, about: Mapping[str, Any]
) -> None:
    """Write the page to `path`. `about` is the summary with its provenance."""
    scenes = [received.scene for received in run.scenes]
    captions = [scene.caption_usage for scene in scenes if scene.caption_usage]
    latency = latency_section(
        run.scene_ages_s, {"detect": [scene.usage for scene in scenes], "caption": captions}
    )
    tracks = histogram("Age of tracks", [1e3 * age for age in run.track_ages_s], "age (ms)", "messages")
    first_ns = run.truth[0].stamp_ns
    answered = [
        Answered(
            to_seconds(each.scene.stamp_ns - first_ns),
            to_seconds(each.received_ns - first_ns),
            each.scene.usage,
            each.scene.caption_usage,
        )
        for each in run.scenes
    ]
    sections = [
        Section("", video=video_source(video), facts=figures(report)),
        Section(
            "Positions over time, against the ground truth",
            notes=[
                "The centre of each object from the left edge of the image (bottom) to the right (top). "
                "Tracks are drawn as published with each camera frame, detections at the stamp of their "
                "frame."
            ],
            charts=[
                courses_chart(
                    "Positions over time",
                    _courses(run.truth, first_ns),
                    _courses(run.tracks, first_ns),
                    _courses(run.detections, first_ns),
                )
            ],
        ),
        replace(latency, notes=[FROM_CAPTURE], charts=[*latency.charts, tracks]),
        timeline_section(answered),
    ]
    write_report(path, "A run of the perception node", sections, about)


FROM_CAPTURE = (
    "Milliseconds from the capture of a frame to the arrival of its scene (inference), and of the stages of "
    "each question. The age of tracks counts from the capture of the frame that they were predicted to."
)


def figures(report: LiveReport) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure, for the page and for the terminal."""
    rows = [
        ("camera rate", f"{report.camera_hz:.1f} Hz", f"{report.seconds:.1f} s of the demo world"),
        ("track rate", f"{report.tracks_hz:.1f} Hz", "published for each camera frame"),
        ("track age", _ages(report.track_age_p50_s, report.track_age_p95_s), "from capture to arrival"),
        ("inference rate", f"{report.inferences_hz:.1f} Hz", f"inferred frames; {report.captions} captions"),
        (
            "inference latency",
            _ages(report.scene_age_p50_s, report.scene_age_p95_s),
            "from capture to arrival",
        ),
        ("detections", f"F1 {report.detections.f1:.3f}", "at the inferred frames, IoU 0.5, same label"),
        ("tracks", f"F1 {report.tracks.f1:.3f}", "at every camera frame, against its ground truth"),
    ]
    if report.velocity_error is not None and report.speed is not None:
        meaning = f"image sides per second, median, of objects that move at {report.speed:.3f}"
        rows.append(("velocity error", f"{report.velocity_error:.3f}", meaning))
    return rows


def _ages(p50_s: float, p95_s: float) -> str:
    return f"p50 {1e3 * p50_s:.0f} ms, p95 {1e3 * p95_s:.0f} ms"


def _courses(messages: Iterable[Boxes], first_ns: int) -> dict[int, Course]:
    """Seconds since the first stamp, and centres, of each identity; detections have none."""
    courses: dict[int, Course] = {}
    for boxes in messages:
        for item in boxes.items:
            point = to_seconds(boxes.stamp_ns - first_ns), (item.box.x1 + item.box.x2) / 2
            courses.setdefault(int(item.identity or 0), []).append(point)
    return courses
