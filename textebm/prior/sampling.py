"""Draws of a `LatentPrior`: level by level from noise, free or under a `Condition`, whole or with layers held.

    p(u_t | u_{t+1}) ∝ exp F(u_t, t) · N(u_t ; c_t u_{t+1}, s_t² I)

Each level is one short chain (`prior.sampler`); the same function samples every system.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textebm.prior.condition import FREE, Condition
from textebm.prior.fixed import fixed_potential
from textebm.prior.noise import mean_by_level
from textebm.prior.prior import LatentPrior
from textebm.prior.sampler import ChainResult, langevin, potential_and_gradient, semi_implicit, tame

CANDIDATES = 32  # draws of a closed-form prior from which one is chosen under a condition


@dataclass(frozen=True)
class LatentSample:
    """z = u_0 (B, d); acceptance (T,) by level, NaN where a level was not sampled; evaluations of F for each row;
    path (levels sampled, B, d), the top level first and z last, if it was asked for."""

    z: Tensor
    acceptance: Tensor
    evaluations: int
    path: Tensor | None = None


def sample(
    prior: LatentPrior,
    n: int,
    *,
    condition: Condition = FREE,
    steps_factor: int = 1,
    generator: torch.Generator | None = None,
    start: tuple[int, Tensor] | None = None,
    adapt: bool = False,
    held: Tensor | None = None,
    keep_path: bool = False,
) -> LatentSample:
    """n draws of u_0, top level first. ``start=(t, u)`` begins below level t at u (n, d) instead (editing).

    *held* (n, k) keeps the first k coordinates of u_0 (upper layers) at these values and draws the others given
    them. With one level that is the exact conditional. With more, the held ones stand at a forward path from their
    values while the chain moves the rest ("replacement", Song et al. 2021, arXiv 2011.13456), which forgets what
    the cleaner levels know: on a pair of Gaussians with correlation .8 it moved the mean by .75 of what it should.
    So sweeps follow, up a fresh path from u_0 to level k and down again, k = T−1 … 1: as k falls they approach the
    exact Gibbs step k = 1 (.95 of it on the same pair). Still an approximation; T(T−1)/2 levels more.
    """
    device, steps = prior.rho.device, prior.chain.steps * steps_factor
    acceptance = torch.full((prior.schedule.num_levels,), torch.nan, device=device)
    if prior.explicit is not None and start is None and held is None:
        drawn = _sample_explicit(prior, n, condition, steps, generator)
        return replace(drawn, path=drawn.z[None]) if keep_path else drawn
    below, u = (prior.schedule.num_levels, torch.zeros(n, prior.dim, device=device)) if start is None else start
    evaluations, visited, spread = 0, [], prior.spread
    k = 0 if held is None else held.shape[-1]

    def everywhere(t: int) -> Tensor:
        """Level t of all rows as one number, which `fixed_potential` knows how to share."""
        return torch.full((), t, dtype=torch.long, device=device).expand(n)

    def descend(u: Tensor, below: int, path: list[Tensor] | None) -> Tensor:
        """u_0 from u at level *below*; path: what the held coordinates are at each level."""
        nonlocal evaluations
        gradient: Tensor | None = None  # at u, of the level above: its chain has already computed it
        for t in range(below - 1, -1, -1):
            level = everywhere(t)
            mean = prior.schedule.reverse_scale[t] * u
            stddev = prior.schedule.reverse_stddev[t]
            noise = torch.empty_like(u).normal_(generator=generator)
            w = mean + stddev * noise
            if prior.chain.start == "tweedie" and t < prior.schedule.num_levels - 1:
                if gradient is None:
                    gradient = _gradient(prior, u, everywhere(t + 1), condition)[:, k:]
                    evaluations += 1
                score = gradient + prior.reference_score(u, level + 1)[:, k:]
                free = mean[:, k:] + tweedie_shift(prior, u[:, k:], t, score)
                w = torch.cat([w[:, :k], free + stddev * spread[t, k:].sqrt() * noise[:, k:]], dim=-1)
            chain = run_chain(
                prior,
                w,
                mean,
                stddev,
                level,
                condition,
                steps,
                generator,
                None if path is None else path[t],
                spread[t, k:],
            )
            u, gradient = chain.w, chain.gradient
            if keep_path:
                visited.append(u)
            acceptance[t] = chain.acceptance.mean()
            evaluations += chain.evaluations
            if adapt:
                adapt_rho(prior, level, chain.acceptance)
        return u

    if held is None:
        u = descend(u, below, None)
        return LatentSample(u, acceptance, evaluations, torch.stack(visited) if visited else None)
    top = below - 1
    u = descend(u, below, _forward_path(prior, held, generator))
    for level in range(top, 0, -1):
        path = _forward_path(prior, u, generator)
        u = descend(path[level], level, [each[:, :k] for each in path])
    return LatentSample(u, acceptance, evaluations)


def _sample_explicit(
    prior: LatentPrior, n: int, condition: Condition, steps: int, generator: torch.Generator | None
) -> LatentSample:
    """A closed-form prior is drawn from directly. Under a condition, each row takes one of 32 draws with the tilt as
    its weight (sampling-importance resampling, Rubin 1987), which finds the right mode; the chain then removes the
    bias of having had only 32."""
    assert prior.explicit is not None
    device, acceptance = prior.rho.device, torch.full_like(prior.rho, torch.nan)
    if condition.free:
        return LatentSample(prior.explicit.sample(n, prior.dim, device=device, generator=generator), acceptance, 0)
    draws = prior.explicit.sample(CANDIDATES * n, prior.dim, device=device, generator=generator)
    level = torch.zeros(CANDIDATES * n, dtype=torch.long, device=device)
    tilt = prior.potential(draws, level, condition.repeated(CANDIDATES)) - prior.explicit.log_ratio(draws)
    chosen = torch.multinomial(tilt.view(CANDIDATES, n).t().softmax(-1), 1, generator=generator)[:, 0]  # (n,)
    z = draws.view(CANDIDATES, n, prior.dim)[chosen, torch.arange(n, device=device)]
    chain = run_chain(prior, z, torch.zeros_like(z), z.new_ones(1), level[:n], condition, steps, generator)
    acceptance[0] = chain.acceptance.mean()
    return LatentSample(chain.w, acceptance, CANDIDATES + chain.evaluations)


def _forward_path(prior: LatentPrior, u: Tensor, generator: torch.Generator | None) -> list[Tensor]:
    """u_0 … u_{T−1} of a draw of q(u_1 … u_{T−1} | u_0), each (B, k)."""
    path = [u]
    for t in range(prior.schedule.num_levels - 1):
        level = torch.full((len(u),), t, dtype=torch.long, device=u.device)
        path.append(prior.schedule.forward_step(path[-1], level, torch.empty_like(u).normal_(generator=generator)))
    return path


def perturb(
    prior: LatentPrior,
    z: Tensor,
    condition: Condition,
    *,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move z (B, d) towards the condition by *steps* of the level-0 chain of a one-level or closed-form prior."""
    level = torch.zeros(len(z), dtype=torch.long, device=z.device)
    steps = prior.chain.steps if steps is None else steps
    return run_chain(prior, z, torch.zeros_like(z), z.new_ones(1), level, condition, steps, generator).w


def _gradient(prior: LatentPrior, u: Tensor, level: Tensor, condition: Condition) -> Tensor:
    return potential_and_gradient(fixed_potential(prior, level, condition), u)[1]


def tweedie_shift(prior: LatentPrior, u_next: Tensor, t: int, score: Tensor) -> Tensor:
    """E[u_t | u_{t+1}] − c_t u_{t+1} from the score one level up (Tweedie; Robbins 1956): a chain that starts there
    has almost nothing left to do."""
    a, sigma = prior.schedule.step_a[t], prior.schedule.step_sigma[t]
    shift = (u_next + sigma.square() * score) / a - prior.schedule.reverse_scale[t] * u_next
    return tame(shift, prior.schedule.reverse_stddev[t] * prior.dim**0.5)


def run_chain(
    prior: LatentPrior,
    w: Tensor,
    mean: Tensor,
    stddev: Tensor,
    level: Tensor,
    condition: Condition,
    steps: int,
    generator: torch.Generator | None,
    held: Tensor | None = None,
    spread: Tensor | float = 1.0,
) -> ChainResult:
    """The chain from w; with *held* (B, k), the first k coordinates stand there and the chain moves the others, to
    which *spread* (d − k,) belongs. Recovery's chains have none: an F half learned does not bear such long steps."""
    k = 0 if held is None else held.shape[-1]

    def whole(point: Tensor) -> Tensor:
        return point if held is None else torch.cat([held, point], dim=-1)

    def partly(point: Tensor) -> Tensor:
        return prior.potential(whole(point), level, condition)

    potential = fixed_potential(prior, level, condition) if held is None else partly
    w, mean = w[:, k:], mean[:, k:]
    if prior.chain.sampler == "langevin":
        chain = langevin(
            potential,
            w,
            mean,
            stddev,
            prior.chain.step_size,
            steps,
            generator=generator,
            metropolis=prior.chain.metropolis,
        )
    else:
        chain = semi_implicit(
            potential,
            w,
            mean,
            stddev,
            prior.rho[level][:, None],
            steps,
            spread=spread,
            generator=generator,
            metropolis=prior.chain.metropolis,
        )
    return replace(chain, w=whole(chain.w))


@torch.no_grad()
def adapt_rho(prior: LatentPrior, level: Tensor, acceptance: Tensor, rate: float = 0.5) -> None:
    """Move each level's 1 − ρ towards the target acceptance (Robbins & Monro 1951, on a log scale)."""
    mean, count = mean_by_level(acceptance, level, len(prior.rho))
    error = torch.where(count > 0, mean - prior.chain.acceptance, torch.zeros_like(mean))
    prior.rho.copy_(1 - ((1 - prior.rho) * (rate * error).exp()).clamp(1e-3, 1.0))


@torch.no_grad()
def observe_scores(prior: LatentPrior, level: Tensor, score: Tensor, rate: float = 0.02) -> None:
    """Running means of the squared score (B, d) at data diffused to *level* (B,), for `LatentPrior.spread`: scores at
    the model's own samples would feed their errors back."""
    mean, count = mean_by_level(score.detach().square(), level, len(prior.score_square))
    moved = prior.score_square.lerp(mean, rate)
    prior.score_square.copy_(torch.where(count[:, None] > 0, moved, prior.score_square))


def calibrate(
    prior: LatentPrior,
    *,
    n: int = 256,
    rounds: int = 40,
    generator: torch.Generator | None = None,
    context: Tensor | None = None,
) -> None:
    """Adapt ρ on free samples: after score matching, which runs no chains of its own. context (n, C)"""
    for _ in range(rounds):
        if prior.explicit is None:
            sample(prior, n, condition=Condition(context=context), generator=generator, adapt=True)
            continue
        # a closed-form prior runs chains only under a condition: its step must fit its own density, and the tilt wants
        # a small one whatever the density
        z = prior.explicit.sample(n, prior.dim, device=prior.rho.device, generator=generator)
        level = torch.zeros(n, dtype=torch.long, device=z.device)
        chain = run_chain(prior, z, torch.zeros_like(z), z.new_ones(1), level, FREE, 1, generator)
        adapt_rho(prior, level, chain.acceptance)
        prior.rho.clamp_(min=0.9)
