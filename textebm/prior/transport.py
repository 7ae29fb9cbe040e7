"""Transports z = T(u) from the noise space, whose reference is N(0, I), to the latents that networks see.

The posterior, the ladder of levels, score matching, recovery and the KL live in u. Only the decoder and the energy net
see z: the decoder reads T(u), the potential is F(T(u_t), t). A divergence does not change under a bijection,

    KL(q(z|x) ‖ p(z)) = KL(q(u|x) ‖ p(u)),

because both densities carry the same −log|det ∂T/∂u|. So the bound needs no determinant; a density of z itself does:
log p(z) = log p(u) − log|det ∂T/∂u| at u = T⁻¹(z) (`log_det`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from textebm.networks.modes import held


class Identity(nn.Module):
    """z = u."""

    def forward(self, u: Tensor) -> Tensor:
        return u

    def inverse(self, z: Tensor) -> Tensor:
        return z

    def log_det(self, u: Tensor) -> Tensor:
        """log|det ∂T/∂u| = 0. u (…, d) -> (…,)"""
        return torch.zeros(u.shape[:-1], dtype=u.dtype, device=u.device)


class Ladder(nn.Module):
    """The multi-layer generator of Cui, Wu & Han 2023 (arXiv 2306.06323) as a map of N(0, I), layers top first:

        z^L = u^L,        z^l = μ_l(z^{>l}) + s_l(z^{>l}) ⊙ u^l,        log|det ∂T/∂u| = Σ_l Σ_i log s_{l,i}

    so that F = 0 gives z^l | z^{>l} ~ N(μ_l, s_l²). log s_l is kept within ±limit by a tanh, which keeps T and its
    inverse well conditioned. The last linear layers start at zero: a fresh ladder is the identity.
    """

    def __init__(self, sizes: Sequence[int], hidden_size: int = 128, *, limit: float = 1.5):
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"a ladder needs layers of at least one dimension, got sizes {list(sizes)}")
        self.sizes = tuple(sizes)
        self.limit = limit
        steps = [
            nn.Sequential(
                nn.Linear(sum(self.sizes[: place + 1]), hidden_size), nn.SiLU(), nn.Linear(hidden_size, 2 * size)
            )
            for place, size in enumerate(self.sizes[1:])
        ]
        self.steps = cast("Sequence[nn.Sequential]", nn.ModuleList(steps))
        for step in self.steps:
            nn.init.zeros_(cast(nn.Linear, step[-1]).weight)
            nn.init.zeros_(cast(nn.Linear, step[-1]).bias)

    def forward(self, u: Tensor) -> Tensor:
        """u (…, d) -> z (…, d)."""
        first, *rest = u.split(self.sizes, dim=-1)
        z = first
        for step, layer in zip(self.steps, rest, strict=True):
            mean, log_scale = self._affine(step, z)
            z = torch.cat([z, mean + log_scale.exp() * layer], dim=-1)
        return z

    def inverse(self, z: Tensor) -> Tensor:
        """z (…, d) -> u (…, d)."""
        first, *rest = z.split(self.sizes, dim=-1)
        layers, above = [first], first
        for step, layer in zip(self.steps, rest, strict=True):
            mean, log_scale = self._affine(step, above)
            layers.append((layer - mean) * (-log_scale).exp())
            above = torch.cat([above, layer], dim=-1)
        return torch.cat(layers, dim=-1)

    def log_det(self, u: Tensor) -> Tensor:
        """log|det ∂T/∂u|, nats. u (…, d) -> (…,)"""
        above, total = self.forward(u), torch.zeros(u.shape[:-1], dtype=u.dtype, device=u.device)
        used = 0
        for step, size in zip(self.steps, self.sizes, strict=False):
            used += size
            total = total + self._affine(step, above[..., :used])[1].sum(-1)
        return total

    def _affine(self, step: nn.Sequential, above: Tensor) -> tuple[Tensor, Tensor]:
        """μ_l and log s_l of the layer below *above* = z^{>l}."""
        mean, raw = step(above).chunk(2, dim=-1)
        return mean, self.limit * torch.tanh(raw / self.limit)


Transport = Identity | Ladder


@contextmanager
def resting(module: nn.Module) -> Iterator[None]:
    """What is computed inside gives *module*'s parameters no gradient, though gradients flow through it."""

    def take() -> Callable[[], None]:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.requires_grad_(False)

        def give_back() -> None:
            for parameter in parameters:
                parameter.requires_grad_(True)

        return give_back

    with held(module, "resting", take):
        yield
