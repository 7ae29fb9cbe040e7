"""Priors with a density in closed form: the standard normal and a mixture of Gaussians (GM-VAE, Shi et al. 2020).

Neither is a function of a dialogue's context: with one, the encoder, the decoder and the symbol heads alone see it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """N(0, I): the VAE's prior (Bowman et al. 2016). Its log-ratio to N(0, I) is zero."""

    def log_ratio(self, z: Tensor) -> Tensor:
        """log p(z) − log N(z; 0, I). z (B, d) -> (B,)"""
        return torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)

    def sample(self, n: int, dim: int, *, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        return torch.empty(n, dim, device=device).normal_(generator=generator)


class GaussianMixture(nn.Module):
    """Σ_k π_k N(μ_k, diag s_k²), all learned by the bound itself."""

    def __init__(self, components: int, dim: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, dim) * 0.5)
        self.log_stddev = nn.Parameter(torch.full((components, dim), -0.2))

    def log_components(self, z: Tensor) -> Tensor:
        """log π_k N(z; μ_k, s_k²) without −d/2 log 2π. z (B, d) -> (B, K)"""
        scaled = (z[:, None] - self.mean) * (-self.log_stddev).exp()  # (B, K, d)
        return self.logits.log_softmax(0) - 0.5 * scaled.square().sum(-1) - self.log_stddev.sum(-1)

    def log_ratio(self, z: Tensor) -> Tensor:
        """log p(z) − log N(z; 0, I). z (B, d) -> (B,)"""
        return torch.logsumexp(self.log_components(z), dim=-1) + 0.5 * z.square().sum(-1)

    def sample(self, n: int, dim: int, *, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        component = torch.multinomial(self.logits.softmax(0), n, replacement=True, generator=generator)
        noise = torch.empty(n, dim, device=device).normal_(generator=generator)
        return self.mean[component] + self.log_stddev[component].exp() * noise


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), nats. (…, d) -> (…,)"""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
