# SPDX-License-Identifier: Apache-2.0
"""Latency of one frame, image to answer, with each optimization of the engine, on a model of the true shape.

    python benchmarks/engine.py [--sizes 256x128 256x256 512x512] [--objects 1 3 8] [--threads 1 2]
                                [--rounds 7] [--gpu-layers 0] [--out benchmarks/results]

`naive` is plain llama.cpp: prefill of the whole prompt for every frame, then decoding token by token. The
other rows add the engine's optimizations one at a time: prefix cache, forced tokens in one batch, speculative
decoding. `all` is the engine as it runs, with drafts that are right, half right (two sides of each box are
wrong), wrong in all coordinates, wrong in the labels too, or absent. Every round measures every row once, on
a frame of its own, and all rows of a round give the same answer. Yes/no questions are asked alone, and about
a frame that was read: one, and ten others.
The weights are random (`true_shape`), so the answer is dictated: logits are computed
and sampled as always, then the dictated token is taken.

Writes engine.json, from which benchmarks/charts.py draws engine.svg.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import true_shape
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.engine import native
from lfm_perception.engine.chat_template import (
    BOS,
    IMAGE_END,
    IMAGE_START,
    TURN_END,
    TURN_START,
    apply_chat_template,
)
from lfm_perception.engine.decoding import Sampler, decode_boxes, decode_text
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import KvCache, Logits, PromptPart, StopRequest
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.speculative_text import TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImagePlan
from lfm_perception.provenance import machine
from lfm_perception.questions import BBOX, CAPTION, Draft, FramePlan, Prompt, Question
from lfm_perception.scene import Frame
from lfm_perception.settings import SamplingSettings, Settings
from lfm_perception.typed_questions import MAX_OPTION_TOKENS

LABELS = true_shape.LABELS
CAPTION_TOKENS = 20
SETTLE = 4
"""Rounds before the measured ones, in which the engine learns how good its guesses are."""


class DictatedSampler(Sampler):
    """Samples as always, then takes the dictated token."""

    def __init__(self, settings: SamplingSettings, tokens: Sequence[int]) -> None:
        super().__init__(settings)
        self._tokens = iter(tokens)

    def sample(self, logits: Logits, allowed: NDArray[np.intp] | None = None) -> tuple[int, float]:
        super().sample(logits, allowed)
        token = next(self._tokens)
        return token, float(logits[token])


@dataclass
class NativeCalls:
    """Seconds spent inside llama.cpp, and calls of llama_decode."""

    seconds: float = 0.0
    decode_calls: int = 0

    def watch(self, module: Any, name: str) -> None:
        function = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - began_s
                self.decode_calls += name == "llama_decode"

        setattr(module, name, watched)


@dataclass
class Row:
    """One variant: seconds of each round, the share outside llama.cpp, calls and tokens."""

    seconds: list[float] = field(default_factory=list)
    python: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    answer_tokens: int = 0


Prompted = tuple[list[PromptPart], list[int]]
"""The arguments of `KvCache.prefill`."""


class Bench:
    """The engine's parts put together in variants, on the engine's own thread."""

    def __init__(self, vlm: LlamaVlm, native_calls: NativeCalls) -> None:
        self.engine = vlm._engine
        self.cache: KvCache = self.engine.kv_cache
        self.vocabulary = self.engine.vocabulary
        self.grammar = Grammar(self.vocabulary, BBOX, LABELS)
        self.native_calls = native_calls
        self.sampling = SamplingSettings()
        costs = self.engine.latency.batch_cost, self.engine.latency.output_cost
        self.speculators = {name: Speculator(self.grammar, *costs) for name in DRAFTS}
        self.text_speculators = {
            name: TextSpeculator(*costs) for name in ("alone", "new", "two words", "as last")
        }
        self.no_drafts = Speculator(self.grammar, float)  # where all tokens cost alike, no draft pays

    def prompt(self, frame: Frame, image: ImagePlan, prompt: Prompt, *, text_first: bool = False) -> Prompted:
        self.engine.begin(StopRequest())
        before, after = self.text_parts(prompt, text_first=text_first)
        embeddings = self.engine.encode(frame, image)
        assert embeddings is not None
        return [tuple(before), embeddings[0]], after

    def text_parts(self, prompt: Prompt, *, text_first: bool) -> tuple[list[int], list[int]]:
        """The tokens before and after the image."""
        encode = self.vocabulary.encode
        if text_first:
            before = encode((BOS, TURN_START, "user\n", prompt.user, IMAGE_START))
            return before, encode((IMAGE_END, TURN_END, "\n", TURN_START, "assistant\n"))
        chat = apply_chat_template(prompt)
        return encode(chat.before), encode(chat.after)

    def cache_prefix(self, prompt: Prompt, *, text_first: bool = False) -> None:
        """Prefill the text before the image, as the frame before would have left it. Not timed."""
        self.engine.begin(StopRequest())
        before, after = self.text_parts(prompt, text_first=text_first)
        self.cache.prefill([tuple(before)], after)

    def naive(self, parts: list[PromptPart], end: Sequence[int], answer: Draft) -> int:
        self.cache.clear()
        return self.token_by_token([*parts, end], answer)

    def prefix_cached(self, parts: list[PromptPart], end: Sequence[int], answer: Draft) -> int:
        left = self.cache.prefill(parts, end)
        return self.token_by_token([end[-left:]], answer)

    def token_by_token(self, parts: Sequence[PromptPart | Sequence[int]], answer: Draft) -> int:
        """The parts in one call each, then the answer as llama.cpp decodes it without this engine."""
        sampler = Sampler(self.sampling)
        tokens = [token for _, token in self.grammar.path(answer)]
        for part in parts:
            self.cache._decode(part, self.cache._n_batch, (len(part) - 1,) if part is parts[-1] else ())
        for token in tokens:
            sampler.sample(self.cache._logits(0))
            self.cache._decode((token,), 1, (0,))
        return len(tokens)

    def boxes(self, prompt: Prompted, answer: Draft, speculator: Speculator, draft: Draft | None) -> int:
        decisions = [token for state, token in self.grammar.path(answer) if state.allowed_tokens.size > 1]
        sampler = DictatedSampler(self.sampling, decisions)
        left = self.cache.prefill(*prompt)
        return decode_boxes(speculator, left, self.cache.decode, sampler, 1000, draft).token_count

    def text(self, prompt: Prompted, answer: Sequence[int], speculator: TextSpeculator) -> int:
        sampler = DictatedSampler(self.sampling, answer)
        left, limit = self.cache.prefill(*prompt), CAPTION_TOKENS
        return decode_text(self.vocabulary, left, self.cache.decode, sampler, limit, speculator).token_count

    def time(self, row: Row, run: Callable[[], int]) -> None:
        native_s, calls = self.native_calls.seconds, self.native_calls.decode_calls
        began_s = time.perf_counter()
        row.answer_tokens = run()
        seconds = time.perf_counter() - began_s
        row.seconds.append(seconds)
        row.python.append(1.0 - (self.native_calls.seconds - native_s) / seconds)
        row.calls.append(self.native_calls.decode_calls - calls)

    def round(self, rows: dict[str, Row], size: tuple[int, int], count: int, number: int) -> None:
        """Time every row once, each on a frame of its own where its name does not say otherwise."""
        image = ImagePlan(*size)
        question = BBOX.prompt(LABELS)
        rng = np.random.default_rng([number, count])
        answer, other = _objects(rng, count, 0), _objects(rng, count, 1)
        caption, before = _caption(self.vocabulary, number), _caption(self.vocabulary, number - 1)
        frames = (_frame(size, 100 * number + index) for index in range(len(rows)))

        def boxes(
            name: str, speculator: Speculator, draft: Draft | None, *, text_first: bool = False
        ) -> Frame:
            frame = next(frames)

            def run() -> int:
                prompt = self.prompt(frame, image, question, text_first=text_first)
                return self.boxes(prompt, answer, speculator, draft)

            self.time(rows[name], run)
            return frame

        def text(name: str, frame: Frame, speculator: TextSpeculator) -> None:
            self.time(rows[name], lambda: self.text(self.prompt(frame, image, CAPTION), caption, speculator))

        frame = next(frames)
        self.time(rows["naive"], lambda: self.naive(*self.prompt(frame, image, question), answer))
        self.cache_prefix(question)
        frame = next(frames)
        self.time(
            rows["prefix cached"], lambda: self.prefix_cached(*self.prompt(frame, image, question), answer)
        )
        boxes("forced tokens", self.no_drafts, None)
        boxes("all, no draft", self.speculators["no draft"], None)
        text("caption alone", next(frames), self.text_speculators["alone"])
        boxes("all, half right draft", self.speculators["half right"], _half(answer))
        moved = tuple((label, box) for (label, _), (_, box) in zip(answer, other, strict=True))
        boxes("all, wrong coordinates", self.speculators["wrong coordinates"], moved)
        frame = boxes("all, wrong draft", self.speculators["wrong"], other)
        self.text_speculators["new"].remember(before)
        text("caption, same frame", frame, self.text_speculators["new"])
        like = [*caption[:5], before[5], *caption[6:12], before[12], *caption[13:]]
        self.text_speculators["two words"].remember(like)
        text("caption, same frame, two words changed", frame, self.text_speculators["two words"])
        self.text_speculators["as last"].remember(caption)
        frame = boxes("all, right draft", self.speculators["right"], answer)
        text("caption, same frame, as the last", frame, self.text_speculators["as last"])
        questions = [each.question for each in true_shape.QUESTIONS]
        plan = FramePlan(image, MAX_OPTION_TOKENS)

        def decide(name: str, frame: Frame, asked: Sequence[Question]) -> None:
            def run() -> int:
                answers = [self.engine.answer(frame, each, plan, StopRequest()) for each in asked]
                return sum(answer.usage.answer_tokens for answer in answers)

            self.time(rows[name], run)

        decide("yes/no, same frame", frame, questions[:1])
        decide("10 x yes/no, same frame", frame, questions[1:])
        decide("yes/no alone", next(frames), questions[:1])
        self.cache_prefix(question, text_first=True)
        boxes("text first, no draft", self.speculators["no draft"], None, text_first=True)
        boxes("text first, right draft", self.speculators["right"], answer, text_first=True)


DRAFTS = ("no draft", "right", "half right", "wrong coordinates", "wrong")
ROWS = (
    "naive", "prefix cached", "forced tokens", "all, no draft",
    "all, right draft", "all, half right draft", "all, wrong coordinates", "all, wrong draft",
    "text first, no draft", "text first, right draft", "caption alone", "caption, same frame",
    "caption, same frame, two words changed", "caption, same frame, as the last",
    "yes/no alone", "yes/no, same frame", "10 x yes/no, same frame",
)  # fmt: skip


def _objects(rng: np.random.Generator, count: int, turn: int) -> Draft:
    """Objects from left to right. Those of another turn share no label with them and no coordinate."""
    corners = np.sort(rng.integers(10, 990, (2, count, 2)), axis=2) // 2 * 2 + turn
    corners[1] = corners[1][np.argsort(corners[1, :, 0])]
    corners[0] = corners[0][np.argsort(corners[0, :, 0])]
    labels = [LABELS[(index + turn) % len(LABELS)] for index in rng.integers(0, len(LABELS), count)]
    if turn:
        labels = [LABELS[(LABELS.index(label) + 2) % len(LABELS)] for label in labels]
    (ys, xs) = corners / 1000
    return tuple(
        (label, Box(x[0], y[0], max(x), max(y)))
        for label, x, y in zip(labels, xs.tolist(), ys.tolist(), strict=True)
    )


def _half(objects: Draft) -> Draft:
    """The same objects, the numbers of their left and upper sides a bit off."""
    return tuple(
        (label, Box(max(0.0, box.x1 - 0.002), max(0.0, box.y1 - 0.002), box.x2, box.y2))
        for label, box in objects
    )


def _caption(vocabulary: Vocabulary, number: int) -> list[int]:
    """A caption of its own for every number, as tokens."""
    tokens = [token for token, piece in enumerate(vocabulary.pieces) if piece]
    return np.random.default_rng(number + 1).choice(tokens, CAPTION_TOKENS).tolist()


def _frame(size: tuple[int, int], seed: int) -> Frame:
    return World(seed=seed % 50, width=size[0], height=size[1]).snapshot(seed).frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["256x128", "256x256", "512x512"])
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 3, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gpu-layers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    model, mmproj = true_shape.files()
    sizes = [tuple(map(int, size.split("x"))) for size in arguments.sizes]
    native_calls = NativeCalls()
    native_calls.watch(native.llama_cpp, "llama_decode")
    native_calls.watch(native.mtmd_cpp, "mtmd_encode_chunk")
    results = []
    cases = [(t, s, c) for t in arguments.threads for s in sizes for c in arguments.objects]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=len(cases) * (SETTLE + arguments.rounds))
        for threads in arguments.threads:
            values = {
                "model.path": str(model), "mmproj.path": str(mmproj),
                "engine.n_threads": threads, "engine.n_gpu_layers": arguments.gpu_layers,
            }  # fmt: skip
            with LlamaVlm(Settings().with_values(values)) as vlm:
                for _, size, count in [case for case in cases if case[0] == threads]:
                    bench = Bench(vlm, native_calls)
                    rows = {name: Row() for name in ROWS}
                    for number in range(SETTLE + arguments.rounds):
                        if number == SETTLE:
                            rows = {name: Row() for name in ROWS}
                        vlm._thread.submit(bench.round, rows, size, count, number).result()
                        progress.advance(task)
                    results.append(_result(rows, size, count, threads))
                    _show(results[-1:])
                    _write(arguments, results)
    print(f"written to {arguments.out}/engine.json")


def _write(arguments: argparse.Namespace, results: Sequence[dict[str, Any]]) -> None:
    """Write the results so far, which an interruption then leaves."""
    report = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("llama-cpp-python", "numpy")},
        "model": "LFM2.5-VL-450M in shape, random weights, Q4_0 with a bf16 vision file",
        "gpu_layers": arguments.gpu_layers,
        "rounds": arguments.rounds,
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "results": results,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "engine.json").write_text(json.dumps(report, indent=2) + "\n")


def _result(rows: dict[str, Row], size: Sequence[int], count: int, threads: int) -> dict[str, Any]:
    naive = statistics.median(rows["naive"].seconds)
    return {
        "size": f"{size[0]}x{size[1]}",
        "image_tokens": ImagePlan(*size).tokens,
        "objects": count,
        "threads": threads,
        "rows": {
            name: {
                "ms": round(1000 * statistics.median(row.seconds), 1),
                "of_naive": round(statistics.median(row.seconds) / naive, 3),
                "answer_tokens": row.answer_tokens,
                "decode_calls": round(statistics.median(row.calls)),
                "python_share": round(statistics.median(row.python), 4),
                "all_ms": [round(1000 * seconds, 1) for seconds in row.seconds],
            }
            for name, row in rows.items()
        },
    }


def _show(results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        table = Table(
            box=None, title=f"{result['size']}, {result['objects']} objects, {result['threads']} threads"
        )
        for head in ("", "ms", "of naive", "tokens", "calls", "python"):
            table.add_column(head, justify="right" if head else "left")
        for name, row in result["rows"].items():
            table.add_row(
                name, f"{row['ms']:.0f}", f"{row['of_naive']:.2f}", str(row["answer_tokens"]),
                str(row["decode_calls"]), f"{row['python_share']:.1%}",
            )  # fmt: skip
        Console().print(table)


if __name__ == "__main__":
    main()
