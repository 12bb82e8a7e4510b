# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception drift`: baselines and reports, of the demo world and of the results of earlier runs."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from command import Command
from pages import charts_of

from lfm_perception.cli import main
from lfm_perception.drift import QUANTITIES
from lfm_perception.drift.baseline import SCHEMA
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection, Scene, Usage
from lfm_perception.scene_json import scene_to_json
from lfm_perception.stamps import from_seconds

WINDOW = ("--set", "drift.window=20")


def results(folder: Path, seed: int, *, score: float) -> Path:
    """A folder as `run` leaves it: 80 s of scenes, 10 in a second."""
    rng = random.Random(seed)
    empty = Scene(0, "camera", 64, 48, (), (), None, False, {}, Usage())
    folder.mkdir()
    with (folder / "scenes.jsonl").open("w") as file:
        for index in range(800):
            labels = rng.choices(("person", "box"), k=2)
            found = (
                Detection(label, Box(0.1, 0.1, 0.5, 0.5), min(max(rng.gauss(score, 0.1), 0.0), 1.0))
                for label in labels
            )
            scene = replace(empty, stamp_ns=from_seconds(index / 10), detections=tuple(found))
            file.write(json.dumps(scene_to_json(scene)) + "\n")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `usual` results and their baseline, and with those of a short and of a broken run."""
    folder = tmp_path_factory.mktemp("recordings")
    usual = results(folder / "usual", 1, score=0.7)
    lines = (usual / "scenes.jsonl").read_text().splitlines(keepends=True)
    for name, kept in (("short", lines[:150]), ("broken", [lines[0], lines[1][:50]])):
        (folder / name).mkdir()
        (folder / name / "scenes.jsonl").write_text("".join(kept))
    with pytest.raises(SystemExit):
        main(["drift", "baseline", str(usual), "--out", str(folder / "baseline.json"), *WINDOW])
    return folder


def test_a_recording_is_compared_with_a_baseline_on_a_page_with_a_plot_for_each_quantity(
    command: Command, tmp_path: Path
) -> None:
    usual, worse = (results(tmp_path / f"{score}", 1, score=score) for score in (0.7, 0.5))
    baseline, out = tmp_path / "baseline.json", tmp_path / "out"
    made = command("drift", "baseline", usual, "--out", baseline, *WINDOW)
    assert made.code == 0
    assert "warning" not in made.err
    assert made.out == f"a baseline of 80 s in {baseline}: set drift.baseline to this file\n"
    jsonschema.validate(json.loads(baseline.read_text()), json.loads(SCHEMA.read_text()))

    shown = command("drift", "report", baseline, worse, "--out", out, *WINDOW)
    assert shown.code == 0
    assert "drifted, first after" in shown.out
    figures = json.loads((out / "drift.json").read_text())
    seen = ["scores", "labels", "detections", "rejected objects", "truncated answers"]
    assert list(figures["quantities"]) == seen, "results have no images"
    drifted = {name: each["first_drifted_s"] for name, each in figures["quantities"].items()}
    assert drifted["scores"] <= 40.0
    assert set(list(drifted.values())[1:]) == {None}
    charts = charts_of(out / "drift.html")
    assert list(charts) == [f"{kind} of {name}" for name in seen for kind in ("Stability index", "Values")]
    assert "baseline" in charts["Values of scores"]
    assert "limit" in charts["Stability index of scores"]
    page = (out / "drift.html").read_text()
    assert "Drifted: scores." in page
    assert QUANTITIES["scores"].remedy in page
    assert "brightness, sharpness, motion" in page


def test_one_window_above_the_limit_is_no_drift_and_says_so(
    command: Command, recordings: Path, tmp_path: Path
) -> None:
    worse, out = results(tmp_path / "worse", 1, score=0.5), tmp_path / "out"
    lines = (worse / "scenes.jsonl").read_text().splitlines(keepends=True)
    (worse / "scenes.jsonl").write_text("".join(lines[:205]))
    shown = command("drift", "report", recordings / "baseline.json", worse, "--out", out, *WINDOW)
    reason = "above the limit, but not at the ends of two blocks in a row"
    (scores,) = (line for line in shown.out.splitlines() if line.startswith("scores"))
    assert scores.endswith(f"no drift: {reason}")
    assert f"{reason.capitalize()}, which is no drift: scores." in (out / "drift.html").read_text()


def test_an_earlier_report_is_replaced_only_with_force(
    command: Command, recordings: Path, tmp_path: Path
) -> None:
    words = ("drift", "report", recordings / "baseline.json", recordings / "usual", "--out", tmp_path)
    (tmp_path / "drift.html").write_text("mine")
    refused = command(*words, *WINDOW)
    assert refused.code == 1
    assert f"{tmp_path} holds the results of an earlier run: add --force to replace them" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["drift.html"]
    assert (tmp_path / "drift.html").read_text() == "mine"
    assert command(*words, *WINDOW, "--force").code == 0
    assert "Stability index of scores" in charts_of(tmp_path / "drift.html")


def test_a_baseline_of_the_demo_world_has_all_quantities_and_says_when_it_is_too_short(
    command: Command, tmp_path: Path
) -> None:
    baseline = tmp_path / "baseline.json"
    words = ("--seconds", "0.4", "--every", "6", "--set", "detect.max_tokens=48", "--labels", "person,box")
    made = command("drift", "baseline", "demo", "--out", baseline, *words)
    assert made.code == 0
    assert "warning: the baseline covers 10 s, but drift.window 300 needs 900 s" in made.err
    record = json.loads(baseline.read_text())
    assert record["labels"] == ["person", "box"]
    there = set(record["quantities"])
    assert there >= {
        "detections",
        "rejected objects",
        "truncated answers",
        "brightness",
        "sharpness",
        "motion",
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("baseline", "demo", "--out", "none/b.json"),
            "none/b.json cannot be written: name a file in a folder",
        ),
        (("baseline", "nowhere", "--out", "b.json"), "there is no nowhere: give"),
        (("baseline", "node:???", "--out", "b.json"), "cannot name a node: write node:/cam1/perception"),
        (("report", "none.json", "demo"), "none.json: cannot be read: no such file"),
        (("report", "usual/scenes.jsonl", "usual"), "not valid JSON"),
        (
            ("report", "baseline.json", "usual", "--labels", "cone", *WINDOW),
            "is for the labels person, box, cone, forklift, pallet, but",
        ),
        (("report", "baseline.json", "usual"), "covers 80 s, but drift.window 300 needs 900 s"),
        (("report", "baseline.json", "short", *WINDOW), "shorter than drift.window, or has too few samples"),
        (("report", "baseline.json", "broken", *WINDOW), "broken/scenes.jsonl, line 2: not valid JSON"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    command: Command,
    recordings: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(recordings)
    outcome = command("drift", *words)
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert sentence in outcome.err
    assert not (recordings / "out").exists()


def test_options_of_other_sources_are_refused_for_a_node(command: Command, tmp_path: Path) -> None:
    refused = command("drift", "baseline", "node", "--out", tmp_path / "b.json", "--labels", "person")
    assert refused.code != 0
    assert "--labels, --every and --rate are for other sources" in refused.err.replace("\n", " ")
