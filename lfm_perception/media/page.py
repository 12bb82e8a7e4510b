"""Reports as one HTML file that needs nothing else, made from jinja2 templates (`templates/`)."""

from __future__ import annotations

import base64
from pathlib import Path

from lfm_perception.media import images


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
    path.write_text(
        environment.get_template(template).render(content) + "\n", encoding="utf-8", errors="backslashreplace"
    )


def data_uri(kind: str, data: bytes) -> str:
    """An image file of this media type as the source of an `<img>`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
