# SPDX-License-Identifier: Apache-2.0
"""The evaluation of foveated inference on labelled bags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.cli.application import app
from lfm_perception.demo.world import Snapshot, World
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.foveation import run_sequence
from lfm_perception.evaluation.foveation_sequences import labelled_bag
from lfm_perception.media.sinks.bag import BagSink
from lfm_perception.media.sinks.base import AnnotatedFrame
from lfm_perception.scene import Track
from lfm_perception.settings import Settings

WIDTH, HEIGHT = 320, 240
BEGIN_NS, PERIOD_NS = 5 * 10**9, 10**8


def write_bag(path: Path, snapshots: Sequence[Snapshot], lost: Sequence[int] = (), ids: bool = True) -> Path:
    """A sequence at 10 Hz with its ground truth on /tracks, without the frames that were `lost`."""
    sink = BagSink(path, 10.0)
    for index, snapshot in enumerate(snapshots):
        if index not in lost:
            frame = replace(snapshot.frame, stamp_ns=BEGIN_NS + index * PERIOD_NS)
            truth = [
                Track(each.object_id if ids else 7, each.label, each.box, 1.0, each.velocity, 0.0, 0.0)
                for each in snapshot.objects
            ]
            sink.write(AnnotatedFrame(index, frame, tuple(truth), frame.image, None))
    sink.finish({})
    return path


def snapshots(frames: int) -> list[Snapshot]:
    world = World(3, WIDTH, HEIGHT, 10.0)
    return [world.snapshot(index) for index in range(frames)]


def test_the_images_of_a_bag_are_a_sequence_with_the_stamps_and_objects_of_the_bag(tmp_path: Path) -> None:
    shown = snapshots(12)
    found = labelled_bag(write_bag(tmp_path / "bag", shown, lost=[5]))
    sequence, shown = found.truth, shown[:5] + shown[6:]
    assert (round(sequence.fps), sequence.width, sequence.height) == (10, WIDTH, HEIGHT)
    assert sequence.labels == tuple(sorted({each.label for snapshot in shown for each in snapshot.objects}))
    assert found.stamp_ns(4) == BEGIN_NS + 4 * PERIOD_NS
    assert found.stamp_ns(5) == BEGIN_NS + 6 * PERIOD_NS
    numbers: dict[int, int] = {}
    for ours, snapshot in zip(sequence.frames, shown, strict=True):
        for mine, true in zip(ours, snapshot.objects, strict=True):
            assert (mine.label, numbers.setdefault(mine.identity, true.object_id)) == (
                true.label,
                true.object_id,
            )
            assert mine.box.xyxy == pytest.approx(true.box.xyxy)
    assert len(set(numbers.values())) == len(numbers)
    for index in (10, 8, 9, 0, 3):  # also one that is long past
        frame = found.frame(index)
        assert frame.stamp_ns == found.stamp_ns(index)
        # a JPEG
        assert float(np.abs(frame.image.astype(float) - shown[index].frame.image).mean()) < 8.0


def test_tracks_of_a_bag_are_predicted_to_its_own_stamps(vlm: LlamaVlm, tmp_path: Path) -> None:
    found = labelled_bag(write_bag(tmp_path / "bag", snapshots(12)))
    run = run_sequence(found, vlm, Settings())
    assert [index for index, _, _ in run.inferred] == [0, 2, 4, 6, 8]
    assert [scene.stamp_ns for _, scene, _ in run.inferred] == [found.stamp_ns(i) for i in (0, 2, 4, 6, 8)]
    assert len(run.tracks) == 12
    assert run.tracks[-1]


def test_a_bag_is_measured_like_a_sequence(tmp_path: Path) -> None:
    bag, out = write_bag(tmp_path / "bag", snapshots(8)), tmp_path / "out"
    arguments = ["eval", "fovea", str(bag), "--annotations", "/tracks", "--tokens", "40", "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "fovea.json").read_text())
    assert report["settings"]["detect.labels"] == list(labelled_bag(bag).truth.labels)
    assert len(report["results"]) == 2


def test_a_bag_that_is_no_sequence_is_refused(vlm: LlamaVlm, tmp_path: Path) -> None:
    shown = snapshots(3)
    with pytest.raises(PerceptionError, match="the id of each box must be the number of its object"):
        labelled_bag(write_bag(tmp_path / "same", shown, ids=False))
    wide = World(3, 2 * WIDTH, HEIGHT, 10.0).snapshot(2)
    with pytest.raises(PerceptionError, match="the size of the images changes"):
        labelled_bag(write_bag(tmp_path / "wide", [*shown[:2], wide]))
    short = labelled_bag(write_bag(tmp_path / "short", shown[:2]))
    with pytest.raises(PerceptionError, match="has 2 frames, too few for an inference"):
        run_sequence(short, vlm, Settings())


def test_a_topic_is_chosen_in_a_bag_only(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "fovea", "demo", "--topic", "/image_raw"])
    assert done.exit_code == 2
    assert "are for a bag" in done.output
