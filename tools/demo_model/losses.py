# SPDX-License-Identifier: Apache-2.0
"""The trainee and its losses: the answers' tokens, and the auxiliary heads that only training uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as fn

from demo_model import tokenizer as vocabulary
from demo_model.batches import ATTRIBUTES, RANKS, Batch, Turns, start_of_image
from demo_model.network import Memory, Shape, VisionLanguageModel
from lfm_perception.demo.bodies import LABELS

BINS = 1000

LOGIT_SCALE = 1e-3
"""Weight of the squared log-sum-exp of the logits. Probabilities do not depend on it, but a repetition
penalty does: it divides logits, and must find them near 0."""

GROUPS = {"cpu": 8, "cuda": 2}
"""Most groups in which texts of like length are read, by device: more save padding; a GPU waits at each."""

LOOKING = ((1, 4), (2, 3))
"""Numbers of attention layers and heads that are taught to look, before the answer, at the object whose
neighbour is asked for (after L. Liu et al., "Neural Machine Translation with Supervised Attention", 2016),
and to find its neighbours there. Left to themselves, they look at all objects: where the answer was wrong,
the one that the question names got 2% of the weight."""
LOOK = 0.5

SMALL = 0.03
"""Errors of coordinates are weighed by the extent of their box, which is what IoU does, down to this."""


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
        self.centre_attribute = nn.Linear(shape.hidden, len(ATTRIBUTES))
        self.centre_neighbour = nn.Linear(shape.hidden, 2 * (1 + len(LABELS)))
        self.opening_head = nn.Linear(shape.hidden, len(LABELS) + 4)
        self.look_neighbour = nn.ModuleList(
            nn.Linear(shape.head_size, 2 * (1 + len(LABELS))) for _ in LOOKING
        )
        ids = [[tokenizer.token_to_id(form.format(n)) for n in range(BINS)] for form in ("{:03d}", "{}")]
        self.register_buffer("tables", torch.tensor(ids), persistent=False)
        self.register_buffer("image_start", torch.tensor(start_of_image(tokenizer)), persistent=False)
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


def losses(
    trainee: Trainee, batch: Batch, language: bool, width: float, settling: bool = False
) -> dict[str, Tensor]:
    """Weighted loss terms; those of the training heads alone are enough while these are settling.

    `width`: spread of the soft coordinate targets, in bins.
    """
    features, tokens = trainee.model.see(batch.images)
    terms = _vision_losses(trainee, batch, features, tokens, width)
    if language:
        terms |= _language_losses(trainee, batch, tokens, width)
    if language and not settling:
        if len(batch.questions.ids):
            start = trainee.model.language.embedding(trainee.image_start)
            seen = torch.cat((start[None].expand(len(tokens), -1, -1).to(tokens.dtype), tokens), 1)
            memories = trainee.model.language.remember(seen)
            terms["questions"], missed = _answer_losses(
                trainee.model, memories, seen.shape[1], batch.questions
            )
            if len(missed):
                terms["look"] = LOOK * missed.mean()
            if (batch.centre_neighbour >= 0).any():
                terms["look_neighbour"] = _neighbour_loss(trainee, memories, batch)
        if len(batch.commands.ids):
            tools = trainee.model.language.embedding(batch.tools)
            memories = trainee.model.language.remember(tools)
            terms["commands"] = (
                0.5 * _answer_losses(trainee.model, memories, tools.shape[1], batch.commands)[0]
            )
    return terms


def _neighbour_loss(trainee: Trainee, memories: Sequence[Memory], batch: Batch) -> Tensor:
    """Of the values that the heads of LOOKING find at each object: its neighbours must be told by them."""
    row, cell, _ = batch.centres.T
    values = [
        memory[1] for memory, kind in zip(memories, trainee.model.shape.layers, strict=True) if kind == "a"
    ]
    loss = torch.zeros(())
    for (layer, head), told in zip(LOOKING, trainee.look_neighbour, strict=True):
        sides = told(values[layer][row, head, len(trainee.image_start) + cell]).float().unflatten(-1, (2, -1))
        loss = loss + fn.cross_entropy(
            sides.flatten(0, 1), batch.centre_neighbour.flatten(), ignore_index=-1
        ) / len(LOOKING)
    return loss


def _answer_losses(
    model: VisionLanguageModel, memories: Sequence[Memory], place: int, turns: Turns
) -> tuple[Tensor, Tensor]:
    """Cross entropy per answer of turns that go on at `place` from beginnings that were read, and those of
    the weights with which they look at what they name.
    """
    hidden, targets, looks = read_answers(model, memories, place, turns)
    logits = model.logits(hidden)
    total = logits.logsumexp(-1)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    entropy = (total - chosen).sum() / len(turns.ids) + LOGIT_SCALE * total.square().mean()
    return entropy, -looks.clamp(min=1e-6).log()


def read_answers(
    model: VisionLanguageModel, memories: Sequence[Memory], place: int, turns: Turns
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (M, hidden) that predict the answers' tokens, these (M), turn by turn, and the weights
    (K, LOOKING) that the last place of a question gives to what it names.

    Turns of like length are read together.
    """
    size = max(16, -(-len(turns.ids) // GROUPS[turns.ids.device.type]))
    states, tokens, looks = [], [], []
    for first in range(0, len(turns.ids), size):
        rows = slice(first, first + size)
        length = max(turns.lengths[rows])
        embedded = model.language.embedding(turns.ids[rows, :length])
        seen: list[Tensor] = []
        hidden = model.language.after(memories, turns.start[rows], place, embedded, seen)
        targets = turns.targets[rows, :length]
        last, look = (targets >= 0).int().argmax(1), turns.look[rows]
        (asked,) = torch.where(look >= 0)
        looks.append(
            torch.stack([seen[layer][asked, head, last[asked], look[asked]] for layer, head in LOOKING], 1)
        )
        states.append(hidden[targets >= 0])
        tokens.append(targets[targets >= 0])
    return torch.cat(states), torch.cat(tokens), torch.cat(looks)


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
        attribute = batch.centre_attribute
        if (attribute >= 0).any():
            guess = trainee.centre_attribute(at).float()
            terms["centre_attribute"] = 0.5 * fn.cross_entropy(guess, attribute, ignore_index=-1)
        if (batch.centre_neighbour >= 0).any():
            sides = trainee.centre_neighbour(at).float().unflatten(-1, (2, -1))
            terms["centre_neighbour"] = fn.cross_entropy(
                sides.flatten(0, 1), batch.centre_neighbour.flatten(), ignore_index=-1
            )
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


def _read_in_groups(model: VisionLanguageModel, batch: Batch, tokens: Tensor) -> Tensor:
    """Hidden states (B, T, hidden), a few rows of like length at a time: a third less padding."""
    size = max(4, -(-len(batch.ids) // GROUPS[batch.ids.device.type]))
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
