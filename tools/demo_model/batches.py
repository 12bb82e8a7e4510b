# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes, their lessons and commands as tensors: one training step's batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from demo_model import tokenizer as vocabulary
from demo_model.commands import trained_command
from lfm_perception.commands import TOOLS, tool_list
from lfm_perception.demo.bodies import EASY, HARD, LABELS, SEQUENCE
from lfm_perception.demo.questions import Lesson, lesson
from lfm_perception.demo.scene_questions import MIN_HELMET_HEIGHT_PX, NOTHING, neighbour, scene_questions
from lfm_perception.demo.world import Snapshot, TrueObject, crop, still
from lfm_perception.geometry import Box

RANKS = 12
ATTRIBUTES = ("brown", "blue", "grey", "yellow", "red", "orange", "green", "helmet", "no helmet")

COMMON_SIZES = ((256, 256),) * 3 + (
    *((320, 256), (256, 192), (384, 288), (384, 288), (512, 384), (512, 384), (320, 192), (256, 320)),
    *((448, 256), (576, 416), (640, 352), (256, 128), (192, 192)),
)
"""Pixels, width and height: what the planner makes of the usual cameras under the usual budgets."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a training depends on. `scale`: images of 256x256 in a step; `lessons`: share of
    them with a request for boxes or a caption; `questions`: typed questions about each of them; `commands`:
    commands in every other step; `peak`: highest learning rate; `processes` share a step; `start`: folder of
    GGUF files to begin from, or empty; `device`: of PyTorch; `renderers`: processes that make the batches
    ahead, 0: those that train.
    """

    steps: int
    seed: int
    scale: float
    lessons: float
    questions: int
    commands: int
    peak: float
    processes: int
    start: str
    device: str = "cpu"
    renderers: int = 0


@dataclass(frozen=True, slots=True)
class Turns:
    """User turns with their answers, each after the beginning of its text: token ids (N, T), and for each
    place the token that it predicts, -100 outside the answers; shortest first. `start` (N) is the number of
    the beginning that a turn goes on from, `order` the number of the turn among those that were given, and
    `look` (N) the place in its beginning of what it names, -1 where nothing says which that is.
    """

    ids: Tensor
    targets: Tensor
    lengths: list[int]
    start: Tensor
    order: list[int]
    look: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's images (B), and the lessons about the first of them, shortest first.

    `ids` (L, T) holds the image's places and the padding after `lengths`. `answer` (N, 2) are the rows
    and positions that predict the answer's tokens; `numbers` (N, 2) the coordinates there and the
    extents of their boxes (-1: none) and `tables` (N) which spelling they use. `centres` (M, 3) are row,
    image token and rank of the objects, `openings` (K, 2) row and position where an object begins in
    the answer. `centre_attribute` (M) is the colour or helmet, -1 where there is none; `centre_neighbour`
    (M, 2) the class of the next object to the left and to the right, counted from 1, 0 for nothing, -1 where
    it is not clear. `questions` go on from the images, `commands` from `tools` (1, S).
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
    centre_attribute: Tensor
    centre_neighbour: Tensor
    openings: Tensor
    opening_class: Tensor
    opening_box: Tensor
    questions: Turns
    tools: Tensor
    commands: Turns

    def to(self, device: str) -> Batch:
        """The batch with its tensors on a device."""
        return _moved(self, device)


Moved = TypeVar("Moved", Batch, Turns)


def _moved(parts: Moved, device: str) -> Moved:
    moved = {}
    for entry in fields(parts):
        value = getattr(parts, entry.name)
        if isinstance(value, Tensor):
            moved[entry.name] = value.to(device, non_blocking=True)
        elif isinstance(value, Turns):
            moved[entry.name] = _moved(value, device)
    return replace(parts, **moved)


def make_batch(tokenizer: Tokenizer, run: Run, step: int, progress: float, rank: int) -> Batch:
    """The scenes and questions of one step for the process `rank`; all have the same size of image."""
    width, height = _size(random.Random(f"{run.seed} {step}"), progress)
    rng = random.Random(f"{run.seed} {step} {rank}")
    count = max(2, round(run.scale / run.processes * min(1.0, 65_536 / (width * height))))
    lessons = [(snapshot := scene(rng, width, height), lesson(rng, snapshot)) for _ in range(count)]
    asked = max(1, round(run.lessons * count))
    first = sorted(lessons[:asked], key=lambda pair: len(pair[1].answer) + 2 * len(pair[1].prompt.system))
    snapshots = [snapshot for snapshot, _ in (*first, *lessons[asked:])]
    typed, look, first_token = [], [], len(start_of_image(tokenizer))
    for row, snapshot in enumerate(snapshots):
        cells = {index: cell for cell, index in _centre_cells(snapshot, width // 32, height // 32).items()}
        for question in scene_questions(rng, snapshot, run.questions):
            typed.append((row, question.text, question.answer))
            cell = cells.get(snapshot.objects.index(question.beside)) if question.beside else None
            look.append(-1 if cell is None else first_token + cell)
    said = [trained_command(rng) for _ in range(run.commands // run.processes * (step % 2))]
    return collate(
        tokenizer,
        snapshots,
        [each for _, each in first],
        turns(tokenizer, IMAGE_TURN, typed, look),
        start_of_commands(tokenizer),
        turns(tokenizer, TEXT_TURN, [(0, each.text, each.answer) for each in said]),
    )


def scene(rng: random.Random, width: int, height: int) -> Snapshot:
    """A scene of the training: whole, whole with small bodies, a part of a larger one, or around an object.

    The parts teach that what counts is the size in pixels of the picture, not relative to it.
    """
    difficulty = rng.choices((EASY, HARD, SEQUENCE), (42, 36, 22))[0]
    labels: Sequence[str] = LABELS
    if rng.random() < 0.2:  # crowds of few kinds, to count
        difficulty, labels = HARD, rng.sample(LABELS, rng.choice((1, 1, 2)))
    elif rng.random() < 0.12:  # people before and behind a forklift
        difficulty, labels = replace(SEQUENCE, max_objects=4), ("person", "forklift")
    kind = rng.random()
    if kind < 0.55:
        return still(rng, width, height, difficulty, labels)
    if kind < 0.65:
        small = replace(difficulty, far=rng.uniform(0.12, 0.3), near=rng.uniform(0.4, 0.9))
        return still(rng, width, height, small, labels)
    if kind < 0.9:
        share = 0.5 if rng.random() < 0.5 else rng.uniform(0.3, 0.85)
        whole = still(rng, round(width / share), round(height / share), difficulty, labels)
        left, top = rng.uniform(0.0, 1.0 - share), rng.uniform(0.0, 1.0 - share)
        return crop(whole, Box(left, top, left + share, top + share), width, height)
    whole = still(rng, 2 * width, 2 * height, difficulty, labels)
    if not whole.objects:
        return crop(whole, Box(0.0, 0.0, 1.0, 1.0), width, height)
    return crop(whole, _around(rng, rng.choice(whole.objects).box), width, height)


def _around(rng: random.Random, box: Box) -> Box:
    """A region of the image's aspect with the box inside, and a margin of a tenth to two thirds of it."""
    side = max(box.x2 - box.x1, box.y2 - box.y1)
    side = min(1.0, side * (1.0 + 2.0 * rng.uniform(0.1, 0.65)))
    left = min(max((box.x1 + box.x2 - side) / 2.0, 0.0), 1.0 - side)
    top = min(max((box.y1 + box.y2 - side) / 2.0, 0.0), 1.0 - side)
    return Box(left, top, left + side, top + side)


def _size(rng: random.Random, progress: float) -> tuple[int, int]:
    if progress < 0.3 or rng.random() < 0.25:
        return 256, 256
    if rng.random() < 0.75:
        return rng.choice(COMMON_SIZES)
    while True:
        columns, rows = rng.randint(4, 20), rng.randint(4, 16)
        if 32 <= columns * rows <= 256 and 0.5 <= columns / rows <= 2.2:
            return 32 * columns, 32 * rows


IMAGE_TURN = "<|image_end|>{}<|im_end|>\n<|im_start|>assistant\n"
TEXT_TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""A user's turn after an image, and one after a system turn, up to the answer."""


def turns(
    tokenizer: Tokenizer, template: str, pairs: Sequence[tuple[int, str, str]], look: Sequence[int] = ()
) -> Turns:
    """Numbers of beginnings, texts of users and answers as tensors; `look` as in Turns, or empty."""
    encoded = [
        (_ids(tokenizer, template.format(text)), [*_ids(tokenizer, answer), vocabulary.IM_END])
        for _, text, answer in pairs
    ]
    order = sorted(range(len(pairs)), key=lambda index: sum(map(len, encoded[index])))
    lengths = [sum(map(len, encoded[index])) for index in order]
    ids = torch.full((len(order), max(lengths, default=1)), vocabulary.PAD)
    targets = torch.full_like(ids, -100)
    for row, index in enumerate(order):
        turn, answer = encoded[index]
        ids[row, : lengths[row]] = torch.tensor(turn + answer)
        targets[row, len(turn) - 1 : lengths[row] - 1] = torch.tensor(answer)
    start = torch.tensor([pairs[index][0] for index in order], dtype=torch.long)
    looked = torch.tensor([look[index] if look else -1 for index in order], dtype=torch.long)
    return Turns(ids, targets, lengths, start, order, looked)


def start_of_commands(tokenizer: Tokenizer) -> Tensor:
    """Token ids (1, S) of the system turn that lists the tools."""
    system = f"<|im_start|>system\n{tool_list(TOOLS)}<|im_end|>\n"
    return torch.tensor([[vocabulary.BOS, *_ids(tokenizer, system)]])


def start_of_image(tokenizer: Tokenizer) -> list[int]:
    """Token ids before an image that begins the conversation."""
    return [vocabulary.BOS, *_ids(tokenizer, "<|im_start|>user\n<|image_start|>")]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def collate(
    tokenizer: Tokenizer,
    snapshots: Sequence[Snapshot],
    lessons: Sequence[Lesson],
    questions: Turns,
    tools: Tensor,
    commands: Turns,
) -> Batch:
    """One step's batch; the lessons are about the first of the snapshots."""
    height, width, _ = snapshots[0].frame.image.shape
    rows, columns = height // 32, width // 32
    sequences: list[list[int]] = []
    answer, numbers, tables = [], [], []
    openings, opening_class, opening_box = [], [], []
    centres, centre_class, centre_box, centre_attribute, centre_neighbour = [], [], [], [], []
    patch_class, patch_box = [], []
    for row, (snapshot, asked) in enumerate(zip(snapshots, lessons, strict=False)):
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
    for row, snapshot in enumerate(snapshots):
        for cell, index in _centre_cells(snapshot, columns, rows).items():
            thing = snapshot.objects[index]
            centres.append((row, cell, min(index, RANKS - 1)))
            centre_class.append(LABELS.index(thing.label))
            centre_box.append(thing.box.xyxy)
            centre_attribute.append(_attribute(thing, height))
            centre_neighbour.append([_neighbour(snapshot, thing, side) for side in ("left", "right")])
        kinds, boxes = _patches(snapshot)
        patch_class.append(kinds)
        patch_box.append(boxes)
    length = max(map(len, sequences))
    padded = [sequence + [vocabulary.PAD] * (length - len(sequence)) for sequence in sequences]
    box = lambda boxes: torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))  # noqa: E731
    return Batch(
        images=torch.from_numpy(np.stack([snapshot.frame.image for snapshot in snapshots])),
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
        centre_attribute=torch.tensor(centre_attribute, dtype=torch.long),
        centre_neighbour=torch.tensor(centre_neighbour, dtype=torch.long).reshape(-1, 2),
        openings=torch.tensor(openings, dtype=torch.long).reshape(-1, 2),
        opening_class=torch.tensor(opening_class, dtype=torch.long),
        opening_box=box(opening_box),
        questions=questions,
        tools=tools,
        commands=commands,
    )


def _attribute(thing: TrueObject, height: int) -> int:
    """Index into ATTRIBUTES; -1 where there is none, or the person is too small for it to be seen."""
    if thing.helmet is not None and (thing.box.y2 - thing.box.y1) * height >= MIN_HELMET_HEIGHT_PX:
        return ATTRIBUTES.index("helmet" if thing.helmet else "no helmet")
    return ATTRIBUTES.index(thing.colour) if thing.colour else -1


def _neighbour(snapshot: Snapshot, thing: TrueObject, side: str) -> int:
    label = neighbour(snapshot, thing, side)
    return -1 if label is None else 0 if label == NOTHING else 1 + LABELS.index(label)


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
