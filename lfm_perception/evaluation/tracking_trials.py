"""The trials of `lfm-perception eval tracking`: films, protocols and seeds in, one report out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.demo_film import DemoFilm, DemoRun, calibration
from lfm_perception.evaluation.films import motchallenge, tud
from lfm_perception.evaluation.tracking import DETECTORS, Figures, Film, Shown, follow, judge, mean
from lfm_perception.evaluation.tracks_picture import draw
from lfm_perception.settings import Settings
from lfm_perception.tracking.tracker import KalmanTracker

DEMO, TUD = "demo", "tud"

Advance = Callable[[str], object]
"""Told what was done after each film."""


@dataclass(frozen=True, slots=True)
class Trials:
    """`figures` by protocol; `more`: what else was measured, for the JSON; `remarks`: the same in words.
    `pictured`: films and what was shown in the first trial.
    """

    figures: Mapping[str, Figures]
    pictured: Sequence[tuple[Film, Sequence[Sequence[Shown]]]]
    more: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """`tracking.json` and `tracks.png`. Raises PerceptionError when they cannot be written."""
        record = {
            **about,
            "protocols": {name: asdict(DETECTORS[name]) for name in self.figures},
            "figures": {name: asdict(each) for name, each in self.figures.items()},
            **self.more,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tracking.json").write_text(json.dumps(record, indent=2) + "\n")
            _, png = cv2.imencode(".png", cv2.cvtColor(draw(self.pictured), cv2.COLOR_RGB2BGR))
            (folder / "tracks.png").write_bytes(png.tobytes())
        except OSError as error:
            raise PerceptionError(f"cannot write to {folder}: {error.strerror or error}") from error


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
                runs[film.name] = film, follow(film, DETECTORS[name], KalmanTracker(settings.tracker), seed)
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
    from lfm_perception.vlm.llama import LlamaVlm

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
    remarks = []
    for name, each in runs.items():
        figures[name] = mean([judge({run.film.name: (run.film, run.shown)}) for run in each])
        errors = [error for run in each for error in run.speed_errors]
        bins, off = calibration(each)
        speed_error = float(np.median(errors)) if errors else None
        more[name] = {
            "speed_error_median": speed_error,
            "speeds_judged": len(errors),
            "calibration_error": off,
            "reliability": [asdict(score_bin) for score_bin in bins],
        }
        if speed_error is not None:
            remarks.append(f"{name}: speeds are off by {speed_error:.1%} (median of {len(errors)})")
        remarks.append(f"{name}: scores are off by {off:.3f} on average")
    first = [(run.film, run.shown) for run in next(iter(runs.values()))]
    return Trials(figures, first[:4], more, remarks)
