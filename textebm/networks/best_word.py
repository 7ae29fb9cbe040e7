"""The most probable word of a large vocabulary, found in bfloat16 and settled in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.networks.hardware import has_bfloat16_products
from textebm.networks.softmax import ROWS

BLOCK = 128
CANDIDATES = 8


class BestWord:
    """argmax_w (h W_wᵀ + b_w) of each row of hidden (B, E), never one of *banned*. -> (B,) int64

    Where a CPU has bfloat16 products (about four times as fast), they find the eight best words of each row, and these
    are compared again in float32. The answer is the argmax in float32 unless eight words come closer to the best than
    bfloat16's error; the gaps of a language model's best words are tens of times wider. Elsewhere: the plain argmax.
    """

    def __init__(self, weight: Tensor, bias: Tensor, banned: Sequence[int]):
        self.weight, self.bias = weight, bias.detach().clone()
        self.bias[list(banned)] = -torch.inf
        self.small: Tensor | None = None
        if weight.device.type == "cpu" and has_bfloat16_products(weight.device) and len(weight) > BLOCK * CANDIDATES:
            more = -len(weight) % BLOCK  # whole blocks; the words that are not there are never best
            self.small = F.pad(weight.detach(), (0, 0, 0, more)).to(torch.bfloat16).t()
            self.rough_bias = F.pad(self.bias, (0, more), value=-torch.inf)

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.small is None:
            return (F.linear(hidden, self.weight).float() + self.bias).argmax(-1)
        rows = len(hidden)
        padded = F.pad(hidden.to(torch.bfloat16), (0, 0, 0, -rows % ROWS))  # few shapes: oneDNN keeps a kernel for each
        rough = (padded @ self.small)[:rows].float().add_(self.rough_bias)
        blocks = rough.view(rows, -1, BLOCK)
        best = blocks.amax(-1).topk(CANDIDATES, dim=-1, sorted=False).indices  # the best words lie in the best blocks
        first = torch.arange(rows, device=best.device)[:, None] * blocks.shape[1]
        inside = blocks.flatten(0, 1)[first + best].flatten(1)
        place = inside.topk(CANDIDATES, dim=-1, sorted=False).indices  # (B, 8)
        words = (best.gather(1, place // BLOCK) * BLOCK + place % BLOCK).clamp_max(len(self.weight) - 1)
        exact = (F.embedding(words, self.weight).float() * hidden.float()[:, None]).sum(-1) + self.bias[words]
        return words.gather(1, exact.argmax(-1, keepdim=True))[:, 0]
