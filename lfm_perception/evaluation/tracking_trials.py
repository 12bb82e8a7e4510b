"""The trials of `lfm-perception eval tracking`: films, protocols and seeds in, one report out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lfm_perception.calibration import PlattScaling
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.demo_film import (
    DemoFilm,
    DemoRun,
    fit_scores,
    judge_scores,
    measurement_noise_scale,
)
from lfm_perception.evaluation.detection import ReliabilityBin
from lfm_perception.evaluation.films import motchallenge, tud
from lfm_perception.evaluation.tracking import DETECTORS, Figures, Film, Shown, follow, judge, mean
from lfm_perception.evaluation.tracks_picture import draw, draw_reliability
from lfm_perception.scene import Image
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

DEMO, TUD = "demo", "tud"

Advance = Callable[[str], object]
"""Told what was done after each film."""


@dataclass(frozen=True, slots=True)
class Trials:
    """`figures` by protocol; `more`: what else was measured, for the JSON; `remarks`: the same in words.
    `pictured`: films and what was shown in the first trial, `reliability`: of its scores.
    """

    figures: Mapping[str, Figures]
    pictured: Sequence[tuple[Film, Sequence[Sequence[Shown]]]]
    more: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    reliability: Sequence[ReliabilityBin] = ()

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """`tracking.json`, `tracks.png`, and `reliability.png` where scores were judged.

        Raises PerceptionError when they cannot be written.
        """
        record = {
            **about,
            "protocols": {name: asdict(DETECTORS[name]) for name in self.figures},
            "figures": {name: asdict(each) for name, each in self.figures.items()},
            **self.more,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tracking.json").write_text(json.dumps(record, indent=2) + "\n")
            _write_png(folder / "tracks.png", draw(self.pictured))
            if self.reliability:
                _write_png(folder / "reliability.png", draw_reliability(self.reliability))
        except OSError as error:
            raise PerceptionError(f"cannot write to {folder}: {error.strerror or error}") from error


def _write_png(file: Path, image: Image) -> None:
    _, png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    file.write_bytes(png.tobytes())


def run_trials(
    source: str, settings: Settings, protocols: Sequence[str], seeds: Iterable[int], advance: Advance
) -> Trials:
    """Detections made of the truth of `tud` or of a folder in the form of the MOTChallenge."""
    films = tud() if source == TUD else motchallenge(Path(source))
    figures: dict[str, Figures] = {}
    pictured: list[tuple[Film, Sequence[Sequence[Shown]]]] = []
    for name in protocols:
        by_seed = []
        for seed in seeds:
            runs = {}
            for film in films:
                runs[film.name] = film, follow(film, DETECTORS[name], open_tracker(settings.tracker), seed)
                advance(name)
            by_seed.append(judge(runs))
            pictured = pictured or list(runs.values())
        figures[name] = mean(by_seed)
    return Trials(figures, pictured)


def run_demo_trials(
    settings: Settings,
    protocols: Sequence[str],
    seeds: Iterable[int],
    seconds: float,
    pan: float,
    advance: Advance,
) -> Trials:
    """The model looks at films of the demo world, one for each seed."""
    from lfm_perception.backends.llama import LlamaVlm

    figures: dict[str, Figures] = {}
    runs: dict[str, list[DemoRun]] = {name: [] for name in protocols}
    with LlamaVlm(settings) as vlm:
        for seed in seeds:
            demo = DemoFilm(seed, seconds, pan)
            look = demo.seen_by(vlm, settings)
            for name in protocols:
                runs[name].append(demo.run(DETECTORS[name], settings, seed, look))
                advance(name)
    more: dict[str, Any] = {"seconds": seconds, "pan": pan}
    remarks: list[str] = []
    reliable: Sequence[ReliabilityBin] = ()
    for name, each in runs.items():
        figures[name] = mean([judge({run.film.name: (run.film, run.shown)}) for run in each])
        errors = [error for run in each for error in run.speed_errors]
        now = PlattScaling(settings.tracker.score_gain, settings.tracker.score_bias)
        scores, fitted, scale = judge_scores(each, now), fit_scores(each), measurement_noise_scale(each)
        speed_error = float(np.median(errors)) if errors else None
        more[name] = {
            "speed_error_median": speed_error,
            "speeds_judged": len(errors),
            "measurement_noise_scale": scale,
            "calibration_error": scores.error,
            "reliability": [asdict(score_bin) for score_bin in scores.bins],
            "fitted": asdict(fitted),
            "fitted_calibration_error": judge_scores(each, fitted).error,
            "unseen_calibration_error": _error_unseen(each),
        }
        reliable = reliable or scores.bins
        if speed_error is not None:
            remarks.append(f"{name}: speeds are off by {speed_error:.1%} (median of {len(errors)})")
        remarks.append(f"{name}: scores are off by {scores.error:.3f} on average")
        remarks.append(
            f"{name}: best with tracker.score_gain {fitted.gain:.2f} and tracker.score_bias {fitted.bias:.2f}"
            + (f", tracker.measurement_noise_scale {scale:.1f}" if scale else "")
        )
    first = [(run.film, run.shown) for run in next(iter(runs.values()))]
    return Trials(figures, first[:4], more, remarks, reliable)


def _error_unseen(runs: Sequence[DemoRun]) -> float | None:
    """What is left of the scores' error by a fit to every other film, on those in between."""
    fitted, judged = runs[::2], runs[1::2]
    return judge_scores(judged, fit_scores(fitted)).error if judged else None
