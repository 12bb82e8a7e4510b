# SPDX-License-Identifier: Apache-2.0
"""Plans keep the token budget always and the latency budget where possible; the motion gate skips frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.latency import StageLatencyModel
from lfm_perception.planning.motion_gate import MotionGate, downsample, frame_difference
from lfm_perception.planning.planner import Planner
from lfm_perception.scene import Frame, Usage
from lfm_perception.settings import ONE_OBJECT_TOKENS, InferenceSettings, Settings

TOKEN_S = 0.005


def usage(image: ImagePlan, slowness: float = 1.0) -> Usage:
    """Usage on a simulated machine, on which encode grows faster than linearly with the image tokens."""
    encode_s = sum(
        0.001 * tokens + 0.00001 * tokens**2
        for tokens in (
            [image.tile_tokens] * image.columns * image.rows + [image.tokens % image.tile_tokens]
            if image.tiled
            else [image.tokens]
        )
    )
    return Usage(
        image_tokens=image.tokens,
        text_tokens=60,
        answer_tokens=80,
        encode_s=slowness * encode_s,
        prefill_s=slowness * 0.001 * (image.tokens + 60),
        decode_s=slowness * 80 * TOKEN_S,
    )


def planner(slowness: float = 1.0, **values: object) -> Planner:
    """A planner calibrated on that machine, with settings named `group__key`."""
    settings = Settings().with_values({name.replace("__", "."): value for name, value in values.items()})
    planned = Planner(settings)
    for width, height in ((256, 128), (512, 512)):
        planned.observe(ImagePlan(width, height), usage(ImagePlan(width, height), slowness))
    return planned


SIZES = st.integers(16, 4000)


@given(
    width=SIZES, height=SIZES, budget=st.integers(64, 3000), latency=st.sampled_from((0.0, 0.1, 1.0, 9.0)),
    max_tokens=st.integers(32, 256), tiles=st.integers(1, 10), thumbnail=st.booleans(),
    wanted=st.integers(1, 600),
)  # fmt: skip
def test_no_plan_exceeds_the_token_budget(
    width: int, height: int, budget: int, latency: float, max_tokens: int, tiles: int, thumbnail: bool,
    wanted: int,
) -> None:  # fmt: skip
    planned = planner(
        budget__tokens=budget, budget__latency=latency, image__max_tokens=max_tokens, image__max_tiles=tiles,
        image__thumbnail=thumbnail, engine__n_ctx=8192,
    )  # fmt: skip
    try:
        plan = planned.plan_first(width, height, wanted, 0.0)
    except PerceptionError:  # too long and thin for any image size
        reject()
    assert plan.image.tokens + plan.answer_tokens <= budget
    assert min(wanted, ONE_OBJECT_TOKENS) <= plan.answer_tokens <= wanted
    further = planned.plan_followup(plan.image, wanted, plan.answer_tokens, 0.0)
    assert plan.image.tokens + plan.answer_tokens + max(0, further.answer_tokens) <= budget


def test_without_a_latency_budget_the_image_is_the_largest_allowed() -> None:
    plan = planner().plan_first(640, 480, 512, 0.0)
    assert (plan.image, plan.answer_tokens, plan.deadline_s) == (ImagePlan(576, 416), 512, None)


@pytest.mark.parametrize("tiles", [1, 10])
def test_a_smaller_latency_budget_gives_a_smaller_image(tiles: int) -> None:
    tokens = []
    for latency in (9.0, 2.0, 1.5, 1.0, 0.8, 0.6):
        plan = planner(budget__latency=latency, image__max_tiles=tiles, engine__n_ctx=8192).plan_first(
            1280, 720, 512, 0.0
        )
        assert plan.fits
        assert plan.expected_s is not None
        assert plan.expected_s <= latency
        tokens.append(plan.image.tokens)
    assert tokens == sorted(tokens, reverse=True)
    assert len(set(tokens)) > 3


def test_elapsed_time_counts() -> None:
    fresh = planner(budget__latency=1.0).plan_first(640, 480, 512, 0.0)
    late = planner(budget__latency=1.0).plan_first(640, 480, 512, 0.3)
    assert late.image.tokens < fresh.image.tokens
    assert late.deadline_s == pytest.approx(0.7)


def test_a_latency_budget_that_cannot_be_met_is_marked() -> None:
    plan = planner(budget__latency=0.1).plan_first(640, 480, 512, 0.0)
    assert not plan.fits
    assert plan.image.tokens <= 40
    assert str(plan).endswith("too slow")


def test_a_machine_that_slows_down_gets_smaller_images() -> None:
    planned = planner(budget__latency=1.0)
    before = planned.plan_first(640, 480, 512, 0.0)
    for _ in range(20):
        image = planned.plan_first(640, 480, 512, 0.0).image
        planned.observe(image, usage(image, slowness=1.6))
    after = planned.plan_first(640, 480, 512, 0.0)
    assert after.fits
    assert after.image.tokens < before.image.tokens
    true_s = usage(after.image, slowness=1.6)
    assert after.expected_s == pytest.approx(true_s.total_s, rel=0.15)


def test_latency_between_observed_sizes_is_interpolated() -> None:
    model = StageLatencyModel()
    for image in (ImagePlan(256, 128), ImagePlan(512, 512)):
        model.observe(image, usage(image))
    image = ImagePlan(384, 256)
    true = usage(image)
    assert model.time_to_first_token_s(image) == pytest.approx(true.encode_s + true.prefill_s, rel=0.35)
    tiled = ImagePlan(1024, 512, 2, 1, 256, 128)
    assert model.time_to_first_token_s(tiled) > 2 * model.time_to_first_token_s(ImagePlan(512, 512)) * 0.9


# --- motion gate --------------------------------------------------------------------------------------

OPEN = InferenceSettings(motion_threshold=0.05, max_interval=1.0)


def frames(start: int, count: int, *, every: int = 1) -> list[Frame]:
    world = World(seed=3, width=320, height=240, fps=30.0)
    return [world.snapshot(start + every * index).frame for index in range(count)]


def noisy(frame: Frame, seed: int, stamp_ns: int, light: float = 1.0) -> Frame:
    grain = np.random.default_rng(seed).normal(0.0, 4.0, frame.image.shape)
    return Frame(np.clip(frame.image * light + grain, 0, 255).astype(np.uint8), stamp_ns)


def test_the_first_frame_passes_and_an_unchanged_scene_does_not() -> None:
    gate, (still,) = MotionGate(OPEN), frames(0, 1)
    assert gate.should_infer(still, 0.0)
    gate.record_inference(still, 0.0, 0.1)
    for number in range(1, 20):
        again = noisy(still, number, still.stamp_ns + number * 10**7, light=1.0 + 0.002 * number)
        assert not gate.should_infer(again, 0.2)


def test_an_unchanged_scene_is_inferred_after_max_interval() -> None:
    gate, (still,) = MotionGate(OPEN), frames(0, 1)
    gate.record_inference(still, 0.0, 0.1)
    assert not gate.should_infer(noisy(still, 1, still.stamp_ns + 9 * 10**8), 0.9)
    assert gate.should_infer(noisy(still, 1, still.stamp_ns + 10**9), 1.0)


def test_an_object_that_appears_passes_the_gate() -> None:
    (still,) = frames(0, 1)
    for size in (24, 40, 80):
        gate = MotionGate(OPEN)
        gate.record_inference(still, 0.0, 0.1)
        image = still.image.copy()
        image[100 : 100 + size, 150 : 150 + size] = 255 - image[100 : 100 + size, 150 : 150 + size]
        assert gate.should_infer(Frame(image, still.stamp_ns + 1), 0.2)


def test_slow_changes_add_up() -> None:
    gate, sequence = MotionGate(InferenceSettings(motion_threshold=0.1, max_interval=3600.0)), frames(0, 60)
    gate.record_inference(sequence[0], 0.0, 0.0)
    assert not gate.should_infer(sequence[0], 0.1)
    assert gate.should_infer(sequence[-1], 0.1)


def test_the_duty_cycle_limits_inference() -> None:
    gate, sequence = MotionGate(InferenceSettings(duty_cycle=0.25)), frames(0, 2)
    gate.record_inference(sequence[0], 10.0, 11.0)
    assert not gate.should_infer(sequence[1], 13.9)
    assert gate.should_infer(sequence[1], 14.0)


def test_by_default_every_frame_passes() -> None:
    gate, (still,) = MotionGate(Settings().inference), frames(0, 1)
    gate.record_inference(still, 0.0, 0.1)
    assert gate.should_infer(still, 0.1)


def test_a_reset_lets_the_next_frame_pass() -> None:
    gate, (still,) = MotionGate(OPEN), frames(0, 1)
    gate.record_inference(still, 0.0, 0.1)
    gate.reset()
    assert gate.should_infer(still, 0.1)


@given(level=st.integers(0, 255), other=st.integers(0, 255))
def test_a_change_of_the_light_everywhere_is_no_motion(level: int, other: int) -> None:
    first, second = (downsample(np.full((48, 64, 3), value, np.uint8)) for value in (level, other))
    assert frame_difference(first, second) == 0.0


def test_on_a_server_plans_are_of_sizes_that_it_computes_unchanged_and_excess_is_planned_for() -> None:
    values = {"engine.backend": "openai", "image.max_tiles": 10}
    planner = Planner(Settings().with_values({**values, "image.min_tokens": 1, "image.max_tokens": 64}))
    for width, height in ((640, 480), (1920, 1080), (100, 700), (64, 64)):
        image = planner.plan_first(width, height, 100, 0.0).image
        assert image.tiled or image.tokens == 64, "fewer than 64 would be enlarged"
    planner = Planner(Settings().with_values({**values, "budget.tokens": 300, "image.max_tiles": 1}))
    first = planner.plan_first(640, 480, 512, 0.0)
    planner.observe(first.image, Usage(image_tokens=first.image.tokens + 60))
    later = planner.plan_first(640, 480, 512, 0.0)
    assert later.image.tokens < first.image.tokens
    assert later.image.tokens + 60 + later.answer_tokens <= 300
    assert planner.plan_followup(later.image, 512, later.answer_tokens, 0.0).answer_tokens <= 0
