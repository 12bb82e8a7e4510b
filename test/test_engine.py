# SPDX-License-Identifier: Apache-2.0
"""The engine: answers, speculative decoding, prompts, deadlines, memory, and refused files."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.engine import native
from lfm_perception.engine.chat_template import apply_chat_template
from lfm_perception.engine.gguf import read_header
from lfm_perception.engine.gguf_checks import check_pair
from lfm_perception.engine.kv_cache import MAX_BATCH_TOKENS, Embeddings, StopRequest
from lfm_perception.engine.vision import VisionEncoder
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box, stack
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, Dialect, FramePlan, Prompt, ask, detect
from lfm_perception.scene import Frame, Image
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError

FIND = detect(BBOX, ("person", "box", "cone", "forklift", "pallet"))
SMALL = FramePlan(plan_image(256, 256, ImageLimits(32, 64)), 200)
LARGE = FramePlan(plan_image(2048, 1024, ImageLimits(32, 256, 8)), 200)
"""2 x 4 tiles and a thumbnail: seconds of work."""


def noise(width: int = 256, height: int = 256, seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), 0)


@dataclass
class Computed:
    """Counts of the engine's computations during a test."""

    tiles: int = 0
    """Tiles that the vision tower has encoded."""
    tokens: int = 0
    """Tokens and image embeddings in calls of llama_decode."""
    codes: list[int] = field(default_factory=list)
    """Return codes of llama_decode: 0, or 2 when it was aborted."""


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    counts = Computed()
    encode, decode = VisionEncoder.encode, native.llama_cpp.llama_decode

    def counted_encode(self: VisionEncoder, tile: Image) -> Embeddings:
        counts.tiles += 1
        return encode(self, tile)

    def counted_decode(context: object, batch: native.llama_cpp.llama_batch) -> int:
        counts.tokens += batch.n_tokens
        counts.codes.append(int(decode(context, batch)))
        return counts.codes[-1]

    monkeypatch.setattr(VisionEncoder, "encode", counted_encode)
    monkeypatch.setattr(native.llama_cpp, "llama_decode", counted_decode)
    return counts


# --- asking -------------------------------------------------------------------------------------------


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


# --- drafts and the prefix cache change the time, never the answer ----------------------------------------

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


LARGE_CAPTION = FramePlan(plan_image(640, 480, ImageLimits(32, 256)), 30)


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


# --- prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [Prompt("Where?"), Prompt("Where?", system="Be brief.")])
def test_the_prompt_is_the_models_chat_template_with_one_start_token(
    vocabulary: Vocabulary, prompt: Prompt
) -> None:
    chat = apply_chat_template(prompt)
    tokens = vocabulary.encode((*chat.before, *chat.after))
    system = "<|im_start|>system\nBe brief.<|im_end|>\n" if prompt.system else ""
    template = (
        f"<|startoftext|>{system}<|im_start|>user\n<|image_start|><|image_end|>Where?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    # the template as llama.cpp cuts it when it may see special tokens in text, which is only ever our own
    assert tokens == vocabulary._tokenize(template, parse_special=True)
    assert tokens.count(tokens[0]) == 1


MARKUP = ("<|im_end|>", "<|startoftext|>", "<|image_start|>", "<|im_start|>system", "<image>", "<__media__>")


@pytest.mark.parametrize("markup", MARKUP)
def test_special_tokens_in_text_from_outside_are_refused(markup: str) -> None:
    with pytest.raises(PerceptionError, match="special token"):
        Prompt(f"Where is it?{markup}")
    with pytest.raises(PerceptionError, match="special token"):
        Prompt("Where is it?", system=markup)
    with pytest.raises(PerceptionError, match="special token"):
        detect(BBOX, (f"box{markup}",))


@pytest.mark.parametrize("label", ["", " ", "a\nb", "\x00", "\ud800"])
def test_labels_that_no_answer_could_hold_are_refused(label: str) -> None:
    with pytest.raises(PerceptionError, match="blank or hold control characters"):
        detect(BBOX, ("box", label))


@pytest.mark.parametrize("markup", MARKUP)
def test_text_is_never_tokenized_into_special_tokens(vocabulary: Vocabulary, markup: str) -> None:
    tokens = vocabulary.tokenize(f"a {markup} b")
    assert b"".join(vocabulary.pieces[token] for token in tokens).decode() == f"a {markup} b"
    assert not vocabulary.end_tokens.intersection(tokens)


def test_any_script_and_any_noise_can_be_asked(vlm: LlamaVlm) -> None:
    for words in ("ماذا ترى؟", "何が見えますか", "\\\"'{}[]\x00\ud800 \t\n", "😀" * 50):
        assert vlm.describe(noise(), ask(Prompt(words)), FramePlan(SMALL.image, 3)).usage.answer_tokens <= 3


# --- stopping -----------------------------------------------------------------------------------------


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
    vlm._thread.submit(vlm._engine.kv_cache.clear).result()
    answer = vlm.describe(frame, FIND, FramePlan(LARGE.image, 200, whole.usage.prefill_s / 10))
    assert answer.truncated
    assert computed.codes[-1] == 2
    again = vlm.describe(frame, FIND, LARGE)
    assert (again.text, again.detections) == (whole.text, whole.detections)


def test_a_question_can_be_cancelled(vlm: LlamaVlm) -> None:
    before = vlm.describe(noise(seed=5), FIND, SMALL)
    timer = threading.Timer(0.05, vlm.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        vlm.describe(noise(2048, 1024, seed=6), FIND, LARGE)
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


# --- opening and closing ------------------------------------------------------------------------------


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


# --- files that cannot work ---------------------------------------------------------------------------


def open_pair(model: Path, mmproj: Path, checksums: dict[str, str] | None = None) -> None:
    files = {"model.path": str(model), "mmproj.path": str(mmproj)}
    LlamaVlm(Settings().with_values({**files, **(checksums or {})})).close()


Damage = Callable[[Path], None]


def cut(share: float) -> Damage:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def last_byte(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def random_bytes(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(100_000))


def random_bytes_after_the_magic(path: Path) -> None:
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + np.random.default_rng(0).bytes(100_000))


def zeros_after_the_magic(path: Path) -> None:
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100_000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("role", ["model", "mmproj"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut(0.001), "damaged or cut short"),
        (cut(0.5), "damaged or cut short"),
        (cut(0.99), "damaged or cut short"),
        (last_byte, "damaged or cut short"),
        (random_bytes, "not a GGUF file"),
        (random_bytes_after_the_magic, "damaged or cut short"),
        (zeros_after_the_magic, "not"),
        (empty, "is empty"),
        (missing, "no such file"),
        (directory, "is not a file"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    demo_model: tuple[Path, Path], tmp_path: Path, role: str, damage: Damage, words: str
) -> None:
    copies = {part: tmp_path / f"{part}.gguf" for part in ("model", "mmproj")}
    for source, copy in zip(demo_model, copies.values(), strict=True):
        shutil.copy(source, copy)
    damage(copies[role])
    with pytest.raises(PerceptionError, match=words) as refusal:
        open_pair(copies["model"], copies["mmproj"])
    assert str(copies[role]) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_opened_is_refused(demo_model: tuple[Path, Path]) -> None:
    with pytest.raises(PerceptionError, match=r"cannot open .*/inside: not a directory"):
        open_pair(demo_model[0] / "inside", demo_model[1])


def test_swapped_files_are_refused(demo_model: tuple[Path, Path]) -> None:
    with pytest.raises(PerceptionError, match=r"swap model\.path and mmproj\.path"):
        open_pair(demo_model[1], demo_model[0])


def test_a_text_model_in_place_of_the_mmproj_is_refused(demo_model: tuple[Path, Path]) -> None:
    with pytest.raises(PerceptionError, match="not the vision part of an LFM2-VL"):
        open_pair(demo_model[0], demo_model[0])


def test_a_text_only_model_is_refused(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    text_only = tmp_path / "text.gguf"
    text_only.write_bytes(demo_model[0].read_bytes().replace(b"<|image_start|>", b"<|reserved_498>"))
    with pytest.raises(PerceptionError, match=r"no special token <\|image_start\|>: it is not an LFM2-VL"):
        open_pair(text_only, demo_model[1])


def test_another_architecture_is_refused(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(demo_model[0].read_bytes().replace(b"lfm2", b"lfm3", 1))
    with pytest.raises(PerceptionError, match=r"of architecture lfm3, .* run it on a server"):
        open_pair(other, demo_model[1])


@pytest.mark.parametrize("role", ["model", "mmproj"])
def test_checksums_are_compared(demo_model: tuple[Path, Path], role: str) -> None:
    right = hashlib.sha256(demo_model[("model", "mmproj").index(role)].read_bytes()).hexdigest()
    open_pair(*demo_model, {f"{role}.sha256": right.upper()})
    with pytest.raises(PerceptionError, match=r"has SHA-256 .* expected 0000"):
        open_pair(*demo_model, {f"{role}.sha256": "0" * 64})


def changed(source: Path, target: Path, key: str, value: bytes) -> Path:
    """A copy of a GGUF file with the bytes of a metadata value, after its type, replaced."""
    data = bytearray(source.read_bytes())
    begin = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key) + 4
    data[begin : begin + len(value)] = value
    target.write_bytes(data)
    return target


NUMBERS = {
    "clip.vision.patch_size": (0, 1, 7, 17, 2**31),
    "clip.vision.embedding_length": (0, 1, 191, 2**31 - 1),
    "clip.vision.feed_forward_length": (0, 64, 513),
    "clip.vision.block_count": (0, 6, 2**32 - 1),
    "clip.vision.projection_dim": (0, 64, 2**32 - 1),
    "clip.vision.attention.head_count": (0, 7, 2**32 - 1),
    "clip.vision.projector.scale_factor": (0, 1, 3, 64, 2**32 - 1),
}


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_that_contradict_the_tensors_are_refused(
    demo_model: tuple[Path, Path], tmp_path: Path, key: str
) -> None:
    for value in NUMBERS[key]:
        mmproj = changed(demo_model[1], tmp_path / "mmproj.gguf", key, struct.pack("<I", value))
        with pytest.raises(PerceptionError, match=r"mmproj\.gguf"):
            check_pair(demo_model[0], mmproj)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_none_is_refused(
    demo_model: tuple[Path, Path], tmp_path: Path, value: float
) -> None:
    number = struct.pack("<f", value)
    mmproj = changed(demo_model[1], tmp_path / "v.gguf", "clip.vision.attention.layer_norm_epsilon", number)
    with pytest.raises(PerceptionError, match="layer_norm_epsilon is"):
        check_pair(demo_model[0], mmproj)
    model = changed(demo_model[0], tmp_path / "m.gguf", "lfm2.attention.layer_norm_rms_epsilon", number)
    with pytest.raises(PerceptionError, match="layer_norm_rms_epsilon is"):
        check_pair(model, demo_model[1])


def test_a_count_of_layers_that_are_not_there_is_refused(
    demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    for count in (0, 7, 513, 2**31 - 1, 2**32 - 1):
        model = changed(demo_model[0], tmp_path / "m.gguf", "lfm2.block_count", struct.pack("<I", count))
        with pytest.raises(PerceptionError, match=f"lfm2.block_count is {count}"):
            check_pair(model, demo_model[1])


def test_values_of_another_type_are_refused(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    for key, kind in read_header(demo_model[1]).types.items():
        if key.startswith("clip.") and kind == 4:
            data = bytearray(demo_model[1].read_bytes())
            begin = data.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
            data[begin : begin + 4] = struct.pack("<I", 5)
            (tmp_path / "mmproj.gguf").write_bytes(data)
            with pytest.raises(PerceptionError, match=f"{key} has GGUF type 5, not 4"):
                check_pair(demo_model[0], tmp_path / "mmproj.gguf")


def test_a_header_with_any_byte_changed_never_ends_the_process(
    demo_model: tuple[Path, Path], tmp_path: Path
) -> None:
    """Changed where the numbers of the vision file stand, and given to the engine in a process of its own."""
    rng = np.random.default_rng(0)
    source = demo_model[1].read_bytes()
    header = source[: source.index(b"v.blk.0")]
    copies = []
    for number in range(40):
        data = bytearray(source)
        for place in rng.integers(24, len(header), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        copies.append(tmp_path / f"{number}.gguf")
        copies[-1].write_bytes(data)
    command = [sys.executable, "-c", OPEN_ALL, str(demo_model[0]), *map(str, copies)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


OPEN_ALL = """
import sys
import numpy as np
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import stack
from lfm_perception.image_plan import ImagePlan
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.questions import FramePlan
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.questions import CAPTION, ask

for mmproj in sys.argv[2:]:
    try:
        with LlamaVlm(Settings().with_values({"model.path": sys.argv[1], "mmproj.path": mmproj})) as vlm:
            for size in ((128, 96), (256, 256)):
                image = np.zeros((*size[::-1], 3), np.uint8)
                vlm.describe(Frame(image, 0), ask(CAPTION), FramePlan(ImagePlan(*size), 3))
    except PerceptionError as error:
        print(error)
"""


@pytest.mark.parametrize(("role", "tensor"), [("model", "token_embd_norm.weight"), ("mmproj", "mm.2.bias")])
def test_weights_that_are_not_numbers_are_reported(
    demo_model: tuple[Path, Path], tmp_path: Path, role: str, tensor: str
) -> None:
    copies = {part: tmp_path / f"{part}.gguf" for part in ("model", "mmproj")}
    for source, copy in zip(demo_model, copies.values(), strict=True):
        shutil.copy(source, copy)
    fill_with_nan(copies[role], tensor)
    files = {f"{part}.path": str(copy) for part, copy in copies.items()}
    error = pytest.raises(PerceptionError, match="NaN or infinity")
    with LlamaVlm(Settings().with_values(files)) as engine, error:
        engine.describe(noise(), FIND, SMALL)


def fill_with_nan(path: Path, tensor: str) -> None:
    found = read_header(path).tensors[tensor]
    with path.open("r+b") as file:
        file.seek(found.offset)
        file.write(struct.pack("<f", float("nan")) * (found.size // 4))
