"""A word drawn from the softmax of a large vocabulary, with one random number a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 128  # rows whose logits are made at once, so that they stay in the cache


def draw(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Index of each row drawn by its probabilities (B, V), which need not sum to 1. -> (B,) int64

    The inverse of the distribution function at a uniform number. `torch.multinomial` draws an exponential number for
    each entry instead, which costs several times the softmax.
    """
    reached = probabilities.cumsum(-1)
    total = reached[:, -1:]
    wanted = torch.rand(len(probabilities), generator=generator, device=probabilities.device)[:, None] * total
    below = torch.nextafter(total, torch.zeros_like(total))  # rounding may have reached the total
    return torch.searchsorted(reached, torch.minimum(wanted, below), right=True)[:, 0]


class DrawnWord:
    """A word of each row of hidden (B, E), with probabilities softmax((h Wᵀ + b) / temperature) in float32 over all but
    those *banned*. -> (B,) int64"""

    def __init__(self, weight: Tensor, bias: Tensor, banned: Sequence[int], temperature: float = 1.0):
        self.weight, self.bias = weight.detach(), bias.detach().float() / temperature
        self.bias[list(banned)] = -torch.inf
        self.temperature = temperature

    def __call__(self, hidden: Tensor, generator: torch.Generator | None = None) -> Tensor:
        rows = CHUNK if hidden.device.type == "cpu" else max(len(hidden), 1)
        drawn = [
            draw(F.linear(chunk / self.temperature, self.weight).float().add_(self.bias).softmax(-1), generator)
            for chunk in hidden.split(rows)
        ]
        return torch.cat(drawn)
