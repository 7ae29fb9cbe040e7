"""Sampling a Gaussian-tilted density  π(w) ∝ exp F(w) · N(w ; m, s² I).

Two proposals, both with an optional Metropolis–Hastings correction:

- `semi_implicit`: pCN-Langevin (Cotter et al. 2013, "∞-MALA"), which leaves the Gaussian N(m, v) exactly invariant:
  ``w' = m + ρ (w − m) + (1 − ρ) v ∇G(w) + sqrt(1 − ρ²) v^½ ξ`` with π(w) ∝ exp G(w) · N(w ; m, v). With v = κ s² the
  Gaussian takes over the curvature F has on average: G(w) = F(w) − ‖w − m‖² (1 − 1/κ) / (2 s²). The plain form is κ = 1
- `langevin`: unadjusted Langevin on the whole density, step ε = step_size · s (Nijkamp et al. 2020).

A chain is a loop of `Proposal`s. Randomness comes from the caller's generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Potential = Callable[[Tensor], Tensor]  # (B, d) -> (B,)


@dataclass(frozen=True)
class ChainResult:
    """w (B, d) and ∇F there; acceptance (B,) is the mean Metropolis acceptance, measured even where every proposal is
    taken; evaluations of F for each row."""

    w: Tensor
    gradient: Tensor
    acceptance: Tensor
    evaluations: int


def potential_and_gradient(potential: Potential, w: Tensor) -> tuple[Tensor, Tensor]:
    """F(w) (B,) and ∇F(w) (B, d), both detached: by the potential itself if it has `with_gradient` (`prior.fixed`),
    else by autograd."""
    own: Callable[[Tensor], tuple[Tensor, Tensor]] | None = getattr(potential, "with_gradient", None)
    if own is not None:
        return own(w.detach())
    with torch.enable_grad():
        leaf = w.detach().requires_grad_(True)
        value = potential(leaf)
        if not value.requires_grad:  # a constant, such as the log-ratio of N(0, I) to itself
            return value, torch.zeros_like(w)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def tame(drift: Tensor, limit: Tensor | float) -> Tensor:
    """Clip the norm of each row of *drift* (B, d) at *limit*: far from the data F may be steep, and a step that
    overshoots there never comes back."""
    norm = drift.norm(dim=-1, keepdim=True)
    return drift * (limit / norm.clamp_min(1e-12)).clamp_max(1.0)


@torch.no_grad()
def semi_implicit(
    potential: Potential,
    w: Tensor,
    mean: Tensor,
    stddev: Tensor | float,
    rho: Tensor | float,
    steps: int,
    *,
    spread: Tensor | float = 1.0,
    generator: torch.Generator | None = None,
    metropolis: bool = False,
    tamed: bool = True,
) -> ChainResult:
    """*steps* pCN-Langevin steps from w (B, d). mean (B, d); stddev and rho are numbers or (B, 1); spread is κ, a
    number, (d,) or (B, d)."""
    stddev = torch.as_tensor(stddev, dtype=w.dtype, device=w.device)
    rho = torch.as_tensor(rho, dtype=w.dtype, device=w.device)
    variance = stddev.square() * spread
    noise_scale = (1 - rho.square()).sqrt() * variance.sqrt()
    curvature = 1 / stddev.square() - 1 / variance
    limit = stddev * w.shape[-1] ** 0.5

    def proposal_mean(point: Tensor, gradient: Tensor) -> Tensor:
        drift = (1 - rho) * variance * (gradient - curvature * (point - mean))
        return mean + rho * (point - mean) + (tame(drift, limit) if tamed else drift)

    return _chain(potential, w, proposal_mean, noise_scale, mean, stddev, steps, generator, metropolis)


@torch.no_grad()
def langevin(
    potential: Potential,
    w: Tensor,
    mean: Tensor,
    stddev: Tensor | float,
    step_size: float,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    metropolis: bool = False,
) -> ChainResult:
    """*steps* Langevin steps ``w' = w + ε²/2 ∇log π(w) + ε ξ`` with ε = step_size · stddev. Arguments as above."""
    stddev = torch.as_tensor(stddev, dtype=w.dtype, device=w.device)
    epsilon = step_size * stddev

    def proposal_mean(point: Tensor, gradient: Tensor) -> Tensor:
        return point + 0.5 * epsilon.square() * (gradient - (point - mean) / stddev.square())

    return _chain(potential, w, proposal_mean, epsilon, mean, stddev, steps, generator, metropolis)


def _chain(
    potential: Potential,
    w: Tensor,
    proposal_mean: Callable[[Tensor, Tensor], Tensor],
    noise_scale: Tensor,
    mean: Tensor,
    stddev: Tensor,
    steps: int,
    generator: torch.Generator | None,
    metropolis: bool,
) -> ChainResult:
    """The loop that both proposals share. Acceptance costs one evaluation more than the steps: the last point's."""
    value, gradient = potential_and_gradient(potential, w)
    centre = proposal_mean(w, gradient)
    accepted = torch.zeros(len(w), device=w.device)
    for _ in range(steps):
        noise = torch.empty_like(w).normal_(generator=generator)
        new = centre + noise_scale * noise
        new_value, new_gradient = potential_and_gradient(potential, new)
        new_centre = proposal_mean(new, new_gradient)
        log_ratio = (
            new_value
            - value
            - 0.5 * (((new - mean) / stddev).square() - ((w - mean) / stddev).square()).sum(-1)
            - 0.5 * (((w - new_centre) / noise_scale).square() - noise.square()).sum(-1)
        )
        probability = log_ratio.clamp_max(0).exp().nan_to_num(0.0)
        accepted += probability
        if metropolis:
            drawn = torch.rand(len(w), device=w.device, generator=generator)
            take = (drawn < probability)[:, None]
            new, new_centre = torch.where(take, new, w), torch.where(take, new_centre, centre)
            new_value = torch.where(take[:, 0], new_value, value)
            new_gradient = torch.where(take, new_gradient, gradient)
        w, value, centre, gradient = new, new_value, new_centre, new_gradient
    return ChainResult(w, gradient, accepted / max(steps, 1), steps + 1)
