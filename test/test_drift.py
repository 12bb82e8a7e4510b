# SPDX-License-Identifier: Apache-2.0
"""Drift: quantities measured on real frames, baselines as files, and what a monitor makes of changes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

from lfm_perception.demo.world import World
from lfm_perception.drift import (
    QUANTITIES,
    Baseline,
    BaselineRecorder,
    DriftMonitor,
    Meter,
    Samples,
    drift_sentence,
    read_baseline,
)
from lfm_perception.drift.baseline import BLOCK_S, SCHEMA, baseline_from_json
from lfm_perception.drift.monitor import CONFIRMATIONS, stability_index
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.scene import Detection, Frame, Scene, Usage

WINDOW_S, RATE_HZ = 60.0, 5.0
LABELS = ("person", "box")

USUAL: dict[str, Any] = {
    "scores": (0.7, 0.1),
    "labels": (0.6, LABELS),
    "detections": (0.5, (3.0, 4.0)),
    "rejected objects": (0.9, (0.0, 1.0)),
    "truncated answers": (1.0, (0.0, 1.0)),
    "brightness": (0.5, 0.05),
    "sharpness": (0.2, 0.03),
    "motion": (0.05, 0.02),
}
"""Of each quantity mean and standard deviation, or the share of the first of two values."""

CHANGED: dict[str, Any] = {
    "scores": (0.6, 0.1),
    "labels": (0.3, LABELS),
    "detections": (0.1, (3.0, 4.0)),
    "rejected objects": (0.4, (0.0, 1.0)),
    "truncated answers": (0.9, (0.0, 1.0)),
    "brightness": (0.4, 0.05),
    "sharpness": (0.12, 0.03),
    "motion": (0.09, 0.02),
}


def drawn(rng: random.Random, kinds: dict[str, Any]) -> Samples:
    found: dict[str, Any] = {}
    for name, (first, second) in kinds.items():
        number = 3 if name in ("scores", "labels") else 1
        if isinstance(second, tuple):
            found[name] = [second[rng.random() >= first] for _ in range(number)]
        else:
            found[name] = [rng.gauss(first, second) for _ in range(number)]
    return found


def stream(
    seed: int, seconds: float, begin_s: float = 0.0, **changed: Any
) -> Iterator[tuple[float, Samples]]:
    rng = random.Random(seed)
    for index in range(round(seconds * RATE_HZ)):
        yield begin_s + index / RATE_HZ, drawn(rng, {**USUAL, **changed})


def recorded(samples: Iterator[tuple[float, Samples]]) -> Baseline:
    recorder = BaselineRecorder()
    for stamp_s, each in samples:
        recorder.add(stamp_s, each)
    return recorder.baseline(LABELS, "a test")


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    return recorded(stream(1, 600.0))


def watch(baseline: Baseline) -> DriftMonitor:
    return DriftMonitor(baseline, LABELS, WINDOW_S, 0.25)


def drifted(monitor: DriftMonitor) -> set[str]:
    return {each.name for each in monitor.state if each.drifted}


def test_the_index_is_that_of_the_definition() -> None:
    many = 10**9  # beside which the smoothing is nothing
    expected, found = np.array([1, 3]) * many, np.array([3, 1]) * many
    assert stability_index(expected, found) == pytest.approx(2 * 0.5 * math.log(3.0), abs=1e-6)
    assert stability_index(found, expected) == pytest.approx(stability_index(expected, found))
    assert stability_index(expected, 7 * expected) == pytest.approx(0.0, abs=1e-6)
    assert math.isfinite(stability_index(np.array([5, 0]), np.array([0, 5])))


def test_nothing_drifts_while_nothing_changes(baseline: Baseline) -> None:
    monitor, ends = watch(baseline), 0
    for stamp_s, each in stream(2, 3600.0):
        if monitor.add(stamp_s, each):
            ends += 1
            assert drifted(monitor) == set()
    assert ends == 3600 / BLOCK_S - 1
    assert all(each.psi is not None for each in monitor.state)


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_change_is_named_within_a_window_and_two_blocks_and_is_over_as_soon(
    baseline: Baseline, name: str
) -> None:
    monitor = watch(baseline)
    within_s = WINDOW_S + CONFIRMATIONS * BLOCK_S
    for stamp_s, each in stream(3, 100.0):
        monitor.add(stamp_s, each)
    for stamp_s, each in stream(4, within_s, 100.0, **{name: CHANGED[name]}):
        monitor.add(stamp_s, each)
    assert drifted(monitor) == {name}
    said = drift_sentence(monitor.state, WINDOW_S)
    assert said.startswith(f"drift over 60 s in {name} (PSI ")
    assert QUANTITIES[name].remedy in said
    assert len(said) < 300
    for stamp_s, each in stream(5, within_s + BLOCK_S, 100.0 + within_s):
        monitor.add(stamp_s, each)
    assert drifted(monitor) == set()


def test_nothing_is_judged_before_a_whole_window_with_enough_samples(baseline: Baseline) -> None:
    monitor = watch(baseline)
    for stamp_s, each in stream(6, WINDOW_S, scores=(0.1, 0.1)):
        monitor.add(stamp_s, each)
    assert {each.psi for each in monitor.state} == {None}
    monitor = watch(baseline)
    for second in range(0, 600, 2):  # 30 frames in a window, with 90 scores
        monitor.add(float(second), drawn(random.Random(second), {**USUAL, "scores": (0.1, 0.1)}))
    assert {each.psi for each in monitor.state} == {None}
    assert drift_sentence(monitor.state, WINDOW_S) == ""


def test_one_block_beyond_a_limit_changes_nothing(
    baseline: Baseline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of each block as a script says: over 0.25 or below 0.1 counts only twice in a row."""
    monitor, found = watch(baseline), list[bool]()
    script = iter([0.2] * 6 + [0.3, 0.2, 0.3, 0.09, 0.3, 0.3, 0.2, 0.09, 0.11, 0.09, 0.24, 0.09, 0.09, 0.2])
    index = {"now": 0.0}
    monkeypatch.setattr("lfm_perception.drift.monitor.stability_index", lambda *_: index["now"])
    for stamp_s, each in stream(11, 210.0):
        if round(stamp_s * RATE_HZ) % (BLOCK_S * RATE_HZ) == 0 and stamp_s:
            index["now"] = next(script)
        if monitor.add(stamp_s, each):
            found.append(bool(drifted(monitor)))
    assert found == [False] * 11 + [True] * 7 + [False] * 2


def test_what_varies_in_the_baseline_may_vary() -> None:
    """A light that changes every two minutes: its windows differ from each other as much as those later."""

    def varying(seed: int, seconds: float) -> Iterator[tuple[float, Samples]]:
        for part in range(round(seconds / 120.0)):
            light = 0.4 if part % 2 else 0.6
            yield from stream(seed + part, 120.0, 120.0 * part, brightness=(light, 0.05))

    monitor = watch(recorded(varying(100, 1200.0)))
    for stamp_s, each in varying(200, 1200.0):
        monitor.add(stamp_s, each)
        assert drifted(monitor) == set()
    limits = {each.name: each.limit for each in monitor.state}
    assert limits["brightness"] > 0.5
    assert limits["scores"] == 0.25


def test_time_without_frames_leaves_the_window_and_a_clock_set_back_goes_on(baseline: Baseline) -> None:
    monitor = watch(baseline)
    for stamp_s, each in stream(7, 100.0):
        monitor.add(stamp_s, each)
    assert all(each.psi is not None for each in monitor.state)
    for stamp_s, each in stream(8, 20.0, 1e9):
        monitor.add(stamp_s, each)
    state = {each.name: each for each in monitor.state}
    assert state["brightness"].psi is None
    assert state["brightness"].samples == BLOCK_S * RATE_HZ
    for stamp_s, each in stream(9, 100.0, 5.0):
        monitor.add(stamp_s, each)
    assert all(each.psi is not None for each in monitor.state)


def test_a_baseline_is_written_by_its_schema_and_read_again(baseline: Baseline, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline.write(file)
    jsonschema.validate(json.loads(file.read_text()), json.loads(SCHEMA.read_text()))
    read = read_baseline(file)
    assert read.to_json() == baseline.to_json()
    assert read.seconds == 600.0


def test_a_baseline_that_cannot_serve_is_refused_in_a_sentence(baseline: Baseline, tmp_path: Path) -> None:
    with pytest.raises(
        PerceptionError, match=r"covers 600 s, but drift.window 300 needs 900 s: record a longer"
    ):
        DriftMonitor(baseline, LABELS, 300.0, 0.25)
    with pytest.raises(PerceptionError, match=r"for the labels person, box, but detect.labels are cone"):
        DriftMonitor(baseline, ("cone",), WINDOW_S, 0.25)
    with pytest.raises(PerceptionError, match="nothing to make a baseline of"):
        BaselineRecorder().baseline(LABELS, "nothing")
    (tmp_path / "b.json").write_text('{"kind": "bench"}')
    with pytest.raises(
        PerceptionError, match=r"b.json: not a drift baseline: record one by lfm-perception drift"
    ):
        read_baseline(tmp_path / "b.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(PerceptionError, match=r"huge.json: cannot be read: larger than"):
        read_baseline(tmp_path / "huge.json")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"edges": [0.2, 0.1]}, "the edges of 'brightness' do not ascend"),
        ({"edges": []}, "'brightness' has 1 bins, expected 2 to 101"),
        ({"edges": [0.5]}, "the counts of 'brightness' do not belong to its 2 bins"),
        ({"counts": []}, "'brightness' has 0 blocks, expected 1 to 8640"),
        ({"counts": [[-1] * 10]}, "do not belong to its 10 bins"),
        ({"counts": [[1 << 40] * 10]}, "do not belong to its 10 bins"),
        ({"counts": None}, "expected list, got nothing"),
    ],
)
def test_damaged_counts_are_refused(baseline: Baseline, change: dict[str, Any], sentence: str) -> None:
    record = baseline.to_json()
    record["quantities"]["brightness"].update(change)
    with pytest.raises(PerceptionError, match=sentence):
        baseline_from_json(json.loads(json.dumps(record)))


# --- quantities of real frames


def scene(*detections: Detection, **more: Any) -> Scene:
    return Scene(
        0,
        "camera",
        640,
        480,
        detections,
        (),
        None,
        more.pop("truncated", False),
        more.pop("rejects", {}),
        Usage(),
    )


def measured(frames: list[Frame]) -> Samples:
    meter = Meter()
    for frame in frames:
        found = meter.measure(scene(), frame)
    return {name: values for name, values in found.items() if values}


def test_a_scene_gives_scores_labels_and_counts() -> None:
    box = Box(0.1, 0.1, 0.2, 0.2)
    found = Meter().measure(
        scene(
            Detection("person", box, 0.9), Detection("box", box, 0.4), truncated=True, rejects={"no_box": 2}
        ),
        None,
    )
    assert found == {
        "scores": [0.9, 0.4], "labels": ["person", "box"], "detections": [2.0], "rejected objects": [2.0],
        "truncated answers": [1.0],
    }  # fmt: skip


def test_light_focus_and_shaking_change_their_own_quantity() -> None:
    world = World(seed=3, fps=5.0, pan=0.0)
    frames = [world.snapshot(index).frame for index in range(2)]

    def changed(first: Any, second: Any) -> dict[str, float]:
        made = [
            replace(frame, image=change(frame.image))
            for frame, change in zip(frames, (first, second), strict=True)
        ]
        return {name: float(measured(made)[name][0]) for name in ("brightness", "sharpness", "motion")}

    def keep(image: Any) -> Any:
        return image

    def dark(image: Any) -> Any:
        return np.asarray(image * 0.5, np.uint8)

    def blurred(image: Any) -> Any:
        return cv2.GaussianBlur(image, (0, 0), 3.0)

    def shifted(image: Any) -> Any:
        return np.roll(image, 32, axis=1)  # 5% of the width within 0.2 s

    usual, night = changed(keep, keep), changed(dark, dark)
    assert night["brightness"] == pytest.approx(0.5 * usual["brightness"], rel=0.02)
    assert night["sharpness"] == pytest.approx(usual["sharpness"], rel=0.1)
    assert night["motion"] == pytest.approx(usual["motion"], abs=0.02)
    smeared = changed(blurred, blurred)
    assert smeared["sharpness"] < 0.5 * usual["sharpness"]
    assert smeared["brightness"] == pytest.approx(usual["brightness"], rel=0.01)
    shaken = changed(keep, shifted)
    assert shaken["motion"] == pytest.approx(0.05 / 0.2, abs=0.06)
    assert shaken["brightness"] == pytest.approx(usual["brightness"], rel=0.01)


@pytest.mark.parametrize("level", [0, 255])
def test_an_image_without_anything_has_neither_sharpness_nor_motion(level: int) -> None:
    found = measured([Frame(np.full((48, 64, 3), level, np.uint8), stamp) for stamp in (10**9, 2 * 10**9)])
    assert "sharpness" not in found
    assert (found["brightness"], found["motion"]) == ([level / 255.0], [0.0])


def test_frames_far_apart_in_time_have_no_motion() -> None:
    image = World(seed=3).snapshot(0).frame.image
    for second_ns in (9 * 10**9, 0):
        assert "motion" not in measured([Frame(image, 10**9), Frame(image, second_ns)])


def test_the_motion_is_that_of_the_camera_and_not_of_the_objects() -> None:
    world, meter, errors = World(seed=1, fps=1.0), Meter(), []
    for index in range(12):
        motion = meter.measure(scene(), world.snapshot(index).frame).get("motion")
        if motion:
            errors.append(abs(float(motion[0]) - abs(world._pan(float(index)) - world._pan(index - 1.0))))
    assert len(errors) == 11
    assert max(errors) < 0.005
