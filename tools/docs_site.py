# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs (see mkdocs.yml) that adds the linked files of the repository to the site.

A link to `../config/cpu.yaml` in a page of docs/ points to a copy under repository/: Markdown becomes a page,
images stay unchanged, and any other file becomes plain text.
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
"""Suffixes of files that a browser displays, or that mkdocs turns into pages."""

LINK = re.compile(r"(?<=\]\()(?P<target>\.\./[^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files of the repository."""
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
    """Point the links to the copies; a link without a copy is unchanged, and mkdocs reports it as broken."""
    here = page.file.src_uri

    def to_copy(link: re.Match[str]) -> str:
        uri = join(COPIES, normpath(join(dirname(here), link["target"]))[3:])
        return relpath(uri, dirname(here) or ".") if uri in files.src_uris else link["target"]

    return LINK.sub(to_copy, markdown)


def _outside(markdown: str, uri: str) -> Iterator[str]:
    """Paths outside docs/ that a page links to, relative to the repository."""
    for link in LINK.finditer(markdown):
        path = normpath(join(dirname(uri), link["target"]))
        if path.startswith("../"):
            yield path[3:]
