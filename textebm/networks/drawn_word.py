"""A word drawn from the softmax of a large vocabulary, with one random number a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128
CHUNK = 128  # rows whose logits are made at once, so that they stay in the cache


def draw(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Index of each row drawn by its probabilities (B, V), which need not sum to 1. -> (B,) int64

    The inverse of the distribution function at a uniform number: first among the sums of blocks, then within the block.
    `torch.multinomial` draws an exponential number for each entry instead, which costs several times the softmax.
    """
    rows, size = probabilities.shape
    blocks = F.pad(probabilities, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    block, rest = _invert(blocks.sum(-1), torch.rand(rows, generator=generator, device=probabilities.device))
    inside = blocks[torch.arange(rows, device=block.device), block]
    place, _ = _invert(inside, rest)
    return block * BLOCK + place


def _invert(weights: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The entry of each row of weights (B, N) in which *share* (B,) in [0, 1) of their sum is reached, and how far into
    it, as a share of it. An entry of weight 0 is never one."""
    reached = weights.cumsum(-1)
    total = reached[:, -1:]
    wanted = torch.minimum(share[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding
    place = torch.searchsorted(reached, wanted, right=True)
    here = weights.gather(1, place)
    rest = (wanted - (reached.gather(1, place) - here)) / here
    return place[:, 0], rest[:, 0].clamp(0, 1)


class DrawnWord:
    """A word of each row of hidden (B, E), with probabilities softmax((h Wᵀ + b) / temperature) in float32 over all but
    those *banned*. -> (B,) int64"""

    def __init__(self, weight: Tensor, bias: Tensor, banned: Sequence[int], temperature: float = 1.0):
        more = -len(weight) % BLOCK
        self.weight = F.pad(weight.detach(), (0, 0, 0, more))
        self.bias = F.pad(bias.detach().float() / temperature, (0, more), value=-torch.inf)
        self.bias[list(banned)] = -torch.inf
        self.temperature = temperature

    def __call__(self, hidden: Tensor, generator: torch.Generator | None = None) -> Tensor:
        rows = CHUNK if hidden.device.type == "cpu" else len(hidden)
        drawn = [
            draw(F.linear(part / self.temperature, self.weight).float().add_(self.bias).softmax(-1), generator)
            for part in hidden.split(max(rows, 1))
        ]
        return torch.cat(drawn)
