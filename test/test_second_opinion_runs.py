# SPDX-License-Identifier: Apache-2.0
"""Second opinions of `lfm-perception run`, with the demo model, rules and a person at the folder."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from opinions import reply

from lfm_perception.cli import main
from lfm_perception.demo.world import World
from lfm_perception.media.latency import STAGES
from lfm_perception.media.report import Report, rows
from lfm_perception.media.sinks.report import opinions_section
from lfm_perception.rules import parse_rules
from lfm_perception.scene_json import SCHEMA

ASKING = (
    "rules: {seen: {when: {count: {label: box}, more_than: 0}, actions: {second_opinion: 'Which number?'}}}"
)

ZERO = {"p50": 0.0, "p95": 0.0, "max": 0.0}


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    return int(ended.value.code or 0)


def test_a_run_asks_for_its_rules_and_waits_for_the_answers(tmp_path: Path) -> None:
    review, out = tmp_path / "review", tmp_path / "out"
    (tmp_path / "rules.yaml").write_text(ASKING, encoding="utf-8")
    person = threading.Thread(target=reply, args=(review, {"answer": "4711"}))
    person.start()
    options = {
        "second_opinion.allowed": "true",
        "second_opinion.cameras": "['*']",
        "second_opinion.folder": str(review),
        "rules.actions": "true",
        "caption.enabled": "false",
        "tracker.min_hits": "1",
    }
    changes = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    rules = str(tmp_path / "rules.yaml")
    assert run("demo", "--seed", "2", "--frames", "13", "--out", str(out), "--rules", rules, *changes) == 0
    person.join()
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))["second_opinion"]
    assert (found["asked"], found["answered"], found["queued"]) == (1, 1, 0)
    (outcome,) = found["outcomes"]
    assert (outcome["answer"], outcome["question"], outcome["reason"]) == (
        "4711",
        "Which number?",
        "rule seen",
    )
    assert outcome["label"] == "box"
    page = (out / "index.html").read_text(encoding="utf-8")
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page[page.index("Second opinions") :])
    assert cells[5:8] == [f"box #{outcome['track_id']}", "Which number?", "4711"]
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for line in (out / "scenes.jsonl").read_text(encoding="utf-8").splitlines():
        jsonschema.validate(json.loads(line), schema)


def test_a_run_names_the_camera_without_consent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "second_opinion.allowed": "true",
        "second_opinion.folder": str(tmp_path / "review"),
        "second_opinion.ask_below": "['box: 1']",
        "caption.enabled": "false",
        "tracker.min_hits": "1",
    }
    changes = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    assert run("demo", "--seed", "2", "--frames", "7", "--out", str(tmp_path / "out"), *changes) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 of 0 crops; camera 'demo_camera' is not in second_opinion.cameras" in said
    assert not (tmp_path / "review").exists()


def test_pictures_have_no_tracks_to_ask_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    values = ("second_opinion.allowed=true", f"second_opinion.folder={tmp_path}")
    words = [word for value in values for word in ("--set", value)]
    assert run(str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *words) == 1
    assert "second_opinion.allowed needs tracks: add --sequence" in capsys.readouterr().err


def test_the_terminal_tells_of_dropped_crops_and_the_page_of_missing_answers() -> None:
    outcome = {
        "label": "box", "track_id": 7, "question": "Which?", "answer": "", "confidence": None,
        "source": "ocr", "problem": "nobody answered within 30 s",
    }  # fmt: skip
    opinions: dict[str, Any] = {
        "answered": 0, "asked": 1, "refused_camera": None, "dropped": {"second_opinion.rate is used up": 2},
        "not_shown": {"another object is in their crop": 3, "the image's edge cuts them off": 1},
        "outcomes": [outcome] * 101,
    }  # fmt: skip
    summary = Report().summary() | {"second_opinion": opinions}
    summary["latency_s"] = dict.fromkeys(("inference", *(f"detect.{each}" for each in STAGES)), ZERO)
    summary["tokens"] = {f"detect.{each}": ZERO for each in ("image", "answer")}
    assert dict(rows(summary))["second opinions"] == (
        "0 of 1 crops; 2 dropped: second_opinion.rate is used up"
        "; 3 tracks not asked about: another object is in their crop"
        "; 1 track not asked about: the image's edge cuts them off"
    )
    section = opinions_section(opinions["outcomes"])
    assert section.rows == [("box #7", "Which?", "none: nobody answered within 30 s", "", "ocr")] * 100
    assert section.notes == ["The first 100 of 101; summary.json holds all."]


@pytest.mark.parametrize("value", ["7", "''", f"'{'x' * 1001}'", "true", "[a]"])
def test_a_rule_that_asks_with_no_question_is_refused(value: str) -> None:
    text = f"rules: {{r: {{when: {{label: box}}, actions: {{second_opinion: {value}}}}}}}"
    (problem,) = parse_rules(text).problems
    assert "second_opinion takes a question of at most 1000 characters" in problem.sentence


def test_without_consent_nothing_of_second_opinions_is_imported(imported_by_default: list[str]) -> None:
    ours = "lfm_perception.second_opinion", "lfm_perception.ros.second_opinion"
    names = (*ours, "rapidocr", "onnxruntime")
    assert [each for each in imported_by_default if each.startswith(names)] == []


def test_numbers_change_nothing_of_the_demo_world_but_the_fronts_of_its_boxes() -> None:
    plain, numbered = World(2).snapshot(30), World(2, numbered=True).snapshot(30)
    assert np.array_equal(plain.instances, numbered.instances)
    assert [thing.box for thing in plain.objects] == [thing.box for thing in numbered.objects]
    differs = (plain.frame.image != numbered.frame.image).any(axis=2)
    (box,) = [thing for thing in numbered.objects if thing.label == "box"]
    x1, y1, x2, y2 = box.box.in_pixels(640, 480).round().astype(int).tolist()
    assert differs[y1:y2, x1:x2].mean() > 0.1
    differs[y1:y2, x1:x2] = False
    assert not differs.any()
    assert (len(box.number), {thing.number for thing in plain.objects}) == (4, {""})
