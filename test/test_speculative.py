# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding and the prefix cache change the time of an answer, never the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from engine_load import FIND, LARGE_CAPTION, SMALL, Computed, noise
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.engine.kv_cache import MAX_BATCH_TOKENS, Logits, StopRequest
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, Dialect, FramePlan, ask, detect
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

BOXES = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4).map(
    lambda sides: Box(min(sides[:2]), min(sides[2:]), max(sides[:2]), max(sides[2:]))
)
ABSURD = st.lists(st.tuples(st.sampled_from((*FIND.labels, "dragon", 'a "\\')), BOXES), max_size=9).map(tuple)
WORLD = World(seed=1, width=256, height=256, fps=10.0)


@pytest.fixture(scope="module")
def sampling() -> Iterator[LlamaVlm]:
    """The demo model with the default sampling: a temperature, min_p and a penalty."""
    with LlamaVlm(Settings().with_values({"sampling.temperature": 0.7})) as loaded:
        yield loaded


@settings(max_examples=8)
@given(number=st.integers(0, 300), dialect=st.sampled_from((BBOX, BBOX_2D)), closed=st.booleans(),
       sampled=st.booleans(), size=st.sampled_from(((256, 256), (512, 320))), data=st.data())  # fmt: skip
def test_any_draft_gives_the_answer_that_none_gives(
    vlm: LlamaVlm, sampling: LlamaVlm, number: int, dialect: Dialect, closed: bool, sampled: bool,
    size: tuple[int, int], data: st.DataObject,
) -> None:  # fmt: skip
    model = sampling if sampled else vlm
    frame, question = WORLD.snapshot(number).frame, detect(dialect, FIND.labels, closed=closed)
    plan = FramePlan(ImagePlan(*size), 250)
    plain = model.describe(frame, question, plan)
    right = tuple((found.label, found.box) for found in plain.detections)
    partial = data.draw(st.permutations(right))[: data.draw(st.integers(0, len(right)))]
    for draft in (right, tuple(partial), data.draw(ABSURD), right + data.draw(ABSURD), ()):
        drafted = model.describe(frame, question, replace(plan, draft=draft))
        assert drafted.text == plain.text
        assert [found.label for found in drafted.detections] == [found.label for found in plain.detections]
        for found, expected in zip(drafted.detections, plain.detections, strict=True):
            assert found.box.xyxy == pytest.approx(expected.box.xyxy, abs=1e-6)
            assert found.score == pytest.approx(expected.score, abs=1e-5)


def test_batches_give_the_logits_of_token_by_token_decoding(vlm: LlamaVlm) -> None:
    """On one thread: with more, llama.cpp computes a single token another way beyond 256 cached ones."""
    engine = vlm._engine
    cache = engine.kv_cache

    def check() -> None:
        rng = np.random.default_rng(0)

        def random_tokens(count: int) -> list[int]:
            return [int(token) for token in rng.integers(500, len(engine.vocabulary.pieces), count)]

        cache.abort_on(StopRequest())
        for length in (100, 190, 300, 600):
            prefix, end, tokens = tuple(random_tokens(length)), random_tokens(13), random_tokens(64)
            cache.set_threads(1)
            cache.clear()
            cache.prefill([prefix], end)
            single = []
            for token in end + tokens:
                assert cache._decode((token,), 1, (0,))
                single.append(cache._logits(0).copy())
            del single[: len(end) - 1]  # the first is that after the prompt
            for threads in (1, 2):
                cache.set_threads(threads)
                assert cache.prefill([prefix], end) == len(end)
                start = 0
                while start < len(tokens):
                    accepted = tokens[start : start + int(rng.integers(1, MAX_BATCH_TOKENS - len(end)))]
                    if not start:
                        assert cache.decode(0, random_tokens(int(rng.integers(1, 40))), [-1])
                        rows = cache.decode(0, accepted, [-1, len(accepted) - 1])
                        assert rows is not None
                        assert np.array_equal(rows[0], single[0])
                    rejected = random_tokens(int(rng.integers(1, 40)))
                    assert cache.decode(start, [accepted[0], *rejected], [0])
                    outputs = sorted({0, len(accepted) // 2, len(accepted) - 1})
                    rows = cache.decode(start, accepted, outputs)
                    assert rows is not None
                    for index, row in zip(outputs, rows, strict=True):
                        assert np.array_equal(row, single[start + index + 1])
                    start += len(accepted)

    vlm._thread.submit(check).result()
    vlm._thread.submit(engine.kv_cache.set_threads, engine.threads.threads).result()


def test_a_batch_that_was_split_can_be_rolled_back_to_the_prompt(
    vocabulary: Vocabulary, vlm: LlamaVlm
) -> None:
    """As for branches of long options: the second batch is too long with the end of the prompt."""
    cache = vlm._engine.kv_cache
    rng = np.random.default_rng(0)
    prefix, end, *paths = (
        rng.integers(500, len(vocabulary.pieces), n).tolist() for n in (20, 49, 14, 16, 18)
    )

    def logits(paths: list[list[int]]) -> Logits:
        cache.abort_on(StopRequest())
        cache.clear()
        cache.prefill([tuple(prefix)], end, cache_end=False)
        for path in paths:
            rows = cache.decode(0, path, [-1, len(path) - 1] if path is paths[0] else [len(path) - 1])
        assert rows
        return rows[-1].copy()

    rolled_back, fresh = (vlm._thread.submit(logits, each).result() for each in (paths, paths[2:]))
    assert np.array_equal(rolled_back, fresh)


def test_an_empty_answer_needs_one_call_after_the_prompt(vlm: LlamaVlm) -> None:
    """The only batch of the answer completes the prompt too, so that its time counts as prefill."""
    blank = Frame(np.full((256, 256, 3), 90, np.uint8), 0)
    answer = vlm.describe(blank, FIND, SMALL)
    assert answer.text == "[]"
    assert answer.usage.answer_tokens == len(vlm._engine.vocabulary.tokenize("[]"))
    assert answer.usage.decode_calls == 1


def test_a_right_draft_needs_fewer_calls(vlm: LlamaVlm) -> None:
    frame = WORLD.snapshot(0).frame
    plain = vlm.describe(frame, FIND, SMALL)
    right = tuple((found.label, found.box) for found in plain.detections)
    assert len(right) > 2
    calls = [vlm.describe(frame, FIND, replace(SMALL, draft=right)).usage.decode_calls for _ in range(4)]
    assert calls[-1] < plain.usage.decode_calls < plain.usage.answer_tokens / 2


def test_another_question_decodes_its_own_text_only(vlm: LlamaVlm, computed: Computed) -> None:
    frame = noise(512, 512)
    plan = FramePlan(ImagePlan(512, 512), 3)
    alone = vlm.describe(frame, ask(CAPTION), plan)
    vlm.describe(noise(seed=9), FIND, SMALL)
    vlm.describe(frame, FIND, plan)
    tiles, tokens = computed.tiles, computed.tokens
    second = vlm.describe(frame, ask(CAPTION), plan)
    assert second.text == alone.text
    assert computed.tiles == tiles
    assert computed.tokens - tokens < second.usage.text_tokens + second.usage.answer_tokens


def test_a_caption_like_the_last_one_needs_fewer_calls_and_is_the_same(vlm: LlamaVlm) -> None:
    with LlamaVlm(Settings().with_values({"sampling.temperature": 0.0})) as fresh:
        for number in (0, 1, 40, 41):
            frame = WORLD.snapshot(number).frame
            first = fresh.describe(frame, ask(CAPTION), LARGE_CAPTION)
            again = fresh.describe(frame, ask(CAPTION), LARGE_CAPTION)
            assert again.text == first.text == vlm.describe(frame, ask(CAPTION), LARGE_CAPTION).text
            assert again.usage.decode_calls < 0.5 * again.usage.answer_tokens
