# SPDX-License-Identifier: Apache-2.0
"""The LFM2-VL architecture in plain PyTorch, in any size, for training and for exact export.

A SigLIP2 NaFlex tower (patch 16, learned positions resized to the patch grid), a projector over 2x2
unshuffled patches, and the LFM2 hybrid language model (gated short convolutions and grouped-query
attention with normalized queries and keys, rotary positions, SwiGLU, tied embeddings). The forward
passes equal llama.cpp's; `test_demo_model` and the model card say how closely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

PATCH = 16
UNSHUFFLE = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network. `layers`: one letter a layer, c for short convolution, a for attention."""

    vocabulary: int = 2560
    hidden: int = 192
    layers: str = "cacaca"
    feed_forward: int = 768
    heads: int = 6
    kv_heads: int = 3
    conv_length: int = 3
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    tower_hidden: int = 192
    tower_layers: int = 7
    tower_feed_forward: int = 512
    tower_heads: int = 3
    tower_grid: int = 16
    tower_eps: float = 1e-6
    projector_hidden: int = 256

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


class TowerLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        size = shape.tower_hidden
        self.heads = shape.tower_heads
        self.norm1 = nn.LayerNorm(size, shape.tower_eps)
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.norm2 = nn.LayerNorm(size, shape.tower_eps)
        self.up = nn.Linear(size, shape.tower_feed_forward)
        self.down = nn.Linear(shape.tower_feed_forward, size)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        query, key, value = (_heads(part(normed), self.heads) for part in (self.query, self.key, self.value))
        attended = _attend(query, key, value)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(fn.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Tower(nn.Module):
    """Patches (B, rows, columns, 768) with values in -1..1 to features (B, rows, columns, hidden)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch = nn.Linear(3 * PATCH * PATCH, shape.tower_hidden)
        self.position = nn.Parameter(torch.zeros(shape.tower_grid, shape.tower_grid, shape.tower_hidden))
        self.layers = nn.ModuleList(TowerLayer(shape) for _ in range(shape.tower_layers))
        self.norm = nn.LayerNorm(shape.tower_hidden, shape.tower_eps)

    def forward(self, patches: Tensor) -> Tensor:
        _, rows, columns, _ = patches.shape
        grid = self.position.permute(2, 0, 1)[None]
        if (rows, columns) != tuple(self.position.shape[:2]):
            grid = fn.interpolate(grid, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
        x = (self.patch(patches) + grid[0].permute(1, 2, 0)).flatten(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).unflatten(1, (rows, columns))


Memory = tuple[Tensor, ...]
"""What a layer keeps of a text that it has read: keys and values (B, heads, T, size), or a convolution's last
gated values (B, length - 1, hidden). A memory of one text serves any number of texts that go on from it."""


class ShortConvolution(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.inner = nn.Linear(shape.hidden, 3 * shape.hidden, bias=False)
        self.kernel = nn.Parameter(torch.randn(shape.hidden, shape.conv_length) * shape.conv_length**-0.5)
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(
        self, x: Tensor, _: tuple[Tensor, Tensor], before: Memory, seen: list[Tensor] | None = None
    ) -> tuple[Tensor, Memory]:
        gate_in, gate_out, value = self.inner(x).chunk(3, dim=-1)
        gated = gate_in * value
        length = self.kernel.shape[1]
        padded = torch.cat((*before, gated), 1) if before else fn.pad(gated, (0, 0, length - 1, 0))
        mixed = sum(padded[:, i : i + x.shape[1]] * self.kernel[:, i].to(x.dtype) for i in range(length))
        return self.out(gate_out * mixed), (padded[:, 1 - length :],)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.query = nn.Linear(shape.hidden, shape.heads * shape.head_size, bias=False)
        self.key = nn.Linear(shape.hidden, shape.kv_heads * shape.head_size, bias=False)
        self.value = nn.Linear(shape.hidden, shape.kv_heads * shape.head_size, bias=False)
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.query_norm = nn.RMSNorm(shape.head_size, shape.norm_eps)
        self.key_norm = nn.RMSNorm(shape.head_size, shape.norm_eps)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], before: Memory, seen: list[Tensor] | None = None
    ) -> tuple[Tensor, Memory]:
        query = _rotate(self.query_norm(_heads(self.query(x), self.heads).float()), rotation)
        key = _rotate(self.key_norm(_heads(self.key(x), self.kv_heads).float()), rotation)
        value = _heads(self.value(x), self.kv_heads)
        shared = self.heads // self.kv_heads
        key, value = (part.repeat_interleave(shared, dim=1).to(value.dtype) for part in (key, value))
        if before:
            key, value = torch.cat((before[0], key), 2), torch.cat((before[1], value), 2)
        length, whole = x.shape[1], key.shape[2]
        future = torch.ones(length, whole, dtype=torch.bool).triu(1 + whole - length)
        attended = _attend(query.to(value.dtype), key, value, future, seen)
        return self.out(attended.transpose(1, 2).flatten(2)), (key, value)


class Layer(nn.Module):
    def __init__(self, shape: Shape, kind: str) -> None:
        super().__init__()
        self.operator_norm = nn.RMSNorm(shape.hidden, shape.norm_eps)
        self.operator = ShortConvolution(shape) if kind == "c" else Attention(shape)
        self.feed_forward_norm = nn.RMSNorm(shape.hidden, shape.norm_eps)
        self.gate = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], before: Memory, seen: list[Tensor] | None = None
    ) -> tuple[Tensor, Memory]:
        mixed, memory = self.operator(self.operator_norm(x), rotation, before, seen)
        x = x + mixed
        normed = self.feed_forward_norm(x)
        return x + self.down(fn.silu(self.gate(normed)) * self.up(normed)), memory


class LanguageModel(nn.Module):
    """Embeddings (B, T, hidden) to normed hidden states (B, T, hidden); logits by the tied embedding.

    `after` goes on from texts that were read before, once for all of their continuations.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, kind) for kind in shape.layers)
        self.norm = nn.RMSNorm(shape.hidden, shape.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self._read(x, 0, [()] * len(self.layers))[0]

    def remember(self, x: Tensor) -> list[Memory]:
        """What the layers keep of beginnings of texts, embeddings (B, S, hidden)."""
        return self._read(x, 0, [()] * len(self.layers))[1]

    def after(
        self,
        memories: Sequence[Memory],
        start: Tensor,
        place: int,
        x: Tensor,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states of embeddings (N, T, hidden), each of which goes on at `place` from one of the
        beginnings, whose number stands in `start` (N). `seen` receives the weights (N, heads, T, place + T)
        of each attention layer.
        """
        chosen = [tuple(part[start] for part in memory) for memory in memories]
        return self._read(x, place, chosen, seen)[0]

    def _read(
        self, x: Tensor, place: int, memories: Sequence[Memory], seen: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Memory]]:
        """Hidden states and memories of a text that begins at `place`."""
        half = self.shape.head_size // 2
        frequency = self.shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
        places = torch.arange(place, place + x.shape[1], dtype=torch.float32)
        angle = torch.outer(places, frequency)
        rotation = (angle.cos(), angle.sin())
        kept = []
        for layer, before in zip(self.layers, memories, strict=True):
            x, memory = layer(x, rotation, before, seen)
            kept.append(memory)
        return self.norm(x), kept


class VisionLanguageModel(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tower = Tower(shape)
        self.project_in = nn.Linear(UNSHUFFLE * UNSHUFFLE * shape.tower_hidden, shape.projector_hidden)
        self.project_out = nn.Linear(shape.projector_hidden, shape.hidden)
        self.language = LanguageModel(shape)

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3) uint8, sides multiples of 32, to tower features (B, H/16, W/16, tower
        hidden) and image tokens (B, H/32 * W/32, hidden), row by row.
        """
        features = self.tower(patchify(images))
        tiles = features.unflatten(1, (-1, UNSHUFFLE)).unflatten(3, (-1, UNSHUFFLE))
        merged = tiles.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)
        return features, self.project_out(fn.gelu(self.project_in(merged), approximate="tanh"))

    def read(self, ids: Tensor, image_tokens: Tensor, image_id: int) -> Tensor:
        """Hidden states (B, T, hidden) of token ids (B, T) whose `image_id` places hold the image."""
        embedded = self.language.embedding(ids)
        places = (ids == image_id)[..., None].expand_as(embedded)
        mixed = embedded.masked_scatter(places, image_tokens.to(embedded.dtype))
        hidden: Tensor = self.language(mixed)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        # the sums over all tokens that follow need more than the digits of bfloat16
        return (hidden @ self.language.embedding.weight.T).float()


def grown(model: VisionLanguageModel, shape: Shape) -> VisionLanguageModel:
    """A larger network that computes the same, with wider feed-forward parts or more layers at the ends.

    What is new adds nothing at first, because the matrices that it ends in are zero (as in T. Chen et al.,
    "Net2Net", 2016).
    """
    larger = VisionLanguageModel(shape)
    before = model.state_dict()
    with torch.no_grad():
        for name, weight in larger.state_dict().items():
            part = name.split(".")[-2]
            if part == "down" or (part == "out" and name not in before):
                weight.zero_()
            if name in before:
                weight[tuple(map(slice, before[name].shape))] = before[name]
    return larger


def patchify(images: Tensor) -> Tensor:
    """Images (B, H, W, 3) uint8 to patches (B, H/16, W/16, 768) in -1..1."""
    scaled = images.float().mul(1 / 127.5).sub(1.0)
    patches = scaled.unflatten(1, (-1, PATCH)).unflatten(3, (-1, PATCH))
    return patches.permute(0, 1, 3, 2, 4, 5).flatten(3)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor | None = None,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """Softmax attention, written out: in bfloat16 on a CPU it trains faster than the fused kernels."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    if seen is not None:
        seen.append(weights)
    return weights.to(value.dtype) @ value


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
