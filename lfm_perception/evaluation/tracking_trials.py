# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval tracking`: the tracker on sequences under protocols, as one report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.backends import open_vlm
from lfm_perception.calibration import PlattScaling
from lfm_perception.evaluation.demo_sequence import DemoRun, DemoSequence
from lfm_perception.evaluation.detection import (
    ReliabilityBin,
    calibration_advice,
    calibration_error,
    held_out_error,
    reliability,
)
from lfm_perception.evaluation.sequences import read_motchallenge, read_tud
from lfm_perception.evaluation.synthetic import TRIALS
from lfm_perception.evaluation.tables import TRACKING_COLUMNS, tracking_rows
from lfm_perception.evaluation.tracking import (
    PROTOCOLS,
    TrackedBox,
    TrackingMetrics,
    TrackingProtocol,
    TrackingSequence,
    evaluate_tracks,
    mean_metrics,
    track_sequence,
)
from lfm_perception.evaluation.tracking_charts import sequence_chart
from lfm_perception.media.charts import bars, reliability_chart
from lfm_perception.media.page import Section
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

DEMO, SYNTHETIC, TUD = "demo", "synthetic", "tud"

MAX_PANELS = 4

NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a standard normal variable."""

Runs = Sequence[tuple[TrackingSequence, Sequence[Sequence[TrackedBox]]]]
Bins = tuple[ReliabilityBin, ...]

OnProgress = Callable[[str], object]
"""Called with the protocol's name after each sequence."""


@dataclass(frozen=True, slots=True)
class TrackingTrials:
    """Results by protocol: `metrics`, and `details` for the JSON, of which `remarks` are the summary.

    `runs`: sequences and tracks of the first trial. `reliability`: bins of its scores.
    """

    metrics: Mapping[str, TrackingMetrics]
    runs: Runs
    details: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    reliability: Bins = ()
    protocols: Mapping[str, TrackingProtocol] = field(default_factory=lambda: PROTOCOLS)

    def as_json(self) -> dict[str, Any]:
        """All figures, ready for `json.dumps`."""
        return {
            "protocols": {name: asdict(self.protocols[name]) for name in self.metrics},
            "metrics": {name: asdict(each) for name, each in self.metrics.items()},
            **self.details,
        }

    def sections(self) -> Iterator[Section]:
        """The sections of the page."""
        shown = {"HOTA": "hota", "MOTA": "mota", "IDF1": "idf1"}
        series = {name: [getattr(each, key) for each in self.metrics.values()] for name, key in shown.items()}
        yield Section(
            "By protocol",
            notes=[METRICS],
            heads=("protocol", *TRACKING_COLUMNS),
            rows=tracking_rows(self.metrics),
            charts=[bars("Accuracy by protocol", series, list(self.metrics), "HOTA, MOTA, IDF1 (%)")],
        )
        if self.remarks:
            yield Section("Remarks", notes=self.remarks)
        if self.reliability:
            points = [(each.mean_confidence, each.precision, each.count) for each in self.reliability]
            chart = reliability_chart("Reliability diagram", points, "tracks")
            yield Section("Confidence", [PRECISION], charts=[chart])
        yield Section("Tracks over time", [TRACKS], charts=[sequence_chart(*run) for run in self.runs])


PRECISION = "Share of the tracks that lie on an object of their label by an IoU of 0.5, by their confidence."
METRICS = (
    "HOTA (with its detection and association accuracy), MOTA and IDF1 in per cent; IDSW: identity switches, "
    "FP: false positives, FN: false negatives, each the mean over the seeds."
)
TRACKS = (
    "The centre of each box from the left edge of the image (bottom) to the right (top); the first protocol."
)


def run_trials(
    source: str, settings: Settings, protocols: Sequence[str], seeds: Iterable[int], on_progress: OnProgress
) -> TrackingTrials:
    """Simulated detections on `tud` or on a folder in the MOTChallenge format."""
    sequences = read_tud() if source == TUD else read_motchallenge(Path(source))
    metrics: dict[str, TrackingMetrics] = {}
    first: Runs = ()
    for name in protocols:
        by_seed = []
        for seed in seeds:
            runs = {}
            for sequence in sequences:
                tracker = open_tracker(settings.tracker)
                runs[sequence.name] = sequence, track_sequence(sequence, PROTOCOLS[name], tracker, seed)
                on_progress(name)
            by_seed.append(evaluate_tracks(runs))
            first = first or list(runs.values())
        metrics[name] = mean_metrics(by_seed)
    return TrackingTrials(metrics, first)


def run_synthetic_trials(
    settings: Settings, names: Sequence[str], seeds: Iterable[int], on_progress: OnProgress
) -> TrackingTrials:
    """The named synthetic trials, each with a world for each seed."""
    metrics, details, first = dict[str, TrackingMetrics](), dict[str, Any](), list[Any]()
    for name in names:
        runs = []
        for seed in seeds:
            runs.append(TRIALS[name].run(settings.tracker, seed))
            on_progress(name)
        metrics[name] = mean_metrics(
            [evaluate_tracks({run.sequence.name: (run.sequence, run.tracks)}) for run in runs]
        )
        details[name] = {
            "coverage": float(np.mean([run.coverage for run in runs])),
            "identity_kept": float(np.mean([run.identity_kept for run in runs])),
        }
        first.append((runs[0].sequence, runs[0].tracks))
    remarks = [
        f"{name}: objects have a track in {each['coverage']:.1f}% of the frames, and "
        f"{each['identity_kept']:.1f}% of them keep their identity"
        for name, each in details.items()
    ]
    protocols = {name: TRIALS[name].protocol for name in names}
    return TrackingTrials(metrics, first, details, remarks, protocols=protocols)


def run_demo_trials(
    settings: Settings,
    protocols: Sequence[str],
    seeds: Iterable[int],
    seconds: float,
    pan: float,
    on_progress: OnProgress,
) -> TrackingTrials:
    """The model on sequences of the demo world, one for each seed."""
    runs: dict[str, list[DemoRun]] = {name: [] for name in protocols}
    with closing(open_vlm(settings)) as vlm:
        for seed in seeds:
            demo = DemoSequence(seed, seconds, pan)
            detector = demo.detector(vlm, settings)
            for name in protocols:
                runs[name].append(demo.run(PROTOCOLS[name], settings, seed, detector))
                on_progress(name)
    metrics, details, remarks = dict[str, TrackingMetrics](), dict[str, Any](), list[str]()
    bins: Bins = ()
    for name, each in runs.items():
        metrics[name] = mean_metrics(
            [evaluate_tracks({run.sequence.name: (run.sequence, run.tracks)}) for run in each]
        )
        details[name], protocol_bins = _details(each, settings)
        remarks += _remarks(name, details[name])
        bins = bins or protocol_bins
    first = [(run.sequence, run.tracks) for run in next(iter(runs.values()))]
    details = {"seconds": seconds, "pan": pan, **details}
    return TrackingTrials(metrics, first[:MAX_PANELS], details, remarks, bins)


def _details(runs: Sequence[DemoRun], settings: Settings) -> tuple[dict[str, Any], Bins]:
    """Errors of velocities and scores, and the settings that suit these runs best."""
    velocity_errors = [error for run in runs for error in run.velocity_errors]
    errors = [error for run in runs for error in run.normalized_errors]
    raw = np.array([score for run in runs for score in run.raw_scores], dtype=np.float64)
    correct = np.array([each for run in runs for each in run.correct], dtype=bool)
    odd_runs = np.repeat(np.arange(len(runs)) % 2 == 1, [len(run.correct) for run in runs])
    fitted = PlattScaling.fit(raw, correct)

    def calibrated(scaling: PlattScaling) -> NDArray[np.float64]:
        return np.array([scaling.apply(score) for score in raw.tolist()])

    now = calibrated(PlattScaling(settings.tracker.score_gain, settings.tracker.score_bias))
    bins = reliability(now, correct)
    details = {
        "velocity_error_median": float(np.median(velocity_errors)) if velocity_errors else None,
        "velocities_compared": len(velocity_errors),
        "measurement_noise_scale": float(np.median(errors)) / NORMAL_MEDIAN if errors else None,
        "calibration_error": calibration_error(bins),
        "reliability": [asdict(each) for each in bins],
        "fitted": asdict(fitted),
        "fitted_calibration_error": calibration_error(reliability(calibrated(fitted), correct)),
        "boxes": len(raw),
        "held_out_calibration_error": held_out_error(raw, correct, odd_runs),
        "held_out_calibration_error_before": calibration_error(reliability(now[odd_runs], correct[odd_runs]))
        if odd_runs.any()
        else None,
    }
    return details, bins


def _remarks(name: str, details: Mapping[str, Any]) -> Iterable[str]:
    if (error := details["velocity_error_median"]) is not None:
        yield f"{name}: median error of {details['velocities_compared']} velocities {error:.1%}"
    yield f"{name}: calibration error of confidences {details['calibration_error']:.3f}"
    fitted, scale = details["fitted"], details["measurement_noise_scale"]
    before, after = details["held_out_calibration_error_before"], details["held_out_calibration_error"]
    advice = calibration_advice("tracker", PlattScaling(**fitted), details["boxes"], before, after)
    yield f"{name}: {advice}"
    if scale:
        yield f"{name}: tracker.measurement_noise_scale {scale:.1f} fits the errors of the boxes"
