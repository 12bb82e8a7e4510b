# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception rules draw`: what is drawn in a browser comes out as YAML that `rules check` accepts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from browser import Browser

from lfm_perception.cli import main
from lfm_perception.demo.world import World
from lfm_perception.media import images
from lfm_perception.rules import RuleFile, parse_rules
from lfm_perception.rules.schema import Line, Zone

NAME = 'Tür <b>"🤖: #1'
EXISTING = """
anchor: centre
zones:
  dock: [[0.5, 0.5], [1, 0.5], [1, 1], [0.5, 1]]
  "no": {points: [[0.1, 0.1], [0.3, 0.1], [0.3, 0.4]], anchor: foot}
  crossed: [[0.1, 0.1], [0.3, 0.3], [0.3, 0.1], [0.1, 0.3]]
lines: {</script>: [[0.4, 0.9], [0.3, 0.4]]}
"""

needs_browser = pytest.mark.skipif(not browsers.CHROMIUM, reason="there is no Chromium")


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, and the page to draw over it with and without an existing rule file."""
    folder = tmp_path_factory.mktemp("draw")
    picture = folder / "front <i>.jpg"
    picture.write_bytes(images.encode(World(3, 640, 480).snapshot(40).frame.image, ".jpg"))
    (folder / "existing.yaml").write_text(EXISTING, encoding="utf-8")
    assert command("rules", "draw", picture, "--out", folder / "draw.html") == 0
    existing = ("--rules", folder / "existing.yaml")
    assert command("rules", "draw", picture, *existing, "--out", folder / "existing.html") == 0
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsers.browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def text(page: Browser, name: str) -> str:
    return str(page.script(f"document.getElementById('{name}').textContent"))


def places(page: Browser) -> Callable[[float, float], tuple[float, float]]:
    """Where on the screen a normalized point of the picture is."""
    box = page.script("JSON.parse(JSON.stringify(document.getElementById('over').getBoundingClientRect()))")
    return lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])


def press(page: Browser, name: str) -> None:
    """Click a button with the mouse."""
    found = f"[...document.querySelectorAll('button')].find(each => each.textContent === '{name}')"
    page.script(f"{found}.scrollIntoView({{block: 'center'}})")
    box = page.script(f"JSON.parse(JSON.stringify({found}.getBoundingClientRect()))")
    page.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def drawn(page: Browser) -> RuleFile:
    """What comes out, read as rule files are, without a problem."""
    found = parse_rules(text(page, "yaml"))
    assert not found.problems
    return found


def near(found: Any, expected: Any) -> None:
    assert [list(point) for point in found] == [pytest.approx(point, abs=0.004) for point in expected]


CORNERS = [(0.2, 0.6), (0.6, 0.6), (0.6, 0.9), (0.2, 0.9)]


@needs_browser
def test_a_zone_and_a_line_drawn_with_the_mouse_pass_the_check(
    page: Browser, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.open(folder / "draw.html")
    at = places(page)
    assert not drawn(page).zones
    for corner in CORNERS:
        page.click(*at(*corner))
    page.click(*at(*CORNERS[0]))  # closes it
    press(page, "Line")
    page.mouse("mousePressed", *at(0.7, 0.9))
    page.mouse("mouseMoved", *at(0.75, 0.5))
    page.mouse("mouseReleased", *at(0.8, 0.3))
    page.script(
        "document.querySelector('#list input').focus(), document.querySelector('#list input').select()"
    )
    page.call("Input.insertText", text=NAME)
    found = drawn(page)
    (zone,), (line,) = found.zones, found.lines
    assert (zone.name, zone.anchor, line.name) == (NAME, "foot", "line 1")
    near(zone.points, CORNERS)
    near((line.start, line.end), [(0.7, 0.9), (0.8, 0.3)])
    page.call("Input.insertText", text="\u200d")
    assert "zone, 4 corners: a name is text of 1 to 64 characters" in text(page, "list")
    press(page, "Undo")
    press(page, "Redo")
    assert not drawn(page).zones
    press(page, "Undo")
    assert drawn(page).zones[0].name == "zone 1", "all letters are one step"
    press(page, "Redo")
    page.script("document.querySelector('#list input').focus()")
    page.key("Backspace", 8)
    file = folder / "drawn.yaml"
    file.write_text(text(page, "yaml"), encoding="utf-8")
    assert command("rules", "check", file) == 0
    assert capsys.readouterr().out.endswith(f"{file}: 0 rules, 1 zone, 1 line\n")
    press(page, "Reverse")
    (line,) = drawn(page).lines
    near((line.start, line.end), [(0.8, 0.3), (0.7, 0.9)])


@needs_browser
def test_what_is_wrong_is_told_while_drawing(page: Browser, folder: Path) -> None:
    page.open(folder / "draw.html")
    at = places(page)
    page.click(*at(*CORNERS[0]))
    page.click(*at(*CORNERS[1]))
    press(page, "Close zone")
    assert text(page, "hint") == "A zone has at least 3 corners, and this one has 2."
    page.click(*at(*CORNERS[2]))
    page.mouse("mouseMoved", *at(0.4, 0.3))
    assert text(page, "hint") == "This edge would cross edge 1: go around in order."
    page.click(*at(0.4, 0.3))
    assert text(page, "hint") == "This edge would cross edge 1: go around in order."
    page.click(*at(*CORNERS[0]))
    (zone,) = drawn(page).zones
    near(zone.points, CORNERS[:3])
    press(page, "Move")
    page.mouse("mousePressed", *at(*CORNERS[1]))  # over the opposite edge, so that it is flat
    page.mouse("mouseMoved", *at(*CORNERS[0]))
    page.mouse("mouseReleased", *at(*CORNERS[0]))
    assert '# zone "zone 1" is left out: ' in text(page, "yaml")
    assert not drawn(page).zones


@needs_browser
def test_shapes_are_moved_deleted_and_undone(page: Browser, folder: Path) -> None:
    page.open(folder / "draw.html")
    at = places(page)
    for corner in CORNERS:
        page.click(*at(*corner))
    page.key("Enter", 13, "\r")
    press(page, "Move")
    page.mouse("mousePressed", *at(0.3, 0.7))
    page.mouse("mouseMoved", *at(0.2, 0.7))
    page.mouse("mouseMoved", *at(0.05, 0.6))  # beyond the picture's edge
    page.mouse("mouseReleased", *at(0.05, 0.6))
    near(drawn(page).zones[0].points, [(0.0, 0.5), (0.4, 0.5), (0.4, 0.8), (0.0, 0.8)])
    page.mouse("mousePressed", *at(0.2, 0.5))  # the middle of an edge becomes a corner
    page.mouse("mouseReleased", *at(0.2, 0.5))
    page.key("ArrowUp", 38, modifiers=8)
    near(drawn(page).zones[0].points[1:2], [(0.2, 0.48)])
    page.key("Delete", 46)
    near(drawn(page).zones[0].points, [(0.0, 0.5), (0.4, 0.5), (0.4, 0.8), (0.0, 0.8)])
    page.key("Delete", 46)
    assert not drawn(page).zones
    for _ in range(5):
        page.key("z", 90, modifiers=2)
    near(drawn(page).zones[0].points, CORNERS)
    press(page, "Undo")
    assert not drawn(page).zones
    press(page, "Redo")
    near(drawn(page).zones[0].points, CORNERS)


@needs_browser
def test_a_finger_draws_on_a_phone(page: Browser, folder: Path) -> None:
    page.open(folder / "draw.html", 390, 800, touch=True)
    assert page.script("document.documentElement.scrollWidth") == 390
    at = places(page)
    for corner in [*CORNERS, CORNERS[0]]:
        page.tap(*at(*corner))
    (zone,) = drawn(page).zones
    assert [list(point) for point in zone.points] == [pytest.approx(point, abs=0.01) for point in CORNERS]


@needs_browser
def test_an_existing_file_is_loaded_and_comes_out_the_same(page: Browser, folder: Path) -> None:
    page.open(folder / "existing.html")
    found, expected = drawn(page), parse_rules(EXISTING)
    assert len(expected.problems) == 1
    assert (found.zones, found.lines, found.anchor) == (expected.zones, expected.lines, "centre")
    assert found.lines == (Line("</script>", (0.4, 0.9), (0.3, 0.4), "centre"),)
    assert isinstance(found.zones[1], Zone)
    assert found.zones[1].anchor == "foot"
    addresses = [address for address in page.requests if not address.startswith("data:image/jpeg;base64,")]
    assert all(address.startswith("file:///") for address in addresses)
    assert page.errors == []


@needs_browser
def test_the_pages_checks_are_those_of_the_reader(page: Browser, folder: Path) -> None:
    page.open(folder / "draw.html")
    rng = random.Random(0)
    grid = [0.0, 0.25, 0.5, 0.5002, 1.0]
    polygons = [[[rng.choice(grid), rng.choice(grid)] for _ in range(rng.randint(2, 6))] for _ in range(1000)]
    told = page.script(f"{json.dumps(polygons)}.map(points => placeProblem('zone', points))")
    found = [parse_rules(f"zones: {{a: {json.dumps(points)}}}").problems for points in polygons]
    assert [bool(said) for said in told] == [bool(problems) for problems in found]
    assert 50 < sum(map(bool, told)) < 950
    crossed = [re.findall(r"edges (\d+) and (\d+) cross", str(problems)) for problems in found]
    assert [re.findall(r"edges (\d+) and (\d+) cross", said) for said in told] == crossed


def test_a_page_never_replaces_a_file_unless_that_is_wanted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    assert command("rules", "draw", "demo", "--out", page) == 1
    assert f"{page} exists: add --force to replace it" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "mine"
    assert (
        command("rules", "draw", "demo", "--out", page, "--force", "--rules", folder / "existing.yaml") == 0
    )
    assert "existing.yaml:6:3: zone 'crossed': edges 1 and 3 cross" in capsys.readouterr().out
    assert 'id="over"' in page.read_text(encoding="utf-8")
