# SPDX-License-Identifier: Apache-2.0
"""The site that `make site` builds: complete, nothing from elsewhere, a search that finds parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lfm_perception.settings import parameter_specs

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://example.org/robots/perception"


class Html(HTMLParser):
    """The ids of a page, what it links to, and what it loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.cells: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag == "td":
            self.cells.append(values)
        self.loaded |= {values[name] for name in ("src", "data") if name in values and tag != "a"}
        if tag == "link":
            self.loaded.add(values.get("href", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it in a clone of `REPOSITORY`, where every warning is an error."""
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site").resolve()
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    origin = {
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "remote.origin.url",
        "GIT_CONFIG_VALUE_0": "git@example.org:robots/perception.git",
    }  # fmt: skip
    quiet = {**os.environ, **origin, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[Path, Html]:
    return {path: Html(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}


def test_every_link_anchor_and_picture_of_the_site_is_there(pages: dict[Path, Html]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("/"):
                continue  # elsewhere; a page that is not found knows no relative paths
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (parts.fragment and parts.fragment not in pages[target].ids):
                broken.append(f"{path.name}: {link}")
    assert broken == []
    assert {page.name for page in pages} > {"index.html", "topics.html", "MODEL_CARD.html"}


def test_the_site_loads_nothing_from_elsewhere(pages: dict[Path, Html]) -> None:
    loaded = set[str]().union(*(page.loaded for page in pages.values()))
    assert {link for link in loaded if urlsplit(link).netloc} == set()
    assert any(link.endswith(".css") for link in loaded)


def test_every_parameter_has_an_anchor_and_is_found_by_the_search(
    folder: Path, pages: dict[Path, Html]
) -> None:
    index = json.loads((folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"]: entry for entry in index["docs"]}
    for name, spec in parameter_specs().items():
        page, anchor = f"parameters/{spec.group}.html", name.replace(".", "")
        assert anchor in pages[folder / page].ids
        assert found[f"{page}#{anchor}"]["title"] == name
        assert spec.allowed.split()[0] in found[f"{page}#{anchor}"]["text"]


def test_the_search_needs_no_web_server(folder: Path, pages: dict[Path, Html]) -> None:
    script = (folder / "search" / "search_index.js").read_text(encoding="utf-8")
    assert script.startswith("var __index = {")  # loaded as a script: a page from the disk may fetch nothing
    assert all(any("iframe-worker" in link for link in page.loaded) for page in pages.values())


def test_every_page_links_to_the_repository(pages: dict[Path, Html]) -> None:
    assert all(REPOSITORY in page.links for page in pages.values())


def test_cells_of_tables_name_their_column_for_narrow_screens(pages: dict[Path, Html]) -> None:
    page = next(page for path, page in pages.items() if path.name == "topics.html")
    assert {"topic", "type", "quality of service"} <= {cell.get("data-label") for cell in page.cells}
    assert all("data-label" in cell for cell in page.cells)
