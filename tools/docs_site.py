"""A hook of mkdocs (see mkdocs.yml): what pages link to elsewhere in the repository becomes part of the site.

`../config/cpu.yaml` in a page of docs/ leads to a copy under repository/, where it can be read without the
repository: Markdown as a page, pictures as they are, anything else as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIES = "repository"
SHOWN = {".md", ".svg", ".jpg", ".png"}
"""What a browser shows by itself, or mkdocs makes a page of."""

LINK = re.compile(r"(?<=\]\()(?P<target>\.\./[^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are linked to."""
    root = Path(config.config_file_path).parent
    for page in list(files.documentation_pages()):
        for path in _outside(page.content_string, page.src_uri):
            uri = join(COPIES, path)
            if (root / path).is_file() and uri not in files.src_uris:
                copy = File.generated(config, uri, abs_src_path=str(root / path))
                if Path(path).suffix not in SHOWN:
                    copy.dest_uri += ".txt"
                files.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links lead to the copies; one without a copy stays, and is reported as broken."""
    here = page.file.src_uri

    def led(link: re.Match[str]) -> str:
        uri = join(COPIES, normpath(join(dirname(here), link["target"]))[3:])
        return relpath(uri, dirname(here) or ".") if uri in files.src_uris else link["target"]

    return LINK.sub(led, markdown)


def _outside(markdown: str, uri: str) -> Iterator[str]:
    """The paths, from the repository's root, that a page links to outside docs/."""
    for link in LINK.finditer(markdown):
        path = normpath(join(dirname(uri), link["target"]))
        if path.startswith("../"):
            yield path[3:]
