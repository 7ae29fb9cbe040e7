"""Encoders: (tokens, lengths) -> the approximate posterior q(z|x).

Every encoder is a body that turns tokens into one feature vector, and a `PosteriorHead`. Padding is inert: no feature
depends on what stands behind a sentence's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from textebm.networks.recurrent import Cell, RecurrentLayer, reverse_within
from textebm.networks.transformer import TransformerBlock, sinusoidal_positions


@dataclass(frozen=True)
class Posterior:
    """q(z|x) = N(mean, diag stddev²); mean and stddev (B, d)."""

    mean: Tensor
    stddev: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """z = mean + stddev·ε, reparametrised. (B, d)"""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.stddev * noise

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q ‖ N(0, I)) per dimension, nats. (B, d) (Kingma & Welling 2014, appendix B)"""
        return 0.5 * (self.mean.square() + self.stddev.square() - 1) - self.stddev.log()

    def entropy(self) -> Tensor:
        """H(q), nats per sentence. (B,)"""
        return (self.stddev.log() + 0.5 * (1 + torch.log(torch.tensor(2 * torch.pi)))).sum(-1)


class PosteriorHead(nn.Module):
    """Features (B, F) -> Posterior.

    ``standardize`` batch-normalises the means without an affine map (BN-VAE, Zhu et al. 2020): their scale can then not
    shrink when the prior follows them. ``max_stddev`` caps the posterior's standard deviation by a logistic.
    """

    def __init__(self, features: int, dim: int, *, standardize: bool = True, max_stddev: float | None = None):
        super().__init__()
        self.max_stddev = max_stddev
        self.mean = nn.Linear(features, dim)
        self.raw_stddev = nn.Linear(features, dim)
        self.norm = nn.BatchNorm1d(dim, affine=False, momentum=0.05) if standardize else None
        nn.init.zeros_(self.raw_stddev.weight)
        nn.init.zeros_(self.raw_stddev.bias)

    def forward(self, features: Tensor) -> Posterior:
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            mean = self.mean(features)
            if self.norm is not None:
                if self.norm.training and len(mean) > 1:
                    mean = self.norm(mean)
                else:  # one sentence has no batch statistics
                    running_mean, running_var = self._statistics(self.norm)
                    mean = (mean - running_mean) * torch.rsqrt(running_var + self.norm.eps)
            raw = self.raw_stddev(features)
            stddev = raw.clamp(-8, 8).exp() if self.max_stddev is None else self.max_stddev * torch.sigmoid(raw)
        return Posterior(mean, stddev.clamp_min(1e-4))

    @torch.no_grad()
    def absorb_statistics(self, means: Tensor) -> None:
        """Make the running statistics exact: *means* (n, d) as this head gives them become zero mean, unit variance."""
        if self.norm is None or len(means) < 2:
            return
        mean, variance = means.double().mean(0), means.double().var(0, unbiased=False)
        running_mean, running_var = self._statistics(self.norm)
        old_variance = running_var.double() + self.norm.eps
        running_mean += (mean * old_variance.sqrt()).to(running_mean)
        running_var.copy_((old_variance * variance - self.norm.eps).clamp_min(1e-12))

    @staticmethod
    def _statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
        """The running mean and variance, (d,) each."""
        assert norm.running_mean is not None and norm.running_var is not None  # track_running_stats is on
        return norm.running_mean, norm.running_var


class RecurrentEncoder(nn.Module):
    """GRU or LSTM layers in one or two directions; the feature is the mean and the last output of each direction."""

    def __init__(
        self, cell: Cell, vocabulary_size: int, embedding_size: int, hidden_size: int, *,
        head: PosteriorHead | None = None, num_layers: int = 1, bidirectional: bool = True, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        directions = 2 if bidirectional else 1
        layers = [
            nn.ModuleList(
                RecurrentLayer(cell, embedding_size if layer == 0 else directions * hidden_size, hidden_size)
                for _ in range(directions)
            )
            for layer in range(num_layers)
        ]
        self.layers = cast("Sequence[Sequence[RecurrentLayer]]", nn.ModuleList(layers))
        self.dropout = nn.Dropout(dropout)
        self.num_features = 2 * directions * hidden_size
        self.head = head

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, T)
        x = self.dropout(self.embedding(tokens))
        for directions in self.layers:
            outputs = [directions[0](x)]
            if len(directions) == 2:
                outputs.append(reverse_within(directions[1](reverse_within(x, lengths)), lengths))
            x = self.dropout(torch.cat(outputs, dim=-1))
        x = x.float()
        average = (x * mask[..., None]).sum(1) / lengths[:, None]
        rows = torch.arange(len(x), device=x.device)
        last = [x[rows, lengths - 1, : directions[0].hidden_size]]
        if len(directions) == 2:
            last.append(x[:, 0, directions[0].hidden_size :])
        return torch.cat([average, *last], dim=-1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Posterior:
        assert self.head is not None
        return self.head(self.features(tokens, lengths))


class TransformerEncoder(nn.Module):
    """Bidirectional Transformer; the feature is the masked mean and the output at <bos>."""

    def __init__(
        self, vocabulary_size: int, embedding_size: int, hidden_size: int, *,
        head: PosteriorHead | None = None, num_layers: int = 2, num_heads: int = 4, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.inputs = nn.Linear(embedding_size, hidden_size)
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.num_features = 2 * hidden_size
        self.head = head

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (B, T), lengths (B,) -> (B, F)."""
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        x = self.inputs(self.embedding(tokens))
        x = self.dropout(x + sinusoidal_positions(x.shape[1], x.shape[2], device=x.device))
        for block in self.blocks:
            x, _ = block(x, mask=mask[:, None, None, :])
        x = self.norm(x).float()
        average = (x * mask[..., None]).sum(1) / lengths[:, None]
        return torch.cat([average, x[:, 0]], dim=-1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Posterior:
        assert self.head is not None
        return self.head(self.features(tokens, lengths))
