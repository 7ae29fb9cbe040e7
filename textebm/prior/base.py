"""A base density that F starts from: a mixture of Gaussians with full covariances, fitted to the latents themselves.

    F(u, t) = log b_t(u)/r_t(u) + Σ_h ( logsumexp_k f^h_k(u, t) − log K_h )

b_0 = Σ_k π_k N(m_k, C_k), and b_t is what the forward noise makes of it, in closed form: means ᾱ_t m_k, covariances
ᾱ_t² C_k + (1 − ᾱ_t²) I. r_t is what F is the ratio to at level t (`noise.NoiseSchedule`). A network of zeros is then
the mixture at any number of levels, and the network learns what a mixture does not explain (a residual energy-based
model; Deng et al. 2020, arXiv 2004.11714). The mixture is a density of u alone: neither symbols nor contexts move it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from textebm.networks.part import normal_like
from textebm.prior.noise import NoiseSchedule

FIT_ROWS = 50_000
FIT_ROUNDS = 40  # of expectation-maximisation
PULL = 4.0  # rows a dimension that a component's covariance is drawn towards I with


@dataclass(frozen=True)
class FixedBase:
    """The mixture at levels that stand still. For each component, or (B, K, …) where the rows' levels differ: constant
    (K,), centre (K, d) in its own axes, precision (K, d) along them; reference () or (B,): 1 where F is the ratio to
    N(0, I), 0 where it is a log-density. turn (d, K·d): to all axes."""

    constant: Tensor
    centre: Tensor
    precision: Tensor
    reference: Tensor
    turn: Tensor

    @cached_property
    def _whitening(self) -> tuple[Tensor, Tensor]:
        """turn and centre in units of each component's standard deviations, where the rows share their level."""
        root = self.precision.sqrt()
        return self.turn * root.flatten(), (self.centre * root).flatten()

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log b_t(u)/r_t(u) (B,) and its gradient (B, d). u (B, d)"""
        if self.precision.dim() == 2:
            turn, centre = self._whitening
            away = torch.addmm(centre, u, turn, beta=-1).view(len(u), *self.centre.shape[-2:])  # (B, K, d)
            scaled, square = away, away.square().sum(-1)
        else:
            turn = self.turn
            away = (u @ turn).view(len(u), *self.centre.shape[-2:]) - self.centre
            scaled = away * self.precision
            square = (away * scaled).sum(-1)
        parts = self.constant - 0.5 * square  # (B, K)
        value = torch.logsumexp(parts, -1) + 0.5 * self.reference * u.square().sum(-1)
        pull = parts.softmax(-1)[..., None] * scaled
        reference = self.reference[..., None] if self.reference.dim() else self.reference
        return value, reference * u - pull.flatten(1) @ turn.t()


class BaseMixture(nn.Module):
    """weight (K,), mean (K, d), axes (K, d, d) and variance (K, d) along them; N(0, I) until it is fitted."""

    weight: Tensor
    mean: Tensor
    axes: Tensor
    variance: Tensor
    alpha_bar: Tensor
    reference: Tensor

    def __init__(self, components: int, dim: int, schedule: NoiseSchedule):
        super().__init__()
        self.register_buffer("weight", torch.full((components,), 1 / components))
        self.register_buffer("mean", torch.zeros(components, dim))
        self.register_buffer("axes", torch.eye(dim).repeat(components, 1, 1))
        self.register_buffer("variance", torch.ones(components, dim))
        levels = torch.arange(schedule.num_levels)
        ratio = torch.full((schedule.num_levels,), schedule.reference == "stationary") | (levels == levels[-1])
        self.register_buffer("alpha_bar", schedule.alpha_bar.clone(), persistent=False)
        self.register_buffer("reference", ratio.float(), persistent=False)

    @torch.no_grad()
    def fit(self, u: NDArray[np.floating], seed: int) -> None:
        """By expectation-maximisation, to latents u (n, d) in any order: draws of the posteriors, not their means.

        A component that has few of the rows for its many numbers is drawn towards variances of 1, so that a small
        corpus gets a wide base; there are fewer components than asked for where there are not 4 d rows for each.
        """
        n, dim = u.shape
        if n < 2:  # nothing to fit to
            return
        rows = u if n <= FIT_ROWS else u[np.random.default_rng(seed).choice(n, FIT_ROWS, replace=False)]
        count = max(1, min(len(self.weight), int(len(rows) / (PULL * dim))))
        mixture = GaussianMixture(count, reg_covar=1e-3, max_iter=FIT_ROUNDS, random_state=seed)
        with threadpool_limits(1), warnings.catch_warnings():  # threads' sums arrive in any order
            warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of rounds is meant
            mixture.fit(np.asarray(rows, dtype=np.float64))
        held = mixture.weights_[:, None, None] * len(rows)
        covariance = (held * mixture.covariances_ + PULL * dim * np.eye(dim)) / (held + PULL * dim)
        variance, axes = np.linalg.eigh(covariance)
        for buffer, found in (
            (self.weight, mixture.weights_), (self.mean, mixture.means_), (self.axes, axes), (self.variance, variance),
        ):  # fmt: skip
            rest = len(buffer) - count
            found = np.concatenate([found, found[:1].repeat(rest, 0)])  # those left over repeat the first, unweighted
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(found)))
        self.weight[count:] = 0.0

    def at(self, level: Tensor) -> FixedBase:
        """The mixture at one level () for all rows, or at each row's (B,)."""
        alpha, dim = self.alpha_bar[:, None, None], self.mean.shape[-1]  # all levels first: they are few, rows are many
        variance = alpha.square() * self.variance + (1 - alpha.square())  # (T, K, d)
        own = torch.einsum("kde,kd->ke", self.axes, self.mean)  # the means in the components' axes
        constant = self.weight.log() - 0.5 * variance.log().sum(-1)
        constant = constant - 0.5 * (1 - self.reference[:, None]) * dim * math.log(2 * math.pi)
        turn = self.axes.permute(1, 0, 2).reshape(dim, -1)
        return FixedBase(
            constant[level], (alpha * own)[level], (1 / variance)[level], self.reference[level], turn
        )  # fmt: skip

    def log_ratio(self, u: Tensor, level: Tensor) -> Tensor:
        """log b_t(u)/r_t(u), through which gradients flow to u. (B, d), (B,) -> (B,)"""
        return self.at(level).value_and_gradient(u)[0]

    def sample(self, n: int, level: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws of b_t, (n, d)."""
        chosen = torch.multinomial(self.weight, max(n, 1), replacement=True, generator=generator)[:n]  # 0 is refused
        noise = normal_like(self.mean[chosen], generator)
        alpha = self.alpha_bar[level]
        stddev = (alpha.square() * self.variance[chosen] + 1 - alpha.square()).sqrt()
        return alpha * self.mean[chosen] + torch.einsum("nde,ne->nd", self.axes[chosen], stddev * noise)
