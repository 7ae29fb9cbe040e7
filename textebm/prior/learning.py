"""Two ways to learn F, and the gradient that the encoder takes from it.

- `score_matching`: ∇F regressed on the known noise, at all levels, with no chain.
- `recovery`: the contrast of data and samples, with a chain a step (what the papers do).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from textebm.networks.posterior import Posterior
from textebm.prior.condition import Condition
from textebm.prior.prior import LatentPrior
from textebm.prior.sampler import potential_and_gradient
from textebm.prior.sampling import adapt_rho, observe_scores, run_chain
from textebm.prior.transport import resting


@dataclass(frozen=True)
class Noisy:
    """The energy net at u_t of the levels (B,): logits (B, K_h) of each head, and the view (B, C) if it has one."""

    level: Tensor
    logits: dict[str, Tensor]
    view: Tensor | None


@dataclass(frozen=True)
class ScoreMatching:
    """loss (B,), squared error a dimension; and at the u_t it was computed at: F (B,), the level (B,), and what the
    energy net says (`Noisy`)."""

    loss: Tensor
    potential: Tensor
    noisy: Noisy


@dataclass(frozen=True)
class Recovery:
    """The contrastive terms. energy_loss (B,) moves F; encoder_term (B,) has the gradient of E log p(z) for the encoder
    (its value means nothing); contrast and magnitude (B,) are for the guards."""

    energy_loss: Tensor
    encoder_term: Tensor
    contrast: Tensor
    magnitude: Tensor
    acceptance: Tensor


def score_matching(
    prior: LatentPrior, posterior: Posterior, generator: torch.Generator | None = None, context: Tensor | None = None
) -> ScoreMatching:
    """Denoising score matching at all levels, with the posterior's own noise (Hyvärinen 2005; Vincent 2011).

    u_t = ᾱ_t μ + τ_t ε with τ_t² = 1 − ᾱ_t² + ᾱ_t² s²; loss ‖τ_t ∇log p_t(u_t) + ε‖² / d. It moves F alone: the
    posterior must be detached, and the transport, which belongs to the generator, gets no gradient. In training mode
    the prior's running means of the squared score take the batch in.
    """
    mean = posterior.mean
    level = torch.randint(prior.schedule.num_levels, (len(mean),), device=mean.device, generator=generator)
    diffused = posterior.diffused(prior.schedule.alpha_bar[level][:, None], generator)
    u = diffused.u.detach().requires_grad_(True)
    with resting(prior.transport):
        logits, view = prior.energy.logits_and_view(prior.transport(u), level, context)
    value = prior.untilted(u, logits)
    (gradient,) = torch.autograd.grad(value.sum(), u, create_graph=True)
    score = gradient + prior.schedule.reference_score(u.detach(), level)
    if prior.training:
        observe_scores(prior, level, score)
    error = diffused.tau * score + diffused.noise
    named = dict(zip(prior.energy.head_sizes, logits, strict=False))
    return ScoreMatching(error.square().mean(-1), value, Noisy(level, named, view))


def read_noisy(
    prior: LatentPrior, u: Tensor, generator: torch.Generator | None = None, context: Tensor | None = None
) -> Noisy:
    """What the energy net says at u_t of uniformly drawn levels. u (B, d)"""
    level = torch.randint(prior.schedule.num_levels, (len(u),), device=u.device, generator=generator)
    u_t = prior.schedule.diffuse(u, level, torch.empty_like(u).normal_(generator=generator))
    logits, view = prior.energy.logits_and_view(prior.transport(u_t), level, context)
    return Noisy(level, dict(zip(prior.energy.head_sizes, logits, strict=False)), view)


def recovery(
    prior: LatentPrior, z: Tensor, generator: torch.Generator | None = None, context: Tensor | None = None
) -> Recovery:
    """Recovery likelihood (Gao et al. 2021): one uniformly drawn level a sentence, and the top level. z (B, d).

    The encoder's gradient has, beside ∇F(u_t, t), the term of the normaliser,
    ∂ log Z_t(v)/∂v = c_t E[w − c_t v]/s_t² (`encoder_gradient="full"`); published code drops it
    (`"positive_only"`). In training mode each level's step ρ moves towards the acceptance asked for.
    """
    schedule, b = prior.schedule, len(z)
    top = schedule.num_levels - 1
    top_level = torch.full((b,), top, dtype=torch.long, device=z.device)

    def noise() -> Tensor:
        return torch.empty_like(z).normal_(generator=generator)

    u_top = schedule.diffuse(z, top_level, noise())
    positive, level, mean = u_top, top_level, torch.zeros_like(z)
    given = Condition(context=context)
    if top > 0:
        low = torch.randint(top, (b,), device=z.device, generator=generator)
        u = schedule.diffuse(z, low, noise())
        u_next = schedule.forward_step(u, low, noise())
        positive, level = torch.cat([u, u_top]), torch.cat([low, top_level])
        mean = torch.cat([schedule.reverse_scale[low][:, None] * u_next, mean])
        given = given.repeated(2)
    stddev = schedule.reverse_stddev[level][:, None]
    start = mean.detach() + stddev * torch.empty_like(mean).normal_(generator=generator)
    chain = run_chain(prior, start, mean.detach(), stddev, level, given.detached, prior.chain.steps, generator)
    if prior.training:
        adapt_rho(prior, level, chain.acceptance)
    value_positive, gradient_positive = potential_and_gradient(
        lambda w: prior.potential(w, level, given.detached), positive
    )
    both = torch.cat([positive.detach(), chain.w])
    f_positive, f_negative = prior.potential(both, level.repeat(2), given.repeated(2)).chunk(2)
    # each level below the top stands for T − 1 of them
    weight = torch.where(level == top, 1.0, float(max(top, 1))) if top > 0 else torch.ones(b, device=z.device)
    penalty = prior.potential_penalty * (f_positive.square() + f_negative.square())
    energy_loss = (f_negative - f_positive + penalty) * weight
    pull = (positive * gradient_positive).sum(-1)
    if prior.encoder_gradient == "full":
        pull = pull - (mean * ((chain.w - mean) / stddev.square()).detach()).sum(-1)
    per_sentence = (pull * weight).view(-1, b).sum(0) + schedule.expected_log_reference(z)
    return Recovery(
        energy_loss.view(-1, b).sum(0),
        per_sentence,
        (f_positive - f_negative).detach().view(-1, b).mean(0),
        value_positive.abs().view(-1, b).mean(0),
        chain.acceptance.view(-1, b).mean(0),
    )


def score_cross_entropy(prior: LatentPrior, z: Tensor, context: Tensor | None = None) -> Tensor:
    """(B,) whose gradient in z is the learned score ∇log p(z), at level 0: the encoder's term in joint training
    when F is learned by score matching. The level sum of the bound telescopes to it when F is exact (Vahdat et al.
    2021, "LSGM", train with the same cross-entropy written as an integral over levels)."""
    level = torch.zeros(len(z), dtype=torch.long, device=z.device)
    return (z * prior.score(z, level, Condition(context=context).detached)).sum(-1)


def symbol_cross_entropy(logits: Tensor, classes: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the rows whose class is known (≥ 0), each times *weight*; nats. 0 where none is."""
    known = classes >= 0
    loss = F.cross_entropy(logits, classes.clamp_min(0), reduction="none")
    if weight is not None:
        loss = loss * weight
    return (loss * known).sum() / known.sum().clamp_min(1)
