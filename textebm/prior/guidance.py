"""Contrastive guidance: how the prior knows a sentence's view (CLEL, Lee et al. 2023, arXiv 2303.03023, moved from
images to latents).

A view c is a point on the unit sphere of R^C. The prior models it given the latent by a von Mises–Fisher density around
the direction of its features,

    p(c | u_t) = exp(κ_t cos(g(u_t, t), c)) / Z(κ_t),

whose normaliser does not depend on u_t: p(u, c) = p(u) p(c | u) has the marginal p(u) that it had. Training adds
E cos(g(u_t, t), c) and nothing else; κ_t follows from the cosine that was reached.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.prior.noise import mean_by_level
from textebm.prior.prior import LatentPrior

MEMORY = 0.98  # of the running mean of the cosines


def view_loss(prior: LatentPrior, view: Tensor, target: Tensor, level: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of −cos(g, c), each row times *weight* (B,); while the prior trains, its cosines are remembered by level.
    view (B, C) is g(u_t, t), target (B, C) the unit views c, level (B,) -> ()."""
    cosine = (F.normalize(view, dim=-1) * target).sum(-1)
    if prior.training:
        with torch.no_grad():
            mean, count = mean_by_level(cosine, level, len(prior.view_cosine))
            kept = torch.where(count > 0, MEMORY ** count.clamp_max(32).div(8), 1.0)  # little from a few rows
            prior.view_cosine.copy_(kept * prior.view_cosine + (1 - kept) * mean)
    return -(cosine if weight is None else weight * cosine).mean()
