"""The approximate posterior q(u|x), in one layer or top down, and the heads that read it off an encoder's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from textebm.networks.segments import SegmentLinear


@dataclass(frozen=True)
class Affine:
    """mean -> scale · mean + shift and stddev -> spread · stddev; (d,) each, or (B, d) for each text its own."""

    scale: Tensor
    shift: Tensor
    spread: Tensor

    def __call__(self, mean: Tensor, stddev: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * mean + self.shift, self.spread * stddev

    def after(self, first: Affine | None) -> Affine:
        """The one that *first* and then this make."""
        if first is None:
            return self
        return Affine(self.scale * first.scale, self.scale * first.shift + self.shift, self.spread * first.spread)

    def split(self, sizes: Sequence[int]) -> list[Affine]:
        """Of each layer, the last dimension in *sizes*."""
        parts = (each.split(list(sizes), dim=-1) for each in (self.scale, self.shift, self.spread))
        return [Affine(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Posterior:
    """q(u|x) = N(mean, diag stddev²); mean and stddev (B, d)."""

    mean: Tensor
    stddev: Tensor

    def draw(self, generator: torch.Generator | None = None) -> Draw:
        """u = mean + stddev·ε, reparametrised, and the Gaussians it was drawn from."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return Draw(self.mean + self.stddev * noise, self)

    def given(self, u: Tensor) -> Posterior:
        """The Gaussian of each coordinate at u (B, d), given those before it."""
        return self

    def log_prob(self, u: Tensor) -> Tensor:
        """log q(u|x), nats. u (B, d) -> (B,)"""
        given = self.given(u)
        noise = (u - given.mean) / given.stddev
        return -(0.5 * (noise.square() + math.log(2 * math.pi)) + given.stddev.log()).sum(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """u of `draw`, (B, d)."""
        return self.draw(generator).u

    def diffused(self, alpha: Tensor, generator: torch.Generator | None = None) -> Diffused:
        """A draw of u_t = ᾱ_t u_0 + sqrt(1 − ᾱ_t²) ε; the posterior's own noise makes ᾱ = 1 regular. alpha (B, 1)"""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        tau = (1 - alpha.square() + alpha.square() * self.stddev.square()).sqrt()
        return Diffused(alpha * self.mean + tau * noise, tau, noise)

    def moved(self, by: Affine) -> Posterior:
        """Another q of the same texts. A bound holds with any, and one trained with a small KL weight is narrower than
        the true posterior (`textebm.use.likelihood`)."""
        return Posterior(*by(self.mean, self.stddev))

    @property
    def packed(self) -> Tensor:
        """(B, 2d): all that distinguishes the rows, for keeping and indexing; `unpacked` takes it back."""
        return torch.cat([self.mean, self.stddev], dim=-1)

    def unpacked(self, packed: Tensor) -> Posterior:
        """The posterior of the rows *packed* (n, 2d)."""
        return Posterior(*packed.chunk(2, dim=-1))

    def kl_to_standard_normal(self) -> Tensor:
        """KL(q ‖ N(0, I)) per dimension, nats. (B, d) (Kingma & Welling 2014, appendix B)"""
        return 0.5 * (self.mean.square() + self.stddev.square() - 1) - self.stddev.log()

    def entropy(self) -> Tensor:
        """H(q), nats per sentence. (B,)"""
        return (self.stddev.log() + 0.5 * (1 + torch.log(torch.tensor(2 * torch.pi)))).sum(-1)


@dataclass(frozen=True)
class Draw:
    """u (B, d), and the Gaussian of each coordinate given those before it: log q(u|x) = Σ log N(u; mean, stddev²)."""

    u: Tensor
    given: Posterior


@dataclass(frozen=True)
class Diffused:
    """u_t (B, d), detached or not as the posterior is. −noise/tau, (B, d), is an unbiased estimate of the score of
    q(u_t|x) at u_t; tau depends on x alone."""

    u: Tensor
    tau: Tensor
    noise: Tensor


@dataclass(frozen=True)
class TopDownPosterior(Posterior):
    """q(u|x) = ∏_l q(u^l | u^{>l}, x), Gaussian layer by layer, top first (`TopDownHead`).

    Its mean and stddev, and with them KL and entropy, are those along the path of means: each layer's given the means
    of those above. Those of the distribution itself are averages over `draw().given`, which is what the bound uses.
    """

    raw: Tensor  # (B, 2d): what the features say of mean and stddev before the layers above are known
    head: TopDownHead
    batch_statistics: bool = False
    by: Affine | None = None  # `moved`: of each layer's mean and stddev

    def draw(self, generator: torch.Generator | None = None) -> Draw:
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.head.descend(self.raw, noise, batch_statistics=self.batch_statistics, by=self.by)

    def given(self, u: Tensor) -> Posterior:
        return self.head.given(self.raw, u, batch_statistics=self.batch_statistics, by=self.by)

    def moved(self, by: Affine) -> TopDownPosterior:
        """Every layer's Gaussian given those above, which have moved too."""
        by = by.after(self.by)
        path = self.head.descend(self.raw, torch.zeros_like(self.mean), by=by).given
        return replace(self, mean=path.mean, stddev=path.stddev, by=by)

    def diffused(self, alpha: Tensor, generator: torch.Generator | None = None) -> Diffused:
        """The score of q(u_t|x) has two unbiased estimates, −ε/σ_t and ∇log q(u_0|x)/ᾱ_t. They are averaged with the
        weights that are best for a Gaussian of the path's stddev s: (−σ_t ε + ᾱ_t s² ∇log q(u_0|x)) / τ_t². For a
        posterior of one layer that is −noise/τ_t of the Gaussian posterior exactly. Detached."""
        with torch.no_grad():
            u = self.head.descend(self.raw, torch.empty_like(self.mean).normal_(generator=generator)).u
            noise = torch.empty_like(u).normal_(generator=generator)
            sigma, variance = (1 - alpha.square()).clamp_min(0).sqrt(), self.stddev.square()
            tau = (sigma.square() + alpha.square() * variance).sqrt()
            combined = (sigma * noise - alpha * variance * self.head.score(self.raw, u)) / tau
        return Diffused(alpha * u + sigma * noise, tau, combined)

    @property
    def packed(self) -> Tensor:
        return self.raw

    def unpacked(self, packed: Tensor) -> TopDownPosterior:
        return self.head.posterior(packed)


def _read_off(features: int, layers: Sequence[int], segments: int, context: int) -> tuple[nn.Module, nn.Module]:
    """Linear maps of the features, the last *context* among them: to the means, and from zero to the raw stddevs."""
    mean, raw_stddev = (
        nn.Linear(features, sum(layers))
        if segments == 1
        else SegmentLinear(features - context, layers, segments, context)
        for _ in range(2)
    )
    for parameter in raw_stddev.parameters():
        nn.init.zeros_(parameter)
    return mean, raw_stddev


class Shifted(nn.Module):
    """Features plus a learned constant."""

    def __init__(self, size: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, features: Tensor) -> Tensor:
        """(B, size) -> (B, size)"""
        return features + self.bias


class PosteriorHead(nn.Module):
    """Features (B, F) -> Posterior.

    ``standardize`` batch-normalises the means without an affine map (BN-VAE, Zhu et al. 2020): their scale can then not
    shrink when the prior follows them. ``max_stddev`` caps the posterior's standard deviation by a logistic.
    ``segments``: with several, each segment's coordinates see its own features, and all see the last *context* of the
    features (`SegmentLinear`). ``direct``: the d features are the means, up to a constant.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        *,
        standardize: bool = True,
        max_stddev: float | None = None,
        segments: int = 1,
        context: int = 0,
        direct: bool = False,
    ):
        super().__init__()
        self.max_stddev = max_stddev
        self.mean, self.raw_stddev = _read_off(features, (dim,), segments, context)
        if direct:
            self.mean = Shifted(dim)
        self.norm = nn.BatchNorm1d(dim, affine=False, momentum=0.05) if standardize else None

    def forward(self, features: Tensor) -> Posterior:
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            mean = self.mean(features)
            mean = _standardised(self.norm, mean, self.training and len(mean) > 1)  # one row has no statistics
            stddev = _bounded(self.raw_stddev(features), self.max_stddev)
        return Posterior(mean, stddev)

    @torch.no_grad()
    def absorb_statistics(self, posterior: Posterior) -> None:
        """Make the running statistics exact: the means of *posterior*, as this head gave it, become zero mean, unit
        variance."""
        _absorb(self.norm, posterior.mean)


class TopDownHead(nn.Module):
    """Features (B, F) -> TopDownPosterior: a layer's mean and stddev see the features and u^{>l}, the layers above.

    The features enter linearly, as in `PosteriorHead`; a small network of them and of u^{>l} corrects that and starts
    at zero. So (B, 2d) numbers a sentence are all a resting encoder has to keep. sizes: of the layers, top first;
    segments, context: as in `PosteriorHead`.
    """

    def __init__(
        self,
        features: int,
        sizes: Sequence[int],
        *,
        standardize: bool = True,
        max_stddev: float | None = None,
        hidden_size: int = 64,
        segments: int = 1,
        context: int = 0,
    ):
        super().__init__()
        self.sizes = tuple(sizes)
        self.max_stddev = max_stddev
        self.mean, self.raw_stddev = _read_off(features, sizes, segments, context)
        norms = [nn.BatchNorm1d(size, affine=False, momentum=0.05) for size in sizes if standardize]
        self.norms = cast("Sequence[nn.BatchNorm1d]", nn.ModuleList(norms))
        steps = [
            nn.Sequential(
                nn.Linear(2 * size + sum(self.sizes[: place + 1]), hidden_size),
                nn.SiLU(),
                nn.Linear(hidden_size, 2 * size),
            )
            for place, size in enumerate(self.sizes[1:])
        ]
        self.steps = cast("Sequence[nn.Sequential]", nn.ModuleList(steps))
        for step in self.steps:
            last = cast(nn.Linear, step[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> TopDownPosterior:
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            raw = torch.cat([self.mean(features), self.raw_stddev(features)], dim=-1)
            return self.posterior(raw, batch_statistics=self.training and len(raw) > 1)

    def posterior(self, raw: Tensor, *, batch_statistics: bool = False) -> TopDownPosterior:
        """raw (B, 2d) -> the posterior; batch_statistics: its draws standardise by their own batch and teach the
        running statistics, which is for training on text."""
        means = self.descend(raw, torch.zeros_like(raw.chunk(2, dim=-1)[0])).given
        return TopDownPosterior(means.mean, means.stddev, raw, self, batch_statistics)

    def descend(self, raw: Tensor, noise: Tensor, *, batch_statistics: bool = False, by: Affine | None = None) -> Draw:
        """u^l = m_l(x, u^{>l}) + s_l(x, u^{>l}) ⊙ noise^l, top first. raw (B, 2d), noise (B, d)"""
        means, stddevs, above = [], [], noise[:, :0]
        with torch.autocast(raw.device.type, enabled=False):
            for place, part in enumerate(noise.split(self.sizes, dim=-1)):
                mean, stddev = self._layer(place, raw, above, batch_statistics, by)
                above = torch.cat([above, mean + stddev * part], dim=-1)
                means.append(mean)
                stddevs.append(stddev)
        return Draw(above, Posterior(torch.cat(means, dim=-1), torch.cat(stddevs, dim=-1)))

    def score(self, raw: Tensor, u: Tensor) -> Tensor:
        """∇_u log q(u|x), detached. raw (B, 2d), u (B, d) -> (B, d)"""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_(True)
            given = self.given(raw.detach(), leaf)
            log_q = -(0.5 * ((leaf - given.mean) / given.stddev).square() + given.stddev.log()).sum()
            (gradient,) = torch.autograd.grad(log_q, leaf)
        return gradient

    def given(self, raw: Tensor, u: Tensor, *, batch_statistics: bool = False, by: Affine | None = None) -> Posterior:
        """The Gaussian of each layer given those above it at u: log q(u|x) is their sum. raw (B, 2d), u (B, d)"""
        means, stddevs, used = [], [], 0
        with torch.autocast(raw.device.type, enabled=False):
            for place, size in enumerate(self.sizes):
                mean, stddev = self._layer(place, raw, u[:, :used], batch_statistics, by)
                used += size
                means.append(mean)
                stddevs.append(stddev)
        return Posterior(torch.cat(means, dim=-1), torch.cat(stddevs, dim=-1))

    def _layer(
        self, place: int, raw: Tensor, above: Tensor, batch_statistics: bool, by: Affine | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and stddev of layer *place* given the layers above it."""
        mean, raw_stddev = self._raw_layer(place, raw, above)
        mean = _standardised(self._norm(place), mean, batch_statistics)
        stddev = _bounded(raw_stddev, self.max_stddev)
        return (mean, stddev) if by is None else by.split(self.sizes)[place](mean, stddev)

    def _raw_layer(self, place: int, raw: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_stddev = (half.split(self.sizes, dim=-1)[place] for half in raw.chunk(2, dim=-1))
        if place == 0:
            return mean, raw_stddev
        shift, raw_shift = self.steps[place - 1](torch.cat([mean, raw_stddev, above], dim=-1)).chunk(2, dim=-1)
        return mean + shift, raw_stddev + raw_shift

    def _norm(self, place: int) -> nn.BatchNorm1d | None:
        return self.norms[place] if len(self.norms) else None

    @torch.no_grad()
    def absorb_statistics(self, posterior: Posterior) -> None:
        """Make the running statistics exact along the path of means, top first: a layer's statistics change what the
        layers below it see."""
        raw = posterior.packed
        above = raw[:, :0]
        for place in range(len(self.sizes)):
            _absorb(self._norm(place), self._layer(place, raw, above, False)[0])
            above = torch.cat([above, self._layer(place, raw, above, False)[0]], dim=-1)


def _bounded(raw: Tensor, limit: float | None) -> Tensor:
    """A standard deviation: the exponential of *raw*, or *limit* times its logistic."""
    stddev = raw.clamp(-8, 8).exp() if limit is None else limit * torch.sigmoid(raw)
    return stddev.clamp_min(1e-4)


def _standardised(norm: nn.BatchNorm1d | None, mean: Tensor, batch_statistics: bool) -> Tensor:
    if norm is None:
        return mean
    if batch_statistics:
        return cast(Tensor, norm(mean))
    running_mean, running_var = _statistics(norm)
    return (mean - running_mean) * torch.rsqrt(running_var + norm.eps)


def _absorb(norm: nn.BatchNorm1d | None, means: Tensor) -> None:
    """Change the running statistics so that *means* (n, d), standardised by them before, get mean 0 and variance 1."""
    if norm is None or len(means) < 2:
        return
    mean, variance = means.double().mean(0), means.double().var(0, unbiased=False)
    running_mean, running_var = _statistics(norm)
    old_variance = running_var.double() + norm.eps
    running_mean += (mean * old_variance.sqrt()).to(running_mean)
    running_var.copy_((old_variance * variance - norm.eps).clamp_min(1e-12))


def _statistics(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """The running mean and variance, (d,) each."""
    assert norm.running_mean is not None and norm.running_var is not None  # track_running_stats is on
    return norm.running_mean, norm.running_var


Head = PosteriorHead | TopDownHead
