"""Judging a tracker: protocols, films, figures, and how much better than holding the last boxes ours is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from lfm_perception.cli import main
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.films import motchallenge, tud
from lfm_perception.evaluation.tracking import (
    CLEAN,
    DETECTORS,
    Detector,
    Figure,
    Figures,
    Film,
    Follower,
    Noise,
    Shown,
    follow,
    judge,
    mean,
    noisy,
)
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection
from lfm_perception.settings import TrackerSettings
from lfm_perception.tracking import open_tracker


class Holding:
    """Shows what the last answer held until the next one."""

    def __init__(self) -> None:
        self.shown: list[Shot] = []

    def update(self, detections: Sequence[Detection], stamp_s: float) -> None:
        self.shown = [Shot(index, detection.box) for index, detection in enumerate(detections)]

    def predict(self, stamp_s: float) -> Sequence[Shot]:
        return self.shown


class Shot:
    def __init__(self, track_id: int, box: Box) -> None:
        self.track_id, self.box = track_id, box


def walkers(frames: int = 50) -> Film:
    """Two who walk towards each other and past."""

    def at(index: int) -> tuple[Figure, ...]:
        x = 0.1 + 0.3 * index / frames
        return (
            Figure(1, "person", Box(x, 0.2, x + 0.08, 0.5)),
            Figure(2, "person", Box(0.9 - x, 0.6, 0.98 - x, 0.9)),
        )

    return Film("walkers", 25.0, 640, 480, tuple(at(index) for index in range(frames)))


def test_a_fixed_detector_looks_at_every_kth_frame_and_a_jittered_one_when_it_has_answered() -> None:
    rng = random.Random(1)
    assert list(Detector("", every=6, delay=4).looks(20, rng)) == [(0, 4), (6, 10), (12, 16), (18, 22)]
    jittered = list(Detector("", every=6, delay=5, slowest=11).looks(1000, rng))
    assert all(after[0] == before[1] for before, after in pairwise(jittered))
    assert {there - looked for looked, there in jittered} == set(range(5, 12))


def test_noise_is_what_it_says() -> None:
    figures = [Figure(1, "person", Box(0.4, 0.4, 0.6, 0.8))] * 4000
    seen = noisy(figures, Noise(), random.Random(1))
    named = [detection for detection, identity in seen if identity is not None]
    assert len(named) == pytest.approx(0.85 * 4000, rel=0.02)
    assert len(seen) - len(named) == pytest.approx(0.05 * 4000, rel=0.2)
    assert sum(detection.label != "person" for detection in named) == pytest.approx(0.05 * 3400, rel=0.2)
    assert {detection.box.x1 for detection in named} <= {round(i / 100, 2) for i in range(101)}
    assert [d.box for d, _ in noisy(figures[:3], CLEAN, random.Random(1))] == [figures[0].box] * 3


def test_who_shows_the_truth_gets_full_marks_and_who_shows_nothing_none() -> None:
    film = walkers()
    truth = [[Shot(figure.identity, figure.box) for figure in frame] for frame in film.frames]
    assert judge({"film": (film, truth)}) == Figures(100.0, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0, 0.0)
    blind = judge({"film": (film, [[] for _ in film.frames])})
    assert (blind.hota, blind.mota, blind.idf1, blind.missed) == (0.0, 0.0, 0.0, 100.0)


def test_a_seed_gives_the_same_run() -> None:
    runs = [
        follow(walkers(), DETECTORS["sparse-late"], open_tracker(TrackerSettings()), seed)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_late_and_sparse_detector_is_followed_far_better_than_by_holding_its_boxes() -> None:
    detector = DETECTORS["sparse-late"]

    def figures(follower: Callable[[], Follower[Shown]]) -> Figures:
        runs = [{f.name: (f, follow(f, detector, follower(), seed)) for f in tud()} for seed in range(2)]
        return mean([judge(each) for each in runs])

    ours, held = figures(lambda: open_tracker(TrackerSettings())), figures(Holding)
    assert ours.hota > held.hota + 20.0
    assert ours.mota > 60.0 > held.mota
    assert ours.idf1 > 70.0


def test_a_folder_of_the_motchallenge_is_a_film(tmp_path: Path) -> None:
    sequence = tmp_path / "street"
    (sequence / "gt").mkdir(parents=True)
    (sequence / "seqinfo.ini").write_text("[Sequence]\nframeRate=30\nimWidth=100\nimHeight=200\n")
    (sequence / "gt" / "gt.txt").write_text(
        "1,7,11,21,50,100,1,1,0.9\n"  # a pedestrian
        "2,7,-9,21,50,100,1,1,0.9\n"  # half outside
        "2,8,11,21,50,100,0,1,0.9\n"  # not to be considered
        "2,9,11,21,50,100,1,3,0.9\n"  # a car
    )
    (film,) = motchallenge(tmp_path)
    assert (film.name, film.fps, film.width, film.height) == ("street", 30.0, 100, 200)
    assert film.frames == (
        (Figure(7, "person", Box(0.1, 0.1, 0.6, 0.6)),),
        (Figure(7, "person", Box(0.0, 0.1, 0.4, 0.6)),),
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
def test_a_folder_that_is_none_is_told_why(tmp_path: Path, file: str, content: str, said: str) -> None:
    (tmp_path / "gt").mkdir()
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nframeRate=30\nimWidth=100\nimHeight=200\n")
    (tmp_path / "gt" / "gt.txt").write_text("1,7,11,21,50,100,1,1,0.9\n")
    (tmp_path / file).write_text(content)
    with pytest.raises(PerceptionError) as error:
        motchallenge(tmp_path)
    assert said in str(error.value)


def test_the_command_writes_figures_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["eval", "tracking", "--protocol", "jittered", "--seeds", "1", "--out", str(out)])
    assert ended.value.code == 0
    assert "jittered" in capsys.readouterr().out
    record = json.loads((out / "tracking.json").read_text())
    assert record["protocols"]["jittered"]["slowest"] == 11
    assert 0.0 < record["figures"]["jittered"]["hota"] < 100.0
    assert (out / "tracks.png").read_bytes().startswith(b"\x89PNG")
