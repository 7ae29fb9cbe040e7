"""The ladder of noise levels, forwards and backwards.

Forwards, u_{t+1} = a_{t+1} u_t + σ_{t+1} ε with a² + σ² = 1, so that u_t = ᾱ_t u_0 + sqrt(1 − ᾱ_t²) ε.

Backwards, level t is sampled from ``exp F(u_t, t) · N(u_t ; c_t u_{t+1}, s_t² I)`` and the top level from
``exp F(u, T−1) · N(u ; 0, I)``. Two references fix (c_t, s_t):

- ``stationary``: (a, σ), the exact reversal of the forward step when u ~ N(0, I). F is then the log-ratio of level t's
  density to N(0, I) at *every* level, and F = 0 gives back the standard normal, however many levels there are.
- ``flat``: (1/a, σ/a), the published form (Gao et al. 2021; Yu et al. 2022): F is level t's log-density below the top.

Both define the same family of models; they differ in what a network that outputs zero means.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Reference = Literal["stationary", "flat"]


class NoiseSchedule(nn.Module):
    """Buffers indexed by level t = 0 … T−1; the last entry of the reverse ones is the top level's (0, 1).

    alpha_bar (T,) with alpha_bar[0] = 1, strictly falling. Raises ValueError otherwise.
    """

    alpha_bar: Tensor
    step_a: Tensor
    step_sigma: Tensor
    reverse_scale: Tensor
    reverse_stddev: Tensor

    def __init__(self, alpha_bar: Tensor, reference: Reference = "stationary"):
        super().__init__()
        alpha_bar = alpha_bar.double()
        if alpha_bar.dim() != 1 or len(alpha_bar) < 1 or alpha_bar[0] != 1 or (alpha_bar.diff() >= 0).any():
            raise ValueError(f"alpha_bar must start at 1 and fall strictly, got {alpha_bar.tolist()}")
        self.reference: Reference = reference
        a = alpha_bar[1:] / alpha_bar[:-1]  # a_{t+1}, t = 0 … T−2
        sigma = (1 - a.square()).sqrt()
        scale, stddev = (a, sigma) if reference == "stationary" else (1 / a, sigma / a)
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        for name, value in {
            "alpha_bar": alpha_bar,
            "step_a": torch.cat([a, zero]),
            "step_sigma": torch.cat([sigma, one]),
            "reverse_scale": torch.cat([scale, zero]),
            "reverse_stddev": torch.cat([stddev, one]),
        }.items():
            self.register_buffer(name, value.float(), persistent=False)

    @property
    def num_levels(self) -> int:
        return len(self.alpha_bar)

    def diffuse(self, u0: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(u_t | u_0). u0, noise (B, d), level (B,) -> (B, d)."""
        alpha = self.alpha_bar[level][:, None]
        return alpha * u0 + (1 - alpha.square()).clamp_min(0).sqrt() * noise

    def forward_step(self, u: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """A draw of q(u_{t+1} | u_t) for level t < T−1. (B, d)"""
        return self.step_a[level][:, None] * u + self.step_sigma[level][:, None] * noise

    def expected_log_reference(self, u0: Tensor) -> Tensor:
        """What the bound of log p(z) has without F: E Σ_t log N(u_t ; c_t u_{t+1}, s_t²)/q(u_{t+1} | u_t) + log N(top).

        The forward noise cancels. Stationary: the sum telescopes to log N(u_0; 0, I). Flat: Σ_t d·log a_{t+1} plus the
        expectation of log N(u_{T−1}; 0, I) over the noise, in closed form. u0 (B, d) -> (B,) nats.
        """
        d = u0.shape[-1]
        constant = -0.5 * d * math.log(2 * math.pi)
        if self.reference == "stationary":
            return constant - 0.5 * u0.square().sum(-1)
        top = self.alpha_bar[-1].square()
        return constant + d * top.log() / 2 - 0.5 * (top * u0.square().sum(-1) + d * (1 - top))

    def reference_score(self, u: Tensor, level: Tensor) -> Tensor:
        """∇ log of the density that level t has when F = 0, at u: what ∇F is added to. (B, d)"""
        if self.reference == "stationary":
            return -u
        return torch.where((level == self.num_levels - 1)[:, None], -u, torch.zeros_like(u))


def log_snr_ladder(num_levels: int, log_snr_max: float, log_snr_min: float) -> Tensor:
    """ᾱ_0 = 1, then levels equally spaced in log(ᾱ²/(1 − ᾱ²)) (Kingma et al. 2021). (T,) float64"""
    if num_levels == 1:
        return torch.ones(1, dtype=torch.float64)
    log_snr = torch.linspace(log_snr_max, log_snr_min, num_levels - 1, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(log_snr).sqrt()])


def published_ladder(num_levels: int) -> Tensor:
    """The ladder of Gao et al. 2021 (arXiv 2012.08125) that LDEBM uses: 1,000 linear β from 1e−4 to 2e−2, read at
    multiples of 1000 / (2(T − 1)), so that the top level still carries signal (T = 6: ᾱ² = .08). (T,) float64"""
    if num_levels == 1:
        return torch.ones(1, dtype=torch.float64)
    log_alpha = 0.5 * torch.log1p(-torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)).cumsum(0)
    stride = 1000 // ((num_levels - 1) * 2)
    alpha_bar = log_alpha[torch.arange(num_levels) * stride].exp()
    return torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[1:]])


def mean_by_level(values: Tensor, level: Tensor, num_levels: int) -> tuple[Tensor, Tensor]:
    """The mean of the rows at each level (0 where there are none), and how many there are. values (B, …), level (B,)
    -> (T, …), (T,)."""
    count = torch.bincount(level, minlength=num_levels)
    total = values.new_zeros(num_levels, *values.shape[1:]).index_add_(0, level, values)
    return total / count.clamp_min(1).view(-1, *[1] * (values.dim() - 1)), count
