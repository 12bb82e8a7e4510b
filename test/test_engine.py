# SPDX-License-Identifier: Apache-2.0
"""The engine: answers, deadlines, threads, opening and closing."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from engine_load import FIND, LARGE, LARGE_CAPTION, SMALL, Computed, noise

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import stack
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, Dialect, FramePlan, ask, detect
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError


@pytest.mark.parametrize("dialect", [BBOX, BBOX_2D], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_boxes_come_in_the_dialect(vlm: LlamaVlm, dialect: Dialect, closed: bool) -> None:
    answer = vlm.describe(noise(), detect(dialect, ("person", "box"), closed=closed), SMALL)
    assert answer.text.startswith("[")
    assert answer.text.endswith("]")
    assert answer.usage.image_tokens == SMALL.image.tokens
    assert answer.usage.answer_tokens <= SMALL.answer_tokens
    assert all(0.0 <= detection.score <= 1.0 for detection in answer.detections)


def test_a_caption_is_free_text(vlm: LlamaVlm) -> None:
    answer = vlm.describe(noise(), ask(CAPTION), SMALL)
    assert answer.text
    assert "<|" not in answer.text
    assert answer.detections == ()


@pytest.mark.parametrize(
    ("width", "height", "limits"),
    [(640, 480, ImageLimits(32, 64)), (33, 700, ImageLimits(1, 32)), (640, 480, ImageLimits(32, 256)),
     (1280, 720, ImageLimits(32, 64, 4)), (1280, 720, ImageLimits(32, 64, 2, thumbnail=False))],
)  # fmt: skip
def test_every_plan_passes_through_llama_cpp_unchanged(
    vlm: LlamaVlm, width: int, height: int, limits: ImageLimits
) -> None:
    plan = FramePlan(plan_image(width, height, limits), 5)
    usage = vlm.describe(noise(width, height), ask(CAPTION), plan).usage
    assert usage.image_tokens == plan.image.tokens


def test_a_plan_that_llama_cpp_would_change_is_refused(vlm: LlamaVlm) -> None:
    for width, height in ((100, 96), (2048, 1024)):
        with pytest.raises(PerceptionError, match="multiples of 32 and it may have at most 1024"):
            vlm.describe(noise(), FIND, FramePlan(ImagePlan(width, height), 50))


def test_the_same_frame_is_encoded_once(vlm: LlamaVlm, computed: Computed) -> None:
    frame = noise(seed=1)
    first = vlm.describe(frame, FIND, SMALL)
    again = vlm.describe(frame, FIND, SMALL)
    assert computed.tiles == 1
    assert (again.text, again.detections) == (first.text, first.detections)


def test_an_answer_does_not_depend_on_what_was_asked_before(vlm: LlamaVlm) -> None:
    first = vlm.describe(noise(seed=2), FIND, SMALL)
    vlm.describe(noise(640, 480, seed=3), ask(CAPTION), LARGE_CAPTION)
    vlm.describe(noise(seed=4), detect(BBOX_2D, ("cone",)), SMALL)
    again = vlm.describe(noise(seed=2), FIND, SMALL)
    assert (again.text, again.detections) == (first.text, first.detections)


def test_prompts_longer_than_a_batch_are_split(vlm: LlamaVlm) -> None:
    """Batches of another size round differently: the objects are the same, the last digits may differ."""
    frame = World(seed=3).snapshot(0).frame
    with LlamaVlm(Settings().with_values({"sampling.temperature": 0.0, "engine.n_batch": 32})) as narrow:
        split = narrow.describe(frame, FIND, SMALL)
        right = tuple((found.label, found.box) for found in split.detections)
        assert narrow.describe(frame, FIND, replace(SMALL, draft=right)).text == split.text
    whole = vlm.describe(frame, FIND, SMALL)
    assert split.usage.text_tokens > 64
    assert whole.detections
    assert [d.label for d in split.detections] == [d.label for d in whole.detections]
    boxes = [stack(d.box for d in answer.detections) for answer in (split, whole)]
    assert np.abs(boxes[0] - boxes[1]).max() < 0.02


def test_what_does_not_fit_the_context_is_refused(vlm: LlamaVlm) -> None:
    with pytest.raises(PerceptionError, match=r"needs \d+ tokens .*engine\.n_ctx is 4096"):
        vlm.describe(noise(), FIND, FramePlan(SMALL.image, 5000))
    with pytest.raises(PerceptionError, match="leaves 0 tokens for the answer"):
        vlm.describe(noise(), FIND, FramePlan(SMALL.image, 0))


def test_an_image_that_is_not_rgb_is_refused(vlm: LlamaVlm) -> None:
    with pytest.raises(PerceptionError, match="uint8 RGB"):
        vlm.describe(Frame(np.zeros((256, 256), np.uint8), 0), FIND, SMALL)


def test_a_deadline_ends_the_answer_and_leaves_no_trace(vlm: LlamaVlm) -> None:
    before = vlm.describe(noise(seed=5), FIND, SMALL)
    large = noise(2048, 1024)
    for deadline_s in (0.0, 0.02, 0.1):
        answer = vlm.describe(large, FIND, FramePlan(LARGE.image, 200, deadline_s))
        assert answer.truncated
        assert answer.text == "[]"
    after = vlm.describe(noise(seed=5), FIND, SMALL)
    assert (after.text, after.detections) == (before.text, before.detections)


def test_a_deadline_aborts_a_batch_of_the_model(vlm: LlamaVlm, computed: Computed) -> None:
    frame = noise(2048, 1024)
    whole = vlm.describe(frame, FIND, LARGE)
    # the embeddings are kept: the deadline comes in the prefill of two thousand tokens
    assert set(computed.codes) == {0}
    for tenths in (1, 2, 3, 5, 7):  # on a busy machine, the first may be over before the prefill begins
        vlm._thread.submit(vlm._engine.kv_cache.clear).result()
        deadline_s = tenths * whole.usage.prefill_s / 10
        assert vlm.describe(frame, FIND, FramePlan(LARGE.image, 200, deadline_s)).truncated
        if computed.codes[-1] == 2:
            break
    assert computed.codes[-1] == 2
    again = vlm.describe(frame, FIND, LARGE)
    assert (again.text, again.detections) == (whole.text, whole.detections)


def test_a_question_can_be_cancelled(vlm: LlamaVlm) -> None:
    before, large = vlm.describe(noise(seed=5), FIND, SMALL), noise(2048, 1024, seed=6)
    timer = threading.Timer(0.05, vlm.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        vlm.describe(large, FIND, LARGE)
    timer.join()
    after = vlm.describe(noise(seed=5), FIND, SMALL)
    assert (after.text, after.detections) == (before.text, before.detections)


def test_questions_of_several_threads_are_answered_one_by_one(vlm: LlamaVlm) -> None:
    alone = [vlm.describe(noise(seed=seed), FIND, SMALL).text for seed in range(4)]
    together: dict[int, str] = {}

    def asking(seed: int) -> None:
        together[seed] = vlm.describe(noise(seed=seed), FIND, SMALL).text

    threads = [threading.Thread(target=asking, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in range(4)] == alone


def test_the_engine_starts_within_a_second() -> None:
    started = time.process_time()  # of the processor: other programs may keep it busy
    LlamaVlm(Settings()).close()
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(("alone", "kept"), [(1.4, 1), (6.0, 2)])
def test_when_batches_slow_down_fewer_threads_are_tried_and_kept_if_they_are_faster(
    alone: float, kept: int
) -> None:
    """The durations of batches are made up: a test cannot make other programs occupy cores."""
    with LlamaVlm(Settings().with_values({"engine.n_threads": 2})) as vlm:
        latency, cache = vlm._engine.latency, vlm._engine.kv_cache

        def threads_after_a_batch(slower: float) -> int:
            cache.on_batch(8, slower * latency.batch_cost(8))
            return int(llama_cpp.llama_n_threads(cache._context))

        assert {threads_after_a_batch(1.0) for _ in range(20)} == {2}
        assert 1 in (threads_after_a_batch(3.0) for _ in range(12))
        assert [threads_after_a_batch(alone) for _ in range(8)][-1] == kept


def test_closing_ends_what_runs_and_frees_the_model() -> None:
    engine = LlamaVlm(Settings())
    thread = engine._thread
    engine.describe(noise(), FIND, SMALL)
    engine.close()
    engine.close()
    assert thread._shutdown
    with pytest.raises(PerceptionError, match="has been closed"):
        engine.describe(noise(), FIND, SMALL)


def test_an_engine_without_references_is_freed() -> None:
    engine = LlamaVlm(Settings())
    thread = engine._thread
    del engine
    gc.collect()
    assert thread._shutdown


def test_engines_can_live_side_by_side_and_one_after_another(vlm: LlamaVlm) -> None:
    expected = vlm.describe(noise(), FIND, SMALL).text
    for _ in range(2):
        with LlamaVlm(Settings().with_values({"sampling.temperature": 0.0})) as other:
            assert other.describe(noise(), FIND, SMALL).text == expected
    assert vlm.describe(noise(), FIND, SMALL).text == expected


def test_opening_and_closing_gives_the_memory_back() -> None:
    def resident_after(count: int) -> int:
        for _ in range(count):
            with LlamaVlm(Settings()) as engine:
                engine.describe(noise(), FIND, SMALL)
        ctypes.CDLL(None).malloc_trim(0)  # without what the allocator keeps of freed memory
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_after(4)
    assert resident_after(12) - before < 60 * 2**20  # twelve models that were not freed would be 180 MB


def test_llama_cpp_keeps_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaVlm(Settings()) as engine:
        engine.describe(noise(), FIND, SMALL)
    assert capfd.readouterr() == ("", "")
