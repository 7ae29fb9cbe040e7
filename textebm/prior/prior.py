"""The latent prior. VAE, mixture VAE, SVEBM and LDEBM are settings of this one class.

    p(u_t | u_{t+1}) ∝ exp F(u_t, t) · N(u_t ; c_t u_{t+1}, s_t² I)       t = 0 … T−2
    p(u_{T−1})       ∝ exp F(u_{T−1}, T−1) · N(u_{T−1} ; 0, I)            z = T(u_0)

| system | setting |
|---|---|
| VAE | `explicit=StandardNormal()`: F is not learned, it is the closed-form log-ratio to N(0, I), here 0 |
| GM-VAE | `explicit=GaussianMixture(K, d)`: F is the mixture's log-ratio to N(0, I) |
| SVEBM (Pang & Wu 2021) | one level |
| LDEBM (Yu et al. 2022) | several levels |
| joint-EBM multi-layer generator (Cui, Wu & Han 2023) | one level, a ladder transport, a potential a layer |
| hierarchical EBM diffusion (Cui & Han 2024) | several levels of the same |

With a transport T (`prior.transport`; the identity by default) F stands for F(T(u_t), t): everything in this file is
about u, and only the energy net sees T(u). Layers of the latent lie top first.

Conditioning on symbols y adds ``strength · Σ_h log p(y^h | u, t)`` to F; strength 1 is the product of experts
(the logsumexp becomes the chosen logit). The same chain samples every system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.networks.encoder import Posterior
from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.prior.explicit import GaussianMixture, StandardNormal, standard_normal_log_prob
from textebm.prior.noise import NoiseSchedule
from textebm.prior.sampler import ChainResult, langevin, potential_and_gradient, semi_implicit
from textebm.prior.transport import Identity, Transport, resting

CANDIDATES = 32  # draws of a closed-form prior from which one is chosen under symbols
Symbols = Mapping[str, Tensor]  # head -> class of each row (B,), −1 = not conditioned on


@dataclass(frozen=True)
class ChainSettings:
    """How a Gaussian-tilted conditional is sampled."""

    sampler: Literal["semi_implicit", "langevin"] = "semi_implicit"
    steps: int = 3
    step_size: float = 0.1
    acceptance: float = 0.8
    metropolis: bool = False
    start: Literal["tweedie", "reference"] = "tweedie"


@dataclass(frozen=True)
class LatentSample:
    """z = u_0 (B, d); acceptance (T,) by level, NaN where a level was not sampled; evaluations of F for each row;
    path (levels sampled, B, d), the top level first and z last, if it was asked for."""

    z: Tensor
    acceptance: Tensor
    evaluations: int
    path: Tensor | None = None


@dataclass(frozen=True)
class ScoreMatching:
    """loss (B,), squared error a dimension; what it was computed at, and the logits there (for the symbol heads)."""

    loss: Tensor
    potential: Tensor
    level: Tensor
    alpha_bar: Tensor
    logits: dict[str, Tensor]


@dataclass(frozen=True)
class Recovery:
    """The contrastive terms. energy_loss (B,) moves F; encoder_term (B,) has the gradient of E log p(z) for the encoder
    (its value means nothing); contrast and magnitude (B,) are for the guards."""

    energy_loss: Tensor
    encoder_term: Tensor
    contrast: Tensor
    magnitude: Tensor
    acceptance: Tensor


class LatentPrior(nn.Module):
    rho: Tensor

    def __init__(
        self, dim: int, energy: EnergyNet | LayeredEnergyNet, schedule: NoiseSchedule, *,
        transport: Transport | None = None, layers: Sequence[int] = (),
        explicit: StandardNormal | GaussianMixture | None = None, chain: ChainSettings = ChainSettings(),
        symbol_levels: Literal["all", "first"] = "all", strength: float = 1.0, potential_penalty: float = 1e-3,
        encoder_gradient: Literal["full", "positive_only"] = "full",
    ):  # fmt: skip
        super().__init__()
        self.dim = dim
        self.layers = tuple(layers) or (dim,)
        self.energy = energy
        self.transport: Transport = Identity() if transport is None else transport
        self.schedule = schedule
        self.explicit = explicit
        self.chain = chain
        self.symbol_levels = symbol_levels
        self.strength = strength
        self.potential_penalty = potential_penalty
        self.encoder_gradient = encoder_gradient
        self.register_buffer("rho", torch.full((schedule.num_levels,), 0.9))

    @property
    def num_levels(self) -> int:
        """Learned levels: 0 for a closed-form prior."""
        return 0 if self.explicit is not None else self.schedule.num_levels

    # -- densities -----------------------------------------------------------------------------------------------

    def potential(self, u: Tensor, level: Tensor, symbols: Symbols | None = None, strength: float = 1.0) -> Tensor:
        """F(u, t), tilted by the symbols if there are any. u (B, d), level (B,) -> (B,)"""
        if self.explicit is not None and not symbols:
            return self.explicit.log_ratio(u)
        logits = self.energy.all_logits(self.transport(u), level)
        value = self._untilted(u, logits)
        named = dict(zip(self.energy.head_sizes, logits, strict=False))
        for head, classes in (symbols or {}).items():
            chosen = named[head].log_softmax(-1).gather(-1, classes.clamp_min(0)[:, None])[:, 0]
            active = classes >= 0
            if self.symbol_levels == "first":
                active = active & (level == 0)
            value = value + strength * torch.where(active, chosen, torch.zeros_like(chosen))
        return value

    def _untilted(self, u: Tensor, logits: list[Tensor]) -> Tensor:
        if self.explicit is not None:
            return self.explicit.log_ratio(u)
        return self.energy.sum_heads(logits)

    def symbol_logits(self, u: Tensor, level: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of p(y^h | u_t), (B, K_h) for each head; at level 0 unless *level* (B,) is given. u (B, d)"""
        if level is None:
            level = torch.zeros(len(u), dtype=torch.long, device=u.device)
        return self.energy(self.transport(u), level)

    def score(self, u: Tensor, level: Tensor) -> Tensor:
        """∇ log p_t(u), detached. (B, d)"""
        _, gradient = potential_and_gradient(lambda w: self.potential(w, level), u)
        return gradient + self._reference_score(u.detach(), level)

    def _reference_score(self, u: Tensor, level: Tensor) -> Tensor:
        return -u if self.explicit is not None else self.schedule.reference_score(u, level)

    # -- learning ------------------------------------------------------------------------------------------------

    def score_matching(self, posterior: Posterior, generator: torch.Generator | None = None) -> ScoreMatching:
        """Denoising score matching at all levels, with the posterior's own noise (Hyvärinen 2005; Vincent 2011).

        u_t = ᾱ_t μ + τ_t ε with τ_t² = 1 − ᾱ_t² + ᾱ_t² s²; loss ‖τ_t ∇log p_t(u_t) + ε‖² / d. It moves F alone: the
        posterior must be detached, and the transport, which belongs to the generator, rests.
        """
        mean = posterior.mean
        level = torch.randint(self.schedule.num_levels, (len(mean),), device=mean.device, generator=generator)
        alpha = self.schedule.alpha_bar[level][:, None]
        diffused = posterior.diffused(alpha, generator)
        u = diffused.u.detach().requires_grad_(True)
        with resting(self.transport):
            logits = self.energy.all_logits(self.transport(u), level)
        value = self._untilted(u, logits)
        (gradient,) = torch.autograd.grad(value.sum(), u, create_graph=True)
        error = diffused.tau * (gradient + self.schedule.reference_score(u.detach(), level)) + diffused.noise
        return ScoreMatching(
            error.square().mean(-1), value, level, alpha[:, 0],
            dict(zip(self.energy.head_sizes, logits, strict=False)),
        )  # fmt: skip

    def recovery(self, z: Tensor, generator: torch.Generator | None = None) -> Recovery:
        """Recovery likelihood (Gao et al. 2021): one uniformly drawn level a sentence, and the top level. z (B, d).

        The encoder's gradient has, beside ∇F(u_t, t), the term of the normaliser,
        ∂ log Z_t(v)/∂v = c_t E[w − c_t v]/s_t² (`encoder_gradient="full"`); published code drops it
        (`"positive_only"`).
        """
        schedule, b = self.schedule, len(z)
        top = schedule.num_levels - 1
        top_level = torch.full((b,), top, dtype=torch.long, device=z.device)

        def noise() -> Tensor:
            return torch.empty_like(z).normal_(generator=generator)

        u_top = schedule.diffuse(z, top_level, noise())
        positive, level, mean = u_top, top_level, torch.zeros_like(z)
        if top > 0:
            low = torch.randint(top, (b,), device=z.device, generator=generator)
            u = schedule.diffuse(z, low, noise())
            u_next = schedule.forward_step(u, low, noise())
            positive, level = torch.cat([u, u_top]), torch.cat([low, top_level])
            mean = torch.cat([schedule.reverse_scale[low][:, None] * u_next, mean])
        stddev = schedule.reverse_stddev[level][:, None]
        start = mean.detach() + stddev * torch.empty_like(mean).normal_(generator=generator)
        chain = self._run_chain(start, mean.detach(), stddev, level, None, 1.0, self.chain.steps, generator)
        self._adapt(level, chain.acceptance)
        value_positive, gradient_positive = potential_and_gradient(lambda w: self.potential(w, level), positive)
        f_positive, f_negative = self.potential(torch.cat([positive.detach(), chain.w]), level.repeat(2)).chunk(2)
        # each level below the top stands for T − 1 of them
        weight = torch.where(level == top, 1.0, float(max(top, 1))) if top > 0 else torch.ones(b, device=z.device)
        penalty = self.potential_penalty * (f_positive.square() + f_negative.square())
        energy_loss = (f_negative - f_positive + penalty) * weight
        pull = (positive * gradient_positive).sum(-1)
        if self.encoder_gradient == "full":
            pull = pull - (mean * ((chain.w - mean) / stddev.square()).detach()).sum(-1)
        per_sentence = (pull * weight).view(-1, b).sum(0) + schedule.expected_log_reference(z)
        return Recovery(
            energy_loss.view(-1, b).sum(0), per_sentence,
            (f_positive - f_negative).detach().view(-1, b).mean(0),
            value_positive.abs().view(-1, b).mean(0), chain.acceptance.view(-1, b).mean(0),
        )  # fmt: skip

    def score_cross_entropy(self, z: Tensor) -> Tensor:
        """(B,) whose gradient in z is the learned score ∇log p(z), at level 0: the encoder's term in joint training
        when F is learned by score matching. The level sum of the bound telescopes to it when F is exact (Vahdat et al.
        2021, "LSGM", train with the same cross-entropy written as an integral over levels)."""
        level = torch.zeros(len(z), dtype=torch.long, device=z.device)
        return (z * self.score(z, level)).sum(-1)

    # -- sampling ------------------------------------------------------------------------------------------------

    def sample(
        self, n: int, *, symbols: Symbols | None = None, strength: float | None = None, steps_factor: int = 1,
        generator: torch.Generator | None = None, start: tuple[int, Tensor] | None = None, adapt: bool = False,
        held: Tensor | None = None, keep_path: bool = False,
    ) -> LatentSample:  # fmt: skip
        """n draws of u_0, top level first. ``start=(t, u)`` begins below level t at u (n, d) instead (editing).

        *held* (n, k) keeps the first k coordinates of u_0 (upper layers) at these values and draws the others given
        them. With one level that is the exact conditional. With more, the held ones stand at a forward path from their
        values while the chain moves the rest ("replacement", Song et al. 2021, arXiv 2011.13456), which forgets what
        the cleaner levels know: on a pair of Gaussians with correlation .8 it moved the mean by .75 of what it should.
        So sweeps follow, up a fresh path from u_0 to level k and down again, k = T−1 … 1: as k falls they approach the
        exact Gibbs step k = 1 (.95 of it on the same pair). Still an approximation; T(T−1)/2 levels more.
        """
        device = self.rho.device
        acceptance = torch.full((self.schedule.num_levels,), torch.nan, device=device)
        strength = self.strength if strength is None else strength
        if self.explicit is not None and start is None and held is None:
            drawn = self._sample_explicit(n, symbols, strength, self.chain.steps * steps_factor, generator)
            return replace(drawn, path=drawn.z[None]) if keep_path else drawn
        below, u = (self.schedule.num_levels, torch.zeros(n, self.dim, device=device)) if start is None else start
        evaluations, visited = 0, []

        def descend(u: Tensor, below: int, path: list[Tensor] | None) -> Tensor:
            """u_0 from u at level *below*; path: what the held coordinates are at each level."""
            nonlocal evaluations
            for t in range(below - 1, -1, -1):
                level = torch.full((n,), t, dtype=torch.long, device=device)
                mean = self.schedule.reverse_scale[t] * u
                stddev = self.schedule.reverse_stddev[t]
                w = mean + stddev * torch.empty_like(u).normal_(generator=generator)
                if self.chain.start == "tweedie" and t < self.schedule.num_levels - 1:
                    w = w + self._tweedie_shift(u, t, symbols, strength)
                    evaluations += 1
                chain = self._run_chain(
                    w, mean, stddev, level, symbols, strength, self.chain.steps * steps_factor, generator,
                    None if path is None else path[t],
                )  # fmt: skip
                u = chain.w
                if keep_path:
                    visited.append(u)
                acceptance[t] = chain.acceptance.mean()
                evaluations += chain.evaluations
                if adapt:
                    self._adapt(level, chain.acceptance)
            return u

        if held is None:
            u = descend(u, below, None)
            return LatentSample(u, acceptance, evaluations, torch.stack(visited) if visited else None)
        k, top = held.shape[-1], below - 1
        u = descend(u, below, self._forward_path(held, generator))
        for level in range(top, 0, -1):
            path = self._forward_path(u, generator)
            u = descend(path[level], level, [each[:, :k] for each in path])
        return LatentSample(u, acceptance, evaluations)

    def _sample_explicit(
        self, n: int, symbols: Symbols | None, strength: float, steps: int, generator: torch.Generator | None
    ) -> LatentSample:
        """A closed-form prior is drawn from directly. Under symbols, each row takes one of 32 draws with the tilt as
        its weight (sampling-importance resampling, Rubin 1987), which finds the right mode; the chain then removes the
        bias of having had only 32."""
        assert self.explicit is not None
        device, acceptance = self.rho.device, torch.full_like(self.rho, torch.nan)
        if not symbols:
            return LatentSample(self.explicit.sample(n, self.dim, device=device, generator=generator), acceptance, 0)
        draws = self.explicit.sample(CANDIDATES * n, self.dim, device=device, generator=generator)
        level = torch.zeros(CANDIDATES * n, dtype=torch.long, device=device)
        repeated = {head: classes.repeat(CANDIDATES) for head, classes in symbols.items()}
        tilt = self.potential(draws, level, repeated, strength) - self.explicit.log_ratio(draws)
        chosen = torch.multinomial(tilt.view(CANDIDATES, n).t().softmax(-1), 1, generator=generator)[:, 0]  # (n,)
        z = draws.view(CANDIDATES, n, self.dim)[chosen, torch.arange(n, device=device)]
        chain = self._run_chain(
            z, torch.zeros_like(z), z.new_ones(1), level[:n], symbols, strength, steps, generator
        )  # fmt: skip
        acceptance[0] = chain.acceptance.mean()
        return LatentSample(chain.w, acceptance, CANDIDATES + chain.evaluations)

    def _forward_path(self, u: Tensor, generator: torch.Generator | None) -> list[Tensor]:
        """u_0 … u_{T−1} of a draw of q(u_1 … u_{T−1} | u_0), each (B, k)."""
        path = [u]
        for t in range(self.schedule.num_levels - 1):
            level = torch.full((len(u),), t, dtype=torch.long, device=u.device)
            path.append(self.schedule.forward_step(path[-1], level, torch.empty_like(u).normal_(generator=generator)))
        return path

    def perturb(
        self, z: Tensor, symbols: Symbols, *, strength: float | None = None, steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Move z (B, d) towards the symbols by *steps* of the level-0 chain of a one-level or closed-form prior."""
        level = torch.zeros(len(z), dtype=torch.long, device=z.device)
        strength = self.strength if strength is None else strength
        steps = self.chain.steps if steps is None else steps
        return self._run_chain(z, torch.zeros_like(z), z.new_ones(1), level, symbols, strength, steps, generator).w

    def _tweedie_shift(self, u_next: Tensor, t: int, symbols: Symbols | None, strength: float) -> Tensor:
        """E[u_t | u_{t+1}] − c_t u_{t+1} from the score one level up (Tweedie; Robbins 1956): a chain that starts there
        has almost nothing left to do."""
        above = torch.full((len(u_next),), t + 1, dtype=torch.long, device=u_next.device)
        _, gradient = potential_and_gradient(lambda w: self.potential(w, above, symbols, strength), u_next)
        score = gradient + self._reference_score(u_next, above)
        a, sigma = self.schedule.step_a[t], self.schedule.step_sigma[t]
        shift = (u_next + sigma.square() * score) / a - self.schedule.reverse_scale[t] * u_next
        limit = self.schedule.reverse_stddev[t] * self.dim**0.5
        return shift * (limit / shift.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)

    def _run_chain(
        self, w: Tensor, mean: Tensor, stddev: Tensor, level: Tensor, symbols: Symbols | None, strength: float,
        steps: int, generator: torch.Generator | None, held: Tensor | None = None,
    ) -> ChainResult:  # fmt: skip
        """The chain from w; with *held* (B, k), the first k coordinates stand there and the chain moves the others."""
        k = 0 if held is None else held.shape[-1]

        def whole(point: Tensor) -> Tensor:
            return point if held is None else torch.cat([held, point], dim=-1)

        def potential(point: Tensor) -> Tensor:
            return self.potential(whole(point), level, symbols, strength)

        w, mean = w[:, k:], mean[:, k:]
        if self.chain.sampler == "langevin":
            chain = langevin(
                potential, w, mean, stddev, self.chain.step_size, steps,
                generator=generator, metropolis=self.chain.metropolis,
            )  # fmt: skip
        else:
            chain = semi_implicit(
                potential, w, mean, stddev, self.rho[level][:, None], steps,
                generator=generator, metropolis=self.chain.metropolis,
            )  # fmt: skip
        return replace(chain, w=whole(chain.w))

    @torch.no_grad()
    def _adapt(self, level: Tensor, acceptance: Tensor, rate: float = 0.5) -> None:
        """Move each level's 1 − ρ towards the target acceptance (Robbins & Monro 1951, on a log scale)."""
        total = torch.zeros_like(self.rho).index_add_(0, level, acceptance)
        count = torch.bincount(level, minlength=len(self.rho))
        error = torch.where(count > 0, total / count.clamp_min(1) - self.chain.acceptance, torch.zeros_like(total))
        self.rho.copy_(1 - ((1 - self.rho) * (rate * error).exp()).clamp(1e-3, 1.0))

    def calibrate(self, *, n: int = 256, rounds: int = 40, generator: torch.Generator | None = None) -> None:
        """Adapt ρ on free samples: after score matching, which runs no chains of its own."""
        for _ in range(rounds):
            if self.explicit is None:
                self.sample(n, generator=generator, adapt=True)
                continue
            # a closed-form prior runs chains only under symbols: its step must fit its own density, and the tilt wants
            # a small one whatever the density
            z = self.explicit.sample(n, self.dim, device=self.rho.device, generator=generator)
            level = torch.zeros(n, dtype=torch.long, device=z.device)
            chain = self._run_chain(z, torch.zeros_like(z), z.new_ones(1), level, None, 1.0, 1, generator)
            self._adapt(level, chain.acceptance)
            self.rho.clamp_(min=0.9)


def explicit_log_prob(prior: LatentPrior, u: Tensor) -> Tensor:
    """log p(u) of a closed-form prior, nats. (B, d) -> (B,)"""
    assert prior.explicit is not None
    return prior.explicit.log_ratio(u) + standard_normal_log_prob(u)


def symbol_cross_entropy(logits: Tensor, classes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the rows whose class is known (≥ 0), each times *weight*; nats. 0 where none is."""
    known = classes >= 0
    loss = F.cross_entropy(logits, classes.clamp_min(0), reduction="none")
    if weight is not None:
        loss = loss * weight
    return (loss * known).sum() / known.sum().clamp_min(1)
