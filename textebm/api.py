"""TextEBM: encoder, decoder, prior and tokenizer, and the objective that trains them, term by term.

    ELBO(x) = E_q [ log p(x|z) ] + H(q(z|x)) + E_q [ log p(z) ]

with p(z) the latent energy-based prior of `textebm.prior.prior`. The code writes it for u, z = T(u): H and log p change
by the same log-determinant, so the bound is the same (`textebm.prior.transport`). Three ways through it, chosen by the
training stage:

- "autoencoder": the prior is N(0, I), whichever will be learned: systems share this stage and differ in their prior.
- "prior": encoder and decoder rest; F is learned on the posterior by score matching or by recovery.
- "joint": everything; the encoder follows the learned prior.

In a dialogue q, p(x|z) and p(z) are all given c, the vector of the turns before (`TokenBatch.context`): they become
q(z|x, c), p(x|z, c), p(z|c), the same networks with one more input; without a context encoder c has width 0.

To these the symbol heads add: cross-entropy to labels (supervised) or clusters (unsupervised), and the bottleneck
I(z; y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from textebm.model.companions import Companions, LatentBatch, StageName, Targets
from textebm.model.inference import Refinement, ShortRun
from textebm.networks.encoder import ContextEncoder
from textebm.networks.posterior import Posterior
from textebm.objective.contrastive import Contrastive
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
from textebm.prior.prior import LatentPrior
from textebm.prior.transport import resting
from textebm.text.batches import TokenBatch
from textebm.use.contexts import Encoder
from textebm.use.reading import Decoder, SymbolHead


@dataclass(frozen=True)
class Objective:
    """The loss and its terms, each () and in nats a sentence; posterior (B, d) of a text batch."""

    loss: Tensor
    terms: dict[str, Tensor]
    posterior: Posterior | None = None


class TextEBM(Companions):
    """A sequence VAE with a latent energy-based prior. Generation, editing and encoding: `textebm.use.writing`."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        prior: LatentPrior,
        tokenizer: PreTrainedTokenizerFast,
        heads: Mapping[str, SymbolHead],
        *,
        max_tokens: int = 40,
        word_dropout: float = 0.0,
        learning: Literal["score_matching", "recovery"] = "score_matching",
        contrastive: Contrastive | None = None,
        refinement: Refinement | None = None,
        recipe: dict[str, Any] | None = None,
        context_encoder: ContextEncoder | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.prior = prior
        self.context_encoder = context_encoder
        self.tokenizer = tokenizer
        self.heads = dict(heads)
        self.max_tokens = max_tokens
        self.word_dropout = word_dropout
        self.learning = learning
        self.contrastive = contrastive
        self.refinement = refinement
        self.recipe = recipe

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
            return self.prior_objective(batch, weights, generator)
        return self.text_objective(batch, stage, weights, targets or {}, generator)

    # -- stages "autoencoder" and "joint" ------------------------------------------------------------------------

    def text_objective(
        self, batch: TokenBatch, stage: StageName, weights: Weights, targets: Targets, generator: torch.Generator | None
    ) -> Objective:
        features, context = None, self.read_context(batch)
        if self.contrastive is not None and not isinstance(self.encoder, ShortRun):
            features = self.encoder.features(batch.tokens, batch.lengths)
        learned = stage == "joint"
        posterior = self.posterior(batch, generator, learned_prior=learned, features=features, context=context)
        known = targets(posterior.mean.detach()) if callable(targets) else targets
        objective = self._objective_of if self.refinement is None else self._refined_objective
        return objective(posterior, features, batch, context, stage, weights, known, generator)

    def _refined_objective(
        self,
        posterior: Posterior,
        features: Tensor | None,
        batch: TokenBatch,
        context: Tensor | None,
        stage: StageName,
        weights: Weights,
        targets: Mapping[str, Tensor],
        generator: torch.Generator | None,
    ) -> Objective:
        """Decoder, prior and heads learn at draws of the true posterior, which a chain brings nearer than q's own; the
        encoder learns −log q(u|x) there, and its own bound with the rest of the model resting. Terms are q's own."""
        assert self.refinement is not None
        score = self.posterior_score(batch, stage == "joint", context)
        kernel = self.refinement.kernel(score, posterior.draw(generator), generator)
        refined = self._objective_of(kernel, features, batch, context, stage, weights, targets, generator)
        cross_entropy = -posterior.log_prob(kernel.sample(generator)).mean()
        loss = refined.loss + cross_entropy
        with resting(self.decoder), resting(self.prior), torch.set_grad_enabled(self.refinement.elbo_weight > 0):
            own = self._objective_of(posterior, None, batch, context, stage, weights, targets, generator)
        loss = loss + self.refinement.elbo_weight * own.loss
        terms = {
            **refined.terms,
            **own.terms,
            "refined_reconstruction": refined.terms["reconstruction"],
            "encoder_cross_entropy": cross_entropy,
            "loss": loss,
        }
        return Objective(loss, terms, posterior)

    def _objective_of(
        self,
        posterior: Posterior,
        features: Tensor | None,
        batch: TokenBatch,
        context: Tensor | None,
        stage: StageName,
        weights: Weights,
        targets: Mapping[str, Tensor],
        generator: torch.Generator | None,
    ) -> Objective:
        """The bound and its companions with *posterior* as q."""
        draw = posterior.draw(generator)
        u = draw.u
        reconstruction = self.reconstruction_nll(batch, u, generator, context).mean()
        with torch.autocast(u.device.type, enabled=False):  # the prior's terms are small and want float32
            terms = {"reconstruction": reconstruction}
            kl = draw.given.kl_to_standard_normal()
            if stage == "autoencoder" or self.prior.explicit is not None:
                terms["kl"] = kl.sum(-1).mean()
                divergence = free_bits(kl, weights.free_bits)
                if stage == "joint":  # closed-form prior: its log-ratio to N(0, I), at one draw, corrects the KL
                    assert self.prior.explicit is not None
                    log_ratio = self.prior.explicit.log_ratio(u).mean()
                    terms["kl"], divergence = terms["kl"] - log_ratio, divergence - log_ratio
                loss = reconstruction + weights.kl * divergence
            else:
                prior_loss, encoder_term = self._joint_prior_terms(posterior, u, context, terms, generator)
                loss = reconstruction + prior_loss - weights.kl * (draw.given.entropy().mean() + encoder_term)
            loss = loss + self._symbol_terms(u, context, targets, weights, terms)
        if self.contrastive is not None and features is not None:
            loss = loss + self._contrastive_terms(
                self.contrastive, batch, features, u, context, stage, terms, generator
            )
        return Objective(loss, {**terms, "loss": loss}, posterior)

    def read_context(self, batch: TokenBatch) -> Tensor | None:
        """c (B, C), what the turns before each sentence say; None for a model without context."""
        if self.context_encoder is None:
            return None
        assert batch.context is not None and self.encoder.embedding is not None
        return self.context_encoder(self.encoder.embedding(batch.context.tokens), batch.context.lengths)

    def reconstruction_nll(
        self, batch: TokenBatch, u: Tensor, generator: torch.Generator | None = None, context: Tensor | None = None
    ) -> Tensor:
        """−log p(x|z, c) at z = T(u), nats per sentence, the end of the sentence included. u (B, d) -> (B,)"""
        z = self.decoder_input(u, context)
        inputs, words = batch.tokens[:, :-1], batch.tokens[:, 1:]  # (B, T−1)
        if self.training and self.word_dropout > 0:
            inputs = self._with_words_hidden(inputs, self.word_dropout, generator)
        places = batch.places  # padding never meets the softmax
        hidden = self.decoder.hidden(inputs, z).flatten(0, 1).index_select(0, places)  # (words, E)
        nll = self.decoder.nll(hidden, words.flatten()[places])
        return torch.zeros(len(z), device=z.device).index_add_(0, places // words.shape[1], nll)

    def _joint_prior_terms(
        self,
        posterior: Posterior,
        u: Tensor,
        context: Tensor | None,
        terms: dict[str, Tensor],
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of the energy net, and the term whose gradient moves the encoder along log p(u)."""
        if self.learning == "recovery":
            contrast = recovery(self.prior, u, generator, context)
            _record(contrast, terms)
            return contrast.energy_loss.mean(), contrast.encoder_term.mean()
        matching = score_matching(self.prior, posterior.unpacked(posterior.packed.detach()), generator, context)
        return self._matching_loss(matching, terms), score_cross_entropy(self.prior, u, context).mean()

    def _matching_loss(self, matching: ScoreMatching, terms: dict[str, Tensor]) -> Tensor:
        """The score error summed over the dimensions, and a small pull of each level's free constant in F towards zero.

        As a mean over the dimensions the error is the least of the prior's terms: on PTB (64 dimensions) the symbols'
        cross-entropies then kept the network from learning almost anything of the density (recipes/README.md).
        """
        terms.update(score_error=matching.loss.mean(), potential=matching.potential.abs().mean())
        pull = self.prior.potential_penalty * matching.potential.mean().square()
        return self.prior.dim * (matching.loss.mean() + pull)

    # -- stage "prior" -------------------------------------------------------------------------------------------

    def prior_objective(self, batch: LatentBatch, weights: Weights, generator: torch.Generator | None) -> Objective:
        """Encoder and decoder rest, and with the decoder its transport."""
        with resting(self.prior.transport):
            return self._prior_objective(batch, weights, generator)

    def _prior_objective(self, batch: LatentBatch, weights: Weights, generator: torch.Generator | None) -> Objective:
        terms: dict[str, Tensor] = {}
        with torch.no_grad():
            u = batch.posterior.sample(generator)
        noisy: Noisy | None = None
        if self.prior.explicit is not None:
            loss = terms["prior_nll"] = -self.prior.explicit.log_ratio(u).mean()
        elif self.learning == "recovery":
            contrast = recovery(self.prior, u, generator, batch.context)
            loss = contrast.energy_loss.mean()
            _record(contrast, terms)
        else:
            matching = score_matching(self.prior, batch.posterior, generator, batch.context)
            loss = self._matching_loss(matching, terms)
            noisy = matching.noisy
        if self.prior.symbol_levels == "all" and self.prior.num_levels > 1:
            noisy = noisy or read_noisy(self.prior, u, generator, batch.context)
            loss = loss + self._noisy_terms(noisy, batch, weights)
        loss = loss + self._symbol_terms(u, batch.context, batch.targets, weights, terms)
        if self.contrastive is not None and batch.views is not None:
            loss = loss + self.contrastive.weight * self._view_term(u, batch.views, terms, batch.context)
        return Objective(loss, {**terms, "loss": loss})

    # -- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path) -> TextEBM:
        """A model from a run directory, a saved model or a Hub id. Raises CheckpointError."""
        from textebm.model import files as pretrained

        return pretrained.load(name)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write model.safetensors, config.json, tokenizer files and a model card."""
        from textebm.model import files as pretrained

        pretrained.save(self, directory)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes; returns the address."""
        from textebm.model import files as pretrained

        return pretrained.push(self, repo_id, private=private)


def _record(recovery: Recovery, terms: dict[str, Tensor]) -> None:
    """What the guards and the health line watch while F is learned by recovery."""
    terms.update(
        contrast=recovery.contrast.mean(), potential=recovery.magnitude.mean(), acceptance=recovery.acceptance.mean()
    )
