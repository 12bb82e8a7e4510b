# SPDX-License-Identifier: Apache-2.0
"""Reports: one HTML file that needs nothing else, made of sections (`templates/report.html`)."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lfm_perception.media import images
from lfm_perception.scene import Image
from lfm_perception.settings import parameter_specs
from lfm_perception.text import safe_text

MAX_VIDEO_BYTES = 64 << 20
"""Size up to which a video is embedded in a page; a larger one is shown from the file beside it."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its title; `source` is a data URI, empty where it could not be drawn.

    A `wide` chart takes the whole width of a page.
    """

    title: str
    source: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with the text below it; `source` is a data URI or a file beside the page, as is `link`."""

    source: str
    text: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its title, and below it what is given, in this order.

    `facts` are rows of a name, a value and possibly a remark. `rows` belong to a table with the headings
    `heads`; `texts`: they are no numbers. `large` shows the pictures over the width of the page.
    """

    title: str
    notes: Sequence[str] = ()
    video: str = ""
    facts: Sequence[Sequence[str]] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    texts: bool = False
    charts: Sequence[Chart] = ()
    pictures: Sequence[Picture] = ()
    large: bool = False


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Log any error of this block, which only draws, so that it does not cost the results beside it."""
    try:
        yield
    except OSError:  # the disk, which the results need too
        raise
    except Exception:  # whatever the libraries of charts and pages stumble over is a bug of this package
        logging.getLogger(__name__).exception("%s could not be drawn; the figures are complete", what)


def write_report(path: Path, title: str, sections: Sequence[Section], about: Mapping[str, Any]) -> None:
    """Write a page to `path`. Text in it is escaped.

    Args:
        about: the JSON beside the page, from which the last section lists machine, model and settings.
    """
    text = rendered(
        "report.html",
        title=title,
        demo=about.get("model", {}).get("demo") is True,
        sections=[*sections, *_setup(about)],
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path.write_text(text, encoding="utf-8")


def rendered(template: str, **values: object) -> str:
    """A page from a template of the package; values are escaped, and what cannot be printed is left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lfm_perception"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(**values)
    return safe_text(text, len(text)) + "\n"


def _setup(about: Mapping[str, Any]) -> Iterator[Section]:
    """The machine, the model, the versions, and the settings that differ from their defaults."""
    if "machine" not in about:
        return
    names = ("source", "camera", "seed")
    facts = [(name, _flat(about[name])) for name in names if name in about]
    facts += [(name, _flat(about[name])) for name in ("machine", "model", "versions") if name in about]
    specs = parameter_specs()
    rows = [
        (name, _flat(value), _flat(specs[name].default))
        for name, value in about.get("settings", {}).items()
        if name in specs and value != specs[name].default
    ]
    note = "" if rows else "All settings have their defaults."
    yield Section(
        "Setup",
        notes=[note] if note else [],
        facts=facts,
        heads=("setting", "value", "default") if rows else (),
        rows=rows,
        texts=True,
    )


def _flat(value: object) -> str:
    """A value of the provenance as text in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_flat, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"


def picture(image: Image, text: str) -> Picture:
    """A picture inside the page."""
    return Picture(data_uri("image/jpeg", images.encode(image, ".jpg")), text)


def video_source(file: Path) -> str:
    """The source of a `<video>`: the file itself, or the name of a large one, which lies beside the page."""
    if file.stat().st_size > MAX_VIDEO_BYTES:
        return file.name
    return data_uri("video/mp4", file.read_bytes())


def data_uri(kind: str, data: bytes) -> str:
    """A file of this media type as the source of an `<img>`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
