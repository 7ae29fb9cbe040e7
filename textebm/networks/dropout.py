"""Dropout that is cheap on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Dropout that takes 16 random bits a number on a CPU, at the nearest of 65,536 rates.

    PyTorch draws a double for each number there, which took a tenth of a training step (batch 128 of 18 words, 512
    wide, two threads: 11.6 ms against 2.1).
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        return input * _kept(input.shape, self.p, input.dtype)


def _kept(shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    """0 at this rate and else what makes the mean 1, on the CPU."""
    n, dropped = math.prod(shape), min(round(rate * 65536), 65535)
    bits = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:n].view(*shape)
    return (bits >= dropped - 32768).to(dtype).mul_(65536 / (65536 - dropped))
