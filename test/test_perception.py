"""The orchestrator on the real model: what a scene holds, when a caption is asked for, what is spent."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from lfm_perception.backends.llama import LlamaVlm
from lfm_perception.calibration import PlattScaling
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.media.report import Report
from lfm_perception.media.run import Limits, record
from lfm_perception.media.sinks import open_recording
from lfm_perception.media.sources import Source, open_source
from lfm_perception.perception import LOW_SCORE, Perception, open_perception
from lfm_perception.scene import Frame, Scene
from lfm_perception.settings import Settings, TrackerSettings
from lfm_perception.tracking import open_tracker


def perception(vlm: LlamaVlm, **values: object) -> Perception:
    """The demo model behind settings named `group__key`."""
    settings = Settings().with_values({name.replace("__", "."): value for name, value in values.items()})
    return Perception(settings, vlm, open_tracker(TrackerSettings(min_hits=1)))


def frame(seconds: float = 0.0, width: int = 256, height: int = 256) -> Frame:
    """The demo world at that time."""
    world = World(seed=1, width=width, height=height, fps=10.0)
    return world.snapshot(round(seconds * 10)).frame


def test_a_scene_says_what_the_model_saw_and_what_it_cost(vlm: LlamaVlm) -> None:
    seen = perception(vlm).infer(frame(0.4))
    assert (seen.stamp_ns, seen.frame_id, seen.width, seen.height) == (4 * 10**8, "demo_camera", 256, 256)
    assert {detection.label for detection in seen.detections} <= set(Settings().detect.labels)
    assert len(seen.detections) > 0
    assert [track.time_since_update_s for track in seen.tracks] == [0.0] * len(seen.tracks)
    assert seen.caption
    assert seen.usage.image_tokens == plan_image(256, 256, ImageLimits()).tokens == 64
    assert seen.usage.answer_tokens > 0
    assert seen.usage.encode_s > 0


def test_a_caption_is_asked_for_when_it_is_due_and_kept_until_then(vlm: LlamaVlm) -> None:
    looking = perception(vlm, caption__period=1.0, detect__max_tokens=32)
    scenes = [looking.infer(frame(seconds)) for seconds in (0.0, 0.5, 1.0)]
    assert [scene.caption_usage is not None for scene in scenes] == [True, False, True]
    assert [scene.caption_stamp_ns for scene in scenes] == [0, 0, 10**9]
    assert scenes[1].caption == scenes[0].caption != ""
    silent = perception(vlm, caption__enabled=False, detect__max_tokens=32).infer(frame())
    assert (silent.caption, silent.caption_stamp_ns, silent.caption_usage) == (None, None, None)


def test_a_frame_older_than_the_last_is_a_new_beginning(vlm: LlamaVlm) -> None:
    looking = perception(vlm, detect__max_tokens=64)
    before = looking.infer(frame(5.0))
    after = looking.infer(frame(1.0))
    assert after.caption_stamp_ns == 10**9
    ids = [{track.track_id for track in scene.tracks} for scene in (before, after)]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]
    assert all(track.age_s == 0.0 for track in after.tracks)


def test_tracks_are_known_between_looks_and_asking_changes_nothing(vlm: LlamaVlm) -> None:
    looking = perception(vlm, detect__max_tokens=64)
    looking.infer(frame(0.0))
    seen = looking.infer(frame(0.2))
    later = looking.tracks(4 * 10**8)
    assert {t.track_id for t in later} <= {t.track_id for t in seen.tracks}
    assert all(track.time_since_update_s >= 0.2 - 1e-9 for track in later)
    assert looking.tracks(2 * 10**8) == seen.tracks


@pytest.mark.parametrize("budget", [64, 96, 150, 300])
def test_a_frame_never_costs_more_tokens_than_the_budget(vlm: LlamaVlm, budget: int) -> None:
    looking = perception(vlm, budget__tokens=budget, caption__period=0.0)
    for width, height in ((256, 256), (640, 480)):
        seen = looking.infer(frame(0.0, width, height))
        caption = seen.caption_usage.answer_tokens if seen.caption_usage else 0
        assert 32 <= seen.usage.image_tokens + seen.usage.answer_tokens + caption <= budget


def test_when_the_time_is_up_the_caption_is_left_out_and_that_was_known(vlm: LlamaVlm) -> None:
    seen = perception(vlm, budget__latency=0.001).infer(frame())
    assert seen.truncated
    assert seen.over_latency_budget
    assert seen.caption_usage is None
    assert not perception(vlm, budget__latency=60.0).infer(frame()).over_latency_budget
    assert not perception(vlm).infer(frame()).over_latency_budget


def test_detections_with_a_low_score_are_counted_not_followed(vlm: LlamaVlm) -> None:
    every = perception(vlm).infer(frame())
    none = perception(vlm, detect__min_score=1.0).infer(frame())
    assert (none.detections, none.tracks) == ((), ())
    assert none.rejects[LOW_SCORE] == len(every.detections)


def test_scores_are_those_of_the_model_taken_through_the_calibration(vlm: LlamaVlm) -> None:
    raw = perception(vlm, detect__score_gain=1.0, detect__score_bias=0.0).infer(frame())
    shown = perception(vlm, detect__score_gain=2.0, detect__score_bias=1.5).infer(frame())
    assert raw.detections
    for found, expected in zip(shown.detections, raw.detections, strict=True):
        assert found.score == pytest.approx(PlattScaling(2.0, 1.5).apply(expected.score), abs=1e-6)
        assert found.score != pytest.approx(expected.score, abs=1e-3)


def test_a_frame_no_plan_fits_is_refused_with_its_size(vlm: LlamaVlm) -> None:
    with pytest.raises(PerceptionError, match="20000x20"):
        perception(vlm).infer(Frame(np.zeros((20, 20_000, 3), np.uint8), 0))


def test_opening_a_model_that_is_not_there_says_so(tmp_path: Path) -> None:
    missing = {"model.path": str(tmp_path / "no.gguf"), "mmproj.path": str(tmp_path / "no-mmproj.gguf")}
    with pytest.raises(PerceptionError, match=r"no\.gguf"), open_perception(Settings().with_values(missing)):
        pass


# --- runs ------------------------------------------------------------------------------------------


def run(
    vlm: LlamaVlm, source: Source, folder: Path, *, every: int, limits: Limits, stop_after: int = 10**9
) -> Report:
    report, counter = Report(), itertools.count(1)
    with open_recording(folder, source.rate) as recording:
        record(
            source,
            perception(vlm, detect__max_tokens=64),
            recording,
            report,
            every=every,
            limits=limits,
            badge="demo model",
            on_progress=lambda: next(counter) < stop_after,
        )
        recording.finish(report.summary())
    return report


def test_the_model_looks_at_every_nth_frame_and_all_are_drawn(vlm: LlamaVlm, tmp_path: Path) -> None:
    with open_source("demo") as source:
        report = run(vlm, source, tmp_path, every=4, limits=Limits(frames=10))
    assert (report.frames, report.inferred_frames) == (10, 3)
    with open_source(str(tmp_path / "overlay.mp4")) as film:
        assert len(list(film.frames)) == 10
    summary = report.summary()
    assert summary["source_s"] == 0.3
    assert set(summary["latency_ms"]) >= {"inference", "detect.encode", "detect.decode", "caption.decode"}
    assert summary["latency_ms"]["inference"]["p50"] >= summary["latency_ms"]["detect.decode"]["p50"]
    assert summary["tokens"]["detect.image"]["max"] == 234


def test_a_run_ends_at_the_limit_in_seconds_or_when_it_is_told_to(vlm: LlamaVlm, tmp_path: Path) -> None:
    with open_source("demo") as source:
        assert Limits(seconds=0.2).total(source) == 6
        assert run(vlm, source, tmp_path, every=10, limits=Limits(seconds=0.2)).frames == 6
    with open_source("demo") as source:
        assert Limits().total(source) is None
        assert run(vlm, source, tmp_path, every=10, limits=Limits(), stop_after=3).frames == 3


def test_a_frame_that_cannot_be_looked_at_is_named(vlm: LlamaVlm, tmp_path: Path) -> None:
    frames = iter([frame(0.0), Frame(np.zeros((20, 20_000, 3), np.uint8), 10**8)])
    with pytest.raises(PerceptionError, match="frame 1 of a test: the image is 20000x20"):
        run(vlm, Source("a test", frames, 10.0), tmp_path, every=1, limits=Limits())


def test_the_same_run_twice_sees_the_same(vlm: LlamaVlm) -> None:
    def scenes() -> list[Scene]:
        looking = perception(vlm, detect__max_tokens=64)
        return [looking.infer(frame(seconds)) for seconds in (0.0, 0.2, 0.4)]

    first, second = scenes(), scenes()
    assert [scene.detections for scene in first] == [scene.detections for scene in second]
    assert [scene.caption for scene in first] == [scene.caption for scene in second]
    assert [[t.box for t in scene.tracks] for scene in first] == [
        [t.box for t in scene.tracks] for scene in second
    ]
