"""Train a prior on exact draws of a known density, draw from it, and compare with the truth.

Score matching needs noise at level 0 too: the posterior is N(x, smoothing²) around each draw x, and so the honest truth
is the target smoothed by as much. All comparisons are with fresh draws of that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from textebm.densities.settings import Setting, build_prior
from textebm.densities.targets import Target
from textebm.errors import TextEBMError
from textebm.networks.energy import EnergyNet
from textebm.networks.posterior import Posterior
from textebm.objective.schedules import learning_rate_factor
from textebm.prior.explicit import standard_normal_log_prob
from textebm.prior.learning import recovery, score_matching
from textebm.prior.prior import LatentPrior
from textebm.prior.sampling import calibrate, observe_scores, sample
from textebm.prior.transport import Ladder, resting

SMOOTHING = 0.03
SCALED = 20_000  # draws that give the target's standard deviations
FAR = 20.0  # a draw further from the origin than this counts as diverged: no target reaches 4


@dataclass(frozen=True)
class Draws:
    """What samples are like. mass_*: the least and the most of the modes' masses, times the number of modes (1 is
    ideal). variance, in_plane, across: mean square deviation from the modes over that of exact draws; across is NaN
    where the target has no other dimensions. mmd: squared, 1 000 times, unbiased. log_density: mean log p(x), nats."""

    mass_least: float
    mass_most: float
    variance: float
    in_plane: float
    across: float
    mmd: float
    log_density: float
    evaluations: int


NOTHING = Draws(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Outcome:
    """One trained prior: its draws, and those of the same model with twice the steps."""

    seed: int
    draws: Draws
    doubled: Draws
    diverged: bool
    seconds: float


@dataclass(frozen=True)
class Row:
    """A setting over several seeds: means, but the extremes of the masses. *exact*: fresh exact draws, measured the
    same way, the floor of each figure."""

    target: str
    prior: str
    outcomes: tuple[Outcome, ...]
    exact: Draws

    @property
    def diverged(self) -> int:
        return sum(outcome.diverged for outcome in self.outcomes)

    def mean(self, figure: str, *, doubled: bool = False) -> float:
        values = [getattr(o.doubled if doubled else o.draws, figure) for o in self.outcomes if not o.diverged]
        return sum(values) / len(values) if values else math.nan

    def masses(self) -> tuple[float, float]:
        kept = [o.draws for o in self.outcomes if not o.diverged]
        if not kept:
            return math.nan, math.nan
        return min(d.mass_least for d in kept), max(d.mass_most for d in kept)

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"diverged": self.diverged}


@dataclass(frozen=True)
class Trained:
    """A prior that has learned a target, and how to draw from it. scale (d,): the target's coordinates over the
    prior's."""

    prior: LatentPrior
    finite: bool
    seconds: float
    scale: Tensor

    def draw(self, n: int, *, factor: int = 1, generator: torch.Generator | None = None) -> tuple[Tensor, int]:
        """Samples (n, d) of z, and evaluations of F a sample. *factor* multiplies the steps."""
        drawn = sample(self.prior, n, steps_factor=factor, generator=generator)
        with torch.no_grad():
            return self.scale * self.prior.transport(drawn.z).detach(), drawn.evaluations


def train(
    setting: Setting,
    target: Target,
    *,
    iterations: int = 4000,
    batch: int = 256,
    smoothing: float = SMOOTHING,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Trained:
    """*iterations* steps of Adam on fresh draws, with the learning rate's schedule of training on text.

    A ladder belongs to the generator, which is not here: it is fitted first, by the exact likelihood of a flow,
    log p(z) = log N(T⁻¹z; 0, I) − log|det ∂T/∂u|, for half the iterations, and rests while F learns u = T⁻¹(z).
    """
    if iterations < 1 or batch < 2:
        raise TextEBMError(f"iterations must be at least 1 and batch at least 2, got {iterations} and {batch}")
    begin, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    prior = build_prior(setting, target, smoothing=smoothing, seed=seed)
    ladder = prior.transport if isinstance(prior.transport, Ladder) else None
    scale = target.sample(SCALED, generator).std(0) if setting.standardize else torch.ones(target.dim)
    if isinstance(prior.energy, EnergyNet):
        with torch.no_grad():
            prior.energy.inputs.weight.mul_(scale)  # the network sees the target's own coordinates

    def smoothed(n: int) -> Tensor:
        x = target.sample(n, generator)
        return (x + smoothing * torch.empty_like(x).normal_(generator=generator)) / scale

    def ladder_loss() -> Tensor:
        assert ladder is not None
        u = ladder.inverse(smoothed(batch))
        return (ladder.log_det(u) - standard_normal_log_prob(u)).mean()

    def prior_loss() -> Tensor:
        if prior.explicit is not None:
            return -prior.explicit.log_ratio(smoothed(batch)).mean()
        if setting.learning == "recovery":
            return recovery(prior, inverse(smoothed(batch)), generator).energy_loss.mean()
        mean = inverse(target.sample(batch, generator) / scale)
        matching = score_matching(prior, Posterior(mean, (smoothing / scale).expand_as(mean)), generator)
        return matching.loss.mean() + prior.potential_penalty * matching.potential.mean().square()

    @torch.no_grad()
    def inverse(z: Tensor) -> Tensor:
        return prior.transport.inverse(z)

    finite = True
    if setting.density == "exact":
        _observe_exact(prior, target, smoothed)
    else:
        stages = [(prior_loss, [p for name, p in prior.named_parameters() if not name.startswith("transport")])]
        if ladder is not None:
            stages.insert(0, (ladder_loss, list(ladder.parameters())))
        for loss, parameters in stages:
            steps = max(1, iterations // 2) if loss is ladder_loss else iterations
            with resting(prior.transport if loss is prior_loss else torch.nn.Module()):
                finite = finite and _descend(loss, parameters, steps, setting.learning_rate, progress)
    if finite and prior.explicit is None and setting.sampler == "semi_implicit" and setting.learning != "recovery":
        calibrate(prior, generator=generator)
    return Trained(prior, finite, time.perf_counter() - begin, scale)


def _descend(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    steps: int,
    rate: float,
    progress: Callable[[str], None] | None,
) -> bool:
    """False if the loss or a gradient stopped being finite."""
    if not parameters:
        return True
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * learning_rate_factor(step, steps)
        value = loss()
        if not value.requires_grad:  # the standard normal has nothing to learn
            return True
        optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if not (torch.isfinite(value) and torch.isfinite(norm)):
            return False
        optimizer.step()
        if progress is not None and step % 100 == 0:
            progress(f"{step}/{steps}")
    return True


def _observe_exact(prior: LatentPrior, target: Target, smoothed: Callable[[int], Tensor], n: int = 4096) -> None:
    """The scores that training would have seen."""
    for t in range(prior.schedule.num_levels):
        x = smoothed(n)
        level = torch.full((n,), t, dtype=torch.long)
        u = prior.schedule.diffuse(x, level, torch.randn(x.shape, generator=torch.Generator().manual_seed(t)))
        observe_scores(prior, level, prior.score(u, level), rate=1.0)


@torch.no_grad()
def measure(target: Target, x: Tensor, reference: Tensor, evaluations: int = 0) -> Draws:
    """Samples x (n, d) against exact draws *reference* (n', d)."""
    found, ideal = target.deviations(x), target.deviations(reference)
    mass = torch.bincount(found.mode, minlength=target.modes) / len(x) * target.modes
    square = found.residual.square().mean(0) / ideal.residual.square().mean(0)  # (m,)
    absolute = found.residual.square().sum() / len(x) / (ideal.residual.square().sum() / len(reference))
    half = min(len(x), 2000)
    return Draws(
        mass.min().item(),
        mass.max().item(),
        absolute.item(),
        square[:2].mean().item(),
        square[2:].mean().item(),
        1000 * squared_mmd(x[:half], reference[:half]),
        target.log_prob(x).mean().item(),
        evaluations,
    )


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with a sum of three Gaussian kernels whose
    widths are half, once and twice the median distance within y. x (n, d), y (m, d)."""
    width = torch.pdist(y[:500]).median()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = torch.cdist(a, b).square()
        return torch.stack([(-square / (2 * (f * width).square())).exp() for f in (0.5, 1.0, 2.0)]).sum(0)

    n, m, kernels = len(x), len(y), 3
    within_x = (kernel(x, x).sum() - kernels * n) / (n * (n - 1))
    within_y = (kernel(y, y).sum() - kernels * m) / (m * (m - 1))
    return (within_x + within_y - 2 * kernel(x, y).mean()).item()


def bench(
    target_name: str,
    target: Target,
    prior_name: str,
    setting: Setting,
    *,
    seeds: Sequence[int] = (0,),
    iterations: int = 4000,
    samples: int = 8192,
    smoothing: float = SMOOTHING,
    progress: Callable[[str], None] | None = None,
    keep: Callable[[Tensor], None] | None = None,
) -> Row:
    """Train and measure once a seed. *keep* is given the samples of the first seed, for a figure."""
    if samples < 100:
        raise TextEBMError(f"samples must be at least 100, got {samples}")
    truth = torch.Generator().manual_seed(987_654_321)

    def exact() -> Tensor:
        x = target.sample(max(samples, 20_000), truth)
        return x + smoothing * torch.empty_like(x).normal_(generator=truth)

    reference, outcomes = exact(), []
    for seed in seeds:
        if progress is not None:
            progress(f"{target_name}, {prior_name}, seed {seed}")
        trained = train(setting, target, iterations=iterations, smoothing=smoothing, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        measured, diverged = [], not trained.finite
        for factor in (1, 2):
            x, evaluations = trained.draw(samples, factor=factor, generator=generator)
            good = torch.isfinite(x).all(-1) & (x.nan_to_num().norm(dim=-1) < FAR)
            diverged = diverged or not bool(good.all())
            if keep is not None and factor == 1 and seed == seeds[0]:
                keep(x[good])
            measured.append(
                measure(target, x[good], reference, evaluations) if int(good.sum()) > samples // 2 else NOTHING
            )
        outcomes.append(Outcome(seed, measured[0], measured[1], diverged, trained.seconds))
    return Row(target_name, prior_name, tuple(outcomes), measure(target, exact()[:samples], reference))
