"""Pre-norm Transformer blocks (Vaswani et al. 2017; Xiong et al. 2020) with a cache for step-wise decoding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.networks.dropout import Dropout


class TransformerBlock(nn.Module):
    def __init__(self, size: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, D); mask broadcastable to (B, heads, T, S), true = may be attended. Returns x and (keys, values)."""
        b, t, d = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(b, t, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, D/heads)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        x = x + self.dropout(self.attention_out(attended.transpose(1, 2).reshape(b, t, d)))
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x, (k, v)


def sinusoidal_positions(length: int, size: int, *, offset: int = 0, device: torch.device | None = None) -> Tensor:
    """(length, size) sines and cosines; any length, nothing to learn."""
    position = torch.arange(offset, offset + length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, size, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / size))
    angle = position * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :size]
