"""Bounds of log Z_t by annealed importance sampling (AIS; Neal 2001), of log p(z), and the weights that bound log p(x).

Averaging e^F over draws of the reference flatters the likelihood badly. Forward AIS bounds log Z from below; reverse
AIS, started from a draw of the tilted density, bounds it from above (in expectation; bidirectional Monte Carlo, Grosse,
Ghahramani & Adams 2015). The upper bound of log Z is the safe side: it gives the lower bound of log p(z).

**The path.** Level t's integral is that of e^F N(w; c u_{t+1}, s²). Annealing that begins at N(c u_{t+1}, s²) has to
account for all that F says. It begins instead at a Gaussian near e^F N, so that the temperatures only bridge what is
not Gaussian: where the sampler's chain starts (mean E[u_t | u_{t+1}] by Tweedie's formula, variance κ s² from
`LatentPrior.spread`), or, where F is no log-density of that level, along F's tangent at c u_{t+1}; in each row the one
under which a pair of draws has the higher residual, which is log Z less the divergence to the tilted density. Both
bounds hold for any Gaussian that knows u_{t+1} alone. With the exact F of two narrow modes, eight levels and ten
temperatures, the safe bound of log p is .1, .3 and .4 nats low in 2, 16 and 48 dimensions (begun at N(c u_{t+1}, s²):
.4, 5.3 and 23); four times the temperatures halve that.

All of it is about u, which is z where the transport is the identity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from textebm.prior.condition import FREE, Condition
from textebm.prior.explicit import standard_normal_log_prob
from textebm.prior.fixed import fixed_potential
from textebm.prior.prior import LatentPrior, explicit_log_prob
from textebm.prior.sampler import Potential, potential_and_gradient, semi_implicit, tame
from textebm.prior.sampling import tweedie_shift

Direction = Literal["forward", "reverse"]
TOP_CHAINS = 512  # for the top level's log Z, which is one number
TOP_TEMPERATURES = (20, 160)  # the second where the first's bounds are further apart than TOP_TOLERANCE, nats
TOP_TOLERANCE = 0.1


@dataclass(frozen=True)
class Annealing:
    """Compute spent on each log Z_t: temperatures, corrected steps before a reverse chain, and chains averaged."""

    temperatures: int = 4
    burn_in: int = 4
    chains: int = 1


@dataclass(frozen=True)
class Annealed:
    """log_z (B,): a bound of each row's log-integral, nats; w (B, d): where its chain ended."""

    log_z: Tensor
    w: Tensor


@torch.no_grad()
def anneal(
    potential: Potential,
    mean: Tensor,
    stddev: Tensor | float,
    *,
    direction: Direction,
    temperatures: int,
    rho: Tensor | float,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Annealed:
    """A stochastic bound of log E_{N(mean, stddev²)} e^F for each row, by a chain each. mean (B, d), stddev too or ().

    Temperatures rise from 0 to 1 in equal steps with one Metropolis-corrected semi-implicit step at each. "reverse"
    needs *start* (B, d), draws of the tilted density; the ends of "forward" chains, weighed by Ẑ, are such draws.
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
    return Annealed(total / temperatures, w)


# -- the levels along a forward chain ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Residual:
    """F(w) + log N(w; mean, s²) − log N(w; base, v²): what annealing from N(base, v²) has to account for. mean, base,
    base_stddev (B, d), stddev ()."""

    potential: Potential
    mean: Tensor
    stddev: Tensor
    base: Tensor
    base_stddev: Tensor

    def __call__(self, w: Tensor) -> Tensor:
        return self.potential(w) + self._log_ratio(*self._deviations(w))

    def with_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = potential_and_gradient(self.potential, w)
        far, near = self._deviations(w)
        return value + self._log_ratio(far, near), gradient - far / self.stddev + near / self.base_stddev

    def _deviations(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return (w - self.mean) / self.stddev, (w - self.base) / self.base_stddev

    def _log_ratio(self, far: Tensor, near: Tensor) -> Tensor:
        return (0.5 * (near.square() - far.square()) + (self.base_stddev / self.stddev).log()).sum(-1)


@dataclass(frozen=True)
class _Level:
    """Level t of forward chains: u_t (B, d), F there (B,), and the residual of the integral at u_{t+1} (below the
    top, where it is N(0, I) that F tilts)."""

    t: int
    potential: Potential
    u: Tensor
    value: Tensor
    residual: _Residual | None = None


def _levels(prior: LatentPrior, u: Tensor, condition: Condition, generator: torch.Generator | None) -> Iterator[_Level]:
    """The levels of one draw of the forward chain a row, from u = u_0 (B, d)."""
    schedule = prior.schedule
    potential = _potential(prior, 0, len(u), condition)
    value = potential(u)
    for t in range(schedule.num_levels - 1):
        level = torch.full((len(u),), t, dtype=torch.long, device=u.device)
        u_next = schedule.forward_step(u, level, torch.empty_like(u).normal_(generator=generator))
        above = _potential(prior, t + 1, len(u), condition)
        value_above, gradient = potential_and_gradient(above, u_next)
        score = gradient + prior.reference_score(u_next, level + 1)
        yield _Level(t, potential, u, value, _closest(prior, t, potential, u_next, score, generator))
        u, value, potential = u_next, value_above, above
    yield _Level(schedule.num_levels - 1, potential, u, value)


def _closest(
    prior: LatentPrior, t: int, potential: Potential, u_next: Tensor, score: Tensor, generator: torch.Generator | None
) -> _Residual:
    """Of the two Gaussians to begin at, in each row the nearer one. u_next and its score (B, d)."""
    stddev = prior.schedule.reverse_stddev[t]
    mean = prior.schedule.reverse_scale[t] * u_next
    slope = tame(potential_and_gradient(potential, mean)[1], u_next.shape[-1] ** 0.5 / stddev)
    denoised = _Residual(
        potential,
        mean,
        stddev,
        mean + tweedie_shift(prior, u_next, t, score),
        (stddev * prior.spread[t].sqrt()).expand_as(mean),
    )
    tangent = _Residual(potential, mean, stddev, mean + stddev.square() * slope, stddev.expand_as(mean))
    noise = torch.empty_like(mean).normal_(generator=generator)
    near, far = (
        each(each.base + each.base_stddev * noise) + each(each.base - each.base_stddev * noise)
        for each in (denoised, tangent)
    )
    chosen = (near >= far)[:, None]
    return replace(
        tangent,
        base=torch.where(chosen, denoised.base, tangent.base),
        base_stddev=torch.where(chosen, denoised.base_stddev, tangent.base_stddev),
    )


def _log_z(
    prior: LatentPrior, level: _Level, direction: Direction, annealing: Annealing, generator: torch.Generator | None
) -> Tensor:
    """log Z_t(u_{t+1}) of a level below the top, from below ("forward") or from above ("reverse", started at u_t moved
    by burn-in). (B,)"""
    residual, rho, start, bounds = level.residual, prior.rho[level.t], level.u, []
    assert residual is not None
    for _ in range(annealing.chains):
        if direction == "reverse":
            start = semi_implicit(
                level.potential,
                level.u,
                residual.mean,
                residual.stddev,
                rho,
                annealing.burn_in,
                spread=prior.spread[level.t],
                generator=generator,
                metropolis=True,
            ).w
        bounds.append(
            anneal(
                residual,
                residual.base,
                residual.base_stddev,
                direction=direction,
                temperatures=annealing.temperatures,
                rho=rho,
                start=start,
                generator=generator,
            ).log_z
        )
    return _pooled(torch.stack(bounds), direction)


def _potential(prior: LatentPrior, t: int, n: int, condition: Condition = FREE) -> Potential:
    level = torch.full((), t, dtype=torch.long, device=prior.rho.device).expand(n)
    return fixed_potential(prior, level, condition, dtype=torch.float32)


def _pooled(log_z: Tensor, direction: Direction) -> Tensor:
    """Bounds of one number along the first dimension as one: E Ẑ = Z for "forward", E 1/Ẑ = 1/Z for "reverse"."""
    sign = 1.0 if direction == "forward" else -1.0
    return sign * (torch.logsumexp(sign * log_z, 0) - math.log(len(log_z)))


# -- the top level -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def top_log_partition(prior: LatentPrior) -> tuple[Tensor, Tensor]:
    """log Z_{T−1} = log E_{N(0, I)} e^F from above and from below, () each, nats: one pair of numbers a model.

    It is a number of the prior alone, so no text enters: reverse chains start from draws of the model itself, the ends
    of forward chains resampled by their weights and moved by as many corrected steps as there are temperatures. From
    posterior draws of other texts, which lie where F is low, they would come out *below* log Z and flatter the
    likelihood. The pair lies two standard errors beyond both estimates, since no average over texts would cancel its
    error. The randomness is fixed, and the pair is kept until a weight changes. A mode that no forward chain finds is
    missing from both. 0 for a closed-form prior.
    """
    key = tuple(float(each.detach().double().norm()) for each in prior.parameters())
    if prior.top_log_z is None or prior.top_log_z[0] != key:
        prior.top_log_z = (key, *_top_bounds(prior))
    _, upper, lower = prior.top_log_z
    return torch.full_like(prior.rho[0], upper), torch.full_like(prior.rho[0], lower)


def _top_bounds(prior: LatentPrior) -> tuple[float, float]:
    if prior.explicit is not None:
        return 0.0, 0.0
    generator = torch.Generator(prior.rho.device).manual_seed(0)
    mean, top = prior.rho.new_zeros(TOP_CHAINS, prior.dim), prior.schedule.num_levels - 1
    potential, upper, lower = _potential(prior, top, TOP_CHAINS), math.inf, -math.inf
    for temperatures in TOP_TEMPERATURES:
        forward, reverse = _both_ways(prior, potential, mean, temperatures, generator, resample=True)
        (low, low_error), (high, high_error) = _with_error(forward), _with_error(-reverse)
        upper = max(low + 2 * low_error, -high + 2 * high_error)
        lower = min(low - 2 * low_error, -high - 2 * high_error)
        if upper - lower < TOP_TOLERANCE:
            break
    return upper, lower


def _with_error(log_values: Tensor) -> tuple[float, float]:
    """log E e^v of n draws, and its standard error."""
    share = len(log_values) * log_values.softmax(0)  # e^v over its mean
    return float(torch.logsumexp(log_values, 0)) - math.log(len(share)), float(share.std()) / math.sqrt(len(share))


def _both_ways(
    prior: LatentPrior,
    potential: Potential,
    mean: Tensor,
    temperatures: int,
    generator: torch.Generator | None,
    *,
    resample: bool,
) -> tuple[Tensor, Tensor]:
    """The top level's log Z from below and from above (B,), the reverse chains from the ends of the forward ones."""
    rho = prior.rho[-1]
    forward = anneal(potential, mean, 1.0, direction="forward", temperatures=temperatures, rho=rho, generator=generator)
    start = forward.w
    if resample:
        start = start[torch.multinomial(forward.log_z.softmax(0), len(mean), replacement=True, generator=generator)]
    start = semi_implicit(potential, start, mean, 1.0, rho, temperatures, generator=generator, metropolis=True).w
    reverse = anneal(
        potential, mean, 1.0, direction="reverse", temperatures=temperatures, rho=rho, start=start, generator=generator
    )
    return forward.log_z, reverse.log_z


# -- log p(u) ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def log_prob_bound(
    prior: LatentPrior,
    u: Tensor,
    *,
    direction: Direction = "reverse",
    temperatures: int = 10,
    burn_in: int = 10,
    condition: Condition = FREE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A draw whose mean bounds E_q[log p(u_0 … u_{T−1})/q(u_1 … u_{T−1} | u_0)], u = u_0, nats. u (B, d) -> (B,).

    That expectation over the forward chain is itself at most log p(u), and equal to it for one level or a prior that
    reverses the chain exactly. So "reverse" (log Z from above) is below log p(u): the safe side, by which the KL of an
    energy-based prior is reported too high, never too low. "forward" is above the expectation, not always above
    log p(u). How far off depends on the temperatures (see the head of this file; on quickstart .06 nats at ten). One
    draw of the chain a row. Closed-form priors are exact.
    condition: its context alone is meant, for p(u | c); symbols have no normaliser here.
    """
    if prior.explicit is not None:
        return explicit_log_prob(prior, u)
    assert condition.free
    log_p = prior.schedule.expected_log_reference(u)
    annealing, top = Annealing(temperatures, burn_in), prior.schedule.num_levels - 1
    for level in _levels(prior, u, condition, generator):
        if level.t < top:
            log_z = _log_z(prior, level, direction, annealing, generator)
        elif condition.context is None:
            log_z = top_log_partition(prior)[0 if direction == "reverse" else 1]
        else:  # a function of the context: a chain a row
            steps = max(temperatures, TOP_TEMPERATURES[0])
            both = _both_ways(prior, level.potential, torch.zeros_like(u), steps, generator, resample=False)
            log_z = both[1 if direction == "reverse" else 0]
        log_p = log_p + level.value - log_z
    return log_p


# -- weights for log p(x) ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainWeights:
    """log p(u_0 … u_{T−1})/q(u_1 … u_{T−1} | u_0) of one draw of the forward chain a row, (B,) nats each, with every
    log Z_t bounded from above (`safe`, reverse annealing) and from below (`flattering`, forward annealing)."""

    safe: Tensor
    flattering: Tensor


@torch.no_grad()
def chain_log_weights(
    prior: LatentPrior, u: Tensor, annealing: Annealing = Annealing(), *, generator: torch.Generator | None = None
) -> ChainWeights:
    """Importance weights of u_0 and of the levels above it. u = u_0 (B, d).

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
    schedule, top = prior.schedule, prior.schedule.num_levels - 1
    upper, lower = top_log_partition(prior)
    total = torch.zeros(len(u), device=u.device)
    safe, flattering, last = total - upper, total - lower, u
    for level in _levels(prior, u, FREE, generator):
        total, last = total + level.value, level.u
        if level.t < top:
            safe = safe - _log_z(prior, level, "reverse", annealing, generator)
            flattering = flattering - _log_z(prior, level, "forward", annealing, generator)
    # N(u_t; c u_{t+1}, s²)/q(u_{t+1} | u_t): stationary, it telescopes to N(u_0)/N(u_top); flat, it is a_{t+1}^d
    if schedule.reference == "stationary":
        total = total + standard_normal_log_prob(u)
    else:
        total = total + u.shape[-1] * schedule.alpha_bar[-1].log() + standard_normal_log_prob(last)
    return ChainWeights(total + safe, total + flattering)
