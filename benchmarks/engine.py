"""What each idea of the engine saves, on a model of the true shape: one frame, one answer, end to end.

    python benchmarks/engine.py [--sizes 256x128 256x256 512x512] [--objects 1 3 8] [--threads 1 2]
                                [--rounds 7] [--gpu-layers 0] [--out benchmarks/results]

`naive` is llama.cpp as it comes: the whole prompt for every frame, then the answer token by token. The other
rows add to it, one at a time, what the engine does; `all` in the end is the engine as it runs, with drafts
that are right, half right (the numbers of two sides of each box are not), wrong or absent. Every round
measures every row once, on a frame of its own, and all rows of a round write the same answer. The weights are
random (`true_shape`), so what is written is dictated: the logits are computed and sampled as always, then the
dictated token is taken.

Writes engine.json and engine.svg. Needs the `gguf` package (extra `train`) on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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

from lfm_perception.backends.llama import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.engine import native
from lfm_perception.engine.chat_template import IMAGE_END, IMAGE_START, START, TURN_END, TURN_START, converse
from lfm_perception.engine.decoding import Logits, Sampler, write_boxes, write_words
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import KvCache, Part, Stop
from lfm_perception.engine.speculative import Speculator, TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import BBOX, CAPTION, Draft, Prompt
from lfm_perception.scene import Frame
from lfm_perception.settings import SamplingSettings, Settings

LABELS = true_shape.LABELS
CAPTION_TOKENS = 20
SETTLE = 4
"""Rounds before the measured ones, in which the engine learns how good its guesses are."""


class Dictation(Sampler):
    """Samples as always, then takes what is dictated."""

    def __init__(self, settings: SamplingSettings, tokens: Sequence[int]) -> None:
        super().__init__(settings)
        self._tokens = iter(tokens)

    def draw(self, logits: Logits, allowed: NDArray[np.intp] | slice = slice(None)) -> tuple[int, float]:
        super().draw(logits, allowed)
        token = next(self._tokens)
        return token, float(logits[token])


@dataclass
class Inside:
    """Seconds spent inside llama.cpp, and calls of llama_decode."""

    seconds: float = 0.0
    calls: int = 0

    def watch(self, module: Any, name: str) -> None:
        function = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - began
                self.calls += name == "llama_decode"

        setattr(module, name, watched)


@dataclass
class Measured:
    """One row: seconds of each round, the share of it outside llama.cpp, and what was computed."""

    seconds: list[float] = field(default_factory=list)
    python: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    answer_tokens: int = 0


class Bench:
    """The engine taken apart, on its own thread."""

    def __init__(self, vlm: LlamaVlm, inside: Inside) -> None:
        self.engine = vlm._engine
        self.context: KvCache = self.engine.context
        self.vocabulary = self.engine.vocabulary
        self.grammar = Grammar(self.vocabulary, BBOX, LABELS)
        self.inside = inside
        self.sampling = SamplingSettings()
        self.learnt = {name: Speculator(self.grammar, self.engine.pace.cost) for name in DRAFTED}
        self.recall = {name: TextSpeculator(self.engine.pace.cost) for name in ("new", "as last")}
        self.blind = Speculator(self.grammar, float)  # where all tokens cost alike, no guess pays

    def prompt(
        self, frame: Frame, image: ImagePlan, prompt: Prompt, *, text_first: bool = False
    ) -> tuple[list[Part], list[int]]:
        """What `KvCache.prompt` reads."""
        self.engine._stop = stop = Stop()
        self.context.begin(stop)
        encode = self.vocabulary.encode
        if text_first:
            before = encode((START, TURN_START, "user\n", prompt.user, IMAGE_START))
            after = encode((IMAGE_END, TURN_END, "\n", TURN_START, "assistant\n"))
        else:
            talk = converse(prompt)
            before, after = encode((*talk.before, IMAGE_START)), encode((IMAGE_END, *talk.after))
        seen = self.engine._see(frame, image)
        assert seen is not None
        return [tuple(before), seen[0]], after

    def naive(self, parts: list[Part], end: Sequence[int], said: Draft) -> int:
        self.context.forget()
        return self.token_by_token([*parts, end], said)

    def kept(self, parts: list[Part], end: Sequence[int], said: Draft) -> int:
        unread = self.context.prompt(parts, end)
        return self.token_by_token([end[-unread:]], said)

    def token_by_token(self, parts: Sequence[Part | Sequence[int]], said: Draft) -> int:
        """The parts in one call each, then the answer as llama.cpp without this engine writes it."""
        sampler = Sampler(self.sampling)
        tokens = [token for _, token in self.grammar.walk(said)]
        for part in parts:
            self.context._read(part, self.context._largest, (len(part) - 1,) if part is parts[-1] else ())
        for token in tokens:
            sampler.draw(self.context._row(0))
            self.context._read((token,), 1, (0,))
        return len(tokens)

    def boxes(
        self, parts: list[Part], end: Sequence[int], said: Draft, speculator: Speculator, draft: Draft | None
    ) -> int:
        decided = [token for place, token in self.grammar.walk(said) if place.allowed.size > 1]
        sampler = Dictation(self.sampling, decided)
        unread = self.context.prompt(parts, end)
        return write_boxes(speculator, unread, self.context.answer, sampler, 1000, draft).decoded

    def words(
        self, parts: list[Part], end: Sequence[int], said: Sequence[int], recall: TextSpeculator
    ) -> int:
        unread, sampler = self.context.prompt(parts, end), Dictation(self.sampling, said)
        return write_words(
            self.vocabulary, unread, self.context.answer, sampler, CAPTION_TOKENS, recall
        ).decoded

    def timed(self, row: Measured, run: Callable[[], int]) -> None:
        inside, calls, began = self.inside.seconds, self.inside.calls, time.perf_counter()
        row.answer_tokens = run()
        seconds = time.perf_counter() - began
        row.seconds.append(seconds)
        row.python.append(1.0 - (self.inside.seconds - inside) / seconds)
        row.calls.append(self.inside.calls - calls)

    def round(self, rows: dict[str, Measured], size: tuple[int, int], count: int, number: int) -> None:
        image = ImagePlan(*size)
        question = BBOX.prompt(LABELS)
        rng = np.random.default_rng([number, count])
        said, other = _objects(rng, count, 0), _objects(rng, count, 1)
        frames = (_frame(size, 100 * number + index) for index in range(len(rows)))

        def boxes(
            name: str, speculator: Speculator, draft: Draft | None, *, text_first: bool = False
        ) -> None:
            frame = next(frames)
            self.timed(
                rows[name],
                lambda: self.boxes(
                    *self.prompt(frame, image, question, text_first=text_first), said, speculator, draft
                ),
            )

        frame = next(frames)
        self.timed(rows["naive"], lambda: self.naive(*self.prompt(frame, image, question), said))
        frame = next(frames)
        self.timed(
            rows["prefix kept"],
            lambda: self.kept(*self.prompt(frame, image, question), said),
        )
        boxes("forced runs", self.blind, None)
        boxes("all, no draft", self.learnt["no draft"], None)
        caption, before = _words(self.vocabulary, number), _words(self.vocabulary, number - 1)

        def describe(name: str, frame: Frame, recall: TextSpeculator) -> None:
            self.timed(rows[name], lambda: self.words(*self.prompt(frame, image, CAPTION), caption, recall))

        describe("caption alone", next(frames), TextSpeculator(self.engine.pace.cost))
        boxes("all, half right draft", self.learnt["half right"], _half(said))
        boxes("all, wrong draft", self.learnt["wrong"], other)
        assert self.engine._seen
        frame = self.engine._seen[0]
        self.recall["new"].remember(before)
        describe("caption, same frame", frame, self.recall["new"])
        self.recall["as last"].remember(caption)
        boxes("all, right draft", self.learnt["right"], said)
        frame = self.engine._seen[0]
        describe("caption, same frame, as the last", frame, self.recall["as last"])
        boxes("text first, no draft", self.learnt["no draft"], None, text_first=True)
        boxes("text first, right draft", self.learnt["right"], said, text_first=True)


DRAFTED = ("no draft", "right", "half right", "wrong")
ROWS = (
    "naive", "prefix kept", "forced runs", "all, no draft",
    "all, right draft", "all, half right draft", "all, wrong draft", "text first, no draft",
    "text first, right draft", "caption alone", "caption, same frame", "caption, same frame, as the last",
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


def _half(said: Draft) -> Draft:
    """The same objects, the numbers of their left and upper sides a bit off."""
    return tuple(
        (label, Box(max(0.0, box.x1 - 0.002), max(0.0, box.y1 - 0.002), box.x2, box.y2))
        for label, box in said
    )


def _words(vocabulary: Vocabulary, number: int) -> list[int]:
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
    inside = Inside()
    inside.watch(native.llama_cpp, "llama_decode")
    inside.watch(native.mtmd_cpp, "mtmd_encode_chunk")
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
                    bench = Bench(vlm, inside)
                    rows = {name: Measured() for name in ROWS}
                    for number in range(SETTLE + arguments.rounds):
                        if number == SETTLE:
                            rows = {name: Measured() for name in ROWS}
                        vlm._thread.submit(bench.round, rows, size, count, number).result()
                        progress.advance(task)
                    results.append(_result(rows, size, count, threads))
    report = {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
        },
        "versions": {name: version(name) for name in ("llama-cpp-python", "numpy")},
        "model": "LFM2.5-VL-450M in shape, random weights, Q4_0 with a bf16 vision file",
        "gpu_layers": arguments.gpu_layers,
        "rounds": arguments.rounds,
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "results": results,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "engine.json").write_text(json.dumps(report, indent=2) + "\n")
    _show(results)
    _plot(results, arguments.out / "engine.svg")
    print(f"memory at most {report['memory_mb']} MB; written to {arguments.out}/engine.json and engine.svg")


def _result(rows: dict[str, Measured], size: Sequence[int], count: int, threads: int) -> dict[str, Any]:
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


def _plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars of the time per frame, of naive llama.cpp, as SVG."""
    wide, left, bar, scale = 900, 220, 16, 570
    lines: list[str] = []
    y = 0
    for result in results:
        y += 30
        title = f"{result['size']}, {result['objects']} objects, {result['threads']} threads"
        lines.append(f'<text x="0" y="{y}" font-weight="bold">{title}</text>')
        for name, row in result["rows"].items():
            y += bar + 4
            length = scale * row["of_naive"]
            lines.append(f'<text x="{left - 8}" y="{y}" text-anchor="end">{name}</text>')
            lines.append(
                f'<rect x="{left}" y="{y - 12}" width="{length:.0f}" height="{bar}" fill="#3b6ea5"/>'
            )
            lines.append(f'<text x="{left + length + 6:.0f}" y="{y}">{row["ms"]:.0f} ms</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {y + 20}" font-family="sans-serif" '
        f'font-size="12"><rect width="{wide}" height="{y + 20}" fill="white"/>{"".join(lines)}</svg>\n'
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.machine())


if __name__ == "__main__":
    main()
