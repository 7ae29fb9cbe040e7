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

With a context c, F stands for F(T(u_t), t | c); the reference stays N(0, I), and a closed-form prior has no context:
only its symbol heads see it (and the encoder and decoder outside).

Conditioning on symbols y adds ``strength · Σ_h log p(y^h | u, t)`` to F; strength 1 is the product of experts
(the logsumexp becomes the chosen logit); likeness to examples adds ``κ_t Σ_i cos(g(u, t), c_i)`` (`prior.guidance`).
How F is learned: `prior.learning`; how u is drawn: `prior.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from textebm.networks.energy import EnergyNet, LayeredEnergyNet
from textebm.prior.condition import FREE, Condition, log_probability_of
from textebm.prior.explicit import GaussianMixture, StandardNormal, standard_normal_log_prob
from textebm.prior.noise import NoiseSchedule
from textebm.prior.sampler import potential_and_gradient
from textebm.prior.transport import Identity, Transport


@dataclass(frozen=True)
class ChainSettings:
    """How a Gaussian-tilted conditional is sampled."""

    sampler: Literal["semi_implicit", "langevin"] = "semi_implicit"
    steps: int = 3
    step_size: float = 0.1
    acceptance: float = 0.8
    metropolis: bool = False
    start: Literal["tweedie", "reference"] = "tweedie"
    dtype: torch.dtype = torch.float32  # of the energy net's matrix products in a chain (`prior.fixed`)


class LatentPrior(nn.Module):
    """rho (T,): the chain's step at each level. score_square (T, d): E (∂ log p_t/∂u_i)² over the diffused data."""

    rho: Tensor
    view_cosine: Tensor  # (T,) running mean of cos(g(u_t, t), c): how well each level knows the view
    score_square: Tensor

    def __init__(
        self,
        dim: int,
        energy: EnergyNet | LayeredEnergyNet,
        schedule: NoiseSchedule,
        *,
        transport: Transport | None = None,
        layers: Sequence[int] = (),
        explicit: StandardNormal | GaussianMixture | None = None,
        chain: ChainSettings = ChainSettings(),
        symbol_levels: Literal["all", "first"] = "all",
        strength: float = 1.0,
        potential_penalty: float = 1e-3,
        encoder_gradient: Literal["full", "positive_only"] = "full",
        like_strength: float = 1.0,
    ):
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
        self.like_strength = like_strength
        self.register_buffer("rho", torch.full((schedule.num_levels,), 0.9))
        if energy.view_size:
            self.register_buffer("view_cosine", torch.zeros(schedule.num_levels))
        self.top_log_z: tuple[tuple[float, ...], float, float] | None = None  # kept by `likelihood.top_log_partition`
        reference = 1.0 if schedule.reference == "stationary" else 0.0  # what F = 0 has, where every spread is 1
        self.register_buffer("score_square", torch.full((schedule.num_levels, dim), reference))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(prefix + "score_square", self.score_square.clone())  # priors saved before there was one
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def num_levels(self) -> int:
        """Learned levels: 0 for a closed-form prior."""
        return 0 if self.explicit is not None else self.schedule.num_levels

    # -- densities -----------------------------------------------------------------------------------------------

    def potential(self, u: Tensor, level: Tensor, condition: Condition = FREE) -> Tensor:
        """F(u, t), tilted by the condition. u (B, d), level (B,) -> (B,)"""
        if self.explicit is not None and condition.free:
            return self.explicit.log_ratio(u)
        logits, view = self.energy.logits_and_view(self.transport(u), level, condition.context)
        value = self.untilted(u, logits)
        named = dict(zip(self.energy.head_sizes, logits, strict=False))
        for head, asked in condition.symbols.items():
            log_p = log_probability_of(named[head], asked)
            if self.symbol_levels == "first":
                log_p = torch.where(level == 0, log_p, 0.0)
            value = value + condition.weights.get(head, condition.strength) * log_p
        for tilt in condition.tilts:
            value = value + tilt.value(u, level)
        if condition.like is not None:
            assert view is not None
            kappa = concentration(self.view_cosine, self.energy.view_size)[level]
            value = value + condition.like_strength * kappa * (F.normalize(view, dim=-1) * condition.like).sum(-1)
        return value

    def untilted(self, u: Tensor, logits: list[Tensor]) -> Tensor:
        """F(u, t) from the logits of the energy net at (T(u), t). (B,)"""
        if self.explicit is not None:
            return self.explicit.log_ratio(u)
        return self.energy.sum_heads(logits)

    def symbol_logits(self, u: Tensor, level: Tensor | None = None, context: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of p(y^h | u_t, c), (B, K_h) for each head; at level 0 unless *level* (B,) is given. u (B, d)"""
        if level is None:
            level = torch.zeros(len(u), dtype=torch.long, device=u.device)
        return self.energy(self.transport(u), level, context)

    def score(self, u: Tensor, level: Tensor, condition: Condition = FREE) -> Tensor:
        """∇ log p_t(u), detached. (B, d)"""
        _, gradient = potential_and_gradient(lambda w: self.potential(w, level, condition), u)
        return gradient + self.reference_score(u.detach(), level)

    def reference_score(self, u: Tensor, level: Tensor) -> Tensor:
        """∇ log of what F is the ratio to, at u. (B, d)"""
        return -u if self.explicit is not None else self.schedule.reference_score(u, level)

    @property
    def spread(self) -> Tensor:
        """κ_{t,i} = E Var(u_{t,i} | u_{t+1}) / s_t², (T, d), from E Var = (1 − σ² E score_i²) σ²/a²: Tweedie's second
        order averaged by E ∇² log p = −E score scoreᵀ (Bao et al. 2022, arXiv 2201.06503). 1 at the top level."""
        schedule = self.schedule
        a, sigma = schedule.step_a[:-1, None], schedule.step_sigma[:-1, None]
        variance = (1 - sigma.square() * self.score_square[1:]) * (sigma / a).square()
        below = (variance / schedule.reverse_stddev[:-1, None].square()).clamp(0.05, 1.5)
        return torch.cat([below, torch.ones_like(self.score_square[:1])])


def explicit_log_prob(prior: LatentPrior, u: Tensor) -> Tensor:
    """log p(u) of a closed-form prior, nats. (B, d) -> (B,)"""
    assert prior.explicit is not None
    return prior.explicit.log_ratio(u) + standard_normal_log_prob(u)


def concentration(resultant: Tensor, size: int) -> Tensor:
    """κ of a von Mises–Fisher density on the sphere of R^size whose mean cosine is *resultant* (…,): the approximate
    maximum-likelihood estimate r(C − r²)/(1 − r²) of Banerjee et al. 2005, eq. 4.4. 0 where the mean is not above 0."""
    r = resultant.clamp(0.0, 0.999)
    return r * (size - r.square()) / (1 - r.square())
