"""The most probable word of a large vocabulary, found in bfloat16 and settled in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.networks.hardware import has_bfloat16_products
from textebm.networks.softmax import ROWS

CANDIDATES = 8
LARGE = 4096  # words from which on the smaller product pays for the search


class BestWord:
    """argmax_w (h W_wᵀ + b_w) of each row of hidden (B, E), never one of *banned*. -> (B,) int64

    Where a CPU has bfloat16 products (two to four times as fast), they find the eight best words of each row, and these
    are compared again in float32. The answer is the argmax in float32 unless eight words come closer to the best than
    bfloat16's error; the gaps of a language model's best words are tens of times wider. Elsewhere: the plain argmax.
    """

    def __init__(self, weight: Tensor, bias: Tensor, banned: Sequence[int]):
        self.weight, self.bias = weight, bias.detach().clone()
        self.bias[list(banned)] = -torch.inf
        screened = weight.device.type == "cpu" and has_bfloat16_products(weight.device) and len(weight) >= LARGE
        self.small = weight.detach().to(torch.bfloat16) if screened else None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.small is None:
            return (F.linear(hidden, self.weight).float() + self.bias).argmax(-1)
        rows = len(hidden)
        padded = F.pad(hidden.to(torch.bfloat16), (0, 0, 0, -rows % ROWS))  # few shapes: oneDNN keeps a kernel for each
        rough = F.linear(padded, self.small)[:rows].float().add_(self.bias)
        words = rough.topk(CANDIDATES, dim=-1, sorted=False).indices  # (B, 8)
        exact = (F.embedding(words, self.weight).float() * hidden.float()[:, None]).sum(-1) + self.bias[words]
        return words.gather(1, exact.argmax(-1, keepdim=True))[:, 0]
