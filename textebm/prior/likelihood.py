"""Bounds of log Z_t by annealed importance sampling (Neal 2001), of log p(z), and the weights that bound log p(x).

All but `latent_log_prob_bound` is about u, which is z where the transport is the identity.

Averaging e^F over draws of the reference flatters the likelihood badly. Forward AIS bounds log Z from below; reverse
AIS, started from a sample of the tilted density, bounds it from above (in expectation; bidirectional Monte Carlo,
Grosse, Ghahramani & Adams 2015). The upper bound of log Z is the safe side: it gives the lower bound of log p(z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from textebm.prior.condition import FREE, Condition
from textebm.prior.explicit import standard_normal_log_prob
from textebm.prior.prior import LatentPrior, explicit_log_prob
from textebm.prior.sampler import Potential, potential_and_gradient, semi_implicit, tame

POOLED_CHAINS = 512  # for the top level's log Z, which is one number
POOLED_TEMPERATURES = 20


@torch.no_grad()
def log_partition(
    potential: Potential,
    mean: Tensor,
    stddev: Tensor | float,
    *,
    direction: Literal["forward", "reverse"],
    temperatures: int,
    rho: Tensor | float,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A stochastic bound of log E_{N(mean, stddev²)} e^F for each row. mean (B, d) -> (B,) nats.

    Temperatures rise from 0 to 1 in equal steps with one Metropolis-corrected semi-implicit step at each. "reverse"
    needs *start* (B, d), draws of the tilted density.
    """
    if direction == "reverse" and start is None:
        raise ValueError("reverse annealing starts from draws of the tilted density: pass start")
    stddev, rho = (torch.as_tensor(each, dtype=mean.dtype, device=mean.device) for each in (stddev, rho))
    betas = torch.linspace(0, 1, temperatures + 1).tolist()
    noise_scale, limit = (1 - rho.square()).sqrt() * stddev, stddev * mean.shape[-1] ** 0.5

    def centre(point: Tensor, gradient: Tensor, beta: float) -> Tensor:
        return mean + rho * (point - mean) + tame(beta * (1 - rho) * stddev.square() * gradient, limit)

    if direction == "forward" or start is None:
        w, visited = mean + stddev * torch.empty_like(mean).normal_(generator=generator), betas[1:-1]
    else:
        w, visited = start, betas[-2:0:-1]
    # F and its gradient do not know β: each point is evaluated once, whatever it is proposed and weighed at
    value, gradient = potential_and_gradient(potential, w)
    total = value.clone()
    for beta in visited:
        noise = torch.empty_like(w).normal_(generator=generator)
        new = centre(w, gradient, beta) + noise_scale * noise
        new_value, new_gradient = potential_and_gradient(potential, new)
        log_ratio = (
            beta * (new_value - value)
            - 0.5 * (((new - mean) / stddev).square() - ((w - mean) / stddev).square()).sum(-1)
            - 0.5 * (((w - centre(new, new_gradient, beta)) / noise_scale).square() - noise.square()).sum(-1)
        )
        probability = log_ratio.clamp_max(0).exp().nan_to_num(0.0)
        take = torch.rand(len(w), device=w.device, generator=generator) < probability
        w, gradient = torch.where(take[:, None], new, w), torch.where(take[:, None], new_gradient, gradient)
        value = torch.where(take, new_value, value)
        total += value
    return total / temperatures


@torch.no_grad()
def log_prob_bound(
    prior: LatentPrior,
    z: Tensor,
    *,
    direction: Literal["forward", "reverse"] = "reverse",
    temperatures: int = 10,
    burn_in: int = 10,
    condition: Condition = FREE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A draw whose mean bounds E_q[log p(u_0 … u_{T−1})/q(u_1 … u_{T−1} | z)], z = u_0, nats. z (B, d) -> (B,).

    That expectation over the forward chain is itself at most log p(z), and equal to it for one level or a prior that
    reverses the chain exactly. So "reverse" (log Z from above) is below log p(z): the safe side. "forward" is above the
    expectation, not always above log p(z). One draw of the chain a row.
    A reverse chain starts at the forward draw u_t, moved by *burn_in* corrected steps. Closed-form priors are exact.
    condition: its context alone is meant, for p(u | c); symbols have no normaliser here.
    """
    if prior.explicit is not None:
        return explicit_log_prob(prior, z)
    assert condition.free
    schedule, n = prior.schedule, len(z)
    log_p = schedule.expected_log_reference(z)
    u = z
    for t in range(schedule.num_levels):
        level = torch.full((n,), t, dtype=torch.long, device=z.device)
        mean, stddev = torch.zeros_like(z), schedule.reverse_stddev[t]
        u_next = u
        if t < schedule.num_levels - 1:
            u_next = schedule.forward_step(u, level, torch.empty_like(z).normal_(generator=generator))
            mean = schedule.reverse_scale[t] * u_next

        def potential(w: Tensor, level: Tensor = level) -> Tensor:
            return prior.potential(w, level, condition)

        rho = prior.rho[t]
        start = u
        if direction == "reverse":
            start = semi_implicit(potential, u, mean, stddev, rho, burn_in, generator=generator, metropolis=True).w
        log_z = log_partition(
            potential,
            mean,
            stddev,
            direction=direction,
            temperatures=temperatures,
            rho=rho,
            start=start,
            generator=generator,
        )
        if t == schedule.num_levels - 1 and condition.context is None:
            # the top's log Z is then one number, the same for every row: E e^w (forward) or 1/E e^−w (reverse) is
            # tighter
            sign = 1.0 if direction == "forward" else -1.0
            count = torch.log(torch.tensor(float(n), device=z.device))
            log_z = (sign * (torch.logsumexp(sign * log_z, dim=0) - count)).expand(n)
        log_p = log_p + potential(u) - log_z
        u = u_next
    return log_p


def latent_log_prob_bound(
    prior: LatentPrior,
    z: Tensor,
    *,
    direction: Literal["forward", "reverse"] = "reverse",
    temperatures: int = 10,
    burn_in: int = 10,
    condition: Condition = FREE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`log_prob_bound` for z = T(u) itself: log p(z) = log p(u) − log|det ∂T/∂u|, nats. z (B, d) -> (B,)

    With the identity transport it is `log_prob_bound`. The ELBO needs only the density of u: see `prior.transport`.
    """
    u = prior.transport.inverse(z)
    log_p = log_prob_bound(
        prior,
        u,
        direction=direction,
        temperatures=temperatures,
        burn_in=burn_in,
        condition=condition,
        generator=generator,
    )
    return log_p - prior.transport.log_det(u)


# -- weights for log p(x) ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Annealing:
    """Compute spent on each log Z_t: temperatures, corrected steps before a reverse chain, and chains averaged."""

    temperatures: int = 4
    burn_in: int = 4
    chains: int = 1


@dataclass(frozen=True)
class ChainWeights:
    """log p(u_0 … u_{T−1})/q(u_1 … u_{T−1} | u_0) of one draw of the forward chain a row, (B,) nats each, with every
    log Z_t bounded from above (`safe`, reverse annealing) and from below (`flattering`, forward annealing)."""

    safe: Tensor
    flattering: Tensor


@torch.no_grad()
def chain_log_weights(
    prior: LatentPrior,
    u: Tensor,
    top_log_z: tuple[Tensor, Tensor],
    annealing: Annealing = Annealing(),
    *,
    generator: torch.Generator | None = None,
) -> ChainWeights:
    """Importance weights of u_0 and of the levels above it. u = u_0 (B, d); top_log_z from `top_log_partition`.

    Let w be the weight with exact log Z_t. Then E_q[w] = p(u_0) for *every* T: the chain u_1 … u_{T−1} is importance
    sampled like u_0 is, and log-mean-exp over draws removes the gap that `log_prob_bound` keeps. For the two sides

    - reverse annealing from exact draws of the tilted density has E[1/Ẑ] = 1/Z, so E[safe weight] = w, and the
      log-mean-exp of any number of them is at most log p in expectation (Jensen; log is concave);
    - forward annealing has E[Ẑ] = Z, so E[−log Ẑ] ≥ −log Z; log-mean-exp is convex and rising in its arguments, so that
      of the flattering weights is, in expectation, at least the log-mean-exp of the w at the same draws.

    Closed-form priors are exact: both sides are log p(u_0).
    """
    if prior.explicit is not None:
        exact = explicit_log_prob(prior, u)
        return ChainWeights(exact, exact)
    schedule, n, top = prior.schedule, len(u), prior.schedule.num_levels - 1
    first, total = u, torch.zeros(n, device=u.device)
    safe, flattering = torch.zeros_like(total), torch.zeros_like(total)
    for t in range(top):
        level = torch.full((n,), t, dtype=torch.long, device=u.device)
        u_next = schedule.forward_step(u, level, torch.empty_like(u).normal_(generator=generator))
        mean = schedule.reverse_scale[t] * u_next
        high, low = _both_sides(prior, u, mean, t, annealing, generator)
        total, safe, flattering = total + prior.potential(u, level), safe - high, flattering - low
        u = u_next
    level = torch.full((n,), top, dtype=torch.long, device=u.device)
    total = total + prior.potential(u, level)
    # N(u_t; c u_{t+1}, s²)/q(u_{t+1} | u_t): stationary, it telescopes to N(u_0)/N(u_top); flat, it is a_{t+1}^d
    if schedule.reference == "stationary":
        total = total + standard_normal_log_prob(first)
    else:
        total = total + u.shape[-1] * schedule.alpha_bar[-1].log() + standard_normal_log_prob(u)
    upper, lower = top_log_z
    return ChainWeights(total + safe - upper, total + flattering - lower)


@torch.no_grad()
def top_log_partition(
    prior: LatentPrior, u: Tensor, annealing: Annealing = Annealing(), *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """log Z_{T−1} = log E_{N(0, I)} e^F from above and from below, () each: chains are pooled, since it is one number.

    u (n, d): draws of the aggregated posterior, whose diffused versions start the reverse chains.
    """
    zero = torch.zeros((), device=u.device)
    if prior.explicit is not None or len(u) == 0:
        return zero, zero
    top = prior.schedule.num_levels - 1
    rows = torch.arange(POOLED_CHAINS, device=u.device) % len(u)
    u = u[rows]
    level = torch.full((len(u),), top, dtype=torch.long, device=u.device)
    u = prior.schedule.diffuse(u, level, torch.empty_like(u).normal_(generator=generator))
    steps = max(annealing.temperatures, POOLED_TEMPERATURES)
    pooled = Annealing(steps, max(annealing.burn_in, steps), 1)
    high, low = _both_sides(prior, u, torch.zeros_like(u), top, pooled, generator)
    count = math.log(len(u))
    return count - torch.logsumexp(-high, 0), torch.logsumexp(low, 0) - count


def _both_sides(
    prior: LatentPrior, u: Tensor, mean: Tensor, t: int, annealing: Annealing, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """log Z_t of each row from above and from below, (B,) each; reverse chains start at u (B, d), moved by burn-in.

    Annealing goes from F's tangent at the mean, G(w) = F(m) + g·(w − m), to F. Its normaliser is known,
    E_{N(m, s²)} e^F = e^{F(m) + s²|g|²/2} · E_{N(m + s² g, s²)} e^{F − G}, and at narrow levels F − G is small, so that
    a few temperatures do. Any g that depends on the mean alone keeps both bounds: it is tamed as in the sampler. The
    top level is as wide as the latent space, where a tangent says nothing: g = 0 there.
    """
    m, stddev, rho = annealing.chains, prior.schedule.reverse_stddev[t], prior.rho[t]
    n, mean = len(u), mean.repeat_interleave(m, 0)
    level = torch.full((n * m,), t, dtype=torch.long, device=u.device)
    value, slope = potential_and_gradient(lambda w: prior.potential(w, level), mean)
    top = t == prior.schedule.num_levels - 1
    slope = torch.zeros_like(slope) if top else tame(slope, u.shape[-1] ** 0.5 / stddev)
    shifted, known = mean + stddev.square() * slope, value + 0.5 * stddev.square() * slope.square().sum(-1)

    def potential(w: Tensor) -> Tensor:
        return prior.potential(w, level)

    def residual(w: Tensor) -> Tensor:
        return potential(w) - value - (slope * (w - mean)).sum(-1)

    start = semi_implicit(
        potential, u.repeat_interleave(m, 0), mean, stddev, rho, annealing.burn_in, generator=generator, metropolis=True
    ).w
    high = known + log_partition(
        residual,
        shifted,
        stddev,
        direction="reverse",
        temperatures=annealing.temperatures,
        rho=rho,
        start=start,
        generator=generator,
    )
    low = known + log_partition(
        residual,
        shifted,
        stddev,
        direction="forward",
        temperatures=annealing.temperatures,
        rho=rho,
        generator=generator,
    )
    count = math.log(m)
    return count - torch.logsumexp(-high.view(n, m), 1), torch.logsumexp(low.view(n, m), 1) - count
