# SPDX-License-Identifier: Apache-2.0
"""How much drafts from real tracks save: decode calls, accepted draft tokens, and decoding time as modelled.

    python benchmarks/drafts.py [--sequences 300 301 302] [--seconds 14] [--period 0.24] [--gpu-layers 0]
                                [--out benchmarks/results]

The demo model and the tracker follow sequences of the demo world; every answer is drafted from the tracks.
Random weights cannot show this: what a model decides behind a rejected draft token depends on what it sees.
The time is the sum of the costs of all batches: costs as measured here with the true shape (`true_shape`),
for which the machine should be quiet, and costs that do not depend on the length, as on a large GPU.

Writes drafts.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import true_shape
from rich.progress import track

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.perception import Perception
from lfm_perception.provenance import machine
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

SETTLE = 4
"""Inferences of each sequence before the measured ones."""

WITHOUT_CAPTIONS = Settings().with_values({"caption.enabled": False})


class WithoutDraft(Perception):
    """Perception that never drafts an answer, for comparison."""

    def _draft(self, tracks: object) -> None:
        return None


@dataclass
class Costs:
    """Seconds of batches by their tokens, with logits after one of them, and of the logits after one more."""

    batch_cost: Callable[[int], float]
    output_cost: float


def measure(
    kind: type[Perception], costs: Costs, sequences: Sequence[int], times: Sequence[float]
) -> dict[str, float]:
    """Means per answer at these costs, with which the engine plans too."""
    settings = WITHOUT_CAPTIONS
    batches_s: list[float] = []
    usages = []
    with LlamaVlm(settings) as vlm:
        cache, latency = vlm._engine.kv_cache, vlm._engine.latency
        latency.batch_cost, latency.output_cost = costs.batch_cost, costs.output_cost
        decode, cache.on_batch = cache.decode, lambda tokens, _: batches_s.append(costs.batch_cost(tokens))

        def counted(start: int, tokens: Sequence[int], outputs: Sequence[int]) -> Any:
            batches_s.append(costs.output_cost * (len(outputs) - 1))
            return decode(start, tokens, outputs)

        cache.decode = counted
        total_s = 0.0
        for seed in track(sequences, f"{kind.__name__}"):
            perception = kind(settings, vlm, open_tracker(settings.tracker))
            world = World(seed=seed, width=384, height=288)
            for number, time_s in enumerate(times):
                batches_s.clear()
                scene = perception.infer(world.snapshot(round(time_s * world.fps)).frame)
                if number >= SETTLE:
                    total_s += sum(batches_s)
                    usages.append(scene.usage)
    drafted = sum(usage.drafted_decisions for usage in usages)
    return {
        "decode_ms": round(1000 * total_s / len(usages), 1),
        "decode_calls": round(sum(usage.decode_calls for usage in usages) / len(usages), 2),
        "answer_tokens": round(sum(usage.answer_tokens for usage in usages) / len(usages), 1),
        "accepted": round(sum(usage.accepted_decisions for usage in usages) / max(1, drafted), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", nargs="+", type=int, default=[300, 301, 302])
    parser.add_argument("--seconds", type=float, default=14.0)
    parser.add_argument("--period", type=float, default=0.24, help="seconds between inferences")
    parser.add_argument("--gpu-layers", type=int, default=0, help="where the costs are measured")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    model, mmproj = true_shape.files()
    values = {
        "model.path": str(model), "mmproj.path": str(mmproj), "engine.n_gpu_layers": arguments.gpu_layers,
    }  # fmt: skip
    with LlamaVlm(Settings().with_values(values)) as vlm:
        here = Costs(vlm._engine.latency.batch_cost, vlm._engine.latency.output_cost)
    single_s = here.batch_cost(1)
    costs = {"measured here": here, "the same at any length": Costs(lambda tokens: single_s, 0.0)}
    times = [number * arguments.period for number in range(int(arguments.seconds / arguments.period))]
    results: dict[str, Any] = {
        name: {
            drafts: measure(kind, cost, arguments.sequences, times)
            for drafts, kind in (("none", WithoutDraft), ("from tracks", Perception))
        }
        for name, cost in costs.items()
    }
    for name, rows in results.items():
        for drafts, row in rows.items():
            print(f"batch cost {name}, drafts {drafts}: {row}")
    report = {
        "machine": machine(),
        "gpu_layers": arguments.gpu_layers,
        "sequences": arguments.sequences,
        "output_cost_ms": round(1000 * here.output_cost, 2),
        "batch_cost_ms": {tokens: round(1000 * here.batch_cost(tokens), 2) for tokens in (1, 4, 16, 32, 63)},
        "results": results,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "drafts.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
