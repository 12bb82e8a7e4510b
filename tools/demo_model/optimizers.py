# SPDX-License-Identifier: Apache-2.0
"""Muon and AdamW, and weights rounded to 4 bits while they are trained."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from demo_model.losses import Trainee
from demo_model.network import VisionLanguageModel


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
        for place, (shape, matrices) in enumerate(alike.items()):
            updates = _shared_out(torch.stack([self._moved(m, group["momentum"]) for m in matrices]), place)
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


def _shared_out(stack: Tensor, place: int) -> Tensor:
    """`_orthogonal` of the stack, of which each process computes its share; `place` says who begins."""
    if not distributed.is_initialized():
        return _orthogonal(stack)
    size = distributed.get_world_size()
    mine = slice((distributed.get_rank() + place) % size, None, size)
    updates = torch.zeros_like(stack)
    if len(stack[mine]):
        updates[mine] = _orthogonal(stack[mine])
    distributed.all_reduce(updates)
    return updates


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
