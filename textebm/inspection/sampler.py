"""Is the sampler sound: acceptance, effective sample size and energies, level by level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textebm.prior.condition import Condition
from textebm.prior.sampling import run_chain
from textebm.use.contexts import read_contexts

if TYPE_CHECKING:
    from textebm.api import TextEBM

GROUPS, CHAINS, STEPS, WARM = 6, 4, 120, 20  # 6 conditionals a level, 4 chains each
MAX_DRAWS = 2000
BINS, TRIM = 32, 0.002


@dataclass(frozen=True)
class Chain:
    """The chain of one level. signal: alpha_bar. acceptance: the mean over a draw of the prior. steps: that a draw
    takes. ess_position, ess_energy: effective draws in 100 steps, of the coordinates and of F."""

    level: int
    signal: float
    acceptance: float | None
    steps: int
    ess_position: float
    ess_energy: float


@dataclass(frozen=True)
class Energies:
    """Histograms of −F at one level, nats, each summing to 1 over the same BINS bins between low and high: of the
    posterior means (scaled to the level), of posterior draws diffused to it, and of the prior's samples on their way.

    overlap: the area that draws and samples share, 1 when the two histograms are equal. What two equal densities
    would share at these sizes stands beside it: chance_overlap.
    """

    level: int
    signal: float
    low: float
    high: float
    means: tuple[float, ...]
    draws: tuple[float, ...]
    samples: tuple[float, ...]
    overlap: float
    chance_overlap: float


def _autocovariance(centred: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """γ_k, k = 0 … S−1, of (S, …), summed over everything but the lag, by the Fourier transform."""
    size = len(centred)
    spectrum = np.fft.rfft(centred.reshape(size, -1), 2 * size, axis=0)
    products = np.fft.irfft((spectrum * spectrum.conj()).real.sum(1), 2 * size)[:size]
    return products / (size - np.arange(size))


def _from_autocovariance(gamma: NDArray[np.float64], size: int) -> float:
    if gamma[0] <= 1e-20:  # nothing moves
        return 1.0
    rho = gamma / gamma[0]
    last = size // 2 * 2
    pairs = rho[0:last:2] + rho[1:last:2]
    ends = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: ends[0]] if len(ends) else pairs)
    tau = max(2 * float(pairs.sum()) - 1, 1 / size)
    return min(float(size), size / tau)


@torch.no_grad()
def chains(model: TextEBM, acceptance: Sequence[float | None], *, seed: int = 0) -> list[Chain]:
    """Each level's own chain (`prior.sampling.sample`: its step, its spread, its precision), run on from where the
    sampler leaves it; the levels run side by side. Empty for a closed-form prior, which is drawn from directly.
    acceptance: by level, of a draw of the prior.
    """
    prior = model.prior
    if prior.num_levels == 0:
        return []
    generator = torch.Generator(model.device).manual_seed(seed)
    with model.network.evaluating():
        start = model.sample_path(GROUPS, seed=seed).path
        assert start is not None
        start = start.flip(0)  # (T, G, d), level 0 first
        count = len(start)
        above = torch.cat([start[1:], torch.zeros_like(start[:1])])  # u_{t+1} at each level
        level = torch.arange(count, device=start.device).repeat_interleave(GROUPS * CHAINS)  # (T·G·C,)
        mean = prior.schedule.reverse_scale[level][:, None] * above.flatten(0, 1).repeat_interleave(CHAINS, 0)
        stddev = prior.schedule.reverse_stddev[level][:, None]
        # Chains of one conditional start apart, at draws of its Gaussian; the first steps, towards F, do not count.
        w = mean + stddev * torch.empty_like(mean).normal_(generator=generator)
        w[::CHAINS] = start.flatten(0, 1)
        answered = read_contexts(model.network, model.answered(range(GROUPS)), GROUPS)
        context = None if answered is None else answered.vectors.repeat_interleave(CHAINS, 0).repeat(count, 1)
        condition, spread = Condition(context=context), prior.spread[level]
        points, energies = [], []
        for step in range(WARM + STEPS):
            w = run_chain(prior, w, mean, stddev, level, condition, 1, generator, spread=spread).w
            if step >= WARM:
                points.append(w.view(count, GROUPS, CHAINS, -1).cpu())
                energies.append(prior.potential(w, level, condition).view(count, GROUPS, CHAINS, 1).cpu())
    position, energy = (_by_level(torch.stack(kept)) for kept in (points, energies))
    signal = prior.schedule.alpha_bar.tolist()
    return [Chain(t, signal[t], acceptance[t], prior.chain.steps, position[t], energy[t]) for t in range(count)]


def _by_level(kept: Tensor) -> list[float]:
    """Effective draws in 100 steps at each level, from (S, T, G, C, d): chains of one group share a distribution."""
    values = kept.double().numpy()
    values = values - values.mean((0, 3), keepdims=True)
    sizes = [_from_autocovariance(_autocovariance(values[:, t]), len(values)) for t in range(values.shape[1])]
    return [100 / len(values) * size for size in sizes]


@torch.no_grad()
def energies(model: TextEBM, mean: Tensor, draw: Tensor, path: Tensor, *, seed: int = 0) -> list[Energies]:
    """Energies at each level: of posteriors, by their means and one draw of each (m, d), and of prior samples on their
    way, path (levels, n, d), the noisiest first. Levels where F is constant are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    chosen = torch.from_numpy(rng.permutation(len(mean))[:MAX_DRAWS])
    mean, draw, found = mean[chosen], draw[chosen], []
    own = model.answered(chosen.tolist())
    for level in range(len(path)):
        signal = float(model.prior.schedule.alpha_bar[level])
        noise = math.sqrt(max(0.0, 1 - signal**2)) * torch.randn(mean.shape, generator=generator)
        means, draws, samples = (
            model.energies(points, level=level, contexts=contexts).double().numpy()
            for points, contexts in ((signal * mean, own), (signal * draw + noise, own), (path[-1 - level].cpu(), None))
        )
        known = np.concatenate([means, draws, samples])
        if not np.isfinite(known).all() or np.ptp(known) <= 1e-6:
            continue
        low, high = np.quantile(known, [TRIM, 1 - TRIM])
        edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
        mixed = rng.permutation(np.concatenate([draws, samples]))
        shares = [_shares(each, edges) for each in (means, draws, samples)]
        twins = [_shares(each, edges) for each in (mixed[: len(draws)], mixed[len(draws) :])]
        of_means, of_draws, of_samples = (tuple(each.tolist()) for each in shares)
        found.append(
            Energies(
                level,
                signal,
                float(edges[0]),
                float(edges[-1]),
                of_means,
                of_draws,
                of_samples,
                overlap=float(np.minimum(shares[1], shares[2]).sum()),
                chance_overlap=float(np.minimum(*twins).sum()),
            )
        )
    return found


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the values in each bin; those outside count at the ends."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return counts / len(values)
