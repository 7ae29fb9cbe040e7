"""The objective that trains a `LatentTextModel`, term by term.

    ELBO(x) = E_q [ log p(x|z) ] + H(q(z|x)) + E_q [ log p(z) ]

with p(z) the latent energy-based prior of `textebm.prior.prior`, an energy F on a ladder of noise levels t:

    log p(u) = Σ_{t=0}^{T−2} E [ d·log a_{t+1} + F(ũ_t, t) − log Z_t(u_{t+1}) ]          (the reverse transitions)
               + E [ F(u_{T−1}, T−1) + log N(u_{T−1}; 0, I) ] − log Z_{T−1}             (the top level)

The forward noise cancels from the bound exactly (shared/design: model.md, section 3). It is written for u, z = T(u):
H and log p change by the same log-determinant, so the bound is the same (`textebm.prior.transport`).

There are three ways through it, chosen by the training stage:

- "autoencoder": the prior is N(0, I), whichever will be learned, so that systems share this stage:
      loss = −log p(x|z) + kl_weight · KL(q ‖ N(0, I))
- "prior": encoder and decoder are frozen; F is learned on draws of the posterior, by score matching
      loss = d · ( ‖τ_t · score + ε‖² / d  +  penalty · (mean F)² )
  or by recovery, the contrast −F(positive) + F(negative) with a chain's negatives.
- "joint": everything; the encoder follows the learned prior:
      loss = −log p(x|z) + (the loss of F) − kl_weight · ( H(q) + a term whose gradient in u is ∇ log p(u) )

To these are added the auxiliary terms of `textebm.model.auxiliary_terms`: cross-entropy of the symbol heads to labels
(supervised) or clusters (found), the information bottleneck I(z; y), and contrastive views.

With `inference: refined` decoder, prior and heads learn at draws of the true posterior, which a Langevin chain brings
nearer than q's own, and the encoder learns −log q(u|x) at those draws beside its own bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from textebm.model.auxiliary_terms import contrastive_terms, noisy_terms, symbol_terms, view_term
from textebm.model.inference import ShortRun
from textebm.model.latent_text_model import LatentTextModel
from textebm.networks.posterior import Posterior
from textebm.objective.schedules import Weights, free_bits
from textebm.prior.learning import (
    Noisy,
    Recovery,
    ScoreMatching,
    read_noisy,
    recovery,
    score_cross_entropy,
    score_matching,
)
from textebm.prior.transport import resting
from textebm.text.batches import TokenBatch

StageName = Literal["autoencoder", "prior", "joint"]
# Class of each sentence for each head (B,), −1 where unknown; or what tells it from the posterior means (B, d).
Targets = Mapping[str, Tensor] | Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class LatentBatch:
    """Posteriors of a batch, encoded before, and its context (B, C): what the "prior" stage trains on."""

    posterior: Posterior
    targets: Mapping[str, Tensor]
    views: Tensor | None = None  # (B, C) of unit length
    context: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """The loss and its terms, each () and in nats a sentence; posterior (B, d) of a text batch."""

    loss: Tensor
    terms: dict[str, Tensor]
    posterior: Posterior | None = None


class TrainingObjective(nn.Module):
    """The objective as a module, for the wrappers of data-parallel training, which hook into `forward`."""

    def __init__(self, model: LatentTextModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        batch: TokenBatch | LatentBatch,
        stage: StageName,
        weights: Weights,
        targets: Targets | None = None,
        generator: torch.Generator | None = None,
    ) -> Objective:
        """The objective of one batch. targets: the classes of its sentences."""
        if isinstance(batch, LatentBatch):
            return prior_objective(self.model, batch, weights, generator)
        return text_objective(self.model, batch, stage, weights, targets or {}, generator)


# -- stages "autoencoder" and "joint" ----------------------------------------------------------------------------------


def text_objective(
    model: LatentTextModel,
    batch: TokenBatch,
    stage: StageName,
    weights: Weights,
    targets: Targets,
    generator: torch.Generator | None = None,
) -> Objective:
    """The objective of a batch of texts."""
    features, context = None, model.read_context(batch)
    hides = model.training and model.encoder_word_dropout > 0
    if not isinstance(model.encoder, ShortRun) and (hides or model.contrastive is not None):
        tokens = model.hide_words(batch.tokens, model.encoder_word_dropout, generator) if hides else batch.tokens
        features = model.encoder.features(tokens, batch.lengths)
    posterior = model.posterior(batch, generator, learned_prior=stage == "joint", features=features, context=context)
    classes = targets(posterior.mean.detach()) if callable(targets) else targets
    text = _Text(batch, features, context, stage, weights, classes)
    if model.refinement is None:
        return _bound(model, text, posterior, generator)
    return _refined(model, text, posterior, generator)


@dataclass(frozen=True)
class _Text:
    """A batch with what is the same for every q of it: features (B, F), context (B, C), the classes of its heads."""

    batch: TokenBatch
    features: Tensor | None
    context: Tensor | None
    stage: StageName
    weights: Weights
    classes: Mapping[str, Tensor]


def _bound(
    model: LatentTextModel, text: _Text, posterior: Posterior, generator: torch.Generator | None, *, views: bool = True
) -> Objective:
    """The negative bound and its auxiliary terms with *posterior* as q. views: whether the contrastive terms count."""
    draw = posterior.draw(generator)
    u, weights = draw.u, text.weights
    reconstruction = model.reconstruction_nll(text.batch, u, generator, text.context).mean()  # −E_q log p(x|z)
    with torch.autocast(u.device.type, enabled=False):  # the prior's terms are small and want float32
        terms = {"reconstruction": reconstruction}
        kl = draw.given.kl_to_standard_normal()  # (B, d)
        explicit = model.prior.explicit
        if text.stage == "autoencoder" or explicit is not None:
            terms["kl"] = kl.sum(-1).mean()
            divergence = free_bits(kl, weights.free_bits)
            if text.stage == "joint":  # a prior in closed form: its log-ratio to N(0, I), at one draw, corrects the KL
                assert explicit is not None
                log_ratio = explicit.log_ratio(u).mean()
                terms["kl"], divergence = terms["kl"] - log_ratio, divergence - log_ratio
            loss = reconstruction + weights.kl * divergence
        else:
            entropy = draw.given.entropy().mean()  # H(q(u|x))
            prior_loss, log_prior = _joint_prior_terms(model, posterior, u, text.context, terms, generator)
            loss = reconstruction + prior_loss - weights.kl * (entropy + log_prior)
        loss = loss + symbol_terms(model, u, text.context, text.classes, weights, terms)
    if views and model.contrastive is not None and text.features is not None:
        loss = loss + contrastive_terms(
            model, text.batch, text.features, u, text.context, terms, generator, learned_prior=text.stage == "joint"
        )
    return Objective(loss, {**terms, "loss": loss}, posterior)


def _refined(model: LatentTextModel, text: _Text, posterior: Posterior, generator: torch.Generator | None) -> Objective:
    """Decoder, prior and heads learn at the end of a chain from a draw of q; the encoder learns −log q(u|x) there, and
    its own bound with the rest of the model frozen. Terms are q's own."""
    assert model.refinement is not None
    score = model.posterior_score(text.batch, text.stage == "joint", text.context)
    kernel = model.refinement.kernel(score, posterior.draw(generator), generator)
    refined = _bound(model, text, kernel, generator)
    cross_entropy = -posterior.log_prob(kernel.sample(generator)).mean()
    loss = refined.loss + cross_entropy
    with resting(model.decoder), resting(model.prior), torch.set_grad_enabled(model.refinement.elbo_weight > 0):
        own = _bound(model, text, posterior, generator, views=False)
    loss = loss + model.refinement.elbo_weight * own.loss
    terms = {
        **refined.terms,
        **own.terms,
        "refined_reconstruction": refined.terms["reconstruction"],
        "encoder_cross_entropy": cross_entropy,
        "loss": loss,
    }
    return Objective(loss, terms, posterior)


def _joint_prior_terms(
    model: LatentTextModel,
    posterior: Posterior,
    u: Tensor,
    context: Tensor | None,
    terms: dict[str, Tensor],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The loss of the energy network, and the term whose gradient moves the encoder along log p(u)."""
    if model.learning == "recovery":
        contrast = recovery(model.prior, u, generator, context)
        _record_recovery(contrast, terms)
        return contrast.energy_loss.mean(), contrast.encoder_term.mean()
    matching = score_matching(model.prior, posterior.unpacked(posterior.packed.detach()), generator, context)
    return _matching_loss(model, matching, terms), score_cross_entropy(model.prior, u, context).mean()


# -- stage "prior" -----------------------------------------------------------------------------------------------------


def prior_objective(
    model: LatentTextModel, batch: LatentBatch, weights: Weights, generator: torch.Generator | None = None
) -> Objective:
    """The objective of a batch of posteriors: encoder and decoder are frozen, and with the decoder its transport."""
    prior, terms = model.prior, dict[str, Tensor]()
    with resting(prior.transport):
        with torch.no_grad():
            u = batch.posterior.sample(generator)
        noisy: Noisy | None = None
        if prior.explicit is not None:
            loss = terms["prior_nll"] = -prior.explicit.log_ratio(u).mean()
        elif model.learning == "recovery":
            contrast = recovery(prior, u, generator, batch.context)
            loss = contrast.energy_loss.mean()
            _record_recovery(contrast, terms)
        else:
            matching = score_matching(prior, batch.posterior, generator, batch.context)
            loss = _matching_loss(model, matching, terms)
            noisy = matching.noisy
        if prior.symbol_levels == "all" and prior.num_levels > 1:
            noisy = noisy or read_noisy(prior, u, generator, batch.context)
            loss = loss + noisy_terms(model, noisy, batch.targets, batch.views, weights)
        loss = loss + symbol_terms(model, u, batch.context, batch.targets, weights, terms)
        if model.contrastive is not None and batch.views is not None:
            loss = loss + model.contrastive.weight * view_term(model, u, batch.views, batch.context, terms)
    return Objective(loss, {**terms, "loss": loss})


def _matching_loss(model: LatentTextModel, matching: ScoreMatching, terms: dict[str, Tensor]) -> Tensor:
    """The score error summed over the dimensions, and a small pull of each level's free constant in F towards zero.

    As a mean over the dimensions the error would be the least of the prior's terms, and the symbols' cross-entropies
    would keep the network from learning the density (recipes/README.md, "What F learns").
    """
    terms.update(score_error=matching.loss.mean(), potential=matching.potential.abs().mean())
    pull = model.prior.potential_penalty * matching.potential.mean().square()
    return model.prior.dim * (matching.loss.mean() + pull)


def _record_recovery(contrast: Recovery, terms: dict[str, Tensor]) -> None:
    """What the guards and the health line watch while F is learned by recovery."""
    terms.update(
        contrast=contrast.contrast.mean(), potential=contrast.magnitude.mean(), acceptance=contrast.acceptance.mean()
    )
