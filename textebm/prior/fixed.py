"""The potential as a chain sees it: level, condition and weights stand still, and only the point moves.

`fixed_potential` gives what `LatentPrior.potential` gives. Where it can, it also knows its own gradient
(`networks.energy_gradient`), which costs no autograd graph; a ladder, layer-wise potentials and closed-form priors go
by autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from textebm.networks.energy import EnergyNet
from textebm.networks.energy_gradient import FixedEnergy, fix
from textebm.networks.hardware import has_bfloat16_products
from textebm.prior.condition import FREE, Condition
from textebm.prior.prior import LatentPrior
from textebm.prior.sampler import Potential
from textebm.prior.transport import Identity


class FixedPotential:
    """F(·, t) tilted by symbols. `sampler.potential_and_gradient` finds `with_gradient` and uses it.

        F = Σ_h logsumexp f^h − log K + s Σ_h log p(y^h ∈ S_h)
        ∂F/∂f^h = (1 − s a_h) softmax f^h + s a_h softmax_S f^h

    with a_h = 1 in the rows where head h is asked for something, and softmax_S the softmax over the classes asked for.
    """

    def __init__(self, net: EnergyNet, energy: FixedEnergy, asked: dict[int, tuple[Tensor, Tensor]]):
        self.net, self.energy = net, energy
        self.asked = asked  # head's place -> classes not asked for (B, K), and strength (B, 1), 0 where a row is free

    def __call__(self, w: Tensor) -> Tensor:
        """w (B, d) -> (B,)"""
        return self._value(self.energy.logits(w)[0])

    @torch.no_grad()
    def with_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """F (B,) and ∇F (B, d)."""
        logits, slopes = self.energy.logits(w)
        gradients = []
        for place, found in enumerate(logits):
            gradient = found.softmax(-1)
            if place in self.asked:
                excluded, strength = self.asked[place]
                within = found.masked_fill(excluded, -torch.inf).softmax(-1)
                gradient = (1 - strength) * gradient + strength * within
            gradients.append(gradient)
        return self._value(logits), self.energy.pull_back(gradients, slopes)

    def _value(self, logits: list[Tensor]) -> Tensor:
        value = self.net.sum_heads(logits)
        for place, (excluded, strength) in self.asked.items():
            log_p = logits[place].log_softmax(-1).masked_fill(excluded, -torch.inf).logsumexp(-1)
            value = value + strength[:, 0] * log_p
        return value


def _excluded(asked: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The classes not asked for (B, K), none in free rows, and the rows that are asked for something (B,)."""
    if asked.dtype == torch.bool:
        return ~asked, ~asked.all(-1)
    active = asked >= 0
    return (torch.arange(size, device=asked.device) != asked[:, None]) & active[:, None], active


def fixed_potential(
    prior: LatentPrior, level: Tensor, condition: Condition = FREE, *, dtype: torch.dtype | None = None
) -> Potential:
    """F(·, t) under *condition* at the rows' levels (B,), for many points w (B, d) without gradients in the weights.
    dtype: of the matrix products; the chain's own by default."""
    net = prior.energy
    closed = isinstance(prior.transport, Identity) and prior.explicit is None and condition.symbols_only
    if type(net) is not EnergyNet or not closed:  # a subclass may compute something else
        return lambda w: prior.potential(w, level, condition)
    names, asked = list(net.head_sizes), {}
    for head, classes in condition.symbols.items():
        excluded, active = _excluded(classes, net.head_sizes[head])
        if prior.symbol_levels == "first":
            active = active & (level == 0)
        weight = condition.weights.get(head, condition.strength)
        asked[names.index(head)] = (excluded, weight * active[:, None].float())
    if len(level) > 1 and level.stride(0) == 0:  # one number for all rows (`sampling.sample`): they share biases too
        level = level[0]
    dtype = dtype or prior.chain.dtype
    if dtype == torch.bfloat16 and not has_bfloat16_products(level.device):
        dtype = torch.float32
    fixed = fix(net, level, dtype, condition.context)
    return FixedPotential(net, fixed, asked)
