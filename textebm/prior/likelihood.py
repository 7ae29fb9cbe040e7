"""Bounds of log Z_t by annealed importance sampling (Neal 2001), and of log p(z).

All but `latent_log_prob_bound` is about u, which is z where the transport is the identity.

Averaging e^F over draws of the reference flatters the likelihood badly. Forward AIS bounds log Z from below; reverse
AIS, started from a sample of the tilted density, bounds it from above (in expectation; bidirectional Monte Carlo,
Grosse, Ghahramani & Adams 2015). The upper bound of log Z is the safe side: it gives the lower bound of log p(z).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from textebm.prior.condition import FREE, Condition
from textebm.prior.prior import LatentPrior, explicit_log_prob
from textebm.prior.sampler import Potential, semi_implicit


@torch.no_grad()
def log_partition(
    potential: Potential, mean: Tensor, stddev: Tensor | float, *, direction: Literal["forward", "reverse"],
    temperatures: int, rho: Tensor | float, start: Tensor | None = None, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """A stochastic bound of log E_{N(mean, stddev²)} e^F for each row. mean (B, d) -> (B,) nats.

    Temperatures rise from 0 to 1 in equal steps with one Metropolis-corrected semi-implicit step at each. "reverse"
    needs *start* (B, d), draws of the tilted density.
    """
    betas = torch.linspace(0, 1, temperatures + 1).tolist()
    moves = list(zip(betas[:-1], betas[1:], strict=True))

    def step(w: Tensor, beta: float) -> Tensor:
        return semi_implicit(
            lambda p: beta * potential(p), w, mean, stddev, rho, 1, generator=generator, metropolis=True
        ).w

    total = torch.zeros(len(mean), device=mean.device)
    if direction == "forward":
        w = mean + stddev * torch.empty_like(mean).normal_(generator=generator)
        for low, high in moves:
            total += (high - low) * potential(w)
            if high < 1:
                w = step(w, high)
        return total
    if start is None:
        raise ValueError("reverse annealing starts from draws of the tilted density: pass start")
    w = start
    for low, high in reversed(moves):
        total += (high - low) * potential(w)
        if low > 0:
            w = step(w, low)
    return total


@torch.no_grad()
def log_prob_bound(
    prior: LatentPrior, z: Tensor, *, direction: Literal["forward", "reverse"] = "reverse", temperatures: int = 10,
    burn_in: int = 10, condition: Condition = FREE, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
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
            potential, mean, stddev, direction=direction, temperatures=temperatures, rho=rho, start=start,
            generator=generator,
        )  # fmt: skip
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
    prior: LatentPrior, z: Tensor, *, direction: Literal["forward", "reverse"] = "reverse", temperatures: int = 10,
    burn_in: int = 10, condition: Condition = FREE, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """`log_prob_bound` for z = T(u) itself: log p(z) = log p(u) − log|det ∂T/∂u|, nats. z (B, d) -> (B,)

    With the identity transport it is `log_prob_bound`. The ELBO needs only the density of u: see `prior.transport`.
    """
    u = prior.transport.inverse(z)
    log_p = log_prob_bound(
        prior, u, direction=direction, temperatures=temperatures, burn_in=burn_in, condition=condition,
        generator=generator,
    )  # fmt: skip
    return log_p - prior.transport.log_det(u)
