# SPDX-License-Identifier: Apache-2.0
"""Reports as one HTML file that needs nothing else, made from jinja2 templates (`templates/`)."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfm_perception.media import images


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Log any error of this block, which only draws, so that it does not cost the results beside it."""
    try:
        yield
    except OSError:  # the disk, which the results need too
        raise
    except Exception:  # whatever the libraries of charts and pages stumble over is a bug of this package
        logging.getLogger(__name__).exception("%s could not be drawn; the figures are complete", what)


def write_page(path: Path, template: str, **content: object) -> None:
    """Render a template with this content to `path`. Text in it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lfm_perception"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["jpeg"] = lambda image: data_uri("image/jpeg", images.encode(image, ".jpg"))
    text = environment.get_template(template).render(content) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def data_uri(kind: str, data: bytes) -> str:
    """An image file of this media type as the source of an `<img>`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
