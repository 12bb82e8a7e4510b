# SPDX-License-Identifier: Apache-2.0
"""The chart of tracks over time, with the ground truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lfm_perception.colours import track_colour
from lfm_perception.evaluation.tracking import TrackedBox, TrackingSequence
from lfm_perception.media.charts import INK, RULE, Line, lines
from lfm_perception.media.page import Chart

GAP_S = 0.2
"""A line is broken between points that are further apart than this in seconds, and than 1.5 frames."""

Course = list[tuple[float, float]]
"""Moments in seconds, and the centre of a box at each of them, in image widths."""


def courses_chart(
    title: str,
    truth: Mapping[int, Course],
    tracks: Mapping[int, Course],
    detections: Mapping[int, Course],
    *,
    gap_s: float = GAP_S,
) -> Chart:
    """Centres over time: broad grey lines of the ground truth, tracks with their ids, detections as dots."""
    drawn = [Line(*_broken(course, gap_s), RULE, width=5.0) for course in truth.values()]
    for track_id, course in tracks.items():
        colour = "#{:02x}{:02x}{:02x}".format(*track_colour(track_id, saturation=0.85, value=0.7))
        drawn.append(Line(*_broken(course, gap_s), colour, text=str(track_id)))
    dots = [point for course in detections.values() for point in course]
    drawn.append(Line([at_s for at_s, _ in dots], [centre for _, centre in dots], INK, width=0.0, marker="."))
    named = {"ground truth": RULE, "track, with its id": INK, **({"detection": INK} if dots else {})}
    looks = {"ground truth": (5.0, ""), "track, with its id": (1.5, ""), "detection": (0.0, ".")}
    drawn += [
        Line([math.nan], [math.nan], colour, name, width=looks[name][0], marker=looks[name][1])
        for name, colour in named.items()
    ]
    return lines(title, drawn, ("time (s)", "centre x (image widths)"), height=4.2, top=1.0)


def sequence_chart(sequence: TrackingSequence, tracks: Sequence[Sequence[TrackedBox]]) -> Chart:
    """The tracks of one sequence."""
    truth: dict[int, Course] = {}
    tracked: dict[int, Course] = {}
    for index, (objects, shown) in enumerate(zip(sequence.frames, tracks, strict=True)):
        at_s = index / sequence.fps
        for each in objects:
            truth.setdefault(each.identity, []).append((at_s, (each.box.x1 + each.box.x2) / 2))
        for track in shown:
            tracked.setdefault(track.track_id, []).append((at_s, (track.box.x1 + track.box.x2) / 2))
    title = f"{sequence.name}: {len(truth)} objects, {len(tracked)} tracks"
    return courses_chart(title, truth, tracked, {}, gap_s=max(GAP_S, 1.5 / sequence.fps))


def _broken(course: Course, gap_s: float) -> tuple[list[float], list[float]]:
    """The points as x and y, with NaN where the line is broken."""
    x: list[float] = []
    y: list[float] = []
    for at_s, centre in course:
        if x and at_s - x[-1] > gap_s:
            x.append(at_s)
            y.append(math.nan)
        x.append(at_s)
        y.append(centre)
    return x, y
