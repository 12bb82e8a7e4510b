# SPDX-License-Identifier: Apache-2.0
"""Tracking evaluation: protocols, sequences, metrics, and the gain over holding the last detections."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from pages import charts_of

from lfm_perception.cli import main
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.sequences import read_motchallenge, read_tud
from lfm_perception.evaluation.tracking import (
    NO_NOISE,
    PROTOCOLS,
    DetectionNoise,
    EvaluatedTracker,
    TrackedBox,
    TrackingMetrics,
    TrackingProtocol,
    TrackingSequence,
    TrueObject,
    evaluate_tracks,
    mean_metrics,
    simulate_detections,
    track_sequence,
)
from lfm_perception.evaluation.tracking_charts import sequence_chart
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker


class Holding:
    """Holds the last detections until the next ones."""

    def __init__(self) -> None:
        self.shown: list[Shot] = []

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        self.shown = [Shot(index, detection.box) for index, detection in enumerate(detections)]

    def predict(self, stamp_s: float) -> Sequence[Shot]:
        return self.shown


class Shot:
    def __init__(self, track_id: int, box: Box) -> None:
        self.track_id, self.box = track_id, box


def walkers(frames: int = 50) -> TrackingSequence:
    """Two who walk towards each other and past."""

    def at(index: int) -> tuple[TrueObject, ...]:
        x = 0.1 + 0.3 * index / frames
        return (
            TrueObject(1, "person", Box(x, 0.2, x + 0.08, 0.5)),
            TrueObject(2, "person", Box(0.9 - x, 0.6, 0.98 - x, 0.9)),
        )

    return TrackingSequence("walkers", 25.0, 640, 480, tuple(at(index) for index in range(frames)))


def test_a_protocol_infers_every_kth_frame_or_the_next_one_after_a_random_latency() -> None:
    rng = random.Random(1)
    assert list(TrackingProtocol("", stride=6, latency=4).inferred_frames(20, rng)) == [
        (0, 4),
        (6, 10),
        (12, 16),
        (18, 22),
    ]
    jittered = list(TrackingProtocol("", stride=6, latency=5, max_latency=11).inferred_frames(1000, rng))
    assert all(after[0] == before[1] for before, after in pairwise(jittered))
    assert {arrival - frame for frame, arrival in jittered} == set(range(5, 12))


def test_simulated_noise_has_the_configured_rates() -> None:
    objects = [TrueObject(1, "person", Box(0.4, 0.4, 0.6, 0.8))] * 4000
    seen = simulate_detections(objects, DetectionNoise(), random.Random(1))
    named = [detection for detection, identity in seen if identity is not None]
    assert len(named) == pytest.approx(0.85 * 4000, rel=0.02)
    assert len(seen) - len(named) == pytest.approx(0.05 * 4000, rel=0.2)
    assert sum(detection.label != "person" for detection in named) == pytest.approx(0.05 * 3400, rel=0.2)
    assert {detection.box.x1 for detection in named} <= {round(i / 100, 2) for i in range(101)}
    assert [d.box for d, _ in simulate_detections(objects[:3], NO_NOISE, random.Random(1))] == [
        objects[0].box
    ] * 3


def test_perfect_tracks_score_100_and_no_tracks_score_0() -> None:
    sequence = walkers()
    truth = [[Shot(each.identity, each.box) for each in frame] for frame in sequence.frames]
    assert evaluate_tracks({"sequence": (sequence, truth)}) == TrackingMetrics(
        100.0, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0, 0.0
    )
    blind = evaluate_tracks({"sequence": (sequence, [[] for _ in sequence.frames])})
    assert (blind.hota, blind.mota, blind.idf1, blind.false_negatives) == (0.0, 0.0, 0.0, 100.0)


def test_a_seed_gives_the_same_run() -> None:
    runs = [
        track_sequence(walkers(), PROTOCOLS["sparse-late"], open_tracker(TrackerSettings()), seed)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_tracks_of_a_late_and_sparse_detector_are_far_better_than_its_last_boxes() -> None:
    detector = PROTOCOLS["sparse-late"]

    def metrics(tracker: Callable[[], EvaluatedTracker[TrackedBox]]) -> TrackingMetrics:
        runs = [
            {f.name: (f, track_sequence(f, detector, tracker(), seed)) for f in read_tud()}
            for seed in range(2)
        ]
        return mean_metrics([evaluate_tracks(each) for each in runs])

    ours, held = metrics(lambda: open_tracker(TrackerSettings())), metrics(Holding)
    assert ours.hota > held.hota + 20.0
    assert ours.mota > 60.0 > held.mota
    assert ours.idf1 > 70.0


def test_a_folder_of_the_motchallenge_is_a_sequence(tmp_path: Path) -> None:
    folder = tmp_path / "street"
    (folder / "gt").mkdir(parents=True)
    (folder / "seqinfo.ini").write_text("[Sequence]\nframeRate=30\nimWidth=100\nimHeight=200\n")
    (folder / "gt" / "gt.txt").write_text(
        "1,7,11,21,50,100,1,1,0.9\n"  # a pedestrian
        "2,7,-9,21,50,100,1,1,0.9\n"  # half outside
        "2,8,11,21,50,100,0,1,0.9\n"  # not to be considered
        "2,9,11,21,50,100,1,3,0.9\n"  # a car
    )
    (sequence,) = read_motchallenge(tmp_path)
    assert (sequence.name, sequence.fps, sequence.width, sequence.height) == ("street", 30.0, 100, 200)
    assert sequence.frames == (
        (TrueObject(7, "person", Box(0.1, 0.1, 0.6, 0.6)),),
        (TrueObject(7, "person", Box(0.0, 0.1, 0.4, 0.6)),),
    )


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("seqinfo.ini", "[Sequence]\n", "must give frameRate, imWidth and imHeight"),
        ("seqinfo.ini", "nonsense", "cannot be read"),
        ("gt/gt.txt", "1,2,three\n", "line 1: expected eight numbers"),
        ("gt/gt.txt", "", "holds no box"),
    ],
)
def test_an_invalid_motchallenge_folder_is_refused_with_the_reason(
    tmp_path: Path, file: str, content: str, said: str
) -> None:
    (tmp_path / "gt").mkdir()
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nframeRate=30\nimWidth=100\nimHeight=200\n")
    (tmp_path / "gt" / "gt.txt").write_text("1,7,11,21,50,100,1,1,0.9\n")
    (tmp_path / file).write_text(content)
    with pytest.raises(PerceptionError) as error:
        read_motchallenge(tmp_path)
    assert said in str(error.value)


def test_the_command_writes_metrics_and_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["eval", "tracking", "--protocol", "jittered", "--seeds", "1", "--out", str(out)])
    assert ended.value.code == 0
    assert "jittered" in capsys.readouterr().out
    record = json.loads((out / "tracking.json").read_text())
    assert record["protocols"]["jittered"]["max_latency"] == 11
    assert 0.0 < record["metrics"]["jittered"]["hota"] < 100.0
    drawn = charts_of(out / "tracking.html")
    assert [title.partition(":")[0] for title in drawn] == [
        "Accuracy by protocol",
        "TUD-Campus",
        "TUD-Stadtmitte",
    ]
    assert all(text in drawn["Accuracy by protocol"] for text in ("HOTA, MOTA, IDF1 (%)", "jittered"))
    tracks = next(text for title, text in drawn.items() if title.startswith("TUD-Campus: 8 objects, "))
    assert all(text in tracks for text in ("time (s)", "centre x (image widths)", "ground truth", "track"))


def test_the_synthetic_trials_name_what_the_tracker_can_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    names = ["fast-0.6", "recede", "occlusion", "roll", "roll-exact", "low-camera-rate"]
    options = [option for name in names for option in ("--protocol", name)]
    with pytest.raises(SystemExit) as ended:
        main(["eval", "tracking", "synthetic", *options, "--seeds", "1", "--out", str(out)])
    assert ended.value.code == 0
    assert "fast-0.6: objects have a track in 9" in capsys.readouterr().out
    record = json.loads((out / "tracking.json").read_text())
    assert record["fast-0.6"]["coverage"] > 85.0
    assert record["metrics"]["recede"]["hota"] > 68.0
    assert record["metrics"]["roll"]["hota"] > record["metrics"]["roll-exact"]["hota"] - 3.0
    assert record["occlusion"]["identity_kept"] > 60.0


def test_tracks_of_a_slow_camera_are_drawn_as_lines() -> None:
    objects = [(TrueObject(1, "box", Box(0.1 + 0.02 * frame, 0.2, 0.3, 0.4)),) for frame in range(4)]
    sequence = TrackingSequence("slow", 2.0, 640, 480, tuple(objects))
    source = sequence_chart(sequence, [[]] * 4).source
    drawn = base64.b64decode(source.partition(",")[2]).decode()
    (line,) = re.findall(r'd="([^"]*)"[^>]*stroke-width: 5[^>]*stroke-linecap: square', drawn)[:1]
    assert line.count("L") == len(objects) - 1
