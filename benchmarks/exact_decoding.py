# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding against plain decoding, answer by answer, with the demo model in llama.cpp.

    python benchmarks/exact_decoding.py [--answers 10000] [--threads 1 2] [--out benchmarks/results]

Every scene is asked for boxes and a caption: once token by token, one call of llama.cpp for each on one
thread, and then on so many threads with drafts that are right, moved, reordered, shorter, longer, of other
objects or absent. Sizes of images, limits of tokens and temperatures are drawn at random. Tokens must be
the same; log-probabilities may differ by the rounding of large batches, stated in docs/architecture.md. (On
two threads, llama.cpp divides the attention of a single token over more than 256 others between them, which
rounds in another way; the engine makes no such call.)

Writes exact_decoding.json. The exit status is 1 if any token differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.bodies import HARD, LABELS
from lfm_perception.demo.world import Snapshot, still
from lfm_perception.engine.chat_template import apply_chat_template
from lfm_perception.engine.decoding import DecodedAnswer, Sampler, decode_boxes, decode_text
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import PromptPart, StopRequest
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.speculative_text import TextSpeculator
from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImagePlan
from lfm_perception.provenance import machine
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, Draft, Prompt
from lfm_perception.settings import SamplingSettings, Settings

SIZES = ((256, 256), (256, 192), (320, 256), (384, 288), (192, 192))
DRAFTS_OF_A_SCENE = 10


@dataclass
class Comparison:
    """Answers by kind, those with another token, the largest difference of a log-probability, and decisions
    whose draft token was accepted or rejected.
    """

    answers: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    log_prob_difference: float = 0.0
    accepted: int = 0
    rejected: int = 0

    def add(self, kind: str, plain: DecodedAnswer, drafted: DecodedAnswer) -> None:
        self.answers[kind] += 1
        same = plain.text == drafted.text and plain.token_count == drafted.token_count
        self.different[kind] += not same
        if same:
            pairs = zip(plain.tokens, drafted.tokens, strict=True)
            self.log_prob_difference = max(
                self.log_prob_difference, *(abs(one.log_prob - other.log_prob) for one, other in pairs), 0.0
            )
        self.accepted += sum(drafted.accepted)
        self.rejected += len(drafted.accepted) - sum(drafted.accepted)


class Decoders:
    """Plain and speculative decoding of one model, on the engine's thread."""

    def __init__(self, vlm: LlamaVlm, threads: int) -> None:
        self.engine, self.threads = vlm._engine, threads
        self.cache, self.vocabulary = self.engine.kv_cache, self.engine.vocabulary
        costs = self.engine.latency.batch_cost, self.engine.latency.output_cost
        self.speculators = [
            Speculator(Grammar(self.vocabulary, dialect, labels), *costs)
            for dialect in (BBOX, BBOX_2D)
            for labels in (LABELS, None)
        ]
        self.text_speculator = TextSpeculator(*costs)
        self.plain_boxes = [Speculator(each.grammar, float) for each in self.speculators]
        self.plain_text = TextSpeculator(float)

    def prompt(self, snapshot: Snapshot, prompt: Prompt) -> tuple[list[PromptPart], list[int]]:
        height, width, _ = snapshot.frame.image.shape
        self.engine.begin(StopRequest())
        embeddings = self.engine.encode(snapshot.frame, ImagePlan(width, height))
        assert embeddings is not None
        chat = apply_chat_template(prompt)
        return [tuple(self.vocabulary.encode(chat.before)), embeddings[0]], self.vocabulary.encode(chat.after)

    def one_by_one(self, parts: list[PromptPart], end: Sequence[int]) -> Callable[..., Any]:
        """Decodes one token a call, on one thread."""
        self.cache.clear()
        self.cache.set_threads(1)
        for part in parts:
            self.cache._decode(part, self.cache._n_batch, ())
        self.cache._decode(tuple(end), self.cache._n_batch, (len(end) - 1,))

        def decode(_start: int, tokens: Sequence[int], outputs: Sequence[int]) -> Any:
            for token in tokens:
                self.cache._decode((token,), 1, (0,))
            assert len(outputs) == 1
            return [self.cache._logits(0)]

        return decode

    def many_threads(self) -> None:
        self.cache.clear()
        self.cache.set_threads(self.threads)

    def boxes(self, number: int, snapshot: Snapshot, drafts: Sequence[Draft | None], limit: int,
              sampling: SamplingSettings) -> tuple[DecodedAnswer, list[DecodedAnswer]]:  # fmt: skip
        speculator = self.speculators[number]
        parts, end = self.prompt(snapshot, speculator.grammar.dialect.prompt(LABELS))
        plain = decode_boxes(
            self.plain_boxes[number], 0, self.one_by_one(parts, end), Sampler(sampling), limit
        )
        self.many_threads()
        drafted = []
        for draft in drafts:
            left = self.cache.prefill(parts, end)
            sampler = Sampler(sampling)
            drafted.append(decode_boxes(speculator, left, self.cache.decode, sampler, limit, draft))
        return plain, drafted

    def caption(
        self, snapshot: Snapshot, limit: int, sampling: SamplingSettings
    ) -> tuple[DecodedAnswer, DecodedAnswer]:
        parts, end = self.prompt(snapshot, CAPTION)
        decode, sampler = self.one_by_one(parts, end), Sampler(sampling)
        plain = decode_text(self.vocabulary, 0, decode, sampler, limit, self.plain_text)
        self.many_threads()
        left, sampler = self.cache.prefill(parts, end), Sampler(sampling)
        return plain, decode_text(
            self.vocabulary, left, self.cache.decode, sampler, limit, self.text_speculator
        )


def drafts_of(rng: random.Random, snapshot: Snapshot) -> list[tuple[str, Draft | None]]:
    """Drafts of every kind, of which the true one is the best that a tracker could make."""
    true = tuple((thing.label, thing.box) for thing in snapshot.objects)
    moved = tuple((label, _moved(rng, box)) for label, box in true)
    other = tuple((rng.choice(LABELS), _moved(rng, Box(0.2, 0.2, 0.6, 0.7))) for _ in range(3))
    kinds: list[tuple[str, Draft | None]] = [
        ("none", None), ("empty", ()), ("right", true), ("moved", moved), ("reordered", true[::-1]),
        ("shorter", true[:-1]), ("longer", (*true, *other)), ("other objects", other),
        ("50 objects", (other * 17)[:50]), ("unwritable", (("dragon" * 40, Box(0.1, 0.1, 0.2, 0.2)), *moved)),
    ]  # fmt: skip
    rng.shuffle(kinds)
    return kinds


def _moved(rng: random.Random, box: Box) -> Box:
    x, y = rng.gauss(0.0, 0.02), rng.gauss(0.0, 0.02)
    sides = (box.x1 + x, box.y1 + y, box.x2 + x, box.y2 + y)
    return Box(*(min(max(side, 0.0), 1.0) for side in sides))


def compare(answers: int, threads: int, seed: int, progress: Callable[[int], object]) -> Comparison:
    """So many answers of speculative decoding with plain ones, on so many threads."""
    found, rng = Comparison(), random.Random(seed)
    with LlamaVlm(Settings().with_values({"engine.n_threads": threads})) as vlm:
        decoders = vlm._thread.submit(lambda: Decoders(vlm, threads)).result()
        while found.answers.total() < answers:
            snapshot = still(rng, *rng.choice(SIZES), HARD)
            sampling = replace(
                SamplingSettings(), temperature=rng.choice((0.0, 0.7)), seed=rng.randrange(1 << 16)
            )
            limit = rng.choice((rng.randint(1, 60), 400, 400))
            number, kinds = rng.randrange(len(decoders.speculators)), drafts_of(rng, snapshot)
            arguments = number, snapshot, [draft for _, draft in kinds], limit, sampling
            plain, drafted = vlm._thread.submit(decoders.boxes, *arguments).result()
            for (kind, _), answer in zip(kinds, drafted, strict=True):
                found.add(kind, plain, answer)
            found.add("caption", *vlm._thread.submit(decoders.caption, snapshot, limit, sampling).result())
            progress(len(kinds) + 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    results = {}
    share = -(-arguments.answers // len(arguments.threads))
    with Progress() as progress:
        task = progress.add_task("answers", total=arguments.answers)
        for threads in arguments.threads:
            found = compare(
                share, threads, arguments.seed + threads, lambda count: progress.advance(task, count)
            )
            results[threads] = {
                "answers": dict(found.answers),
                "different": found.different.total(),
                "log_prob_difference": found.log_prob_difference,
                "accepted": found.accepted,
                "rejected": found.rejected,
            }
    for threads, row in results.items():
        print(f"{threads} threads: {row}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "model": "demo model", "seed": arguments.seed, "threads": results}
    (arguments.out / "exact_decoding.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(any(row["different"] for row in results.values()))


if __name__ == "__main__":
    main()
