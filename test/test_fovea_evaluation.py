# SPDX-License-Identifier: Apache-2.0
"""The evaluation of foveated inference: sequences, figures, and the size from which on a model sees."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from lfm_perception.cli.application import app
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.foveation import SIZES
from lfm_perception.evaluation.foveation_sequences import labelled_sequences
from lfm_perception.evaluation.foveation_trials import FOVEATED, WHOLE_FRAMES, FoveaTrials
from lfm_perception.evaluation.object_size import BOUNDS, SizedObjects, size_advice
from lfm_perception.evaluation.pixel_limited import PixelLimitedVlm, walking_sequence
from lfm_perception.settings import Settings

STILL = Settings().with_values({"tracker.camera_motion_compensation": "off"})


@pytest.fixture(scope="module")
def trials() -> FoveaTrials:
    """Two short sequences under a detector that is limited by picture pixels only."""
    sequences = [walking_sequence(seed, 8.0) for seed in (200, 201)]
    return FoveaTrials.run(sequences, lambda sequence: PixelLimitedVlm(sequence.truth, 0), STILL, [60])


def test_regions_find_small_objects_and_keep_large_ones(trials: FoveaTrials) -> None:
    whole, foveated = (trials.results[plan, 60] for plan in (WHOLE_FRAMES, FOVEATED))
    assert foveated.hota >= whole.hota + 4.0
    assert foveated.recall >= whole.recall + 8.0
    assert foveated.image_tokens <= whole.image_tokens
    assert foveated.answer_tokens <= whole.answer_tokens
    large = len(SIZES) - 1
    before, after = whole.recall_by_size[large], foveated.recall_by_size[large]
    assert before is not None
    assert after is not None
    assert after >= before - 3.0


def test_a_model_limited_by_pixels_is_told_from_one_that_judges_by_relative_size(trials: FoveaTrials) -> None:
    assert "sees by picture pixels" in trials.remarks()[1]
    sizes, always = np.full(50, 20.0), np.ones(50, bool)
    relative = FoveaTrials(trials.results, SizedObjects(sizes, ~always), SizedObjects(sizes, always))
    assert "judges partly by relative size" in relative.remarks()[1]
    few = FoveaTrials(trials.results, SizedObjects(sizes[:2], always[:2]), SizedObjects(sizes, always))
    assert few.remarks()[1].startswith("Too few objects")


def test_the_smallest_size_that_is_seen_is_fitted() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(2.0, 60.0, 2000)
    found = rng.random(2000) < 1.0 / (1.0 + np.exp((17.0 - sizes) / 1.5))
    seen = SizedObjects(sizes, found)
    assert seen.smallest_seen() == pytest.approx(17.0 + 1.5 * np.log(4.0), abs=1.5)
    assert "fovea.min_object_size 1" in size_advice(seen.smallest_seen())
    recall = seen.recall()
    assert len(recall) == len(BOUNDS)
    assert recall[0] == pytest.approx(0.0, abs=0.05)
    assert recall[-1] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("found", [np.ones(100, bool), np.zeros(100, bool), np.ones(0, bool)])
def test_no_size_is_fitted_without_objects_of_both_kinds(found: np.ndarray) -> None:
    smallest = SizedObjects(np.linspace(1.0, 50.0, len(found)), found).smallest_seen()
    assert smallest is None
    assert size_advice(smallest).startswith("Keep fovea.min_object_size")


def test_the_command_writes_figures_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = "eval fovea demo --sequences 1 --seconds 2 --width 640 --height 360 --tokens 40 --out"
    done = CliRunner().invoke(app, [*arguments.split(), str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "whole frames" in done.output
    assert "fovea.min_object_size" in done.output
    report = json.loads((out / "fovea.json").read_text())
    assert [each["plan"] for each in report["results"]] == [WHOLE_FRAMES, FOVEATED]
    assert all(each["image_tokens"] <= 40 for each in report["results"])
    assert report["settings"]["fovea.mode"] == "off"
    page = (out / "fovea.html").read_text()
    assert all(
        title in page for title in ("HOTA", "precision", "Recall by size in the resized image", "Setup")
    )


def sequence_folder(folder: Path, frames: int, width: int = 320) -> Path:
    """A sequence of the demo world in the MOTChallenge format."""
    (folder / "gt").mkdir(parents=True)
    (folder / "img1").mkdir()
    info = f"[Sequence]\nname=a\nframeRate=10\nseqLength={frames}\nimWidth={width}\nimHeight=240\n"
    (folder / "seqinfo.ini").write_text(info)
    world, lines = World(3, 320, 240, 10.0), []
    for index in range(frames):
        snapshot = world.snapshot(index)
        cv2.imwrite(str(folder / "img1" / f"{index + 1:06d}.png"), snapshot.frame.image[..., ::-1])
        for each in snapshot.objects:
            x, y = each.box.x1 * 320 + 1, each.box.y1 * 240 + 1
            wide, tall = each.box.width * 320, each.box.height * 240
            lines.append(f"{index + 1},{each.object_id + 1},{x:.1f},{y:.1f},{wide:.1f},{tall:.1f},1,1,1")
    (folder / "gt" / "gt.txt").write_text("\n".join(lines))
    return folder


def test_a_labelled_sequence_has_its_pictures_and_its_truth(tmp_path: Path) -> None:
    (sequence,) = labelled_sequences(sequence_folder(tmp_path / "a", 4))
    assert (sequence.truth.fps, len(sequence.truth.frames)) == (10.0, 4)
    assert np.array_equal(sequence.frame(3).image, World(3, 320, 240, 10.0).snapshot(3).frame.image)
    assert sequence.frame(3).stamp_ns == 300_000_000
    assert len(labelled_sequences(tmp_path)) == 1


def test_a_sequence_that_does_not_go_with_its_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PerceptionError, match="holds no sequence"):
        labelled_sequences(tmp_path)
    short = sequence_folder(tmp_path / "short", 3)
    (short / "img1" / "000003.png").unlink()
    with pytest.raises(PerceptionError, match="labels of 3 frames and 2 pictures"):
        labelled_sequences(short)
    with pytest.raises(PerceptionError, match="says 640x240"):
        labelled_sequences(sequence_folder(tmp_path / "wide", 2, width=640))
