# SPDX-License-Identifier: Apache-2.0
"""The orchestrator on the real model: contents of a scene, captions, budgets."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.calibration import PlattScaling
from lfm_perception.demo.bodies import EASY
from lfm_perception.demo.world import World, still
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.media.report import Report
from lfm_perception.media.run import Limits, record
from lfm_perception.media.sinks import open_recording
from lfm_perception.media.sources import Source, open_source
from lfm_perception.perception import Perception, open_perception
from lfm_perception.postprocessing import LOW_SCORE
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


def test_a_scene_holds_detections_tracks_caption_and_usage(vlm: LlamaVlm) -> None:
    scene = perception(vlm).infer(frame(0.4))
    assert (scene.stamp_ns, scene.frame_id, scene.width, scene.height) == (4 * 10**8, "demo_camera", 256, 256)
    assert {detection.label for detection in scene.detections} <= set(Settings().detect.labels)
    assert len(scene.detections) > 0
    assert [track.time_since_update_s for track in scene.tracks] == [0.0] * len(scene.tracks)
    assert scene.caption
    assert scene.usage.image_tokens == plan_image(256, 256, ImageLimits()).tokens == 64
    assert scene.usage.answer_tokens > 0
    assert 0 < scene.usage.accepted_decisions <= scene.usage.drafted_decisions < scene.usage.answer_tokens
    assert scene.usage.encode_s > 0


def test_a_caption_is_inferred_when_due_and_kept_until_the_next(vlm: LlamaVlm) -> None:
    perceiving = perception(vlm, caption__period=1.0, detect__max_tokens=32)
    scenes = [perceiving.infer(frame(seconds)) for seconds in (0.0, 0.5, 1.0)]
    assert [scene.caption_usage is not None for scene in scenes] == [True, False, True]
    assert [scene.caption_stamp_ns for scene in scenes] == [0, 0, 10**9]
    assert scenes[1].caption == scenes[0].caption != ""
    silent = perception(vlm, caption__enabled=False, detect__max_tokens=32).infer(frame())
    assert (silent.caption, silent.caption_stamp_ns, silent.caption_usage) == (None, None, None)


def test_a_frame_older_than_the_last_resets_the_tracker(vlm: LlamaVlm) -> None:
    perceiving = perception(vlm, detect__max_tokens=64)
    before = perceiving.infer(frame(5.0))
    after = perceiving.infer(frame(1.0))
    assert after.caption_stamp_ns == 10**9
    ids = [{track.track_id for track in scene.tracks} for scene in (before, after)]
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]
    assert all(track.age_s == 0.0 for track in after.tracks)


def test_tracks_are_predicted_between_inferences_without_side_effects(vlm: LlamaVlm) -> None:
    perceiving = perception(vlm, detect__max_tokens=64)
    perceiving.infer(frame(0.0))
    scene = perceiving.infer(frame(0.2))
    later = perceiving.tracks(4 * 10**8)
    assert {t.track_id for t in later} <= {t.track_id for t in scene.tracks}
    assert all(track.time_since_update_s >= 0.2 - 1e-9 for track in later)
    assert perceiving.tracks(2 * 10**8) == scene.tracks


@pytest.mark.parametrize("budget", [64, 96, 150, 300])
def test_a_frame_never_exceeds_the_token_budget(vlm: LlamaVlm, budget: int) -> None:
    perceiving = perception(vlm, budget__tokens=budget, caption__period=0.0)
    for width, height in ((256, 256), (640, 480)):
        scene = perceiving.infer(frame(0.0, width, height))
        caption = scene.caption_usage.answer_tokens if scene.caption_usage else 0
        assert 32 <= scene.usage.image_tokens + scene.usage.answer_tokens + caption <= budget


def test_without_time_left_the_caption_is_skipped_and_the_scene_says_so(
    vlm: LlamaVlm,
) -> None:
    scene = perception(vlm, budget__latency=0.001).infer(frame())
    assert scene.truncated
    assert scene.over_latency_budget
    assert scene.caption_usage is None
    assert not perception(vlm, budget__latency=60.0).infer(frame()).over_latency_budget
    assert not perception(vlm).infer(frame()).over_latency_budget


def test_detections_with_a_low_score_are_counted_not_tracked(vlm: LlamaVlm) -> None:
    every = perception(vlm).infer(frame())
    none = perception(vlm, detect__min_score=1.0).infer(frame())
    assert (none.detections, none.tracks) == ((), ())
    assert none.rejects[LOW_SCORE] == len(every.detections)


def test_scores_are_calibrated_by_platt_scaling(vlm: LlamaVlm) -> None:
    raw = perception(vlm, detect__score_gain=1.0, detect__score_bias=0.0).infer(frame())
    shown = perception(vlm, detect__score_gain=2.0, detect__score_bias=1.5).infer(frame())
    assert raw.detections
    for found, expected in zip(shown.detections, raw.detections, strict=True):
        assert found.score == pytest.approx(PlattScaling(2.0, 1.5).apply(expected.score), abs=1e-6)
        assert found.score != pytest.approx(expected.score, abs=1e-3)


def test_a_frame_that_no_plan_fits_is_rejected_with_its_size(vlm: LlamaVlm) -> None:
    with pytest.raises(PerceptionError, match="20000x20"):
        perception(vlm).infer(Frame(np.zeros((20, 20_000, 3), np.uint8), 0))


def test_opening_a_missing_model_names_its_path(tmp_path: Path) -> None:
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


def test_unrelated_pictures_are_answered_as_if_each_were_the_only_one(vlm: LlamaVlm) -> None:
    pictures = []
    for index in range(30):
        rng = random.Random(f"crop {index}")
        image = still(rng, 320, 320, EASY).frame.image
        top, left = rng.randrange(64), rng.randrange(64)
        cropped = np.ascontiguousarray(image[top : top + rng.choice((128, 256)), left : left + 256])
        pictures.append(Frame(cropped, index * 10**8, file=f"{index}.png"))
    settings = {"caption__max_tokens": 8, "detect__max_tokens": 128}
    together = perception(vlm, **settings)
    scenes = [together.infer_picture(picture) for picture in pictures]
    for picture, scene in reversed(list(zip(pictures, scenes, strict=True))):
        alone = perception(vlm, **settings).infer_picture(picture)
        assert alone.detections == scene.detections
        assert (alone.caption, scene.caption_stamp_ns) == (scene.caption, picture.stamp_ns)
        assert scene.tracks == ()
    assert sum(len(scene.detections) for scene in scenes) > 30


def test_every_nth_frame_is_inferred_and_all_are_drawn(vlm: LlamaVlm, tmp_path: Path) -> None:
    with open_source("demo") as source:
        report = run(vlm, source, tmp_path, every=4, limits=Limits(frames=10))
    assert (report.frames, report.inferred_frames) == (10, 3)
    with open_source(str(tmp_path / "overlay.mp4")) as video:
        assert len(list(video.frames)) == 10
    summary = report.summary()
    assert summary["source_s"] == 0.3
    assert set(summary["latency_s"]) >= {"inference", "detect.encode", "detect.decode", "caption.decode"}
    assert summary["latency_s"]["inference"]["p50"] >= summary["latency_s"]["detect.decode"]["p50"]
    assert summary["tokens"]["detect.image"]["max"] == 234


def test_a_run_ends_at_its_limit_in_seconds_or_when_stopped(vlm: LlamaVlm, tmp_path: Path) -> None:
    with open_source("demo") as source:
        assert Limits(seconds=0.2).total(source) == 6
        assert run(vlm, source, tmp_path, every=10, limits=Limits(seconds=0.2)).frames == 6
    with open_source("demo") as source:
        assert Limits().total(source) is None
        assert run(vlm, source, tmp_path, every=10, limits=Limits(), stop_after=3).frames == 3


def test_a_frame_that_cannot_be_inferred_is_named(vlm: LlamaVlm, tmp_path: Path) -> None:
    frames = iter([frame(0.0), Frame(np.zeros((20, 20_000, 3), np.uint8), 10**8)])
    with pytest.raises(PerceptionError, match="frame 1 of a test: the image is 20000x20"):
        run(vlm, Source("a test", frames, 10.0), tmp_path, every=1, limits=Limits())


def test_two_equal_runs_give_equal_scenes(vlm: LlamaVlm) -> None:
    def scenes() -> list[Scene]:
        perceiving = perception(vlm, detect__max_tokens=64)
        return [perceiving.infer(frame(seconds)) for seconds in (0.0, 0.2, 0.4)]

    first, second = scenes(), scenes()
    assert [scene.detections for scene in first] == [scene.detections for scene in second]
    assert [scene.caption for scene in first] == [scene.caption for scene in second]
    assert [[t.box for t in scene.tracks] for scene in first] == [
        [t.box for t in scene.tracks] for scene in second
    ]
