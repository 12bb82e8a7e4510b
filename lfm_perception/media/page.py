"""A run of the node on one page: picture, figures, and where each object was thought to be over time.

The page is one file that needs nothing else, so that it can be sent to somebody.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from lfm_perception.evaluation.live import Boxes, LiveReport, LiveRun
from lfm_perception.media.overlay import track_colour
from lfm_perception.scene import Image

CHART_WIDE, CHART_TALL, MARGIN = 1000, 420, 44
GAP_NS = 200_000_000
"""A line is broken where nothing was known for longer."""

DEMO_NOTE = "The model that answered is the small demo model, which knows the demo world only."

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem;
       color: #1a1d23; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
img, svg { max-width: 100%; height: auto; border-radius: 6px }
table { border-collapse: collapse } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top }
td:nth-child(2) { font-weight: 600; white-space: nowrap } .quiet { color: #697080 }
svg { background: #f6f7f9 } text { font-size: 12px; fill: #697080 }
"""


def write_page(path: Path, run: LiveRun, report: LiveReport, still: Image, about: Mapping[str, Any]) -> None:
    """Write the page to `path`. `about` may say under `model` that it is the demo model."""
    demo_model = bool(about.get("model", {}).get("demo"))
    note = (
        "The model that answered is the small demo model, which knows the demo world only."
        if demo_model
        else ""
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>lfm_perception: what the node saw</title><style>{STYLE}</style></head><body>
<h1>What the perception node saw</h1>
<p class="quiet">{html.escape(note)}</p>
<img alt="an overlay picture" src="data:image/jpeg;base64,{_jpeg(still)}">
<h2>Figures</h2>
<table>{"".join(_row(*row) for row in figures(report))}</table>
<h2>Where things were, and where the node said they were</h2>
<p>The centre of each object from the left edge of the image (bottom) to the right (top), over time.
Grey: the truth. Coloured: tracks, as published with each camera frame. Dots: what the model saw, at the
moment it looked.</p>
{_chart(run)}
</body></html>
""",
        encoding="utf-8",
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


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>\n"


def _jpeg(picture: Image) -> str:
    quality = (cv2.IMWRITE_JPEG_QUALITY, 85)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    return base64.b64encode(data.tobytes()).decode()


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
