# SPDX-License-Identifier: Apache-2.0
"""Foveated inference on the real model: regions, captions, questions, caches and token budgets."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import Snapshot, World
from lfm_perception.evaluation.detection import match
from lfm_perception.geometry import WHOLE, Box
from lfm_perception.perception import Perception
from lfm_perception.planning.inference import Inferencer
from lfm_perception.planning.regions import crop
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame, Scene, Usage
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker
from lfm_perception.typed_questions import TypedQuestion
from lfm_perception.vlm import Health

FOVEATED = {"fovea.mode": "on", "image.max_tokens": 60, "image.min_tokens": 32, "fovea.whole_every": 3}


class ObservedVlm:
    """The demo model, with the requests that it got."""

    def __init__(self, vlm: LlamaVlm) -> None:
        self._vlm = vlm
        self.requests: list[tuple[Frame, Question, FramePlan]] = []

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        self.requests.append((frame, question, plan))
        return self._vlm.describe(frame, question, plan)

    def cancel(self) -> None: ...

    def health(self) -> Health:
        return Health()

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def snapshots() -> list[Snapshot]:
    world = World(seed=1, width=1280, height=720, fps=4.0, pan=0.0)
    return [world.snapshot(index) for index in range(7)]


@pytest.fixture(scope="module")
def observed(vlm: LlamaVlm, snapshots: list[Snapshot]) -> tuple[ObservedVlm, list[Scene]]:
    """Snapshots inferred with regions, whole frames being every third, and captions as often as possible."""
    vlm_seen = ObservedVlm(vlm)
    settings = Settings().with_values({**FOVEATED, "caption.period": 0.0, "caption.max_tokens": 8})
    perception = Perception(settings, vlm_seen, open_tracker(settings.tracker))
    return vlm_seen, [perception.infer(snapshot.frame) for snapshot in snapshots]


def test_regions_alternate_with_whole_frames_for_a_reason(observed: tuple[ObservedVlm, list[Scene]]) -> None:
    views = [scene.view for scene in observed[1]]
    assert all(view is not None and view.reason for view in views)
    assert [view is not None and view.region == WHOLE for view in views] == [True, False, False] * 2 + [True]


def test_the_model_gets_the_region_at_twice_the_resolution(observed: tuple[ObservedVlm, list[Scene]]) -> None:
    vlm, scenes = observed
    detections = [(frame, plan) for frame, question, plan in vlm.requests if question.dialect is not None]
    for (frame, plan), scene in zip(detections, scenes, strict=True):
        assert scene.view is not None
        assert (frame.width, frame.height) == ((1280, 720) if plan.region is None else (640, 360))
        assert plan.image.tokens <= 60
        assert scene.view.width == plan.image.width / scene.view.region.width
        for _, box in plan.draft or ():
            assert box.area > 0.0


def test_boxes_found_in_a_region_lie_on_the_objects_of_the_frame(
    observed: tuple[ObservedVlm, list[Scene]], snapshots: list[Snapshot]
) -> None:
    found = matched = 0
    for scene, snapshot in zip(observed[1], snapshots, strict=True):
        assert scene.view is not None
        region = scene.view.region
        if region != WHOLE:
            inside = [
                each for each in scene.detections if region.x1 <= each.box.x1 and each.box.x2 <= region.x2
            ]
            assert len(inside) == len(scene.detections)
            found += len(inside)
            matched += len(match(scene.detections, snapshot.objects, 0.3))
    assert found > 0
    assert matched >= found / 2


def test_captions_see_whole_frames_only(observed: tuple[ObservedVlm, list[Scene]]) -> None:
    captions = [(frame, plan) for frame, question, plan in observed[0].requests if question.dialect is None]
    assert len(captions) == 3
    assert all((frame.width, plan.region) == (1280, None) for frame, plan in captions)


def test_a_question_after_a_region_sees_the_whole_frame(vlm: LlamaVlm, snapshots: list[Snapshot]) -> None:
    seen = ObservedVlm(vlm)
    settings = Settings().with_values({**FOVEATED, "caption.enabled": False, "caption.max_tokens": 8})
    perception = Perception(settings, seen, open_tracker(settings.tracker))
    for snapshot in snapshots[:2]:
        perception.infer(snapshot.frame)
    assert perception.plan is not None
    assert perception.plan.region is not None
    perception.answer(snapshots[1].frame, TypedQuestion("What is there?"))
    frame, _, plan = seen.requests[-1]
    assert (frame.width, plan.region, plan.image.tokens <= 60) == (1280, None, True)


def test_embeddings_and_kv_cache_of_a_region_are_not_those_of_its_frame(
    vlm: LlamaVlm, snapshots: list[Snapshot]
) -> None:
    frame, region = snapshots[0].frame, Box(0.25, 0.25, 0.75, 0.75)
    settings = Settings().with_values(FOVEATED)
    asked = settings.question
    whole, part = (
        FramePlan(Inferencer(settings, vlm).picture(each), 128) for each in (frame, crop(frame, region))
    )
    first = vlm.describe(frame, asked, whole).text
    seen = vlm.describe(crop(frame, region), asked, part).text
    assert vlm.describe(frame, asked, whole).text == first
    copied = Frame(np.ascontiguousarray(crop(frame, region).image), 0)
    assert vlm.describe(copied, asked, part).text == seen != first


def test_a_draft_never_changes_what_is_found_in_a_region(vlm: LlamaVlm, snapshots: list[Snapshot]) -> None:
    settings = Settings().with_values(FOVEATED)
    inferencer, region = Inferencer(settings, vlm), Box(0.0, 0.25, 0.5, 0.75)
    draft = tuple((each.label, each.box) for each in snapshots[0].objects)
    plain, _ = inferencer.infer(snapshots[0].frame, settings.question, 256, None, region)
    drafted, plan = inferencer.infer(snapshots[0].frame, settings.question, 256, draft, region)
    assert plan.draft
    assert drafted.detections == plain.detections


class CostlyVlm(ObservedVlm):
    """Answers with as many tokens as it may: the worst case, which no model gives on demand."""

    def __init__(self) -> None: ...

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        usage = Usage(image_tokens=plan.image.tokens, answer_tokens=plan.answer_tokens)
        return Answer("[]", usage=usage)


def test_token_budgets_hold_over_10000_frames_with_mixed_regions() -> None:
    rng = random.Random(17)
    vlm = CostlyVlm()
    for _ in range(100):
        budget, most = rng.randint(64, 700), rng.randint(32, 256)
        values = {"budget.tokens": budget, "image.max_tokens": most, "image.max_tiles": rng.randint(1, 4)}
        values["image.min_tiles"] = 1
        settings = Settings().with_values(values)
        inferencer, question = Inferencer(settings, vlm), settings.question
        for _ in range(100):
            wide, tall = rng.randint(64, 2560), rng.randint(64, 1600)
            frame = Frame(np.broadcast_to(np.uint8(0), (tall, wide, 3)), 0)
            share, x, y = rng.uniform(0.25, 0.9), rng.random(), rng.random()
            x, y = x * (1.0 - share), y * (1.0 - share)
            region = rng.choice([None, Box(x, y, x + share, y + share)])
            answer, _ = inferencer.infer(frame, question, 512, None, region)
            spent = answer.usage.image_tokens + answer.usage.answer_tokens
            if region is None and (more := inferencer.follow_up(frame, question, 64)) is not None:
                spent += more.usage.answer_tokens
            assert spent <= budget


def test_thermal_throttling_and_other_settings_take_effect_between_regions(vlm: LlamaVlm) -> None:
    settings = Settings().with_values({**FOVEATED, "caption.enabled": False, "image.max_tokens": 120})
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    world = World(seed=2, width=1280, height=720, fps=4.0)
    views = []
    modes = "on", "on", "off", "auto"
    for index, (tokens, mode) in enumerate(zip((120, 60, 60, 60), modes, strict=True)):
        changed: dict[str, object] = {"image.max_tokens": tokens, "fovea.mode": mode}
        settings = settings.with_values(changed)
        perception.reconfigure(settings)
        scene = perception.infer(world.snapshot(index).frame)
        assert scene.usage.image_tokens <= settings.image.max_tokens
        views.append(scene.view)
    assert views[0] is not None
    assert views[1] is not None
    assert (views[1].region == WHOLE, views[2]) == (False, None)
    assert views[3] is not None
    assert views[3].region == WHOLE


def test_foveated_inference_that_is_off_is_not_imported() -> None:
    code = (
        "import sys; from lfm_perception.settings import Settings;"
        "from lfm_perception.tracking import open_tracker;"
        "from lfm_perception.perception import Perception; s = Settings();"
        "Perception(s, None, open_tracker(s.tracker)); print('lfm_perception.planning.fovea' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_scene_without_regions_has_no_view(vlm: LlamaVlm, snapshots: list[Snapshot]) -> None:
    settings = Settings().with_values({"caption.enabled": False, "image.max_tokens": 60})
    scene = Perception(settings, vlm, open_tracker(settings.tracker)).infer(snapshots[0].frame)
    assert scene == replace(scene, view=None)
