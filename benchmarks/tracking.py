# SPDX-License-Identifier: Apache-2.0
"""Comparison of the tracker with others, on the same detections.

    pip install trackers && pip install --no-deps norfair      (norfair asks for an older numpy than it needs)
    python benchmarks/tracking.py --out benchmarks/results/tracking.json

Every tracker gets the detections when they arrive and predicts at every frame, under the protocols of
`lfm_perception.evaluation.tracking`, on TUD-Campus and TUD-Stadtmitte. None of them
knows latency or frames without inference, so each is used in the way that suits it best: trackers that only
return the identities of detections hold their last boxes until the next ones; those that predict do so at
every frame. Each is measured with its own defaults, and once more with tracks confirmed at once.

`bound` is an upper bound: it knows the identities and which objects are still there, has no false positives,
and fits the constant velocity with the best metrics, over the last 2 to 8 detections.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from filterpy.kalman import KalmanFilter
from rich.console import Console
from rich.table import Table
from tracking_peers import PEERS, Boxes, Labelled, labelled

from lfm_perception.evaluation.sequences import read_tud
from lfm_perception.evaluation.tracking import (
    PROTOCOLS,
    EvaluatedTracker,
    TrackedBox,
    TrackingMetrics,
    TrackingProtocol,
    TrackingSequence,
    evaluate_tracks,
    mean_metrics,
    simulate_detections,
    track_sequence,
)
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker
from lfm_perception.tracking.kalman import ConstantVelocityFilter

# --- the bound --------------------------------------------------------------------------------------


def informed(
    sequence: TrackingSequence, protocol: TrackingProtocol, seed: int, memory: int
) -> list[list[Labelled]]:
    """Tracks with known identities, by a straight line through the last `memory` detections.

    Draws the same detections as `track_sequence`.
    """
    rng = random.Random(f"{seed} {sequence.name}")
    noise = random.Random(f"{seed} {sequence.name} noise")
    inferred = list(protocol.inferred_frames(len(sequence.frames), rng))
    seen: dict[int, list[tuple[int, Boxes]]] = defaultdict(list)
    shown = []
    for index, figures in enumerate(sequence.frames):
        while inferred and inferred[0][1] <= index:
            frame, _ = inferred.pop(0)
            for detection, identity in simulate_detections(sequence.frames[frame], protocol.noise, noise):
                if identity is not None:
                    seen[identity].append((frame, detection.box.xyxy))
        boxes: list[Labelled] = []
        for figure in figures:
            if points := seen[figure.identity][-memory:]:
                times = np.array([frame for frame, _ in points], dtype=np.float64)
                degree = min(1, len(points) - 1)
                line = np.polynomial.polynomial.polyfit(
                    times - index, np.array([b for _, b in points]), degree
                )
                boxes += labelled(figure.identity, line[0])
        shown.append(boxes)
    return shown


# --- comparison ----------------------------------------------------------------------------------


OURS = "lfm_perception"


def compare(protocol: TrackingProtocol, seeds: Sequence[int]) -> dict[str, TrackingMetrics]:
    """Metrics of all trackers under one protocol, means over the seeds."""
    sequences = read_tud()
    trackers = {OURS: lambda sequence, protocol: open_tracker(TrackerSettings()), **PEERS}
    figures = {
        name: mean_metrics(
            [
                evaluate_tracks(
                    {
                        sequence.name: (
                            sequence,
                            track_sequence(sequence, protocol, make(sequence, protocol), seed),
                        )
                        for sequence in sequences
                    }
                )
                for seed in seeds
            ]
        )
        for name, make in trackers.items()
    }
    bounds = [
        mean_metrics(
            [
                evaluate_tracks({f.name: (f, informed(f, protocol, seed, memory)) for f in sequences})
                for seed in seeds
            ]
        )
        for memory in range(2, 9)
    ]
    best = {key: max(getattr(b, key) for b in bounds) for key in ("hota", "deta", "assa", "mota", "idf1")}
    least = {
        key: min(getattr(b, key) for b in bounds)
        for key in ("id_switches", "false_positives", "false_negatives")
    }
    figures["bound"] = TrackingMetrics(**best, **least)
    return figures


@dataclass(frozen=True, slots=True)
class Times:
    """Median milliseconds of a prediction at a camera frame, and of an update with detections."""

    camera_ms: float
    detection_ms: float


def times(
    make: Callable[[TrackingSequence, TrackingProtocol], EvaluatedTracker[TrackedBox]],
    tracks: int,
    answers: int = 60,
) -> Times:
    """Times with separate objects, all detected in every update, and 10 predictions after each."""
    protocol = TrackingProtocol("timing", stride=6, latency=6)
    side = int(np.ceil(np.sqrt(tracks)))
    sequence = TrackingSequence("timing", 25.0, 640, 480, ())
    rng = random.Random(1)
    tracker = make(sequence, protocol)
    shown_s, taken_s = [], []
    for answer in range(answers):
        detections = []
        for index in range(tracks):
            x, y = (index % side + 0.2) / side, (index // side + 0.2) / side
            jitter = [rng.gauss(0.0, 0.002) for _ in range(4)]
            sides = (x, y, x + 0.6 / side, y + 0.6 / side)
            box = Box(*(min(max(a + b, 0.0), 1.0) for a, b in zip(sides, jitter, strict=True)))
            detections.append(Detection("person", box, 0.9))
        begin = time.perf_counter()
        tracker.update(detections, answer * 0.24)
        taken_s.append(time.perf_counter() - begin)
        for frame in range(10):
            begin = time.perf_counter()
            tracker.predict(answer * 0.24 + 0.024 * frame)
            shown_s.append(time.perf_counter() - begin)
    return Times(1e3 * statistics.median(shown_s[100:]), 1e3 * statistics.median(taken_s[10:]))


def filters(tracks: int, repeats: int = 200) -> dict[str, float]:
    """Median microseconds for the filters of `tracks` tracks: ours as arrays, filterpy's one by one."""
    rng = np.random.default_rng(1)
    measured, noise = rng.uniform(0.0, 1.0, (tracks, 4)), np.full((tracks, 4), 1e-3)
    motion = ConstantVelocityFilter.from_measurements(measured, noise, np.ones(4))
    rows, process_noise = np.arange(tracks), np.full(4, 0.1)
    single = [KalmanFilter(dim_x=8, dim_z=4) for _ in range(tracks)]
    for kalman in single:
        kalman.H = np.eye(4, 8)
    transition = np.eye(8) + np.eye(8, k=4) * 0.03
    process, measurement = np.eye(8) * 1e-5, np.eye(4) * 1e-3

    def median_us(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(repeats):
            begin = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begin)
        return 1e6 * statistics.median(taken)

    return {
        "arrays_predict_us": median_us(lambda: motion.predict(0.03, process_noise)),
        "arrays_update_us": median_us(lambda: motion.update(rows, measured, noise)),
        "filterpy_predict_us": median_us(lambda: [k.predict(F=transition, Q=process) for k in single]),
        "filterpy_update_us": median_us(
            lambda: [k.update(z, R=measurement) for k, z in zip(single, measured, strict=True)]
        ),
    }


def table(title: str, figures: Mapping[str, TrackingMetrics], timing: Mapping[str, Times]) -> Table:
    shown = Table(title=title, box=None, pad_edge=False, title_justify="left")
    shown.add_column("tracker", no_wrap=True)
    for head in ("HOTA", "MOTA", "IDF1", "IDSW", "FP", "FN", "frame ms", "update ms"):
        shown.add_column(head, justify="right")
    for name, each in figures.items():
        row = (each.hota, each.mota, each.idf1, each.id_switches, each.false_positives, each.false_negatives)
        cost = timing.get(name)
        taken = (f"{cost.camera_ms:.3f}", f"{cost.detection_ms:.2f}") if cost else ("", "")
        shown.add_row(name, *(f"{value:.1f}" for value in row), *taken)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tracks", type=int, default=50, help="for the times")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    trackers = {OURS: lambda sequence, protocol: open_tracker(TrackerSettings()), **PEERS}
    timing = {name: times(make, options.tracks) for name, make in trackers.items()}
    record: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "versions": {
            name: version(name)
            for name in ("trackers", "norfair", "filterpy", "trackeval", "motmetrics", "numpy", "scipy")
        },
        "seeds": options.seeds,
        "tracks": options.tracks,
        "times": {name: asdict(each) for name, each in timing.items()},
        "filters": filters(options.tracks),
        "metrics": {},
    }
    for name, protocol in PROTOCOLS.items():
        figures = compare(protocol, range(options.seeds))
        record["metrics"][name] = {who: asdict(each) for who, each in figures.items()}
        Console().print(table(name, figures, timing))
    print(json.dumps(record["filters"], indent=2))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
