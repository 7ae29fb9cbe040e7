"""The head that reads a sentence's contrastive view off the encoder's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.networks.dropout import Dropout


class ViewHead(nn.Module):
    """h: features (B, F) -> unit views (B, C). Its own dropout makes two readings differ even if the body has none."""

    def __init__(self, features: int, size: int, *, hidden_size: int = 256, dropout: float = 0.1):
        super().__init__()
        self.net = nn.Sequential(
            Dropout(dropout), nn.Linear(features, hidden_size), nn.SiLU(), nn.Linear(hidden_size, size)
        )

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return F.normalize(self.net(features.float()), dim=-1)
