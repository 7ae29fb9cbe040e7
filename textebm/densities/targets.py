"""Densities that are known: exact draws, exact log-density, and what their modes are.

A target also says how a point deviates from its mode (`Target.deviations`), so that one function measures the variance
within modes of a mixture, a ring and a pinwheel alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.errors import TextEBMError, did_you_mean

SECTORS = 8  # parts of the ring whose masses are compared


@dataclass(frozen=True)
class Deviations:
    """mode (n,) of each point, and its deviation from that mode (n, m): the first two columns lie in the plane of the
    modes, any others across it."""

    mode: Tensor
    residual: Tensor


class Target(Protocol):
    """A density on R^dim with *modes* modes of equal mass."""

    @property
    def dim(self) -> int: ...

    @property
    def modes(self) -> int: ...

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n exact draws, (n, dim)."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats. (n, dim) -> (n,)"""
        ...

    def deviations(self, x: Tensor) -> Deviations: ...


@dataclass(frozen=True)
class Mixture:
    """Equal parts of N(means_k, stddev² I). means (K, dim); the modes must differ in the first two dimensions."""

    means: Tensor
    stddev: float

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def modes(self) -> int:
        return len(self.means)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        mode = torch.randint(self.modes, (n,), generator=generator)
        return self.means[mode] + self.stddev * torch.empty(n, self.dim).normal_(generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.diffused_log_prob(x, torch.ones(len(x)), 0.0)

    def diffused_log_prob(self, x: Tensor, alpha: Tensor, smoothing: float) -> Tensor:
        """log density of α (x_0 + smoothing·ε) + sqrt(1 − α²) ε' at x. alpha (n,) -> (n,) nats"""
        variance = 1 - alpha.square() + alpha.square() * (self.stddev**2 + smoothing**2)  # (n,)
        square = (x[:, None] - alpha[:, None, None] * self.means).square().sum(-1)  # (n, K)
        log_part = -0.5 * square / variance[:, None] - 0.5 * self.dim * (2 * math.pi * variance)[:, None].log()
        return torch.logsumexp(log_part, dim=-1) - math.log(self.modes)

    def deviations(self, x: Tensor) -> Deviations:
        mode = torch.cdist(x, self.means).argmin(-1)
        return Deviations(mode, x - self.means[mode])


@dataclass(frozen=True)
class Ring:
    """Radius ~ N(radius, stddev²), uniform angle: p(x) = N(r; radius, stddev²)/(2πr), r = ‖x‖. Radii below 0, which
    come once in 10⁴⁰ draws, are taken for their absolute value. Its "modes" are eight equal sectors."""

    radius: float = 1.5
    stddev: float = 0.1
    dim: int = 2
    modes: int = SECTORS

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        radius = self.radius + self.stddev * torch.empty(n).normal_(generator=generator)
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        r = x.norm(dim=-1)
        log_radial = -0.5 * ((r - self.radius) / self.stddev).square() - math.log(self.stddev * math.sqrt(2 * math.pi))
        return log_radial - (2 * math.pi * r).log()

    def deviations(self, x: Tensor) -> Deviations:
        angle = torch.atan2(x[:, 1], x[:, 0]) + math.pi
        mode = (angle * SECTORS / (2 * math.pi)).long().clamp(0, SECTORS - 1)
        return Deviations(mode, x.norm(dim=-1, keepdim=True) - self.radius)


@dataclass(frozen=True)
class Pinwheel:
    """Five arms: x = scale · R(θ_k + φ(v)) v with v ~ N((reach, 0), diag(along², across²)), k uniform.

    winding "norm": φ = twist·‖v‖; a rotation by an angle that depends on the norm alone keeps volumes, and is undone by
    the opposite one. "exponential": φ = −twist·e^{v_0} (the pinwheel of Johnson et al. 2016 and of published releases);
    volumes change by 1 + twist e^{v_0} v_1, and v_0 is the fixed point of unwinding. Exact either way.
    """

    reach: float = 1.3
    along: float = 0.35
    across: float = 0.1
    twist: float = 0.8
    winding: Literal["norm", "exponential"] = "norm"
    scale: float = 1.0
    dim: int = 2
    modes: int = 5

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        arm = torch.randint(self.modes, (n,), generator=generator)
        v = self._centre + self._stddev * torch.empty(n, 2).normal_(generator=generator)
        wound = self._angle(v[:, 0] if self.winding == "exponential" else v.norm(dim=-1))
        return self.scale * _rotate(v, 2 * math.pi * arm / self.modes + wound)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._log_parts(*self._unwound(x)), dim=-1) - math.log(self.modes)

    def deviations(self, x: Tensor) -> Deviations:
        unwound, error = self._unwound(x)
        arm = self._log_parts(unwound, error).argmax(-1)
        return Deviations(arm, unwound[torch.arange(len(x)), arm] - self._centre)

    @property
    def _centre(self) -> Tensor:
        return torch.tensor([self.reach, 0.0])

    @property
    def _stddev(self) -> Tensor:
        return torch.tensor([self.along, self.across])

    def _angle(self, read: Tensor) -> Tensor:
        """φ from the norm, or from v_0."""
        return -self.twist * read.exp() if self.winding == "exponential" else self.twist * read

    def _unwound(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v of x as a point of each arm (n, K, 2), and how far v_0 still moved at the last unwinding (n, K)."""
        angles = 2 * math.pi * torch.arange(self.modes) / self.modes
        x = (x / self.scale)[:, None].expand(-1, self.modes, -1)
        read = norm = x.norm(dim=-1)  # (n, K)
        v = _rotate(x, -(angles + self._angle(read)))
        if self.winding == "norm":
            return v, torch.zeros_like(norm)
        for _ in range(12):  # converges where v_1 is small, which is where there is density
            read = v[..., 0]
            v = _rotate(x, -(angles + self._angle(read)))
        return v, (v[..., 0] - read).abs()

    def _log_parts(self, v: Tensor, error: Tensor) -> Tensor:
        scaled = (v - self._centre) / self._stddev
        log_p = -0.5 * scaled.square().sum(-1) - math.log(2 * math.pi * self.along * self.across * self.scale**2)
        if self.winding == "exponential":
            log_p = log_p - (1 + self.twist * v[..., 0].exp() * v[..., 1]).abs().clamp_min(1e-6).log()
        return torch.where(error < 1e-3, log_p, torch.full_like(log_p, -torch.inf))


def _rotate(v: Tensor, angle: Tensor) -> Tensor:
    """v (…, 2) turned by *angle* (…,) radians."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], dim=-1)


def circle(dim: int, *, modes: int = 8, radius: float = 2.0, stddev: float = 0.3) -> Mixture:
    """Modes on a circle in the first two of *dim* dimensions."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return Mixture(F.pad(radius * torch.stack([angle.cos(), angle.sin()], dim=-1), (0, dim - 2)), stddev)


TARGETS: dict[str, Callable[[], Target]] = {
    "gaussians": lambda: circle(2),
    "mixture8": lambda: circle(8),
    "mixture40": lambda: circle(40),
    "ring": Ring,
    "pinwheel": Pinwheel,
    # the two of the published SVEBM release (Pang & Wu 2021), brought to unit variance
    "release-gaussians": lambda: circle(2, radius=1.393, stddev=0.174),
    "release-pinwheel": lambda: Pinwheel(1.0, 0.3, 0.1, 0.25, "exponential", scale=1.35),
}


def target_of(name: str) -> Target:
    """The target of that name. Raises TextEBMError."""
    if name not in TARGETS:
        raise TextEBMError(f"unknown target {name!r}{did_you_mean(name, TARGETS)}")
    return TARGETS[name]()
