"""A report as one HTML file that needs nothing else, so that it can be sent to somebody.

Each function gives one part of a page as HTML; what stands in tables and below pictures is plain text.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from lfm_perception.scene import Image

JPEG_QUALITY = 85

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem;
       color: #1a1d23; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
img, svg { max-width: 100%; height: auto; border-radius: 6px }
table { border-collapse: collapse } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top }
.facts td:nth-child(2) { font-weight: 600 } .facts td:nth-child(2):not(:last-child) { white-space: nowrap }
.quiet { color: #697080 }
.grid th, .grid td { padding: .2rem .9rem .2rem 0; text-align: right; font-variant-numeric: tabular-nums }
.grid th:first-child, .grid td:first-child { text-align: left; font-weight: 600 }
.grid th { color: #697080; font-weight: 400; border-bottom: 1px solid #d9dce2 }
.gallery { display: flex; flex-wrap: wrap; gap: .8rem } figure { margin: 0; width: 150px }
figcaption { font-size: 12px; line-height: 1.35; color: #697080; overflow-wrap: anywhere }
svg { background: #f6f7f9 } text { font-size: 12px; fill: #697080 }
"""


def write_page(path: Path, title: str, note: str, *parts: str) -> None:
    """Write the page to `path`. `note` stands in grey below the title."""
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>lfm_perception: {html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{words(note, "quiet")}
{chr(10).join(parts)}
</body></html>
""",
        encoding="utf-8",
    )


def model_note(about: Mapping[str, Any]) -> str:
    """What must be said of the model in `about`, in the form of a summary's: that it is the demo model."""
    demo = about.get("model", {}).get("demo")
    return "The model that answered is the small demo model, which knows the demo world only." if demo else ""


def heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def words(text: str, kind: str = "") -> str:
    """A paragraph; of the `kind` "quiet" it is grey."""
    return f'<p class="{kind}">{html.escape(text)}</p>' if text else ""


def facts(rows: Iterable[Sequence[str]]) -> str:
    """A table of names, values and, if rows are longer, remarks."""
    return f'<table class="facts">{"".join(_row("td", row) for row in rows)}</table>'


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of figures under `heads`; each row begins with its name."""
    body = "".join(_row("td", row) for row in rows)
    return f'<table class="grid">{_row("th", heads)}{body}</table>'


def picture(image: Image, alt: str) -> str:
    """The picture itself, as JPEG."""
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", colours, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return _embedded("image/jpeg", data.tobytes(), alt)


def drawing(svg: str, alt: str) -> str:
    """A drawing, apart from the page, whose style and names it does not share."""
    return _embedded("image/svg+xml", svg.encode(), alt)


def gallery(pictures: Iterable[tuple[Image, str]]) -> str:
    """Small pictures with a line of text below each."""
    figures = (
        f"<figure>{picture(image, text)}<figcaption>{html.escape(text)}</figcaption></figure>"
        for image, text in pictures
    )
    return f'<div class="gallery">{"".join(figures)}</div>'


def _embedded(kind: str, data: bytes, alt: str) -> str:
    return f'<img alt="{html.escape(alt)}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def _row(cell: str, texts: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in texts) + "</tr>\n"
