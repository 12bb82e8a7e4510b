# SPDX-License-Identifier: Apache-2.0
"""A run of the node on one page: annotated image, figures, and the position of each object over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfm_perception.colours import track_colour
from lfm_perception.evaluation.live import Boxes, LiveReport, LiveRun
from lfm_perception.media.charts import INK, Line, lines
from lfm_perception.media.page import write_page
from lfm_perception.scene import Image
from lfm_perception.stamps import to_seconds

GAP_S = 0.2
"""A line is broken between points that are further apart than this, seconds."""

GREY = "#b9bec8"


def write_live_page(
    path: Path, run: LiveRun, report: LiveReport, still: Image, about: Mapping[str, Any]
) -> None:
    """Write the page to `path`. `about` has the provenance, with the model under `model`."""
    chart = lines(_lines(run), ("seconds", "centre, image widths"), height=4.2, top=1.0)
    write_page(path, "live.html", about=about, still=still, figures=figures(report), chart=chart)


def figures(report: LiveReport) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure, for the page and for the terminal."""
    rows = [
        ("camera", f"{report.camera_hz:.1f} Hz", f"{report.seconds:.1f} s of the demo world"),
        ("tracks", f"{report.tracks_hz:.1f} Hz", "published for each camera frame"),
        ("track age", _ages(report.track_age_p50_s, report.track_age_p95_s), "from capture to arrival"),
        ("inference", f"{report.inferences_hz:.1f} Hz", f"inferred frames; {report.captions} captions"),
        ("scene age", _ages(report.scene_age_p50_s, report.scene_age_p95_s), "from capture to arrival"),
        ("detections", f"F1 {report.detections.f1:.3f}", "at the inferred frames, IoU 0.5, same label"),
        ("tracks", f"F1 {report.tracks.f1:.3f}", "at every camera frame, against its ground truth"),
    ]
    if report.velocity_error is not None and report.speed is not None:
        meaning = f"image sides per second, median, of objects that move at {report.speed:.3f}"
        rows.append(("velocity error", f"{report.velocity_error:.3f}", meaning))
    return rows


def _ages(p50_s: float, p95_s: float) -> str:
    return f"{1e3 * p50_s:.0f} ms, p95 {1e3 * p95_s:.0f} ms"


def _lines(run: LiveRun) -> list[Line]:
    """Ground truth in grey, tracks in the colours of their ids, detections as dots."""
    first_ns = run.truth[0].stamp_ns
    truth = [Line(*_broken(points), GREY) for points in _paths(run.truth, first_ns).values()]
    tracks = [
        Line(*_broken(points), "#{:02x}{:02x}{:02x}".format(*track_colour(int(identity))))
        for identity, points in _paths(run.tracks, first_ns).items()
    ]
    dots = [point for points in _paths(run.detections, first_ns).values() for point in points]
    x, y = [at_s for at_s, _ in dots], [centre for _, centre in dots]
    return [*truth, *tracks, Line(x, y, INK, width=0.0, marker=".")]


def _paths(messages: Iterable[Boxes], first_ns: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds since the first stamp, and centres, of each identity."""
    paths: dict[str, list[tuple[float, float]]] = {}
    for boxes in messages:
        for item in boxes.items:
            point = to_seconds(boxes.stamp_ns - first_ns), (item.box.x1 + item.box.x2) / 2
            paths.setdefault(item.identity, []).append(point)
    return paths


def _broken(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """The points as x and y, with NaN where the line is broken."""
    x: list[float] = []
    y: list[float] = []
    for at_s, centre in points:
        if x and at_s - x[-1] > GAP_S:
            x.append(at_s)
            y.append(math.nan)
        x.append(at_s)
        y.append(centre)
    return x, y
