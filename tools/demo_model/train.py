# SPDX-License-Identifier: Apache-2.0
"""Train the demo model on freshly rendered scenes, typed questions about them, and commands.

    PYTHONPATH=tools python -m demo_model.train --out build/demo_model

Every scene and question is new and follows from the seed and the step. What makes it learn within
hours on a CPU: auxiliary losses that are dropped afterwards (class and box at every patch; objectness,
class, rank, neighbours and coordinates at the image token of each object's centre; class and box at the
opening of each object in the answer; where two heads of the attention look when a neighbour is asked for,
and what they find there), Muon for the matrices, coordinates started as Fourier codes and trained with soft
targets, and a stage of vision alone at the beginning. An image is read once for all of its typed
questions, a list of tools once for all commands of a step. In the last stage the language model's
weights pass through 4-bit rounding, so that the Q4_0 file loses nothing. The work is shared by processes
of one thread each, which average their gradients: with matrices this small, that is twice as fast as one
process of as many threads. With jemalloc instead of the C library's allocator a step takes a fifth less
(LD_PRELOAD=libjemalloc.so.2 MALLOC_CONF=thp:always,narenas:1,dirty_decay_ms:3000).

With --device cuda one process trains, and --renderers processes make the batches; larger steps (--scale) suit
it. This has not been run on a GPU yet.

Resume with the same command; the newest checkpoint under --out is picked up. With --from, training goes
on from GGUF files that shipped, without the first stages, once the heads that the files do not hold have
settled on a model that stands still; take another --seed, for other scenes, and a --rate of 0.0007: a higher
one costs detection more than a short training wins back. What `Shape` has more of than the files, wider
feed-forward parts and further layers, is added in a way that changes nothing at first.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import distributed, multiprocessing, nn

from demo_model import tokenizer as vocabulary
from demo_model.batches import Batch, Run, make_batch
from demo_model.export import load_files, shipped
from demo_model.losses import Trainee, losses
from demo_model.network import Shape, grown
from demo_model.optimizers import optimizers, rounded

VISION_STAGE = 0.10
"""Share of the steps without the language model."""
DECAY_STAGE = 0.35
"""Share of the steps, at the end, in which the learning rate falls to zero."""
ROUNDED_STAGE = 0.25
"""Share of the steps, at the end, with 4-bit weights in the language model."""
SETTLE_STEPS = 100
SETTLE_RATE = 3e-3
"""Steps and learning rate in which only the training heads learn, where training goes on from files."""
NEVER_MET = 0.9
"""Cosine with the embeddings of the tokens added last, from which on a token was never met either."""
LOOSENED = 0.6
"""Factor on the embeddings of tokens that were never met, where training goes on from files. All of them were
pushed to one far place, from where the words of new texts come back slowly. At this factor the loss of boxes
and captions is what it was, while that of calls falls by 40%."""
SPREAD = (10.0, 4.0, 1.5)
"""Bins: the soft coordinate targets' standard deviation at the start, at 60% and from 90% of the steps."""


def rate(progress: float, peak: float) -> float:
    """Learning rate: a short rise, a plateau, a linear fall to zero."""
    rise = min(1.0, 0.02 + progress / 0.01)
    fall = min(1.0, (1.0 - progress) / DECAY_STAGE)
    return peak * rise * fall


def grown_at(run: Run, step: int) -> float:
    """How far the stages of the training are at a step, 0 to 1; past the first ones where it goes on."""
    progress = step / run.steps
    return 0.6 + 0.4 * progress if run.start else progress


def rendered(run: Run, first: int, rank: int) -> Iterator[Batch]:
    """The batches from step `first` on, on the CPU, in order."""
    work = functools.partial(_render, run, rank)
    if not run.renderers:
        yield from map(work, range(first, run.steps))
        return
    spawn = multiprocessing.get_context("spawn")
    share = multiprocessing.set_sharing_strategy  # a batch is many tensors: as files, they would be too many
    with spawn.Pool(run.renderers, share, ("file_system",)) as pool:
        ahead: deque[Any] = deque()
        for step in range(first, run.steps):
            ahead.append(pool.apply_async(work, (step,)))
            if len(ahead) > 3 * run.renderers:
                yield ahead.popleft().get()
        while ahead:
            yield ahead.popleft().get()


def _render(run: Run, rank: int, step: int) -> Batch:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with torch.device("cpu"):
        return make_batch(_tokenizer(), run, step, grown_at(run, step), rank)


@functools.cache
def _tokenizer() -> Tokenizer:
    return vocabulary.build()


def train(run: Run, out: Path) -> None:
    """Train to the end of the run, from the newest checkpoint in `out` if there is one."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = out.resolve() / "meeting"  # where the processes find each other
    meeting.unlink(missing_ok=True)
    multiprocessing.spawn(_train, (run, out, meeting.as_uri()), run.processes)


def _train(rank: int, run: Run, out: Path, meeting: str) -> None:
    """One process's part of the training; the first writes the log and the checkpoints."""
    if run.processes > 1:
        distributed.init_process_group("gloo", meeting, world_size=run.processes, rank=rank)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(run.seed)
    cv2.setNumThreads(1)
    shape = Shape()
    trainee = Trainee(shape, _tokenizer())
    if run.start:
        start = load_files(*shipped(Path(run.start)))
        trainee.model.load_state_dict(grown(start, shape).state_dict())
        with torch.no_grad():
            loosen(trainee.model.language.embedding.weight)
    trainee.to(run.device)
    torch.set_default_device(run.device)
    opts = optimizers(trainee)
    checkpoint, step, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False, map_location=run.device)
        trainee.load_state_dict(saved["trainee"])
        for opt, state in zip(opts, saved["optimizers"], strict=True):
            opt.load_state_dict(state)
        step, spent = saved["step"], saved["seconds"]
    if rank == 0:
        count = sum(p.numel() for p in trainee.model.parameters())
        print(f"{count:,} parameters, from step {step}", flush=True)
    sums: defaultdict[str, float | torch.Tensor] = defaultdict(float)
    counts: Counter[str] = Counter()
    begin = last = time.monotonic()
    first = step
    fast_bfloat16 = run.device != "cpu" or "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    for batch in rendered(run, step, rank):
        progress = step / run.steps
        stage = grown_at(run, step)
        language = stage >= VISION_STAGE
        width = float(np.interp(stage, (0.0, 0.6, 0.9), SPREAD))
        settling = bool(run.start) and step < SETTLE_STEPS
        trainee.model.requires_grad_(not settling)
        batch = batch.to(run.device)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = SETTLE_RATE if settling else rate(progress, run.peak)
        with rounded(trainee.model, progress > 1.0 - ROUNDED_STAGE):
            with torch.autocast(run.device, torch.bfloat16, enabled=fast_bfloat16):
                terms = losses(trainee, batch, language, width, settling)
            torch.stack(list(terms.values())).sum().backward()
        if run.processes > 1:
            _average_gradients(trainee)
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.5)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        step += 1
        if rank:
            continue
        for name, term in terms.items():
            sums[name] += term.detach()
            counts[name] += 1
        if step % 50 == 0:
            pace = (time.monotonic() - begin) / (step - first)
            left = pace * (run.steps - step) / 60
            shown = " ".join(f"{name} {float(value) / counts[name]:.4f}" for name, value in sums.items())
            print(f"step {step}/{run.steps} {pace:.2f} s/step, {left:.0f} min left: {shown}", flush=True)
            sums.clear()
            counts.clear()
        if time.monotonic() - last > 120 or step == run.steps:
            last = time.monotonic()
            state = {
                "trainee": trainee.state_dict(),
                "optimizers": [opt.state_dict() for opt in opts],
                "step": step,
                "seconds": spent + last - begin,
                "shape": asdict(shape),
                "run": asdict(run),
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    if run.processes > 1:
        distributed.destroy_process_group()  # its threads must not outlive this one


def loosen(embedding: torch.Tensor) -> None:
    """Bring the embeddings (N, hidden) of tokens that were never met nearer to the others, in place."""
    together = embedding[-len(vocabulary.PIECES) :].mean(0)
    never_met = nn.functional.cosine_similarity(embedding, together[None]) > NEVER_MET
    embedding[never_met] *= LOOSENED


def _average_gradients(trainee: Trainee) -> None:
    """Every process goes on with the mean of all gradients; a head without work in a step counts 0."""
    parameters = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    together = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    begin = 0
    for parameter in parameters:
        parameter.grad = together[begin : begin + parameter.numel()].view_as(parameter)
        begin += parameter.numel()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the checkpoint and the GGUF files"
    )
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=16.0, help="images of 256x256 in a step")
    parser.add_argument(
        "--lessons", type=float, default=1.0, help="share of the images with a request for boxes or a caption"
    )
    parser.add_argument("--questions", type=int, default=8, help="typed questions about each image")
    parser.add_argument("--commands", type=int, default=32, help="commands in every other step")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    parser.add_argument("--from", dest="start", default="", help="folder of GGUF files to begin from")
    parser.add_argument("--device", default="cpu", help="of PyTorch; a GPU takes --processes 1")
    parser.add_argument(
        "--renderers", type=int, default=0, help="processes that render ahead, for a GPU one for each core"
    )
    a = parser.parse_args()
    print(json.dumps({key: str(value) for key, value in vars(a).items()}), flush=True)
    names = ("steps", "seed", "scale", "lessons", "questions", "commands", "processes", "start", "device")
    train(
        Run(peak=a.rate, renderers=a.renderers, **{name: getattr(a, name) for name in names}),
        a.out,
    )


if __name__ == "__main__":
    main()
