"""A run of the node on one page: picture, figures, and where each object was thought to be over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfm_perception.colours import track_colour
from lfm_perception.evaluation.live import Boxes, LiveReport, LiveRun
from lfm_perception.media.page import facts, heading, model_note, picture, words, write_page
from lfm_perception.scene import Image

CHART_WIDE, CHART_TALL, MARGIN = 1000, 420, 44
GAP_NS = 200_000_000
"""A line is broken where nothing was known for longer."""


def write_live_page(
    path: Path, run: LiveRun, report: LiveReport, still: Image, about: Mapping[str, Any]
) -> None:
    """Write the page to `path`. `about` may say under `model` that it is the demo model."""
    write_page(
        path,
        "What the perception node saw",
        model_note(about),
        picture(still, "an overlay picture"),
        heading("Figures"),
        facts(figures(report)),
        heading("Where things were, and where the node said they were"),
        words(
            "The centre of each object from the left edge of the image (bottom) to the right (top), over "
            "time. Grey: the truth. Coloured: tracks, as published with each camera frame. Dots: what the "
            "model saw, at the moment it looked."
        ),
        _chart(run),
    )


def figures(report: LiveReport) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each figure, for the page and for the terminal."""
    rows = [
        ("camera", f"{report.camera_hz:.1f} Hz", f"{report.seconds:.1f} s of the demo world"),
        ("tracks", f"{report.tracks_hz:.1f} Hz", "published for each camera frame"),
        ("track age", _ages(report.track_age_p50_s, report.track_age_p95_s), "from capture to arrival"),
        ("model", f"{report.answers_hz:.1f} Hz", f"frames looked at; {report.captions} captions"),
        ("answer age", _ages(report.answer_age_p50_s, report.answer_age_p95_s), "from capture to arrival"),
        ("detections", f"F1 {report.detections.f1:.3f}", "at the frames looked at, IoU 0.5, same label"),
        ("tracks", f"F1 {report.tracks.f1:.3f}", "at every camera frame, against the truth of that frame"),
    ]
    if report.speed_error is not None and report.speed is not None:
        rows.append(
            (
                "velocity",
                f"off by {report.speed_error:.3f}",
                f"image sides per second, median, of bodies that move at {report.speed:.3f}",
            )
        )
    return rows


def _ages(p50_s: float, p95_s: float) -> str:
    return f"{1e3 * p50_s:.0f} ms, p95 {1e3 * p95_s:.0f} ms"


def _chart(run: LiveRun) -> str:
    first_ns, last_ns = run.truth[0].stamp_ns, run.truth[-1].stamp_ns
    span_ns = max(last_ns - first_ns, 1)

    def place(stamp_ns: int, centre: float) -> tuple[float, float]:
        x = MARGIN + (stamp_ns - first_ns) / span_ns * (CHART_WIDE - 2 * MARGIN)
        return x, MARGIN + (1.0 - centre) * (CHART_TALL - 2 * MARGIN)

    def lines(messages: Iterable[Boxes], attributes: Mapping[str, str]) -> list[str]:
        return [
            f'<polyline fill="none" stroke="{attributes.get(identity, "#b9bec8")}" stroke-width="2" '
            f'points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in piece))}"/>'
            for identity, points in _paths(messages).items()
            for piece in _pieces(points)
        ]

    identities = {item.identity for boxes in run.tracks for item in boxes.items}
    colours = {
        identity: "#{:02x}{:02x}{:02x}".format(*track_colour(int(identity))) for identity in identities
    }
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1a1d23"/>'
        for boxes in run.detections
        for x, y in (place(boxes.stamp_ns, (i.box.x1 + i.box.x2) / 2) for i in boxes.items)
        if x >= MARGIN
    ]
    seconds = span_ns / 1e9
    axis = [
        f'<text x="{place(first_ns + round(s * 1e9), 0)[0]:.0f}" y="{CHART_TALL - 14}">{s} s</text>'
        for s in range(0, int(seconds) + 1, max(1, round(seconds / 10)))
    ]
    body = "\n".join([*lines(run.truth, {}), *lines(run.tracks, colours), *dots, *axis])
    return f'<svg viewBox="0 0 {CHART_WIDE} {CHART_TALL}" role="img">\n{body}\n</svg>'


def _paths(messages: Iterable[Boxes]) -> dict[str, list[tuple[int, float]]]:
    """Stamps and centres of each identity."""
    paths: dict[str, list[tuple[int, float]]] = {}
    for boxes in messages:
        for item in boxes.items:
            centre = (item.box.x1 + item.box.x2) / 2
            paths.setdefault(item.identity, []).append((boxes.stamp_ns, centre))
    return paths


def _pieces(points: Sequence[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    pieces: list[list[tuple[int, float]]] = []
    for point in points:
        if not pieces or point[0] - pieces[-1][-1][0] > GAP_NS:
            pieces.append([])
        pieces[-1].append(point)
    return pieces
