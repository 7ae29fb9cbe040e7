"""The shortest way to the symbols asked for: how `textebm.use.editing` moves a latent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.prior.condition import Condition, log_probability_of
from textebm.prior.prior import LatentPrior


@torch.no_grad()
def ascend(
    prior: LatentPrior, z: Tensor, condition: Condition, *, level: int, steps: int, length: float = 0.1
) -> Tensor:
    """z (B, d) after *steps* of steepest ascent of Σ_h log p(y^h | u_t, t) and of the condition's tilts, each *length*
    long in every row.

    The heads are asked at *level*, at ᾱ_t z, the mean of what diffusion makes of z: those of a noisy level change
    slowly along the way, so that their gradient still points somewhere when those of level 0 are sure.
    """
    alpha = prior.schedule.alpha_bar[level]
    levels = torch.full((len(z),), level, dtype=torch.long, device=z.device)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            logits = prior.symbol_logits(alpha * leaf, levels, condition.context)
            asked = [log_probability_of(logits[head], each).sum() for head, each in condition.symbols.items()]
            asked += [tilt.value(alpha * leaf, levels).sum() for tilt in condition.tilts]
            (gradient,) = torch.autograd.grad(torch.stack(asked).sum(), leaf)
        z = z + length * F.normalize(gradient, dim=-1)
    return z
