# SPDX-License-Identifier: Apache-2.0
"""The model that ships: its files are the measured ones, and it does what its card says on a sample."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator

import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo import MODEL_DIR
from lfm_perception.evaluation.demo import TRIALS, Trial, TrialReport, evaluate_trial, run_trial
from lfm_perception.settings import Settings

SCENES = 30


@pytest.fixture(scope="module")
def vlm() -> Iterator[LlamaVlm]:
    with LlamaVlm(Settings()) as engine:
        yield engine


def judged(vlm: LlamaVlm, name: str) -> TrialReport:
    trial: Trial = next(trial for trial in TRIALS if trial.name == name)
    return evaluate_trial(trial, list(run_trial(vlm, trial, SCENES, seed=42)))


def test_files_are_the_ones_that_were_measured() -> None:
    sums = dict(line.split()[::-1] for line in (MODEL_DIR / "SHA256SUMS").read_text().splitlines())
    shipped = {path.name: path for path in MODEL_DIR.glob("*.gguf")}
    assert set(sums) == set(shipped)
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shipped.items()} == sums
    assert sum(path.stat().st_size for path in shipped.values()) <= 12_000_000


@pytest.mark.parametrize(
    ("name", "least_f1"),
    [
        *(("easy", 0.92), ("hard", 0.80), ("384x288", 0.78), ("512x384", 0.86)),
        *(("subset", 0.90), ("bbox_2d", 0.84), ("reworded", 0.90)),
    ],
)
def test_it_finds_what_is_there(vlm: LlamaVlm, name: str, least_f1: float) -> None:
    """The card's measures, less what chance may take away on few scenes."""
    report = judged(vlm, name)
    assert report.detection
    assert report.detection.at_50.f1 >= least_f1


def test_it_sees_nothing_where_nothing_was_asked_for(vlm: LlamaVlm) -> None:
    assert judged(vlm, "absent label").correct >= 0.9


def test_its_captions_are_true(vlm: LlamaVlm) -> None:
    assert judged(vlm, "caption").correct >= 0.7


def test_its_boxes_are_tight_and_its_score_ranks(vlm: LlamaVlm) -> None:
    trial = next(trial for trial in TRIALS if trial.name == "easy")
    asked = list(run_trial(vlm, trial, SCENES, seed=42))
    report = evaluate_trial(trial, asked).detection
    assert report
    assert report.mean_iou >= 0.80
    assert 0.0 < statistics.mean(d.score for _, _, answer in asked for d in answer.detections) <= 1.0
