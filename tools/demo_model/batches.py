# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes and their lessons as tensors: one training step's batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from demo_model import tokenizer as vocabulary
from lfm_perception.demo.bodies import EASY, HARD, LABELS, SEQUENCE
from lfm_perception.demo.questions import Lesson, lesson
from lfm_perception.demo.world import Snapshot, still

RANKS = 12

COMMON_SIZES = ((256, 256),) * 3 + (
    *((320, 256), (256, 192), (384, 288), (384, 288), (512, 384), (512, 384), (320, 192), (256, 320)),
    *((448, 256), (576, 416), (640, 352), (256, 128), (192, 192)),
)
"""Pixels, width and height: what the planner makes of the usual cameras under the usual budgets."""


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


def make_batch(tokenizer: Tokenizer, run: Run, step: int, progress: float, rank: int) -> Batch:
    """The scenes and questions of one step for the process `rank`; all have the same size of image."""
    width, height = _size(random.Random(f"{run.seed} {step}"), progress)
    rng = random.Random(f"{run.seed} {step} {rank}")
    count = max(2, round(run.scale / run.processes * min(1.0, 65_536 / (width * height))))
    snapshots = [
        still(rng, width, height, rng.choices((EASY, HARD, SEQUENCE), (42, 36, 22))[0]) for _ in range(count)
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
