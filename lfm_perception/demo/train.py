"""Train the demo model from nothing on freshly rendered scenes, and write its GGUF files.

    python -m lfm_perception.demo.train --out build/demo_model

Every scene and question is new and follows from the seed and the step. What makes it learn within
hours on a CPU: auxiliary losses that are dropped afterwards (class and box at every patch; objectness,
class, rank and coordinates at the image token of each object's centre; class and box at the opening of
each object in the answer), Muon for the matrices, coordinates started as Fourier codes and trained
with soft targets, and a stage of vision alone at the beginning. In the last stage the language model's
weights pass through 4-bit rounding, so that the Q4_0 file loses nothing. The work is shared by processes
of one thread each, which average their gradients: with matrices this small, that is twice as fast as one
process of as many threads.

Resume with the same command; the newest checkpoint under --out is picked up. With --from, training goes
on from GGUF files that shipped, without the first stages; take another --seed, for other scenes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as fn

from lfm_perception.demo import tokenizer as vocabulary
from lfm_perception.demo.export import load_files
from lfm_perception.demo.network import Shape, VisionLanguageModel
from lfm_perception.demo.questions import Lesson, lesson
from lfm_perception.demo.world import EASY, FILM, HARD, LABELS, Snapshot, still

BINS = 1000
RANKS = 12
VISION_STAGE = 0.10
"""Share of the steps without the language model."""
DECAY_STAGE = 0.35
"""Share of the steps, at the end, in which the learning rate falls to zero."""
ROUNDED_STAGE = 0.25
"""Share of the steps, at the end, with 4-bit weights in the language model."""
SPREAD = (10.0, 4.0, 1.5)
"""Bins: the soft coordinate targets' standard deviation at the start, at 60% and from 90% of the steps."""

LOGIT_SCALE = 1e-3
"""Weight of the squared log-sum-exp of the logits. Probabilities do not depend on it, but a repetition
penalty does: it divides logits, and must find them near 0."""

SMALL = 0.03
"""Errors of coordinates are weighed by the extent of their box, which is what IoU does, down to this."""

COMMON_SIZES = ((256, 256),) * 3 + (
    *((320, 256), (256, 192), (384, 288), (384, 288), (512, 384), (512, 384), (320, 192), (256, 320)),
    *((448, 256), (576, 416), (640, 352), (256, 128), (192, 192)),
)
"""Pixels, width and height: what the planner makes of the usual cameras under the usual budgets."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's lessons, shortest first.

    `ids` (B, T) holds the image's places and the padding after `lengths`. `answer` (N, 2) are the rows
    and positions that predict the answer's tokens; `numbers` (N, 2) the coordinates there and the
    extents of their boxes (-1: none) and `tables` (N) which spelling they use. `centres` (M, 3) are row,
    image token and rank of the objects, `openings` (K, 2) row and position where an object begins in
    the answer.
    """

    images: Tensor
    ids: Tensor
    lengths: list[int]
    answer: Tensor
    numbers: Tensor
    tables: Tensor
    patch_class: Tensor
    patch_box: Tensor
    centres: Tensor
    centre_class: Tensor
    centre_box: Tensor
    openings: Tensor
    opening_class: Tensor
    opening_box: Tensor


class Trainee(nn.Module):
    """The model with the heads that only training uses."""

    def __init__(self, shape: Shape, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = VisionLanguageModel(shape)
        self.patch_head = nn.Sequential(
            nn.LayerNorm(shape.tower_hidden), nn.Linear(shape.tower_hidden, 1 + len(LABELS) + 4)
        )
        self.centre_class = nn.Linear(shape.hidden, len(LABELS))
        self.centre_side = nn.ModuleList(nn.Linear(shape.hidden, shape.hidden) for _ in range(4))
        self.centre_rank = nn.Linear(shape.hidden, RANKS)
        self.centre_object = nn.Linear(shape.hidden, 1)
        self.opening_head = nn.Linear(shape.hidden, len(LABELS) + 4)
        ids = [[tokenizer.token_to_id(form.format(n)) for n in range(BINS)] for form in ("{:03d}", "{}")]
        self.register_buffer("tables", torch.tensor(ids), persistent=False)
        _start(self.model, self.tables)

    def number_logits(self, x: Tensor) -> Tensor:
        """(N, hidden) to (N, BINS), through the language model's own number embeddings."""
        embedding = self.model.language.embedding.weight[self.tables[0]]
        return fn.rms_norm(x.float(), (x.shape[-1],)) @ embedding.T


def _start(model: VisionLanguageModel, tables: Tensor) -> None:
    """Numbers and patch positions begin as Fourier codes, so that nearness is there from the start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        embedding = model.language.embedding.weight
        embedding.normal_(0.0, 0.05, generator=generator)
        hidden = embedding.shape[1]
        code = _fourier(torch.arange(BINS) / BINS, (0.5, 1, 2, 4, 8, 16, 32, 64)) @ _basis(
            16, hidden, generator
        )
        code = code / code.norm(dim=1, keepdim=True) * 0.05 * math.sqrt(hidden) * 1.2
        for table in tables:
            embedding[table] = code + 0.005 * torch.randn(BINS, hidden, generator=generator)
        side, _, size = model.tower.position.shape
        place = (torch.arange(side) + 0.5) / side
        waves = _fourier(place, (0.5, 1, 2, 4, 8))
        rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
        model.tower.position.copy_(torch.cat((rows, columns), -1) @ _basis(20, size, generator))


def _fourier(x: Tensor, cycles: Sequence[float]) -> Tensor:
    waves = [(torch.cos(math.pi * k * x), torch.sin(math.pi * k * x)) for k in cycles]
    return torch.stack(
        [wave / (1 + 0.12 * k) for k, pair in zip(cycles, waves, strict=True) for wave in pair], -1
    )


def _basis(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0][:, :count].T


# --- scenes to tensors ---------------------------------------------------------------------------


def make_batch(tokenizer: Tokenizer, run: Run, step: int, progress: float, rank: int) -> Batch:
    """The scenes and questions of one step for the process `rank`; all have the same size of image."""
    width, height = _size(random.Random(f"{run.seed} {step}"), progress)
    rng = random.Random(f"{run.seed} {step} {rank}")
    count = max(2, round(run.scale / run.processes * min(1.0, 65_536 / (width * height))))
    snapshots = [
        still(rng, width, height, rng.choices((EASY, HARD, FILM), (42, 36, 22))[0]) for _ in range(count)
    ]
    return collate(tokenizer, [(snapshot, lesson(rng, snapshot)) for snapshot in snapshots])


def _size(rng: random.Random, progress: float) -> tuple[int, int]:
    if progress < 0.3 or rng.random() < 0.25:
        return 256, 256
    if rng.random() < 0.75:
        return rng.choice(COMMON_SIZES)
    while True:
        columns, rows = rng.randint(4, 20), rng.randint(4, 16)
        if 32 <= columns * rows <= 256 and 0.5 <= columns / rows <= 2.2:
            return 32 * columns, 32 * rows


def collate(tokenizer: Tokenizer, lessons: Sequence[tuple[Snapshot, Lesson]]) -> Batch:
    height, width, _ = lessons[0][0].frame.image.shape
    rows, columns = height // 32, width // 32
    lessons = sorted(lessons, key=lambda pair: len(pair[1].answer) + 2 * len(pair[1].prompt.system))
    sequences: list[list[int]] = []
    answer, numbers, tables = [], [], []
    openings, opening_class, opening_box = [], [], []
    centres, centre_class, centre_box = [], [], []
    patch_class, patch_box = [], []
    for row, (snapshot, asked) in enumerate(lessons):
        ids = _request_ids(tokenizer, asked, rows * columns)
        encoded = tokenizer.encode(asked.answer, add_special_tokens=False)
        starts = {at: place for place, (begin, end) in enumerate(encoded.offsets) for at in range(begin, end)}
        digits = {starts[at]: value for at, value in asked.numbers.items()}
        table = 0 if "0." in asked.answer or "1." in asked.answer else 1
        for place in range(len(encoded.ids) + 1):
            answer.append((row, len(ids) + place - 1))
            numbers.append(digits.get(place, (-1.0, -1.0)))
            tables.append(table)
        for at, index in asked.openings.items():
            thing = snapshot.objects[index]
            openings.append((row, len(ids) + starts[at]))
            opening_class.append(LABELS.index(thing.label))
            opening_box.append(thing.box.xyxy)
        sequences.append([*ids, *encoded.ids, vocabulary.IM_END])
        for cell, index in _centre_cells(snapshot, columns, rows).items():
            thing = snapshot.objects[index]
            centres.append((row, cell, min(index, RANKS - 1)))
            centre_class.append(LABELS.index(thing.label))
            centre_box.append(thing.box.xyxy)
        kinds, boxes = _patches(snapshot)
        patch_class.append(kinds)
        patch_box.append(boxes)
    length = max(map(len, sequences))
    padded = [sequence + [vocabulary.PAD] * (length - len(sequence)) for sequence in sequences]
    box = lambda boxes: torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))  # noqa: E731
    return Batch(
        images=torch.from_numpy(np.stack([snapshot.frame.image for snapshot, _ in lessons])),
        ids=torch.tensor(padded),
        lengths=[len(sequence) for sequence in sequences],
        answer=torch.tensor(answer),
        numbers=torch.tensor(numbers),
        tables=torch.tensor(tables),
        patch_class=torch.from_numpy(np.stack(patch_class)),
        patch_box=torch.from_numpy(np.stack(patch_box)),
        centres=torch.tensor(centres, dtype=torch.long).reshape(-1, 3),
        centre_class=torch.tensor(centre_class, dtype=torch.long),
        centre_box=box(centre_box),
        openings=torch.tensor(openings, dtype=torch.long).reshape(-1, 2),
        opening_class=torch.tensor(opening_class, dtype=torch.long),
        opening_box=box(opening_box),
    )


def _request_ids(tokenizer: Tokenizer, asked: Lesson, image_tokens: int) -> list[int]:
    """The chat template of LFM2-VL with one image before the user's words."""
    before = f"<|im_start|>system\n{asked.prompt.system}<|im_end|>\n" if asked.prompt.system else ""
    after = f"<|image_end|>{asked.prompt.user}<|im_end|>\n<|im_start|>assistant\n"
    head = tokenizer.encode(f"{before}<|im_start|>user\n<|image_start|>", add_special_tokens=False).ids
    tail = tokenizer.encode(after, add_special_tokens=False).ids
    return [vocabulary.BOS, *head, *[vocabulary.IMAGE] * image_tokens, *tail]


def _centre_cells(snapshot: Snapshot, columns: int, rows: int) -> dict[int, int]:
    """Image token to object: each object takes the free token nearest to its centre."""
    taken: dict[int, int] = {}
    for index, thing in enumerate(snapshot.objects):
        x = (thing.box.x1 + thing.box.x2) / 2 * columns - 0.5
        y = (thing.box.y1 + thing.box.y2) / 2 * rows - 0.5
        near = sorted(
            ((abs(column - x) + abs(row - y)), row * columns + column)
            for row in range(max(0, int(y)), min(rows, int(y) + 2))
            for column in range(max(0, int(x)), min(columns, int(x) + 2))
        )
        free = [cell for _, cell in near if cell not in taken]
        if free:
            taken[free[0]] = index
    return taken


def _patches(snapshot: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Per 16x16 patch the class of the body that fills most of it (0: background) and its box."""
    height, width = snapshot.instances.shape
    kinds = np.zeros((height // 16, width // 16), np.int64)
    boxes = np.zeros((height // 16, width // 16, 4), np.float32)
    best = np.full(kinds.shape, 0.35 * 255, np.float32)
    for thing in snapshot.objects:
        mask = (snapshot.instances == thing.object_id + 1).view(np.uint8) * 255
        cover = cv2.resize(mask, (width // 16, height // 16), interpolation=cv2.INTER_AREA)
        won = cover > best
        best[won] = cover[won]
        kinds[won] = LABELS.index(thing.label) + 1
        boxes[won] = thing.box.xyxy
    return kinds, boxes


# --- losses --------------------------------------------------------------------------------------


def losses(trainee: Trainee, batch: Batch, language: bool, width: float) -> dict[str, Tensor]:
    """Weighted loss terms. `width`: spread of the soft coordinate targets, in bins."""
    features, tokens = trainee.model.see(batch.images)
    terms = _vision_losses(trainee, batch, features, tokens, width)
    if language:
        terms |= _language_losses(trainee, batch, tokens, width)
    return terms


def _vision_losses(
    trainee: Trainee, batch: Batch, features: Tensor, tokens: Tensor, width: float
) -> dict[str, Tensor]:
    seen = trainee.patch_head(features).float()
    kinds = 1 + len(LABELS)
    inside = batch.patch_class > 0
    terms = {"patch_class": fn.cross_entropy(seen[..., :kinds].flatten(0, 2), batch.patch_class.flatten())}
    if inside.any():
        terms["patch_box"] = (
            5.0 * (seen[..., kinds:][inside].sigmoid() - batch.patch_box[inside]).abs().mean()
        )
    present = torch.zeros(tokens.shape[:2])
    row, cell, rank = batch.centres.T
    present[row, cell] = 1.0
    object_logits = trainee.centre_object(tokens).float()[..., 0]
    terms["centre_object"] = 2.0 * fn.binary_cross_entropy_with_logits(
        object_logits, present, pos_weight=torch.tensor(3.0)
    )
    if len(row):
        at = tokens[row, cell]
        terms["centre_class"] = fn.cross_entropy(trainee.centre_class(at).float(), batch.centre_class)
        terms["centre_rank"] = fn.cross_entropy(trainee.centre_rank(at).float(), rank)
        soft = distance = torch.zeros(())
        x1, y1, x2, y2 = batch.centre_box.T
        extents = torch.stack((x2 - x1, y2 - y1), 1).clamp(min=SMALL)
        for side, head in enumerate(trainee.centre_side):
            logs = trainee.number_logits(head(at)).log_softmax(-1)
            soft = soft + _soft_cross_entropy(logs, batch.centre_box[:, side], width).mean() / 4
            error = (_expected(logs) - batch.centre_box[:, side]).abs()
            distance = distance + (error / extents[:, side % 2]).mean() / 4
        terms["centre_soft"] = soft
        terms["centre_distance"] = distance
    return terms


def _language_losses(trainee: Trainee, batch: Batch, tokens: Tensor, width: float) -> dict[str, Tensor]:
    hidden = _read_in_groups(trainee.model, batch, tokens)
    row, place = batch.answer.T
    logits = trainee.model.logits(hidden[row, place])
    total = logits.logsumexp(-1, keepdim=True)
    logs = logits - total
    target = batch.ids[row, place + 1]
    value, extent = batch.numbers.T
    number = value >= 0.0
    words = -logs[~number].gather(1, target[~number, None])[:, 0]
    # most of an answer is forced syntax: the mean runs over the decisions, about a third of the tokens
    decisions = len(target) / 3
    terms = {"words": words.sum() / decisions, "scale": LOGIT_SCALE * total.square().mean()}
    if number.any():
        table = trainee.tables[batch.tables[number]]
        numeric = logs[number].gather(1, table)
        terms["numbers"] = _soft_cross_entropy(numeric, value[number], width).sum() / decisions
        distance = (_expected(numeric.log_softmax(-1)) - value[number]).abs()
        terms["distance"] = 2.0 * (distance / extent[number].clamp(min=SMALL)).mean()
    if len(batch.openings):
        at = hidden[batch.openings[:, 0], batch.openings[:, 1]]
        guess = trainee.opening_head(at).float()
        terms["opening_class"] = 0.5 * fn.cross_entropy(guess[:, : len(LABELS)], batch.opening_class)
        sides = guess[:, len(LABELS) :].sigmoid()
        terms["opening_box"] = 2.5 * (sides - batch.opening_box).abs().mean()
    return terms


def _read_in_groups(model: VisionLanguageModel, batch: Batch, tokens: Tensor, size: int = 4) -> Tensor:
    """Hidden states (B, T, hidden), a few rows of like length at a time: a third less padding."""
    parts = []
    for first in range(0, len(batch.ids), size):
        rows = slice(first, first + size)
        length = max(batch.lengths[rows])
        part = model.read(batch.ids[rows, :length], tokens[rows], vocabulary.IMAGE)
        parts.append(fn.pad(part, (0, 0, 0, batch.ids.shape[1] - length)))
    return torch.cat(parts)


def _soft_cross_entropy(logs: Tensor, value: Tensor, width: float) -> Tensor:
    """Cross entropy with a Gaussian around `value`; `logs` (N, BINS) over 0, 1/BINS, ..."""
    distance = torch.arange(BINS)[None] - value[:, None] * BINS
    target = torch.softmax(-0.5 * (distance / width) ** 2, dim=1)
    return -(target * logs).sum(1)


def _expected(logs: Tensor) -> Tensor:
    return (logs.exp() * torch.arange(BINS)).sum(1) / BINS


# --- the run -------------------------------------------------------------------------------------


def round_q4_0(weight: Tensor) -> Tensor:
    """The weight as llama.cpp's Q4_0 keeps it: blocks of 32, one scale, 16 levels."""
    blocks = weight.reshape(-1, 32)
    peak = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (peak / -8.0).half().float()
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
    levels = (blocks * inverse + 8.5).floor().clamp(0, 15) - 8.0
    return (levels * scale).reshape(weight.shape)


@contextmanager
def rounded(model: VisionLanguageModel, on: bool) -> Iterator[None]:
    """Inside, the language model's matrices hold their 4-bit values; gradients reach the originals."""
    matrices = [m.weight for m in model.language.layers.modules() if isinstance(m, nn.Linear)] if on else []
    originals = [matrix.data for matrix in matrices]
    for matrix in matrices:
        matrix.data = round_q4_0(matrix.data)
    try:
        yield
    finally:
        for matrix, original in zip(matrices, originals, strict=True):
            matrix.data = original


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal matrix by matrix by Newton-Schulz steps (K. Jordan et al., "Muon", 2024).

    PyTorch's own computes them in bfloat16, which CPUs without it emulate, thirty times slower; here
    they run in float32, and matrices of one shape together.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], momentum: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 1.0, "momentum": momentum, "weight_decay": weight_decay})

    def step(self, closure: None = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        alike = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                alike[matrix.shape].append(matrix)
        for shape, matrices in alike.items():
            updates = _orthogonal(torch.stack([self._moved(m, group["momentum"]) for m in matrices]))
            # as large as an AdamW step would be (Moonshot AI, "Muon is scalable", 2025)
            rate = group["lr"] * 0.2 * math.sqrt(max(shape))
            for matrix, update in zip(matrices, updates, strict=True):
                matrix.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _moved(self, matrix: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov's momentum."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return matrix.grad.lerp(state["momentum_buffer"].lerp_(matrix.grad, 1.0 - momentum), momentum)


def _orthogonal(stack: Tensor, steps: int = 4) -> Tensor:
    """(N, rows, columns): the nearest matrices whose singular values are all about 1."""
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def optimizers(trainee: Trainee) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings, norms, biases and kernels."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in trainee.named_parameters():
        matrix = parameter.dim() == 2 and not name.endswith(("embedding.weight", "kernel"))
        (matrices if matrix else others).append(parameter)
    return [
        Muon(matrices, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate(progress: float, peak: float) -> float:
    """Learning rate: a short rise, a plateau, a linear fall to zero."""
    rise = min(1.0, 0.02 + progress / 0.01)
    fall = min(1.0, (1.0 - progress) / DECAY_STAGE)
    return peak * rise * fall


@dataclass(frozen=True, slots=True)
class Run:
    """What a training depends on. `scale`: images of 256x256 in a step; `peak`: highest learning rate;
    `processes` share a step; `start`: folder of GGUF files to begin from, or empty.
    """

    steps: int
    seed: int
    scale: float
    peak: float
    processes: int
    start: str


def train(run: Run, out: Path) -> None:
    """Train to the end of the run, from the newest checkpoint in `out` if there is one."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = out.resolve() / "meeting"  # where the processes find each other
    meeting.unlink(missing_ok=True)
    multiprocessing.spawn(_train, (run, out, meeting.as_uri()), run.processes)


def _train(rank: int, run: Run, out: Path, meeting: str) -> None:
    """One process's part of the training; the first writes the log and the checkpoints."""
    distributed.init_process_group("gloo", meeting, world_size=run.processes, rank=rank)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(run.seed)
    cv2.setNumThreads(1)
    tokenizer = vocabulary.build()
    shape = Shape()
    trainee = Trainee(shape, tokenizer)
    if run.start:
        files = Path(run.start) / "demo-vl-Q8_0.gguf", Path(run.start) / "mmproj-demo-vl.gguf"
        trainee.model.load_state_dict(load_files(shape, *files).state_dict())
    opts = optimizers(trainee)
    checkpoint, step, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        trainee.load_state_dict(saved["trainee"])
        for opt, state in zip(opts, saved["optimizers"], strict=True):
            opt.load_state_dict(state)
        step, spent = saved["step"], saved["seconds"]
    if rank == 0:
        count = sum(p.numel() for p in trainee.model.parameters())
        print(f"{count:,} parameters, from step {step}", flush=True)
    sums: defaultdict[str, float] = defaultdict(float)
    begin = last = time.monotonic()
    first = step
    fast_bfloat16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    while step < run.steps:
        progress = step / run.steps
        grown = 0.6 + 0.4 * progress if run.start else progress
        language = grown >= VISION_STAGE
        width = float(np.interp(grown, (0.0, 0.6, 0.9), SPREAD))
        batch = make_batch(tokenizer, run, step, grown, rank)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = rate(progress, run.peak)
        with rounded(trainee.model, progress > 1.0 - ROUNDED_STAGE):
            with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16):
                terms = losses(trainee, batch, language, width)
            torch.stack(list(terms.values())).sum().backward()
        _average_gradients(trainee)
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.5)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        step += 1
        if rank:
            continue
        for name, term in terms.items():
            sums[name] += float(term.detach())
        if step % 50 == 0:
            pace = (time.monotonic() - begin) / (step - first)
            left = pace * (run.steps - step) / 60
            shown = " ".join(f"{name} {value / 50:.4f}" for name, value in sums.items())
            print(f"step {step}/{run.steps} {pace:.2f} s/step, {left:.0f} min left: {shown}", flush=True)
            sums.clear()
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


def _average_gradients(trainee: Trainee) -> None:
    """Every process goes on with the mean of all gradients; a head without work in a step counts 0."""
    parameters = list(trainee.parameters())
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
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    parser.add_argument("--from", dest="start", default="", help="folder of GGUF files to begin from")
    a = parser.parse_args()
    print(json.dumps({key: str(value) for key, value in vars(a).items()}), flush=True)
    train(Run(a.steps, a.seed, a.scale, a.rate, a.processes, a.start), a.out)


if __name__ == "__main__":
    main()
