# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception rules check` and `rules replay`, with the demo model on the demo world."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pages import charts_of
from rule_scenes import track

from lfm_perception.cli import main
from lfm_perception.colours import ACTIVE
from lfm_perception.geometry import Box
from lfm_perception.media.overlay import STRIP, Overlay, View
from lfm_perception.media.sinks.base import AnnotatedFrame
from lfm_perception.media.sinks.events import EventsFile, events_section
from lfm_perception.rules import RuleEngine, parse_rules
from lfm_perception.rules.drawing import MAX_EVENTS
from lfm_perception.rules.events import SCHEMA
from lfm_perception.scene import Frame, Image, RuleDrawing, Shape, Track
from lfm_perception.stamps import from_seconds

FLOOR = "zones: {floor: [[0, 0], [1, 0], [1, 1], [0, 1]]}\n"
RULES = (
    FLOOR + "rules:\n  empty: {when: {count: {inside: floor}, fewer_than: 1}, message: nobody <b>there</b>}\n"
)


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_check_lists_rules_and_prints_problems_where_editors_find_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES, encoding="utf-8")
    assert command("rules", "check", file) == 0
    told = capsys.readouterr().out
    assert "empty  the scene" in told
    assert told.endswith(f"{file}: 1 rule, 1 zone, 0 lines\n")
    file.write_text(RULES + "  bad: {when: {label: persn}}\n", encoding="utf-8")
    assert command("rules", "check", file) == 0, "any label may be asked for"
    assert command("rules", "check", file, "--labels", "person,box") == 1
    said = capsys.readouterr()
    assert f"{file}:4:23: rule 'bad': there is no label 'persn': did you mean 'person'?\n" in said.out
    assert "1 entry cannot be used, see above" in said.err


def test_a_video_is_replayed_with_zones_events_and_a_timeline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "rules.yaml", tmp_path / "out"
    wrong = "  bad: {when: {inside: nowhere}}\n  close: {when: {distance: {below: 2}}}\n"
    calm = "  calm: {when: {label: person, speed: {above: 90}}}\n"
    file.write_text(RULES + wrong + calm, encoding="utf-8")
    assert command("rules", "replay", "demo", "--rules", file, "--seconds", "0.3", "--out", out) == 0
    told, said = capsys.readouterr()
    assert "events             1 empty; none of calm\n" in told
    assert "line 4, column 24, rule 'bad': there is no zone 'nowhere'" in said
    assert "rule 'close': the distance from the camera is known only to a node" in said
    written = json.loads((out / "events.json").read_text(encoding="utf-8"))
    begin, *rest = written["events"]
    jsonschema.validate(begin, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert (begin["rule"], begin["state"], begin["values"]) == ("empty", "begin", {"count": 0})
    assert [each["state"] for each in rest] == ["end"], "the demo model saw nothing"
    assert written["open"] == []
    assert "video" in charts_of(out / "index.html")["Events of the rules"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "Events: 1 empty; none of calm." in page
    assert "nobody &lt;b&gt;there&lt;/b&gt;" in page
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["settings"]["rules.file"] == str(
        file
    )


def test_rules_need_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES, encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"")
    assert command("run", tmp_path / "a.png", "--rules", file, "--out", tmp_path / "out") == 1
    assert "rules.file needs tracks: add --sequence" in capsys.readouterr().err
    assert command("run", "demo", "--rules", tmp_path / "none.yaml", "--out", tmp_path / "out") == 1
    assert "none.yaml: cannot be read: no such file or directory" in capsys.readouterr().err


def test_an_event_that_has_not_ended_lasts_until_the_end_of_the_video(tmp_path: Path) -> None:
    engine = RuleEngine(
        parse_rules(FLOOR + "rules: {in: {when: {inside: floor}}, new: {when: {appears: 0}}}")
    )
    frames = {
        1.0: [track(1, 0.5)],
        2.0: [track(1, 0.5), track(2, 0.6)],
        3.5: [track(2, 0.6)],
        6.0: [track(2, 0.6)],
    }
    found = [event for at, tracks in frames.items() for event in engine.update(from_seconds(at), tracks)]
    section = events_section(found, from_seconds(1.0), from_seconds(6.0))
    assert [row[:4] for row in section.rows] == [
        ("in", "0.00", "2.50", "person #1"), ("new", "0.00", "", "person #1"),
        ("in", "1.00", "4.00", "person #2"), ("new", "1.00", "", "person #2"),
    ]  # fmt: skip
    assert section.notes == ["Events: 2 in, 2 new."]
    file, frame = EventsFile(tmp_path / "events.json", 1.0), Frame(np.zeros((4, 4, 3), np.uint8), 0)
    file.write(AnnotatedFrame(0, frame, (), frame.image, events=found))
    file.finish({})
    written = json.loads((tmp_path / "events.json").read_text(encoding="utf-8"))
    (first, second) = (each["event_id"] for each in written["events"] if each["state"] == "begin")
    assert written["open"] == [second] != [first]


CORNERS = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def drawn(drawing: RuleDrawing, *tracks: Track) -> Image:
    frame = Frame(np.zeros((192, 256, 3), np.uint8), 0)
    return Overlay(256, 192, panel="").draw(View(frame, 0.0, tracks, None, 0.0, drawing))


def test_zones_are_drawn_in_another_colour_while_an_event_is_under_way() -> None:
    idle, active = (
        drawn(RuleDrawing((Shape(CORNERS, True, "", each),)))[144, 128].tolist() for each in (False, True)
    )
    assert active != idle != [0, 0, 0]


def test_events_of_the_moment_are_listed_at_the_top() -> None:
    one, many = (
        drawn(RuleDrawing((), ("too close: person #1",) * count, more))
        for count, more in ((1, 0), (MAX_EVENTS, 6))
    )
    ground = (one == ACTIVE).all(axis=2)
    assert ground[:12, :2].all()
    assert not ground[30:].any()
    rows = (many == ACTIVE).all(axis=2)[:, 0].sum() / ground[:, 0].sum()
    assert rows == MAX_EVENTS + 1


def test_the_name_of_a_track_does_not_cover_the_count_of_a_zone() -> None:
    zone = RuleDrawing((Shape(CORNERS, True, "dock: 3", False),))
    box = Box(0.25, 0.26, 0.75, 0.9)
    before, after = drawn(zone), drawn(zone, track(1, 0.5)._replace(box=box))
    strip = (before == STRIP).all(axis=2)
    top, left = np.argwhere(strip).min(axis=0)
    below, right = np.argwhere(strip).max(axis=0) + 1
    assert below - top > 8
    assert (before[top:below, left:right] == after[top:below, left:right]).all()


@pytest.mark.parametrize("corner", [0.0, 0.02])
def test_counts_of_zones_at_the_top_cover_neither_events_nor_each_other(corner: float) -> None:
    points = ((corner, corner), (0.9, corner), (0.9, 0.9), (corner, 0.9))
    zones = [Shape(points, True, f"{name}: 3", False) for name in ("dock", "gate", "yard")]
    listed = ("too close: person #1",) * MAX_EVENTS
    alone = drawn(RuleDrawing((), listed, 1))
    image = drawn(RuleDrawing(tuple(zones), listed, 1))
    places = (alone == ACTIVE).all(axis=2)
    assert (image[places] == ACTIVE).all()
    single = [(drawn(RuleDrawing((zone,))) == STRIP).all(axis=2).sum() for zone in zones]
    assert (image == STRIP).all(axis=2).sum() == sum(single)


@pytest.mark.parametrize("panel", ["", "line"])
@pytest.mark.parametrize("top", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("height", [12, 24, 36, 48, 60, 72, 84, 96])
def test_in_a_low_image_neither_counts_nor_figures_cover_events(height: int, top: float, panel: str) -> None:
    frame = Frame(np.zeros((height, 256, 3), np.uint8), 0)
    points = ((0.0, top), (0.9, top), (0.9, 1.0), (0.0, 1.0))
    zones = tuple(Shape(points, True, f"{name}: 3", False) for name in ("dock", "gate", "yard"))
    listed = ("too close: person #1",) * MAX_EVENTS
    alone, image = (
        Overlay(256, height, panel=panel).draw(View(frame, 0.0, (), None, 0.0, drawing))
        for drawing in (RuleDrawing((), listed, 1), RuleDrawing(zones, listed, 1))
    )
    places = (alone == ACTIVE).all(axis=2)
    room = height - 24 if panel else height
    assert places[:, 0].sum() == 16 * min(max(room, 0) // 16, MAX_EVENTS + 1)
    assert (image[places] == ACTIVE).all()


def test_events_and_counts_that_are_too_long_keep_their_ends_on_the_image() -> None:
    """The last letter is an em dash, whose ink is a bar that ends at most 4 pixels before its ground."""
    name = "a_name_of_64_characters_" * 3
    event, zone = f"{name}: person #1 \N{EM DASH}", Shape(CORNERS, True, f"{name}: \N{EM DASH}", False)
    for drawing, ground in ((RuleDrawing((), (event,)), ACTIVE), (RuleDrawing((zone,)), STRIP)):
        image = drawn(drawing)
        columns = np.flatnonzero((image == ground).all(axis=2).any(axis=0))
        assert 200 < columns[-1] - columns[0] < 256
        place = image[:, columns[-1] - 12 : columns[-1] - 4]
        bar = (place != ground).any(axis=2) & (place != 0).any(axis=2)
        assert bar.all(axis=1).any()
