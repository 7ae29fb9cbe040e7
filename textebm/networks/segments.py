"""A latent in segments: M parts of d/M coordinates, each of which says a stretch of the sentence.

One vector of d numbers that a network must fill and read as a whole is learned word by word and place by place. Here
the m-th part is what an encoder reads around the m-th of M stretches of a sentence, by weights that all parts share,
and a decoder looks up the part it needs for the next word, by weights that all parts share again: what was learned of a
word in one place holds in all. The latent is the same flat vector to everything else. Where it has layers, each layer
has M parts, and a segment is the m-th of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_SIZE = 64  # numbers that one attention head compares


def in_segments(flat: Tensor, layers: Sequence[int], segments: int) -> Tensor:
    """(B, d) in layers, top first -> (B, M, d/M): the m-th part of each layer, side by side."""
    return torch.cat([layer.unflatten(1, (segments, -1)) for layer in flat.split(list(layers), dim=1)], dim=-1)


def in_layers(parts: Tensor, layers: Sequence[int]) -> Tensor:
    """`in_segments` undone: (B, M, d/M) -> (B, d)"""
    sizes = [size // parts.shape[1] for size in layers]
    return torch.cat([layer.flatten(1) for layer in parts.split(sizes, dim=-1)], dim=1)


class SegmentPooling(nn.Module):
    """Outputs at each word (B, T, H) -> a feature for each segment, (B, M·H): weighted means over the words.

    The weight of word i for segment m is a softmax over the words of −((i + ½)/L − c_m)² / 2w_m², a Gaussian window at
    relative place c_m of width w_m (at first (m + ½)/M and 1/M), plus a learned score of what stands there.
    """

    def __init__(self, size: int, segments: int):
        super().__init__()
        self.centre = nn.Parameter((torch.arange(segments) + 0.5) / segments)
        self.log_width = nn.Parameter(torch.full((segments,), 1.0 / segments).log())
        self.content = nn.Linear(size, segments, bias=False)
        nn.init.zeros_(self.content.weight)

    def forward(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """outputs (B, T, H), lengths (B,) -> (B, M·H)"""
        with torch.autocast(outputs.device.type, enabled=False):
            outputs = outputs.float()
            steps = torch.arange(outputs.shape[1], device=outputs.device)
            place = (steps + 0.5) / lengths[:, None]  # (B, T)
            distance = (place[..., None] - self.centre) / self.log_width.exp()
            score = self.content(outputs) - 0.5 * distance.square()  # (B, T, M)
            score = score.masked_fill((steps >= lengths[:, None])[..., None], -torch.inf)
            return (score.softmax(1).transpose(1, 2) @ outputs).flatten(1)


class SegmentLinear(nn.Module):
    """Features (B, M·F + C) -> (B, d): each segment's d/M coordinates from its own features by one shared map, from the
    context behind them by a map of its own, and a bias for each coordinate. features: M·F; layers: sizes, top first."""

    def __init__(self, features: int, layers: Sequence[int], segments: int, context: int = 0):
        super().__init__()
        self.segments, self.layers, dim = segments, tuple(layers), sum(layers)
        self.width = features
        self.shared = nn.Linear(features // segments, dim // segments, bias=False)
        self.context = nn.Linear(context, dim, bias=False) if context else None
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        parts = self.shared(features[:, : self.width].unflatten(1, (self.segments, -1)))
        told = in_layers(parts, self.layers) + self.bias
        return told if self.context is None else told + self.context(features[:, self.width :])


class SegmentAttention(nn.Module):
    """Decoder states (B, T, H) look up the segments of a latent (Vaswani et al. 2017, section 3.2.2).

    Each segment's coordinates, with a vector for its place, pass one shared hidden layer to keys and values. layers:
    sizes of the latent's layers, top first; what stands behind them in z, a context, is not looked up.
    """

    def __init__(self, layers: Sequence[int], segments: int, hidden_size: int, out_size: int, *, num_heads: int = 4):
        super().__init__()
        size = HEAD_SIZE * num_heads
        self.layers, self.dim, self.segments, self.num_heads = tuple(layers), sum(layers), segments, num_heads
        self.coordinates = nn.Linear(self.dim // segments, size)
        self.place = nn.Parameter(torch.randn(segments, size) * 0.5)
        self.key, self.value = nn.Linear(size, size, bias=False), nn.Linear(size, size)
        self.query = nn.Linear(hidden_size, size)
        self.out = nn.Linear(size, out_size)

    def entries(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, ≥ d) -> keys and values, (B, heads, M, HEAD_SIZE) each."""
        parts = in_segments(z[:, : self.dim], self.layers, self.segments)
        told = F.silu(self.coordinates(parts) + self.place)
        return self._by_head(self.key(told)), self._by_head(self.value(told))

    def forward(self, states: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """states (B, T, H) and what `entries` gave -> (B, T, E)"""
        query = self._by_head(self.query(states))
        found = F.scaled_dot_product_attention(query, keys.to(query.dtype), values.to(query.dtype))
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, heads · HEAD_SIZE) -> (B, heads, T, HEAD_SIZE)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
