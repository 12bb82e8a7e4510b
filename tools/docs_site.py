# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs (see mkdocs.yml): the repository's files and address, the menu's parameters, tables.

A link to `../config/cpu.yaml` in a page of docs/ points to a copy under repository/: Markdown becomes a page,
images stay unchanged, and any other file becomes plain text. The repository itself is linked where it was
cloned from one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

COPIES = "repository"
SHOWN = {".md", ".svg", ".jpg", ".png"}
"""Suffixes of files that a browser displays, or that mkdocs turns into pages."""

LINK = re.compile(r"(?<=\]\()(?P<target>\.\./[^)#\s]+)(?=[)#])")


OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*(?![^<]*>)")
"""An option of a command, in text and not in a tag."""

HEADING = re.compile(r"<(?P<tag>h[1-3]) id=.*?</(?P=tag)>", re.DOTALL)
UNDERSCORE = re.compile(r"(?<=[A-Za-z0-9])_(?=[A-Za-z0-9])(?![^<]*>)")
"""An underscore in a name, in text and not in a tag."""

PARAMETERS = "Parameters"
"""The entry of the menu that gets the page of each group."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the menu, and link the repository."""
    groups = sorted(f"parameters/{path.name}" for path in Path(config.docs_dir, "parameters").glob("*.md"))
    for entry in config.nav or []:
        if PARAMETERS in entry:
            entry[PARAMETERS] = [{"All parameters": entry[PARAMETERS]}, *groups]
    if address := _repository(Path(config.config_file_path).parent):
        config.repo_url, config.repo_name = address, "Repository"
    return config


def _repository(root: Path) -> str:
    """The web address of the repository that this one was cloned from; empty if there is none."""
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        address = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # git
        return ""
    address = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", address).removesuffix(".git")
    return address if address.startswith("https://") else ""


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


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Label each cell of a table with its column's head, for narrow screens; keep options in one line."""
    html = re.sub(r"<table>.*?</table>", _labelled, html, flags=re.DOTALL)
    return re.sub(r"<code[ >].*?</code>", _unbroken, html, flags=re.DOTALL)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let the long names of headings break after an underscore; the index of the search has them whole."""
    return HEADING.sub(lambda heading: UNDERSCORE.sub("_<wbr>", heading[0]), output)


def _labelled(table: re.Match[str]) -> str:
    heads = [re.sub("<[^>]*>", "", head) for head in re.findall(r"<th[^>]*>(.*?)</th>", table[0])]
    labels = cycle(head.replace('"', "&quot;") for head in heads)
    text = table[0].replace(r"\|", "|")  # escaped for GitHub; here it would be shown so
    return re.sub("<td", lambda cell: f'<td data-label="{next(labels)}"', text)


def _unbroken(code: re.Match[str]) -> str:
    """The code with `--option` in an element that is not broken at its hyphens."""
    return OPTION.sub(r'<span class="option">\g<0></span>', code[0])


def _outside(markdown: str, uri: str) -> Iterator[str]:
    """Paths outside docs/ that a page links to, relative to the repository."""
    for link in LINK.finditer(markdown):
        path = normpath(join(dirname(uri), link["target"]))
        if path.startswith("../"):
            yield path[3:]
